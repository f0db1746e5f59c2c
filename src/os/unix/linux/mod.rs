//! What Linux has of its own: timers that signal a thread, signal masks in `/proc`, open file
//! description locks, magic numbers of file systems, descriptors of files that are not open, files
//! without a name, memory that is wiped in children, access times that stay, questions for no more than is wanted.

use nix::fcntl::OFlag;
use nix::libc;

pub(super) mod access_time;
pub(super) mod alarm;
pub(super) mod descriptor_of;
pub(in crate::os) mod file_system;
mod handle;
pub(super) mod links;
pub(super) mod look;
pub(super) mod masks;
pub(in crate::os) mod record;
pub(super) mod shared_directory;
pub(super) mod suitable;
mod timer;
pub(super) mod unnamed;
pub(super) mod wiped;

/// Files of any size, also where offsets have 32 bits.
pub(super) const ANY_SIZE: OFlag = OFlag::O_LARGEFILE;

/// How a directory is opened to resolve paths from it: it need not be readable.
pub(super) const DIRECTORY: libc::c_int = libc::O_PATH;
