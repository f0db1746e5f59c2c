//! Where nothing tells of a mount whom its locks exclude.

use std::fs::File;

use crate::os::Protocol;

#[derive(Debug)]
pub(in crate::os) struct Reach;

impl Reach {
    pub(in crate::os) fn of(_file: &File) -> Self {
        Self
    }

    /// It may.
    pub(in crate::os) fn keeps_locks_given_up(&self) -> bool {
        true
    }

    pub(in crate::os) fn excludes_this_machine_only(
        &self,
        _protocol: Protocol,
    ) -> Option<&'static str> {
        None
    }
}
