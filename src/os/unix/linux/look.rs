//! Looking at what stands at a path without opening it, and opening what was looked at.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::Mode;

use crate::os::unix::open::open_at;

/// Files of any size, also where offsets have 32 bits.
pub(in crate::os::unix) const ANY_SIZE: OFlag = OFlag::O_LARGEFILE;

/// How a directory is opened to resolve paths from it: it need not be readable.
pub(in crate::os::unix) const DIRECTORY: libc::c_int = libc::O_PATH;

/// What stands at a path, held without being open (open(2), `O_PATH`): a device does not notice, a
/// FIFO does not block, and nobody can put another file in its place.
#[derive(Debug)]
pub(in crate::os::unix) struct Look {
    held: File,
    mode: u32,
}

impl Look {
    /// Does not follow a symbolic link in the last component.
    pub(in crate::os::unix) fn at(from: BorrowedFd<'_>, path: &Path) -> io::Result<Self> {
        let held = open_at(from, path, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())?;
        Ok(Self { mode: held.metadata()?.mode(), held })
    }

    /// The type and the permissions.
    pub(in crate::os::unix) fn mode(&self) -> u32 {
        self.mode
    }

    /// Opens that very file, and waits until other processes have given their leases on it back
    /// (fcntl(2), `F_SETLEASE`).
    ///
    /// # Errors
    ///
    /// Those of open(2), and `NotFound` where `/proc` is not mounted.
    pub(in crate::os::unix) fn open(&self, write: bool) -> io::Result<File> {
        let path = format!("/proc/self/fd/{}", self.held.as_raw_fd());
        OpenOptions::new().read(true).write(write).custom_flags(libc::O_NOCTTY).open(path)
    }
}
