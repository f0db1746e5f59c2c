//! Forks of a process with many threads, at any moment of its locks.
#![allow(unsafe_code)]

use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

/// Forks a child that lives for a while, and waits for its end. It has copies of all that this
/// process has, and must neither keep a lock nor give one back.
pub(crate) fn fork_for(time: Duration) -> Result<(), Errno> {
    // SAFETY: the child makes system calls and allocates nothing.
    match unsafe { fork() }? {
        ForkResult::Child => {
            thread::sleep(time);
            // SAFETY: ends the child without its destructors.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => waitpid(child, None).map(|_| ()),
    }
}
