//! A directory that is held open, to resolve paths from it.
//!
//! Where other code has closed the descriptor, it is opened anew by the path that it had, if that still leads to it.

use std::env;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::libc;

use super::descriptor::Descriptor;
use super::kernel::DIRECTORY;
use crate::os::Identity;

pub(in crate::os) struct Directory {
    held: Descriptor,
    /// Where it was when it was opened, if it had a path.
    path: Option<PathBuf>,
    /// The same directory, since the descriptor was lost.
    again: OnceLock<Box<Directory>>,
}

impl Directory {
    /// The current one. It need not be readable, nor have a path.
    pub(in crate::os) fn current() -> io::Result<Option<Self>> {
        Self::open(Path::new("."), env::current_dir().ok()).map(Some)
    }

    fn open(at: &Path, path: Option<PathBuf>) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(DIRECTORY | libc::O_DIRECTORY);
        let open = || Ok::<_, io::Error>((options.open(at)?, ()));
        let identify = |file: &File| {
            let metadata = file.metadata()?;
            Ok(Identity { device: metadata.dev(), inode: metadata.ino() })
        };
        let (held, ()) = Descriptor::open(open, identify, |error| error)?;
        Ok(Self { held, path, again: OnceLock::new() })
    }

    /// The descriptor, if it still is that of this directory, or a new one.
    pub(super) fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        let Err(lost) = self.held.check() else { return Ok(self.held.as_fd()) };
        if self.again.get().is_none() {
            let found = self.path.as_ref().and_then(|at| Self::open(at, Some(at.clone())).ok());
            let is_same = |found: &Self| found.held.identity() == self.held.identity();
            let found = found.filter(is_same).ok_or(lost)?;
            // Unless another thread was faster.
            let _ = self.again.set(Box::new(found));
        }
        self.again.get().expect("it was set").descriptor()
    }
}
