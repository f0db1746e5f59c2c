//! What the error code of a lock call means.

use std::io;

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_CALL_NOT_IMPLEMENTED, ERROR_INVALID_FUNCTION, ERROR_LOCK_VIOLATION,
    ERROR_NO_SYSTEM_RESOURCES, ERROR_NOT_SUPPORTED, ERROR_POSSIBLE_DEADLOCK,
};

use crate::error::ErrorKind;
use crate::os::file_system::FileSystem;

/// Whether a failed lock call means that another handle holds the lock.
pub(in crate::os) fn is_contention(error: &io::Error, _file_system: FileSystem) -> bool {
    code(error) == Some(ERROR_LOCK_VIOLATION)
}

/// Whether a failed call on an open file means that no path leads to the file any more.
pub(crate) fn is_gone(_error: &io::Error) -> bool {
    false
}

pub(super) fn code(error: &io::Error) -> Option<u32> {
    error.raw_os_error().map(|code| code as u32)
}

/// The kind of a lock call's error.
pub(crate) fn lock_error_kind(error: &io::Error) -> ErrorKind {
    if error.kind() == io::ErrorKind::Unsupported {
        return ErrorKind::Unsupported;
    }
    match code(error) {
        Some(ERROR_INVALID_FUNCTION | ERROR_NOT_SUPPORTED | ERROR_CALL_NOT_IMPLEMENTED) => {
            ErrorKind::Unsupported
        }
        Some(ERROR_NO_SYSTEM_RESOURCES) => ErrorKind::LockServiceUnavailable,
        Some(ERROR_ACCESS_DENIED) => ErrorKind::WrongAccess,
        Some(ERROR_POSSIBLE_DEADLOCK) => ErrorKind::Deadlock,
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_errors_have_the_documented_kinds() {
        let table = [
            (ERROR_INVALID_FUNCTION, ErrorKind::Unsupported),
            (ERROR_NOT_SUPPORTED, ErrorKind::Unsupported),
            (ERROR_CALL_NOT_IMPLEMENTED, ErrorKind::Unsupported),
            (ERROR_NO_SYSTEM_RESOURCES, ErrorKind::LockServiceUnavailable),
            (ERROR_ACCESS_DENIED, ErrorKind::WrongAccess),
            (ERROR_POSSIBLE_DEADLOCK, ErrorKind::Deadlock),
            (windows_sys::Win32::Foundation::ERROR_HANDLE_EOF, ErrorKind::Io),
        ];
        for (code, kind) in table {
            let error = io::Error::from_raw_os_error(code as i32);
            assert_eq!(lock_error_kind(&error), kind, "{error}");
            assert!(!is_contention(&error, FileSystem::Local), "{error}");
        }
    }

    #[test]
    fn contention_is_not_an_error() {
        let error = io::Error::from_raw_os_error(ERROR_LOCK_VIOLATION as i32);
        assert!(is_contention(&error, FileSystem::Local));
    }
}
