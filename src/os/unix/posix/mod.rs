//! What every Unix has, in place of what Linux has of its own.
//!
//! The cfg `tokio_filelock_posix`, which is for tests, takes it on Linux, too.

use nix::fcntl::OFlag;
use nix::libc;

pub(super) mod access_time;
pub(super) mod alarm;
pub(super) mod descriptor_of;
#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "../linux/file_system.rs")]
pub(in crate::os) mod file_system;
pub(super) mod links;
pub(super) mod look;
pub(super) mod masks;
pub(in crate::os) mod record;
pub(super) mod shared_directory;
pub(super) mod suitable;
pub(super) mod unnamed;
pub(super) mod wiped;

/// Files have any size by themselves.
pub(super) const ANY_SIZE: OFlag = OFlag::empty();

/// How a directory is opened to resolve paths from it.
pub(super) const DIRECTORY: libc::c_int = 0;
