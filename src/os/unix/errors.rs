//! What the errno of a lock call means.

use std::io;

use nix::errno::Errno;

use crate::error::ErrorKind;
use crate::os::file_system::FileSystem;
use crate::os::foreign::is_foreign;

/// Whether a failed lock call that does not wait means that another open file holds the lock. Where no
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

/// EDEADLK of a call that was to wait: the lock is busy, no more. The kernel, or a server, looks for circles of
/// owners, and sees some that are none: POSIX record locks have the process as their owner, all the keys in
/// a file of an NFS mount have one for the server. Tasks of two hosts that wait for each other's other locks
/// look like a circle, and none of them waits for itself.
pub(super) fn did_not_wait(error: &io::Error) -> bool {
    errno(error) == Some(Errno::EDEADLK)
}

/// Whether a failed call on an open file means that nothing will ever come of this open file: the path may
/// lead to another one, and is opened anew. Where that fails, too, its error is the answer.
///
/// | errno | |
/// |---|---|
/// | `ESTALE`, `ENOENT` | gone: the server does not know the file any more |
/// | `ENOTCONN` | gone: the FUSE server has ended; another one may have mounted the same path |
/// | `ECONNABORTED` | gone: it has ended during the call |
/// | `ESHUTDOWN` | gone: the server has shut this client out (Ceph) |
/// | `ENODEV` | gone: the device or driver below was taken away |
/// | `EHOSTDOWN`, `ETIMEDOUT`, `ECONNRESET`, `ECONNREFUSED` | not gone: the server cannot be reached at present, and the client reconnects |
/// | `EIO`, `EREMOTEIO` | not gone: a failure of this call, and perhaps of no other |
/// | `EBADF` | not gone: the access is not what the lock needs |
/// | `ENXIO` | not gone: no lock call is known to say so |
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(
        errno(error),
        Some(
            Errno::ESTALE
                | Errno::ENOENT
                | Errno::ENOTCONN
                | Errno::ECONNABORTED
                | Errno::ESHUTDOWN
                | Errno::ENODEV
        )
    )
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
    fn an_open_file_of_which_nothing_will_come_is_gone() {
        let gone = [
            Errno::ESTALE,
            Errno::ENOENT,
            Errno::ENOTCONN,
            Errno::ECONNABORTED,
            Errno::ESHUTDOWN,
            Errno::ENODEV,
        ];
        let not_gone = [
            Errno::EHOSTDOWN,
            Errno::ETIMEDOUT,
            Errno::ECONNRESET,
            Errno::ECONNREFUSED,
            Errno::EIO,
            Errno::EBADF,
            Errno::ENXIO,
            Errno::EAGAIN,
        ];
        let is_gone = |errno| is_gone(&io::Error::from_raw_os_error(libc_errno(errno)));
        assert!(gone.into_iter().all(is_gone));
        assert!(!not_gone.into_iter().any(is_gone));
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
