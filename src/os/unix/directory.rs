//! A directory that is held open, to resolve paths from it.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::libc;

use super::descriptor::{Descriptor, above_standard_streams};
use super::kernel::look::DIRECTORY;
use crate::os::Identity;

pub(in crate::os) struct Directory(Descriptor);

impl Directory {
    /// The current one. It need not be readable, nor have a path.
    pub(in crate::os) fn current() -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(DIRECTORY | libc::O_DIRECTORY);
        let open = || {
            let file = above_standard_streams(options.open(".")?)?;
            let metadata = file.metadata()?;
            let identity = Identity { device: metadata.dev(), inode: metadata.ino() };
            Ok::<_, io::Error>((file, identity, ()))
        };
        Ok(Some(Self(Descriptor::open(open)?.0)))
    }

    /// The descriptor, if it still is that of this directory.
    pub(super) fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        self.0.check()?;
        Ok(self.0.as_fd())
    }
}
