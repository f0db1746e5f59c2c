//! Where other code has no business with a descriptor: its value is not chosen by anybody.

use std::fs::File;
use std::io;
use std::ops::Deref;

use super::open::is_linked;
use crate::os::file_system::Keyed;
use crate::os::{Identity, Names, Standing};

/// An open file. Derefs to it.
#[derive(Debug)]
pub(in crate::os) struct Descriptor {
    file: File,
    identity: Identity,
}

impl Descriptor {
    #[cfg_attr(not(windows), allow(dead_code))] // nothing is ever opened
    pub(super) fn new(file: File, identity: Identity) -> Self {
        Self { file, identity }
    }

    pub(in crate::os) fn identity(&self) -> Identity {
        self.identity
    }

    /// No handle is taken for that of another file.
    pub(in crate::os) fn may_change(&self, _keyed: Keyed, _names: &Names) {}

    #[inline]
    pub(in crate::os) fn is_known_to_be_foreign(&self) -> bool {
        false
    }

    pub(in crate::os) fn standing(&self) -> io::Result<Standing> {
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
