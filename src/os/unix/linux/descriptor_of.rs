//! Which file a descriptor stands for, asked of the kernel alone.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

use crate::os::Identity;

/// `None` if it is not open. Waits for no server, and may be called in a signal handler.
pub(in crate::os::unix) fn identity(descriptor: impl AsFd) -> Option<Identity> {
    let descriptor = descriptor.as_fd().as_raw_fd();
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // The C library's own may be older than the call.
    // SAFETY: a bare system call; both pointers are valid for it, and an empty path means the descriptor.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_statx,
            descriptor,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC,
            libc::STATX_INO,
            found.as_mut_ptr(),
        )
    };
    if failed != 0 {
        return by_fstat(descriptor);
    }
    // SAFETY: plain data, of which all zeros is valid, and the call has filled it in.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::unnecessary_cast)]
    let device = libc::makedev(found.stx_dev_major, found.stx_dev_minor) as u64;
    Some(Identity { device, inode: found.stx_ino })
}

/// Before Linux 4.11, and where a sandbox refuses the other.
#[cold]
fn by_fstat(descriptor: i32) -> Option<Identity> {
    let mut found = MaybeUninit::<libc::stat64>::zeroed();
    // SAFETY: async-signal-safe; the pointer is valid for the call.
    if unsafe { libc::fstat64(descriptor, found.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: plain data, of which all zeros is valid, and the call has filled it in.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::unnecessary_cast)]
    Some(Identity { device: found.st_dev as u64, inode: found.st_ino as u64 })
}
