//! What is on disk: a directory of values, and everything that is done to it. All of it blocks.
//!
//! ```text
//! <directory>/
//!   1f/                    values, by the first two digits of their key's hash
//!     1f0e...-src%2flib.rs   a value, as it was inserted
//!     1f9a...-https%3a%2f    a value whose name has no room for the key
//!     1f9a....key            its key
//!     1f0e....sha256         the checksum of a value, if that is wanted
//!   tmp/                   values on their way in
//!     <writer>-x7Gq...       of a process that lives, or that died
//!   books                  how many bytes and values there are
//! ```
//!
//! Who changes values holds the directory's lock (`locks`), exclusively; who reads them holds nothing:
//! 1. A value appears and is replaced by renaming a file that is complete. A file that is in its place
//!    is never written again. So whoever has opened a value has all of it, and keeps it.
//! 2. A file with a key belongs to whatever value stands beside it: it is changed only while there is
//!    none. So a value that still stands in its place after the key was read is the value of that
//!    key.
//! 3. Anything here may vanish at any moment, because somebody wipes the directory. Whoever misses a
//!    directory makes it, whoever misses a file takes it for a value that is not there.
//! 4. Only files whose names are ours, in places that are ours, are ever removed.

mod books;
mod checksum;
mod incoming;
mod look;
mod prune;
mod publish;
mod shard;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;

use super::key::{self, Key};
use super::options::SyncPolicy;
use crate::os::cache_file;

pub(super) use incoming::Incoming;
pub use prune::Removed;

/// Somebody who wipes the directory may make a step fail again and again; after so many rounds its
/// error is reported.
pub(super) const ROUNDS: usize = 16;

#[derive(Debug, Clone)]
pub(super) struct Store {
    /// Absolute, and no symbolic link when it was opened.
    pub(super) directory: PathBuf,
    pub(super) settings: Settings,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub(super) max_size: Option<u64>,
    pub(super) max_age: Option<Duration>,
    pub(super) mode: Option<u32>,
    pub(super) sync: SyncPolicy,
    pub(super) checksums: bool,
    pub(super) this_machine_only: bool,
}

impl Store {
    /// The path of a key's value.
    pub(super) fn value(&self, key: &Key) -> PathBuf {
        self.in_shard(key.value(), key.value())
    }

    /// The path of a file beside a value.
    fn in_shard(&self, value: &str, name: &str) -> PathBuf {
        let mut path = self.directory.join(key::shard(value));
        path.push(name);
        path
    }

    fn temporary_directory(&self) -> PathBuf {
        self.directory.join("tmp")
    }

    /// Makes this directory of the store, and the store's, if they are missing.
    pub(super) fn make(&self, directory: &Path) -> io::Result<()> {
        make_directory(&self.directory, self.settings.mode)?;
        make_directory(directory, self.settings.mode)
    }

    /// An empty file that can be renamed to any place in the store; removed when it is dropped.
    fn temporary(&self, writer: &str) -> io::Result<NamedTempFile> {
        let directory = self.temporary_directory();
        let mut builder = tempfile::Builder::new();
        let prefix = format!("{writer}-");
        // Less the umask, as other files; tempfile would give no access to others.
        builder.prefix(&prefix).rand_bytes(12);
        if let Some(permissions) = cache_file::permissions(0o666) {
            builder.permissions(permissions);
        }
        let file = self.where_it_is_missing(&directory, || builder.tempfile_in(&directory))?;
        if let Some(permissions) = self.settings.mode.and_then(cache_file::permissions) {
            file.as_file().set_permissions(permissions)?;
        }
        Ok(file)
    }

    /// Puts a small file in its place, whole.
    fn write_whole(&self, path: &Path, content: &[u8], writer: &str) -> io::Result<()> {
        let mut file = self.temporary(writer)?;
        file.write_all(content)?;
        self.put_in_place(file, path, writer).map(drop)
    }

    /// Does what needs a directory of the store; where it is missing, makes it and does it again.
    fn where_it_is_missing<T>(
        &self,
        directory: &Path,
        mut step: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut done = step();
        for _ in 0..ROUNDS {
            match &done {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => break,
            }
            // Wiped together with its parent, perhaps.
            if_there(self.make(directory))?;
            done = step();
        }
        done
    }

    /// The value was written too long ago.
    fn is_expired(&self, modified: SystemTime) -> bool {
        // A time in the future, by another clock, is no age.
        self.settings.max_age.is_some_and(|most| modified.elapsed().unwrap_or_default() > most)
    }
}

/// Makes a directory around files with this mode, if it is missing.
pub(super) fn make_directory(path: &Path, mode: Option<u32>) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    if let Some(permissions) = mode.and_then(cache_file::directory_permissions) {
        if_there(fs::set_permissions(path, permissions))?;
    }
    Ok(())
}

/// What is not there needs nothing done to it.
pub(super) fn if_there<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
