//! `Entry`: a value that was found, open.

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, ErrorKind, Operation};
use crate::os::shared_directory;
use crate::registry::registry;
use crate::wait;

/// A value of a [`CacheDir`](super::CacheDir), open for reading.
///
/// It is whole, and stays as it is for as long as this lives, whatever becomes of the key: replaced,
/// removed, pruned, the directory wiped. It takes one file descriptor.
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
        let read = wait::call(registry().pool(), move || read_all(&file, length)).await;
        read.map_err(|error| self.failed(error))
    }

    /// Blocks for the time of the calls.
    pub(super) fn read_all(self) -> Result<Vec<u8>, Error> {
        read_all(&self.file, self.bytes).map_err(|error| self.failed(error))
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
