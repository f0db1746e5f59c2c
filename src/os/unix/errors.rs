//! What the errno of a lock call means.

use std::io;

use nix::errno::Errno;

use crate::error::ErrorKind;
use crate::os::file_system::FileSystem;
use crate::os::foreign::is_foreign;

/// Whether a failed lock call that does not wait means that somebody else holds the lock. Where no
/// file system says `EACCES` for that, a security module does, for a lock that may be free.
pub(in crate::os) fn is_contention(error: &io::Error, file_system: FileSystem) -> bool {
    match errno(error) {
        Some(Errno::EWOULDBLOCK) => true,
        Some(Errno::EACCES) => file_system == FileSystem::OtherWithEacces,
        _ => false,
    }
}

/// The kernel's own ERESTARTSYS: what a FUSE server's EINTR comes out as when no signal is pending.
const KERNEL_ERESTARTSYS: i32 = 512;

/// Whether a failed lock call is no answer, and to be made again.
pub(super) fn is_interrupted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted || error.raw_os_error() == Some(KERNEL_ERESTARTSYS)
}

/// Whether a failed call on an open file means that no path leads to the file any more: the server
/// has forgotten it.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::ESTALE | Errno::ENOENT))
}

pub(super) fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

/// The kernel's own ENOTSUPP, which has no name in the C library and leaks out of some NFS and
/// FUSE servers.
const KERNEL_ENOTSUPP: i32 = 524;

/// The kind of a lock call's error, which is not contention.
pub(crate) fn lock_error_kind(error: &io::Error) -> ErrorKind {
    if is_foreign(error) {
        return ErrorKind::ForeignDescriptor;
    }
    if error.raw_os_error() == Some(KERNEL_ENOTSUPP) {
        return ErrorKind::Unsupported;
    }
    match errno(error) {
        Some(Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EOVERFLOW) => {
            ErrorKind::Unsupported
        }
        Some(Errno::ENOLCK) => ErrorKind::LockServiceUnavailable,
        Some(Errno::EBADF) => ErrorKind::WrongAccess,
        Some(Errno::EDEADLK) => ErrorKind::Deadlock,
        // EWOULDBLOCK from a call that was to wait: no local file system says so.
        Some(Errno::EACCES | Errno::EPERM | Errno::EWOULDBLOCK) => ErrorKind::PermissionDenied,
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
            (libc_errno(Errno::EOVERFLOW), ErrorKind::Unsupported),
            (KERNEL_ENOTSUPP, ErrorKind::Unsupported),
            (libc_errno(Errno::ENOLCK), ErrorKind::LockServiceUnavailable),
            (libc_errno(Errno::EBADF), ErrorKind::WrongAccess),
            (libc_errno(Errno::EDEADLK), ErrorKind::Deadlock),
            (libc_errno(Errno::EPERM), ErrorKind::PermissionDenied),
            (libc_errno(Errno::EIO), ErrorKind::Io),
            (libc_errno(Errno::ESTALE), ErrorKind::Io),
        ];
        for (raw, kind) in table {
            let error = io::Error::from_raw_os_error(raw);
            assert_eq!(lock_error_kind(&error), kind, "{error}");
            assert!(!is_contention(&error, FileSystem::OtherWithEacces), "{error}");
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
        use FileSystem::{Local, Nfs, Other, OtherWithEacces};
        let error = |errno| io::Error::from_raw_os_error(libc_errno(errno));
        for file_system in [Local, Nfs, Other, OtherWithEacces] {
            for errno in [Errno::EAGAIN, Errno::EWOULDBLOCK] {
                assert!(is_contention(&error(errno), file_system));
            }
            // What a security module says.
            let denied = error(Errno::EACCES);
            assert_eq!(is_contention(&denied, file_system), file_system == OtherWithEacces);
            assert_eq!(lock_error_kind(&denied), ErrorKind::PermissionDenied);
        }
    }

    fn libc_errno(errno: Errno) -> i32 {
        errno as i32
    }
}
