//! The operating system: opening lock files, lock calls, file identity, file-system kinds.
//!
//! The one place that names errno or holds `unsafe` code, and the one place that may call the
//! lock functions (`.clippy.toml` forbids them elsewhere). Nothing here knows of queues, tasks or
//! runtimes. [`LockFile`] is the open file with its lock calls; under loom, [`model`] takes its
//! place.

// Without file locks most words here stand for nothing that there is.
#![cfg_attr(not(any(unix, windows)), allow(dead_code))]

mod contract;
// The real kernel is compiled under loom as well, so that it stays checked there; it is not used.
#[cfg(any(unix, windows))]
#[cfg_attr(all(test, tokio_filelock_loom), allow(dead_code))]
mod file_system;
#[cfg_attr(all(test, tokio_filelock_loom), allow(dead_code))]
mod foreign;
#[cfg_attr(not(unix), allow(dead_code))] // no forks
mod forks;
mod found;
#[cfg(any(test, feature = "test-util"))]
#[cfg_attr(all(test, tokio_filelock_loom), allow(dead_code))] // models do without some of it
pub(crate) mod kernel;
mod location;
#[cfg(any(unix, windows))]
#[cfg_attr(all(test, tokio_filelock_loom), allow(dead_code))]
mod lock_file;
mod made_once;
#[cfg(test)]
#[cfg_attr(not(all(test, tokio_filelock_loom)), allow(dead_code))] // used in models
pub(crate) mod model;
mod names;
#[cfg(not(unix))]
mod not_unix;
#[cfg(all(test, not(tokio_filelock_loom)))]
pub(crate) mod scenarios;
#[cfg_attr(not(any(unix, windows)), allow(dead_code))] // there are no locks to take turns at
mod turnstile;
#[allow(dead_code)] // each system has some of them
pub(crate) mod wire;

// One of these is the platform, which has what `contract` lists.
#[cfg(not(any(unix, windows)))]
mod none;
#[cfg(unix)]
#[cfg_attr(all(test, tokio_filelock_loom), allow(dead_code))]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(not(any(unix, windows)))]
use none as platform;
#[cfg(unix)]
use unix as platform;
#[cfg(windows)]
use windows as platform;

pub(crate) use foreign::foreign_descriptor;
pub(crate) use location::Location;
pub(crate) use made_once::MadeOnce;
pub(crate) use names::{Names, Recognized, Sameness};
#[cfg(not(unix))]
pub(crate) use not_unix::fork;
pub(crate) use platform::errors::{is_gone, lock_error_kind};
pub(crate) use platform::holders::{describe_this_process, look_up, tells_holders, this_process};
pub(crate) use platform::remove::remove_unused;
#[cfg(all(test, tokio_filelock_loom))]
pub(crate) use turnstile::HOT_TRIES;
pub(crate) use turnstile::Pace;
#[cfg(any(test, feature = "test-util"))]
pub(crate) use turnstile::{
    Taken, Turnstile, TurnstileState, Turnstiles, WaitStep, is_turn_of_another, next_step,
    try_in_turn,
};
#[cfg(unix)]
pub(crate) use unix::fork;
#[cfg(unix)]
pub use unix::interrupt::{SetSignalError, set_signal};
#[cfg(all(any(unix, windows), not(all(test, tokio_filelock_loom))))]
pub(crate) use {lock_file::LockFile, platform::interrupt::Interrupt};
#[cfg(all(test, tokio_filelock_loom))]
pub(crate) use {model::Interrupt, model::LockFile};
#[cfg(not(any(unix, windows, all(test, tokio_filelock_loom))))]
pub(crate) use {none::Interrupt, none::LockFile};

/// Directories that other processes change as well, and the files in them.
pub(crate) mod shared_directory {
    pub(crate) use super::found::{Found, Purpose, Status};
    pub(crate) use super::platform::shared_directory::{
        Directory, MadeFile, copies_to_note, copy, read_exact_at_start, sync_file,
    };
}

#[cfg(any(unix, windows))]
use std::fs::File;

#[cfg(not(unix))]
use not_unix::directory::Directory;
#[cfg(unix)]
use unix::directory::Directory;

#[cfg(any(unix, windows))]
use platform::{descriptor::Descriptor, lock::Lock};

/// Which OS lock is taken. A wire format: all programs that share a lock file must take the same.
///
/// On Linux the two do not see each other on local file systems, and are one and the same on NFS
/// (flock(2), NOTES). On BSD, macOS and Windows they exclude each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// flock(2) over the whole file: what cargo, uv, `std::fs::File::lock`, Go, flock(1) and
    /// Python's `filelock` take. On Windows LockFileEx over the whole file: meanwhile only an exclusive
    /// holder can read or write the content.
    #[default]
    Flock,
    /// A byte-range lock of fcntl(2), as an open file description lock: excludes `lockf`, Java's
    /// `FileChannel` and SQLite-style ranges, as long as they cover byte 0. On other Unix systems than
    /// Linux it is a POSIX record lock, which closing the file anywhere in the process would release:
    /// open it by this crate only. On Windows LockFileEx over one byte beyond the data.
    Fcntl,
}

/// What of the file is locked: the byte where the region starts. `Flock` locks the whole file
/// whatever the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Region {
    pub(crate) start: u64,
}

impl Region {
    /// The region of a lock file that carries one lock.
    pub(crate) const ONLY: Region = Region { start: 0 };
}

/// The numbers of a file, whatever its path: a name, which on some file systems several files have
/// ([`Names`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: platform::FileId,
}

#[cfg(any(test, feature = "test-util"))]
impl Identity {
    /// Of a file on a disk that there is not.
    pub(crate) fn simulated(device: u64, inode: u64) -> Self {
        Self { device, inode: inode as platform::FileId }
    }
}

/// How to open a lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) create: bool,
    /// Permission bits of a file that is created, exactly; `None`: 0666 less the umask.
    pub(crate) mode: Option<u32>,
    pub(crate) read_only: bool,
    /// To say that the file is in use to programs that remove old ones and ask first, as
    /// systemd-tmpfiles does. For files that no other program locks with flock(2).
    pub(crate) in_use: bool,
    /// To wait until other processes give their leases on the file back (fcntl(2)); otherwise that is
    /// `WouldBlock`.
    pub(crate) patient: bool,
}

/// Why a lock file was not removed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Kept {
    /// Another program, or another part of this one, has a lock in the file, or waits for one.
    Locked,
    /// It was changed too short a time ago.
    Recent,
    /// There is something in it: a [record](crate::OpenOptions::record), whose token would begin anew, or what
    /// is no lock file.
    NotEmpty,
    /// It has another name as well.
    Linked,
    /// The name does not lead to the file that was locked; or there is none of this name any more.
    Replaced,
    /// It is not a regular file.
    NotAFile,
    /// Its file system is not known to be local, so neither locks nor links tell for certain.
    Remote,
    /// The system refused something.
    Failed(std::io::Error),
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kept::Locked => "it is locked, or a lock in it is waited for",
            Kept::Recent => "it was changed a short time ago",
            Kept::NotEmpty => "there is something in it",
            Kept::Linked => "it has another name as well",
            Kept::Replaced => "its name does not lead to it any more",
            Kept::NotAFile => "it is not a regular file",
            Kept::Remote => "its file system is not known to be local",
            Kept::Failed(error) => return error.fmt(f),
        })
    }
}

/// What an open file is to its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Some path leads to it, as far as the link count tells: an NFS client that removes a file which it
    /// has open renames it, and the count stays.
    Linked,
    /// No path does any more.
    Unlinked,
    /// The descriptor does not stand for the file any more ([`foreign`]).
    #[cfg_attr(not(unix), allow(dead_code))] // handles of Windows are not given anew so
    Foreign,
}

/// How hard to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effort {
    /// For a lock that is known to be busy: looks through the open files of all processes if need be.
    Search,
    /// The same for one that may be free, and looks up the names of users, at the service that keeps them.
    Thorough,
}

/// What a lock call that does not block came back with: a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tried {
    Acquired,
    Busy,
}

/// How a wait ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    Acquired,
    Interrupted,
}

/// A query for the holders of a lock.
#[derive(Debug)]
#[cfg(any(unix, windows))]
#[cfg_attr(not(unix), allow(dead_code))] // other systems do not tell
struct Question<'a> {
    file: &'a File,
    protocol: Protocol,
    region: Region,
    /// This process.
    pid: u32,
    /// No other machine can have it.
    is_local: bool,
}

/// A lock file as it was opened.
#[cfg(any(unix, windows))]
struct Opened {
    file: Descriptor,
    writable: bool,
}
