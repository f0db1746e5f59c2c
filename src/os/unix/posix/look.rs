//! Looking at what stands at a path without opening it.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat};

use super::file_system;
use crate::os::file_system::Keyed;
use crate::os::names::{Names, Proof};
use crate::os::unix::descriptor::identity_in;
use crate::os::unix::holders::Inode;
use crate::os::unix::path::{directory_of, open_at, start};
use crate::os::{Identity, Location};

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

    /// The same, as the kernel's tables would name it.
    pub(in crate::os::unix) fn inode(&self) -> Inode {
        Inode::by_number(self.identity)
    }

    /// Which file it is. What proves that is asked of the directory, from where the file was looked at: the path
    /// for people may be out of reach, or lead elsewhere.
    pub(in crate::os::unix) fn names(&self, at: &Location) -> io::Result<Names> {
        let (from, path) = start(at)?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
        let keyed = match open_at(from, directory_of(path), flags, Mode::empty()) {
            Ok(directory) if directory.metadata()?.dev() == self.identity.device => {
                file_system::of(&directory)?.keyed
            }
            // The file is a mount of its own.
            Ok(_) => Keyed::Unknown,
            // It may be searched, and not be read.
            Err(_) => file_system::at(at)?.keyed,
        };
        Ok(Names { identity: self.identity, proof: known(keyed) })
    }

    /// It can be opened by its name only.
    pub(in crate::os::unix) fn open(&self, _write: bool) -> io::Result<File> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// The proof, if there is one, of which file is at the path.
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
