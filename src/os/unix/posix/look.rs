//! Looking at what stands at a path without opening it.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag};
use nix::libc;
use nix::sys::stat::fstatat;

use super::file_system;
use crate::os::file_system::Keyed;
use crate::os::names::{Names, Proof};
use crate::os::unix::descriptor::identity_in;
use crate::os::{Identity, Location};

/// Files have any size by themselves.
pub(in crate::os::unix) const ANY_SIZE: OFlag = OFlag::empty();

/// How a directory is opened to resolve paths from it.
pub(in crate::os::unix) const DIRECTORY: libc::c_int = 0;

/// What stood at a path. It may be something else by now.
pub(in crate::os::unix) struct Look {
    mode: u32,
    identity: Identity,
}

impl Look {
    /// Does not follow a symbolic link in the last component.
    pub(in crate::os::unix) fn at(from: BorrowedFd<'_>, path: &Path) -> io::Result<Self> {
        let found = fstatat(from, path, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        #[allow(clippy::useless_conversion)]
        let mode = u32::from(found.st_mode);
        Ok(Self { mode, identity: identity_in(&found) })
    }

    /// The type and the permissions.
    pub(in crate::os::unix) fn mode(&self) -> u32 {
        self.mode
    }

    /// Which file it is. Of the file system at the path for people, which is asked apart.
    pub(in crate::os::unix) fn names(&self, at: &Location) -> io::Result<Names> {
        Ok(Names { identity: self.identity, proof: known(file_system::at(at)?.keyed) })
    }

    /// It can be opened by its name only.
    pub(in crate::os::unix) fn open(&self, _write: bool) -> io::Result<File> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// What there is of proof which file is at the path.
pub(in crate::os::unix) fn proof_at(_path: &Path, keyed: Keyed) -> Proof {
    known(keyed)
}

/// The same of an open file.
pub(in crate::os::unix) fn proof(_file: &File, keyed: Keyed) -> Proof {
    known(keyed)
}

fn known(keyed: Keyed) -> Proof {
    match keyed {
        // There are no handles but on Linux, where this is for tests.
        Keyed::ByNumber | Keyed::ByHandle => Proof::Number,
        Keyed::Unknown => Proof::None,
    }
}
