#![doc = include_str!("../README.md")]

mod error;
mod lock;
mod os;
mod queue;
mod registry;
mod shim;
mod wait;

pub use error::{Error, ErrorKind, TryLockError};
pub use lock::{Acquire, Counters, ExclusiveGuard, FileLock, Guard, OpenOptions, SharedGuard};
pub use os::Protocol;
