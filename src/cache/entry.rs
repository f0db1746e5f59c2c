//! `Entry`: a value that was found, open.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use super::Wanted;
use crate::error::{Error, ErrorKind, Operation};
use crate::os::shared_directory::{self, MadeFile};
use crate::process;
use crate::wait;

/// A value of a [`CacheDir`](super::CacheDir), open for reading.
///
/// It is whole, and stays as it is for as long as this lives, whatever becomes of the key: replaced,
/// removed, pruned, the directory wiped. It takes one file descriptor.
///
/// But on NFS a file is gone when another host removes it or puts another one in its place: reading it is
/// an error then (`ESTALE`). [`CacheDir::read`](super::CacheDir::read) looks again by itself.
#[derive(Debug)]
pub struct Entry {
    file: File,
    path: PathBuf,
    bytes: u64,
    modified: SystemTime,
}

impl Entry {
    pub(super) fn new(file: File, path: PathBuf, bytes: u64, modified: SystemTime) -> Self {
        Self { file, path, bytes, modified }
    }

    /// Where the value was found, for other programs to read: the file has the bytes of the value
    /// and nothing else.
    ///
    /// Nothing is there if the value was too large to be kept. Unlike the entry itself, the path is not safe from pruning: a program that is to rely on it needs
    /// a hard link of its own, or `/proc/self/fd`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length of the value, in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // as `std::fs::Metadata`
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// When the value was written.
    #[must_use]
    pub fn modified(&self) -> SystemTime {
        self.modified
    }

    /// The value, all of it in memory. Can be called again, and by several tasks at once.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the file cannot be read.
    pub async fn read(&self) -> Result<Vec<u8>, Error> {
        let file = self.file.try_clone().map_err(|error| self.failed(error))?;
        let length = self.bytes;
        let read = wait::call(process::pool(), move || read_all(&file, length)).await;
        read.map_err(|error| self.failed(error))
    }

    /// [`read`](Entry::read) for code outside of async: blocks the thread for the time of the calls.
    ///
    /// # Errors
    ///
    /// As [`read`](Entry::read).
    pub fn blocking_read(&self) -> Result<Vec<u8>, Error> {
        read_all(&self.file, self.bytes).map_err(|error| self.failed(error))
    }

    /// Copies the value to a path, in place of the file or link that may stand there.
    ///
    /// The copy shares the blocks of the value where the file system can do that (btrfs, XFS) and both are
    /// on it. It is made beside the path, under a name that begins with `.tokio-filelock-`, and renamed:
    /// so the path has all of it or what it had before, and what a link at the path leads to stays as it
    /// is. It is a new file with the usual permissions, not synced to the disk.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time; the path has a copy then, or what it had before.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the value cannot be read, or the copy cannot be written or put in its place,
    /// as when that is a directory; nothing is left of it then.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("cache");
    /// let cache = tokio_filelock::CacheDir::open(&path).await?;
    /// let entry = cache.insert("logo", "...").await?;
    /// # let target = directory.path().join("logo.svg");
    /// entry.copy_to(&target).await?;
    /// assert_eq!(std::fs::read(&target)?, b"...");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn copy_to(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let file = self.file.try_clone().map_err(|error| failed_copy(path, error))?;
        let (to, length) = (path.to_owned(), self.bytes);
        let wanted = Wanted::default();
        let is_cancelled = wanted.flag();
        let copy = move || copy_beside(&file, length, &to, &is_cancelled);
        let copied = wait::call(process::pool(), copy).await;
        copied.map_err(|error| failed_copy(path, error))
    }

    /// [`copy_to`](Entry::copy_to) for code outside of async: blocks the thread for the time of the calls.
    ///
    /// # Errors
    ///
    /// As [`copy_to`](Entry::copy_to).
    pub fn blocking_copy_to(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let copied = copy_beside(&self.file, self.bytes, path, &Wanted::default().flag());
        copied.map_err(|error| failed_copy(path, error))
    }

    /// Blocks for the time of the calls.
    pub(super) fn read_all(self) -> Result<Vec<u8>, Error> {
        self.blocking_read()
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::os(ErrorKind::Io, Operation::ReadValue, &self.path, error)
    }

    /// The open file, at its start. To stream a large value: `tokio::fs::File::from_std`.
    #[must_use]
    pub fn into_file(self) -> File {
        let mut file = self.file;
        if cfg!(windows) {
            // There reading moves the file's own place.
            let _ = file.rewind();
        }
        file
    }
}

/// A value is never written to in its place, so its length is known: one call reads all.
fn read_all(file: &File, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(length).unwrap_or(usize::MAX))?;
    bytes.resize(length as usize, 0);
    shared_directory::read_exact_at_start(file, &mut bytes)?;
    Ok(bytes)
}

/// Copies a file and renames the copy. Where that fails nothing is left of it.
fn copy_beside(file: &File, length: u64, path: &Path, is_cancelled: &AtomicBool) -> io::Result<()> {
    if path.file_name().is_none() {
        let text = "the path has no file name at its end";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let number = RandomState::new().build_hasher().finish();
    let beside = path.with_file_name(format!(".tokio-filelock-{number:016x}"));
    let copy = File::create_new(&beside)?;
    let copied = MadeFile::keep(&copy)
        .and_then(|copy| shared_directory::copy(file, length, &copy, is_cancelled));
    let renamed = copied.and_then(|()| fs::rename(&beside, path));
    if renamed.is_err() {
        let _ = fs::remove_file(beside);
    }
    renamed
}

fn failed_copy(path: &Path, error: io::Error) -> Error {
    Error::os(ErrorKind::Io, Operation::CopyValue, path, error)
}
