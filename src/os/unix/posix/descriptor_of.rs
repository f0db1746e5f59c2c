//! Which file a descriptor stands for.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;

use crate::os::Identity;

/// `false` only if it is not open, or stands for another file. A server that answers by path may say of a
/// file that was removed that there is none (9p). May be called in a signal handler.
pub(in crate::os::unix) fn is_still(descriptor: impl AsFd, identity: Identity) -> bool {
    let mut found = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: async-signal-safe; the pointer is valid for the call.
    if unsafe { libc::fstat(descriptor.as_fd().as_raw_fd(), found.as_mut_ptr()) } != 0 {
        return Errno::last() != Errno::EBADF;
    }
    // SAFETY: plain data, of which all zeros is valid, and the call has filled it in.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::unnecessary_cast)]
    let now = Identity { device: found.st_dev as u64, inode: found.st_ino as u64 };
    identity == now
}
