//! Which file a descriptor stands for, asked of the kernel alone.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;

use crate::os::Identity;

/// `false` only if it is not open, or stands for another file. A server that answers by path may say of a
/// file that was removed that there is none (9p). Waits for no server, and may be called in a
/// signal handler.
pub(in crate::os::unix) fn is_still(descriptor: impl AsFd, identity: Identity) -> bool {
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
        return by_fstat(descriptor, identity);
    }
    // SAFETY: plain data, of which all zeros is valid, and the call has filled it in.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::unnecessary_cast)]
    let device = libc::makedev(found.stx_dev_major, found.stx_dev_minor) as u64;
    identity == Identity { device, inode: found.stx_ino }
}

/// Before Linux 4.11, and where a sandbox refuses the other.
#[cold]
fn by_fstat(descriptor: i32, identity: Identity) -> bool {
    let mut found = MaybeUninit::<libc::stat64>::zeroed();
    // SAFETY: async-signal-safe; the pointer is valid for the call.
    if unsafe { libc::fstat64(descriptor, found.as_mut_ptr()) } != 0 {
        return Errno::last() != Errno::EBADF;
    }
    // SAFETY: plain data, of which all zeros is valid, and the call has filled it in.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::unnecessary_cast)]
    let now = Identity { device: found.st_dev as u64, inode: found.st_ino as u64 };
    identity == now
}
