//! Looking at what stands at a path without opening it, and opening what was looked at.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::Mode;

use super::{file_system, handle};
use crate::os::file_system::Keyed;
use crate::os::names::{Names, Proof};
use crate::os::unix::fork::Listed;
use crate::os::unix::holders::Inode;
use crate::os::unix::path::open_at;
use crate::os::{Identity, Location};

/// What stands at a path, held without being open (open(2), `O_PATH`): a device does not notice, a
/// FIFO does not block, and no process can put another file in its place.
pub(in crate::os::unix) struct Look {
    held: File,
    mode: u32,
    identity: Identity,
    _listed: Listed,
}

impl Look {
    /// Does not follow a symbolic link in the last component.
    pub(in crate::os::unix) fn at(from: BorrowedFd<'_>, path: &Path) -> io::Result<Self> {
        let held = open_at(from, path, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())?;
        let listed = Listed::new(&held);
        let metadata = held.metadata()?;
        let identity = Identity { device: metadata.dev(), inode: metadata.ino() };
        listed.is_of(identity);
        Ok(Self { held, mode: metadata.mode(), identity, _listed: listed })
    }

    /// The type and the permissions.
    pub(in crate::os::unix) fn mode(&self) -> u32 {
        self.mode
    }

    /// The same, as the kernel's tables name it.
    pub(in crate::os::unix) fn inode(&self) -> Inode {
        Inode::of(&self.held, self.identity)
    }

    /// Which file it is. Asks no server more than the look did.
    pub(in crate::os::unix) fn names(&self, _at: &Location) -> io::Result<Names> {
        let keyed = file_system::of(&self.held)?.keyed;
        Ok(Names { identity: self.identity, proof: proof(&self.held, keyed) })
    }

    /// Opens that very file, and waits until other processes have given their leases on it back
    /// (fcntl(2), `F_SETLEASE`).
    ///
    /// # Errors
    ///
    /// Those of open(2), and `NotFound` where `/proc` is not mounted.
    pub(in crate::os::unix) fn open(&self, write: bool) -> io::Result<File> {
        let path = format!("/proc/thread-self/fd/{}", self.held.as_raw_fd());
        OpenOptions::new().read(true).write(write).custom_flags(libc::O_NOCTTY).open(path)
    }
}

/// The proof, if there is one, of which file is at the path.
pub(in crate::os::unix) fn proof_at(path: &Path, keyed: Keyed) -> Proof {
    match keyed {
        Keyed::ByNumber => Proof::Number,
        Keyed::ByHandle => handle::at(path).map_or(Proof::None, Proof::Handle),
        Keyed::Unknown => Proof::None,
    }
}

/// The same of an open file.
pub(in crate::os::unix) fn proof(file: &File, keyed: Keyed) -> Proof {
    match keyed {
        Keyed::ByNumber => Proof::Number,
        Keyed::ByHandle => handle::of(file).map_or(Proof::None, Proof::Handle),
        Keyed::Unknown => Proof::None,
    }
}
