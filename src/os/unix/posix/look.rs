//! Looking at what stands at a path without opening it.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag};
use nix::libc;
use nix::sys::stat::fstatat;

/// Files have any size by themselves.
pub(in crate::os::unix) const ANY_SIZE: OFlag = OFlag::empty();

/// How a directory is opened to resolve paths from it.
pub(in crate::os::unix) const DIRECTORY: libc::c_int = 0;

/// What stood at a path. It may be something else by now.
#[derive(Debug)]
pub(in crate::os::unix) struct Look {
    mode: u32,
}

impl Look {
    /// Does not follow a symbolic link in the last component.
    pub(in crate::os::unix) fn at(from: BorrowedFd<'_>, path: &Path) -> io::Result<Self> {
        let found = fstatat(from, path, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        #[allow(clippy::useless_conversion)]
        let mode = u32::from(found.st_mode);
        Ok(Self { mode })
    }

    /// The type and the permissions.
    pub(in crate::os::unix) fn mode(&self) -> u32 {
        self.mode
    }

    /// It can be opened by its name only.
    pub(in crate::os::unix) fn open(&self, _write: bool) -> io::Result<File> {
        Err(io::ErrorKind::NotFound.into())
    }
}
