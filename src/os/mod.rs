//! The operating system: opening lock files, lock calls, file identity, file-system kinds.
//!
//! The one place that names errno or holds `unsafe` code, and the one place that may call the
//! lock functions (`.clippy.toml` forbids them elsewhere). Nothing here knows of queues, tasks or
//! runtimes. [`LockFile`] is the open file with its lock calls; under loom, [`model`] takes its
//! place.

#[cfg(not(target_os = "linux"))]
compile_error!("tokio-filelock supports Linux only, so far: see docs/PLATFORMS.md");

pub(crate) mod cache_file;
// The real kernel is compiled under loom as well, so that it stays checked there; it is not used.
#[cfg_attr(tokio_filelock_loom, allow(dead_code))]
mod fcntl;
#[cfg_attr(tokio_filelock_loom, allow(dead_code))]
mod file_system;
#[cfg_attr(tokio_filelock_loom, allow(dead_code))]
mod flock;
pub(crate) mod fork;
#[cfg_attr(tokio_filelock_loom, allow(dead_code))]
mod holders;
#[cfg_attr(tokio_filelock_loom, allow(dead_code))]
pub(crate) mod interrupt;
#[cfg_attr(tokio_filelock_loom, allow(dead_code))]
mod lock_file;
#[cfg(any(test, tokio_filelock_loom))]
#[cfg_attr(not(all(test, tokio_filelock_loom)), allow(dead_code))] // used in models
pub(crate) mod model;
#[cfg_attr(tokio_filelock_loom, allow(dead_code))]
mod mount;
#[cfg(all(test, not(tokio_filelock_loom)))]
mod scenarios;
mod turnstile;

pub(crate) use holders::{Effort, look_up, this_process};
pub(crate) use interrupt::Waited;
#[cfg(not(tokio_filelock_loom))]
pub(crate) use {interrupt::Interrupt, lock_file::LockFile};
#[cfg(tokio_filelock_loom)]
pub(crate) use {model::Interrupt, model::LockFile};

use std::io;

use nix::errno::Errno;

use crate::error::ErrorKind;

/// Which OS lock is taken. A wire format: all programs that share a lock file must take the same.
///
/// On Linux the two do not see each other on local file systems, and are one and the same on NFS
/// (flock(2), NOTES).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// flock(2) over the whole file: what cargo, uv, `std::fs::File::lock`, Go, flock(1) and
    /// Python's `filelock` take.
    #[default]
    Flock,
    /// A byte-range lock of fcntl(2), as an open file description lock: excludes `lockf`, Java's
    /// `FileChannel` and SQLite-style ranges, as long as they cover byte 0.
    Fcntl,
}

/// What of the file is locked: the byte where the region starts. `Flock` locks the whole file
/// whatever the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Region {
    pub(crate) start: u64,
}

impl Region {
    /// The region of a lock file that carries one lock.
    pub(crate) const ONLY: Region = Region { start: 0 };
}

/// Which file it is, whatever its path. Unique while the file is open: its inode is not reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// How to open a lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) create: bool,
    /// Permission bits of a file that is created, exactly; `None`: 0666 less the umask.
    pub(crate) mode: Option<u32>,
    pub(crate) read_only: bool,
}

/// What a lock call that does not block came back with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Acquired,
    Busy,
}

/// Whether a failed lock call means that somebody else holds the lock. CIFS says `EACCES`.
fn is_contention(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::EWOULDBLOCK | Errno::EACCES))
}

/// The kernel's own ERESTARTSYS: what a FUSE server's EINTR comes out as when no signal is pending.
const KERNEL_ERESTARTSYS: i32 = 512;

/// Whether a failed lock call is no answer, and to be made again.
fn is_interrupted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted || error.raw_os_error() == Some(KERNEL_ERESTARTSYS)
}

/// Whether a failed call on an open file means that no path leads to the file any more: the server
/// has forgotten it.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::ESTALE | Errno::ENOENT))
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

/// The kernel's own ENOTSUPP, which has no name in the C library and leaks out of some NFS and
/// FUSE servers.
const KERNEL_ENOTSUPP: i32 = 524;

/// The kind of a lock call's error.
pub(crate) fn lock_error_kind(error: &io::Error) -> ErrorKind {
    if error.raw_os_error() == Some(KERNEL_ENOTSUPP) {
        return ErrorKind::Unsupported;
    }
    match errno(error) {
        Some(Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EINVAL) => ErrorKind::Unsupported,
        Some(Errno::ENOLCK) => ErrorKind::LockServiceUnavailable,
        Some(Errno::EBADF) => ErrorKind::WrongAccess,
        Some(Errno::EDEADLK) => ErrorKind::Deadlock,
        _ => ErrorKind::Io,
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    #[test]
    fn lock_errors_have_the_documented_kinds() {
        let table = [
            (libc_errno(Errno::ENOSYS), ErrorKind::Unsupported),
            (libc_errno(Errno::EOPNOTSUPP), ErrorKind::Unsupported),
            (libc_errno(Errno::ENOTSUP), ErrorKind::Unsupported),
            (libc_errno(Errno::EINVAL), ErrorKind::Unsupported),
            (KERNEL_ENOTSUPP, ErrorKind::Unsupported),
            (libc_errno(Errno::ENOLCK), ErrorKind::LockServiceUnavailable),
            (libc_errno(Errno::EBADF), ErrorKind::WrongAccess),
            (libc_errno(Errno::EDEADLK), ErrorKind::Deadlock),
            (libc_errno(Errno::EIO), ErrorKind::Io),
            (libc_errno(Errno::ESTALE), ErrorKind::Io),
        ];
        for (raw, kind) in table {
            let error = io::Error::from_raw_os_error(raw);
            assert_eq!(lock_error_kind(&error), kind, "{error}");
            assert!(!is_contention(&error), "{error}");
        }
    }

    #[test]
    fn a_signal_is_no_answer() {
        for raw in [libc_errno(Errno::EINTR), KERNEL_ERESTARTSYS] {
            assert!(is_interrupted(&io::Error::from_raw_os_error(raw)));
        }
        assert!(!is_interrupted(&io::Error::from_raw_os_error(libc_errno(Errno::EIO))));
    }

    #[test]
    fn contention_is_not_an_error() {
        for errno in [Errno::EAGAIN, Errno::EWOULDBLOCK, Errno::EACCES] {
            assert!(is_contention(&io::Error::from_raw_os_error(libc_errno(errno))));
        }
    }

    fn libc_errno(errno: Errno) -> i32 {
        errno as i32
    }
}
