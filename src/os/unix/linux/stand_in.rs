//! What a forked child gets in place of a lock file's descriptor: an eventfd, which does nothing.
//!
//! Called in a process that was forked in the middle of anything: bare system calls only.
#![allow(unsafe_code)]

use nix::libc;

/// `None` without a descriptor to be had.
pub(in crate::os::unix) fn open() -> Option<i32> {
    // SAFETY: eventfd is a bare system call.
    let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    (descriptor >= 0).then_some(descriptor)
}

/// Puts the stand-in in place of a descriptor that the caller may close.
pub(in crate::os::unix) fn replace(descriptor: i32, stand_in: i32) {
    // Android's library has no name for it here.
    // SAFETY: dup3 is a bare system call, and the descriptor is the caller's.
    unsafe { libc::syscall(libc::SYS_dup3, stand_in, descriptor, libc::O_CLOEXEC) };
}
