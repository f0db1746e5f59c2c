//! The operating systems of the Unix family.

pub(in crate::os) mod content;
mod create;
pub(in crate::os) mod descriptor;
pub(in crate::os) mod directory;
pub(in crate::os) mod errors;
mod fcntl;
mod flock;
pub(crate) mod fork;
pub(in crate::os) mod holders;
pub(crate) mod interrupt;
pub(in crate::os) mod lock;
pub(in crate::os) mod mount;
pub(in crate::os) mod open;
mod path;
mod permissions;
mod range;
mod recognition;
pub(in crate::os) mod remove;
pub(in crate::os) mod same;
pub(crate) mod shared_directory;
mod signal;
mod thread_alarm;

// What differs among them. `tokio_filelock_posix` is for tests.
#[cfg_attr(
    all(any(target_os = "linux", target_os = "android"), not(tokio_filelock_posix)),
    path = "linux/mod.rs"
)]
#[cfg_attr(
    not(all(any(target_os = "linux", target_os = "android"), not(tokio_filelock_posix))),
    path = "posix/mod.rs"
)]
mod kernel;

pub(in crate::os) use kernel::file_system;

/// What tells the files of a device apart. Unique while the file is open.
pub(in crate::os) type FileId = u64;

/// What tells the files in a shared directory apart.
pub(in crate::os) type Known = super::Identity;
