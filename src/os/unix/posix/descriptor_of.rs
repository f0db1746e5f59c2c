//! Which file a descriptor stands for.
#![allow(unsafe_code)]

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

use crate::os::file_system::Keyed;
use crate::os::unix::recognition::{Is, Lasting};
use crate::os::{Identity, Names};

/// There are the numbers only. A server that answers by path may say of a file that was removed that there is
/// none (9p). May be called in a signal handler.
pub(in crate::os::unix) fn is(descriptor: impl AsFd, identity: Identity, _: Lasting) -> Is {
    let mut found = MaybeUninit::<libc::stat>::zeroed();
    let descriptor = descriptor.as_fd().as_raw_fd();
    // SAFETY: async-signal-safe; the pointer is valid for the call.
    if unsafe { libc::fstat(descriptor, found.as_mut_ptr()) } != 0 {
        // SAFETY: async-signal-safe; the call has no precondition. A server may say EBADF, and this asks none.
        let is_open = unsafe { libc::fcntl(descriptor, libc::F_GETFD) } >= 0;
        return if is_open { Is::Own } else { Is::Other };
    }
    // SAFETY: plain data, of which all zeros is valid, and the call has filled it in.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::unnecessary_cast)]
    let now = Identity { device: found.st_dev as u64, inode: found.st_ino as u64 };
    if identity == now { Is::Own } else { Is::Other }
}

/// Nothing that all systems have.
pub(in crate::os::unix) fn lasting(_: &File, _: Keyed, _: &Names) -> Lasting {
    Lasting(0)
}
