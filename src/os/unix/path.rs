//! Following a path from the directory from which it counts.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

use super::kernel::ANY_SIZE;
use crate::os::Location;

/// The directory in which the last component of the path is.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// Where to begin, and the path from there.
pub(super) fn start(location: &Location) -> io::Result<(BorrowedFd<'_>, &Path)> {
    match location.to_resolve() {
        (None, path) => Ok((AT_FDCWD, path)),
        (Some(directory), path) => Ok((directory.descriptor()?, path)),
    }
}

/// As the standard library opens, but from a directory.
pub(super) fn open_at(
    from: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
    mode: Mode,
) -> io::Result<File> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | ANY_SIZE;
    loop {
        match openat(from, path, flags, mode) {
            Err(Errno::EINTR) => {}
            opened => return Ok(opened?.into()),
        }
    }
}
