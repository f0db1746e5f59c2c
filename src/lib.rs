#![doc = include_str!("../README.md")]

pub mod cache;
mod error;
mod foreign;
// Nobody is ever seen where there are no locks.
#[cfg_attr(not(any(unix, windows)), allow(dead_code, unused_imports))]
mod holder;
mod lock;
mod os;
mod queue;
mod registry;
mod shim;
mod space;
mod trace;
mod wait;

pub use cache::CacheDir;
pub use error::{Error, ErrorKind, TryLockError};
pub use holder::{Holder, Mode, Record, Source};
pub use lock::{
    Acquire, AcquireAll, Counters, ExclusiveGuard, FileLock, Guard, Guards, OpenOptions,
    SharedGuard, Waiting, blocking_lock_all, blocking_lock_all_shared, lock_all, lock_all_shared,
};
pub use os::Protocol;
pub use registry::Tenure;
pub use space::{LockSpace, LockSpaceOptions};
pub use wait::WaitOn;

#[cfg(fuzzing)]
#[doc(hidden)]
pub fn check_record_parser(content: &[u8]) {
    holder::check_parser(content);
}

/// How a parked wait is ended when nobody wants it any more.
///
/// On Windows the wait is cancelled (CancelIoEx), and nothing here concerns it. On Unix a thread that
/// waits in the kernel for another process is woken by a signal.
///
/// On Linux a POSIX timer (timer_create(2), `SIGEV_THREAD_ID`) sends it to that thread alone, every 2 ms
/// until the thread has left the call. The signal is a real-time one, the highest whose disposition is the default
/// when the first wait begins; its handler does nothing and is installed without `SA_RESTART`.
/// It is unblocked in the waiting thread only, and only while it waits. On other systems it is `SIGURG`
/// if that has its default disposition, sent by pthread_kill(3) with pauses that grow from 1 to 64 ms.
///
/// Exclusion never depends on it. Where the signal cannot be had, or the program replaces its handler
/// later, with or without `SA_RESTART`, or a seccomp filter forbids timers, a wait that nobody wants stays
/// parked until the lock arrives, and gives it back at once; a task that asks in between takes it
/// over. The disposition is looked at before each wait and each interrupt. The same signal limits
/// the wait for another process's turn (docs/FAIRNESS.md), 50 ms or more ahead. So do not reset it to
/// its default while tasks wait: the default action of a real-time signal ends the process. And a
/// handler with `SA_RESTART` that is installed in such a moment lets that one wait go on until the
/// other process has had its turn. A program that handles
/// all real-time signals itself can choose another one, or none, with
/// [`set_signal`](interrupt::set_signal).
///
/// A program started by exec(2) finds the default disposition.
pub mod interrupt {
    #[cfg(unix)]
    pub use crate::os::interrupt::{SetSignalError, set_signal};
}
