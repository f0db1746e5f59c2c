//! What a forked child gets in place of a lock file's descriptor: the null device.
//!
//! Called in a process that was forked in the middle of anything: async-signal-safe functions only
//! (POSIX, 2.4.3).
#![allow(unsafe_code)]

use nix::libc;

/// `None` without a descriptor to be had.
pub(in crate::os::unix) fn open() -> Option<i32> {
    // SAFETY: open is async-signal-safe, and the path ends with a null byte.
    let descriptor = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    (descriptor >= 0).then_some(descriptor)
}

/// Puts the stand-in in place of a descriptor that the caller may close.
pub(in crate::os::unix) fn replace(descriptor: i32, stand_in: i32) {
    // SAFETY: dup2 is async-signal-safe, and the descriptor is the caller's.
    unsafe { libc::dup2(stand_in, descriptor) };
    // SAFETY: fcntl is async-signal-safe, and the descriptor is the caller's.
    unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
}
