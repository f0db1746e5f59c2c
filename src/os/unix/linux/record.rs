//! Byte-range locks as open file description (OFD) locks: they belong to the open file, as those of
//! flock(2) do.

use std::io;

use nix::fcntl::FcntlArg;
use nix::libc;

/// Closing another descriptor of a file releases none of its locks.
pub(in crate::os::unix) const CLOSING_RELEASES: bool = false;

/// On a local file system flock(2) and fcntl(2) do not see each other.
pub(in crate::os::unix) const SEES_FLOCK: bool = false;

pub(in crate::os::unix) fn set(lock: &libc::flock) -> FcntlArg<'_> {
    FcntlArg::F_OFD_SETLK(lock)
}

pub(in crate::os::unix) fn set_and_wait(lock: &libc::flock) -> FcntlArg<'_> {
    FcntlArg::F_OFD_SETLKW(lock)
}

pub(in crate::os::unix) fn get(lock: &mut libc::flock) -> FcntlArg<'_> {
    FcntlArg::F_OFD_GETLK(lock)
}

/// See [`without_false_deadlocks`].
pub(in crate::os::unix) const SEES_FALSE_DEADLOCKS: bool = false;

/// There are none: the kernel looks for circles among POSIX locks only.
pub(in crate::os::unix) fn without_false_deadlocks(error: io::Error) -> io::Error {
    error
}
