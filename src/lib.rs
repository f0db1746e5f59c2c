#![doc = include_str!("../README.md")]

#[cfg(all(tokio_filelock_loom, not(feature = "loom")))]
compile_error!(
    "`--cfg tokio_filelock_loom` needs the feature `loom` of tokio-filelock: \
     `cargo test --features tokio-filelock/loom`, or `features = [\"loom\"]` in [dev-dependencies]"
);
#[cfg(all(tokio_filelock_shuttle, not(feature = "shuttle")))]
compile_error!(
    "`--cfg tokio_filelock_shuttle` needs the feature `shuttle` of tokio-filelock: \
     `cargo test --features tokio-filelock/shuttle`, or `features = [\"shuttle\"]` in [dev-dependencies]"
);
#[cfg(all(tokio_filelock_loom, tokio_filelock_shuttle))]
compile_error!(
    "`--cfg tokio_filelock_loom` and `--cfg tokio_filelock_shuttle` exclude each other: a model has one explorer"
);

pub mod cache;
mod driver;
mod engine;
mod error;
mod foreign;
// Unused on platforms without file locks.
#[cfg_attr(not(any(unix, windows)), allow(dead_code, unused_imports))]
mod holder;
mod lock;
mod mode;
mod os;
mod process;
mod queue;
mod shim;
#[cfg(any(test, feature = "test-util"))]
#[cfg_attr(all(test, tokio_filelock_loom), allow(dead_code))] // its tests are not models
pub mod sim;
mod space;
mod trace;
mod wait;

pub use cache::CacheDir;
pub use driver::Tenure;
pub use error::{Error, ErrorKind, TryLockError};
pub use holder::{Holder, Record, Source};
pub use lock::{
    Acquire, AcquireAll, AnyGuard, Counters, ExclusiveGuard, FileGuard, FileLock, Guard, Guards,
    OpenOptions, Removed, SharedGuard, UnusedFiles, Waiting, blocking_lock_all,
    blocking_lock_all_shared, lock_all, lock_all_shared, marker,
};
pub use mode::Mode;
pub use os::{Kept, Protocol};
pub use space::{LockSpace, LockSpaceOptions};
pub use wait::WaitOn;

#[cfg(fuzzing)]
#[doc(hidden)]
pub fn check_record_parser(content: &[u8]) {
    holder::check_parser(content);
}

/// How a parked wait is ended when no task wants it any more.
///
/// On Windows the wait is cancelled (CancelIoEx), and nothing here concerns it. On Unix a thread that
/// waits in the kernel for another process is woken by a signal.
///
/// On Linux a POSIX timer (timer_create(2), `SIGEV_THREAD_ID`) sends it to that thread alone, every 2 ms
/// until the thread has left the call. The signal is a real-time one, the highest that is free
/// when the first wait begins; its handler does nothing and is installed without `SA_RESTART`.
/// It is unblocked in the waiting thread only, and only while it waits. Where there is no timer to be
/// had (`RLIMIT_SIGPENDING` is used up, a seccomp filter forbids it), and on other systems, it is
/// `SIGURG` if that is free, sent by pthread_kill(3) with pauses that grow from 1 to 64 ms.
///
/// A signal is free if its disposition is the default and no thread blocks it. One that some threads
/// block is taken if there is no other, but none that the first thread of the process blocks: the program may
/// fetch it with sigwait(3) or signalfd(2), for which it must be blocked everywhere. That is looked at
/// when the signal is chosen and before each wait. It is seen in `/proc`; without `/proc`, on Linux, it
/// is not seen, and on other systems only for the waiting thread, which has inherited what it
/// blocks. What remains: a signal that the program begins to fetch while a wait is parked may
/// reach that wait instead. Such a program chooses the signal itself, with
/// [`set_signal`](interrupt::set_signal).
///
/// Exclusion never depends on a signal. Where none can be had, or the program has replaced its handler,
/// waits are polls with pauses of 1 to 16 ms, which end without a signal; programs that sleep in the
/// kernel get the lock before them. A handler that is replaced while a wait is parked, with or without
/// `SA_RESTART`, lets that one wait go on until the lock arrives: if no task wants it then, it is given
/// back at once. The disposition is looked at before each wait and each interrupt. The same signal
/// limits the wait for another process's turn (docs/FAIRNESS.md), 50 ms or more ahead. So do not reset it to
/// its default while tasks wait: the default action of a real-time signal ends the process.
///
/// A program started by exec(2) finds the default disposition.
pub mod interrupt {
    #[cfg(unix)]
    pub use crate::os::{SetSignalError, set_signal};
}
