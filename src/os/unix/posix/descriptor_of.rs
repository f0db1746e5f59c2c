//! Which file a descriptor stands for.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

use crate::os::Identity;

/// `None` if it is not open. May be called in a signal handler.
pub(in crate::os::unix) fn identity(descriptor: impl AsFd) -> Option<Identity> {
    let mut found = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: async-signal-safe; the pointer is valid for the call.
    if unsafe { libc::fstat(descriptor.as_fd().as_raw_fd(), found.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: plain data, of which all zeros is valid, and the call has filled it in.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::unnecessary_cast)]
    Some(Identity { device: found.st_dev as u64, inode: found.st_ino as u64 })
}
