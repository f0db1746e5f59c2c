//! Directory handles as POSIX has them.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::stat::fstat;

pub(in crate::os::unix) const SEARCH: OFlag = OFlag::O_RDONLY;

/// It takes a call for each name.
pub(in crate::os::unix) fn open_beneath(
    _directory: BorrowedFd<'_>,
    _path: &str,
    _flags: OFlag,
) -> Option<nix::Result<OwnedFd>> {
    None
}

/// It is told by the device alone.
pub(in crate::os::unix) fn open_on_this_mount(
    _directory: BorrowedFd<'_>,
    _name: &CStr,
    _flags: OFlag,
) -> Option<nix::Result<OwnedFd>> {
    None
}

/// It takes a call for each file.
pub(in crate::os::unix) fn syncs_at_once(_file: &File) -> bool {
    false
}

/// There is no such call.
pub(in crate::os::unix) fn sync_all(_file: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There are none that all systems know.
pub(in crate::os::unix) fn path_by_handle(_directory: BorrowedFd<'_>) -> Option<PathBuf> {
    None
}

/// As far as the device tells.
#[allow(clippy::unnecessary_cast)] // its type differs between systems
pub(in crate::os::unix) fn mount(directory: BorrowedFd<'_>) -> Option<u64> {
    fstat(directory).ok().map(|status| status.st_dev as u64)
}

/// Not every system has a call for that.
pub(in crate::os::unix) fn copy_some(_from: &File, _done: &mut u64, _to: &File) -> bool {
    false
}
