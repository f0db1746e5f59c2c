//! A directory that is held open, to resolve paths from it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::libc;

use super::descriptor::Descriptor;
use super::kernel::look::DIRECTORY;
use crate::os::Identity;

pub(in crate::os) struct Directory(Descriptor);

impl Directory {
    /// The current one. It need not be readable, nor have a path.
    pub(in crate::os) fn current() -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(DIRECTORY | libc::O_DIRECTORY);
        let open = || Ok::<_, io::Error>((options.open(".")?, ()));
        let identify = |file: &File| {
            let metadata = file.metadata()?;
            Ok(Identity { device: metadata.dev(), inode: metadata.ino() })
        };
        Ok(Some(Self(Descriptor::open(open, identify, |error| error)?.0)))
    }

    /// The descriptor, if it still is that of this directory.
    pub(super) fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        self.0.check()?;
        Ok(self.0.as_fd())
    }
}
