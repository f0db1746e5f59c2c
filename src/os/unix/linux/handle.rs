//! The handle of a file: by what its file system finds the inode, as the kernel's NFS server would ask for it
//! (name_to_handle_at(2)).
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

/// The longest handle that the call gives (`MAX_HANDLE_SZ`).
const LONGEST: usize = 128;

/// For telling files apart only: since Linux 6.5, also of file systems that cannot be served.
const FOR_COMPARISON: libc::c_int = 0x200; // AT_HANDLE_FID

/// `struct file_handle`, which some C libraries do not have.
#[repr(C)]
struct Handle {
    length: libc::c_uint,
    /// Its kind, and what it is.
    bytes: [u8; KIND + LONGEST],
}

/// So many bytes the kind has.
const KIND: usize = size_of::<libc::c_int>();

/// `None` where the file system gives none, or the call is not allowed. Asks no server.
pub(in crate::os::unix) fn of(file: &File) -> Option<Box<[u8]>> {
    of_descriptor(file.as_raw_fd(), |handle| handle.into())
}

/// The same, without a copy: may be called in a signal handler.
pub(in crate::os::unix) fn of_descriptor<T>(
    descriptor: RawFd,
    use_it: impl FnOnce(&[u8]) -> T,
) -> Option<T> {
    ask(descriptor, c"", libc::AT_EMPTY_PATH).map(|handle| use_it(handle.bytes()))
}

/// The same of what is at the path; a symbolic link is not followed.
pub(in crate::os::unix) fn at(path: &Path) -> Option<Box<[u8]>> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    ask(libc::AT_FDCWD, &path, 0).map(|handle| handle.bytes().into())
}

fn ask(from: RawFd, path: &CStr, flags: libc::c_int) -> Option<Handle> {
    call(from, path, flags).or_else(|| call(from, path, flags | FOR_COMPARISON))
}

impl Handle {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..KIND + LONGEST.min(self.length as usize)]
    }
}

fn call(from: RawFd, path: &CStr, flags: libc::c_int) -> Option<Handle> {
    let mut handle = Handle { length: LONGEST as libc::c_uint, bytes: [0; KIND + LONGEST] };
    let mut mount: libc::c_int = 0;
    // SAFETY: the path ends with a null byte, and the handle has room for as many bytes as it says.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            from,
            path.as_ptr(),
            &raw mut handle,
            &raw mut mount,
            flags,
        )
    };
    (failed == 0).then_some(handle)
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_file_in_memory_has_its_own() {
        let open = || tempfile::tempfile_in("/dev/shm").unwrap();
        let [one, other] = [open(), open()].map(|file| of(&file));
        assert_ne!(one, other);
    }

    #[test]
    fn two_descriptors_of_one_file_have_the_same() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let handle = of(file.as_file());
        assert_eq!(handle, of(&File::open(file.path()).unwrap()));
        assert_eq!(handle, at(file.path()));
        assert!(handle.is_some());
    }
}
