//! Byte-range locks as POSIX record locks: they belong to the process, and closing any descriptor of
//! the file releases all of them (fcntl(2)).
//!
//! So a process has one descriptor of a lock file, and closes none before the last lock of the file is
//! gone; the registry of the file engine sees to that. Two open files of one process do not exclude each other.

use nix::fcntl::FcntlArg;
use nix::libc;

use crate::os::unix::range::Range;

/// Closing any descriptor of a file releases its locks.
pub(in crate::os::unix) const CLOSING_RELEASES: bool = true;

/// BSD keeps both kinds in one list, where a lock on the whole file leaves no byte for others.
pub(in crate::os::unix) const SEES_FLOCK: bool =
    cfg!(not(any(target_os = "linux", target_os = "android")));

/// The command of [`set_and_wait`].
pub(in crate::os::unix) const WAIT: libc::c_int = libc::F_SETLKW;

pub(in crate::os::unix) fn set(lock: &libc::flock) -> FcntlArg<'_> {
    FcntlArg::F_SETLK(lock)
}

pub(in crate::os::unix) fn set_and_wait(lock: &libc::flock) -> FcntlArg<'_> {
    FcntlArg::F_SETLKW(lock)
}

pub(in crate::os::unix) fn get(lock: &mut libc::flock) -> FcntlArg<'_> {
    FcntlArg::F_GETLK(lock)
}

/// There is no way to recognize a file by a lock: all open files of the process share theirs.
pub(in crate::os::unix) fn mark() -> Option<Range> {
    None
}
