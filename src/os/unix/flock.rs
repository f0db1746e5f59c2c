//! `Protocol::Flock`: flock(2), through `fs2`, which passes EINTR on instead of retrying; by itself
//! where `fs2` does not compile.
//!
//! The lock belongs to the open file description: a second call on the same description converts
//! the lock instead of waiting for it, and the conversion is not atomic (flock(2)).
#![allow(clippy::disallowed_methods)]
#![cfg_attr(any(target_os = "illumos", target_os = "cygwin"), allow(unsafe_code))]

use std::fs::File;
use std::io;

#[cfg(not(any(target_os = "illumos", target_os = "cygwin")))]
use fs2::FileExt;

use crate::mode::Mode;

#[cfg(any(target_os = "illumos", target_os = "cygwin"))]
pub(super) use bare::{lock, try_lock, unlock};

#[cfg(not(any(target_os = "illumos", target_os = "cygwin")))]
pub(super) fn try_lock(file: &File, mode: Mode) -> io::Result<()> {
    match mode {
        Mode::Shared => FileExt::try_lock_shared(file),
        Mode::Exclusive => FileExt::try_lock_exclusive(file),
    }
}

#[cfg(not(any(target_os = "illumos", target_os = "cygwin")))]
pub(super) fn lock(file: &File, mode: Mode) -> io::Result<()> {
    match mode {
        Mode::Shared => FileExt::lock_shared(file),
        Mode::Exclusive => FileExt::lock_exclusive(file),
    }
}

#[cfg(not(any(target_os = "illumos", target_os = "cygwin")))]
pub(super) fn unlock(file: &File) -> io::Result<()> {
    FileExt::unlock(file)
}

#[cfg(any(target_os = "illumos", target_os = "cygwin"))]
mod bare {
    use std::os::fd::AsRawFd;

    use nix::libc;

    use super::*;

    pub(in crate::os::unix) fn try_lock(file: &File, mode: Mode) -> io::Result<()> {
        call(file, operation(mode) | libc::LOCK_NB)
    }

    pub(in crate::os::unix) fn lock(file: &File, mode: Mode) -> io::Result<()> {
        call(file, operation(mode))
    }

    pub(in crate::os::unix) fn unlock(file: &File) -> io::Result<()> {
        call(file, libc::LOCK_UN)
    }

    fn operation(mode: Mode) -> libc::c_int {
        match mode {
            Mode::Shared => libc::LOCK_SH,
            Mode::Exclusive => libc::LOCK_EX,
        }
    }

    fn call(file: &File, operation: libc::c_int) -> io::Result<()> {
        // SAFETY: the descriptor is open for as long as the file is borrowed.
        let failed = unsafe { libc::flock(file.as_raw_fd(), operation) };
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
