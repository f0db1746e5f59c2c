//! Windows: both protocols over LockFileEx.
//!
//! A lock file has one handle, made for overlapped calls, so that a call that waits can be cancelled and
//! does not keep others on the same handle waiting. Where overlapped waits do not work it is a
//! synchronous handle ([`overlapped::is_usable`]).

mod absent;
pub(in crate::os) mod content;
pub(in crate::os) mod descriptor;
pub(in crate::os) mod errors;
mod event;
pub(in crate::os) mod file_system;
pub(in crate::os) mod holders;
mod information;
pub(crate) mod interrupt;
pub(in crate::os) mod lock;
pub(in crate::os) mod open;
mod overlapped;
pub(crate) mod shared_directory;

pub(in crate::os) use absent::{mount, remove, same};

/// What tells the files of a volume apart. Unique while the file is open.
pub(in crate::os) type FileId = u128;

/// What tells the files in a shared directory apart: their times and their length.
pub(in crate::os) type Known = [u64; 3];
