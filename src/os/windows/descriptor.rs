//! An open lock file. Other code has no business with its handle, for no code chooses the value of one.

use std::fs::File;
use std::io;
use std::ops::Deref;

use super::information::is_linked;
use crate::os::file_system::Keyed;
use crate::os::{Identity, Names, Standing};

/// An open file. Derefs to it.
#[derive(Debug)]
pub(in crate::os) struct Descriptor {
    file: File,
    identity: Identity,
}

impl Descriptor {
    pub(super) fn new(file: File, identity: Identity) -> Self {
        Self { file, identity }
    }

    pub(in crate::os) fn identity(&self) -> Identity {
        self.identity
    }

    /// A handle never stands for another file.
    pub(in crate::os) fn may_change(&self, _keyed: Keyed, _names: &Names) {}

    #[inline]
    pub(in crate::os) fn is_known_to_be_foreign(&self) -> bool {
        false
    }

    pub(in crate::os) fn standing(&self, _is_local: bool) -> io::Result<Standing> {
        Ok(if is_linked(self)? { Standing::Linked } else { Standing::Unlinked })
    }

    pub(in crate::os) fn check(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Deref for Descriptor {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}
