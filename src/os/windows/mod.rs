//! Windows: both protocols over LockFileEx.
//!
//! A lock file has one handle, made for overlapped calls, so that a call that waits can be cancelled and
//! does not keep others on the same handle waiting. Where overlapped waits do not work it is a
//! synchronous handle ([`overlapped::is_usable`]).

pub(in crate::os) mod content;
pub(in crate::os) mod errors;
mod event;
pub(in crate::os) mod file_system;
pub(in crate::os) mod holders;
pub(crate) mod interrupt;
pub(in crate::os) mod lock;
pub(in crate::os) mod open;
mod overlapped;
#[path = "../no_remove.rs"]
pub(in crate::os) mod remove;
pub(crate) mod shared_directory;

#[path = "../no_foreign.rs"]
pub(in crate::os) mod descriptor;
#[path = "../no_directory.rs"]
pub(in crate::os) mod directory;
#[path = "../no_fork.rs"]
pub(crate) mod fork;
#[path = "../no_mount.rs"]
pub(in crate::os) mod mount;
#[path = "../no_same.rs"]
pub(in crate::os) mod same;

/// What tells the files of a volume apart. Unique while the file is open.
pub(in crate::os) type FileId = u128;
