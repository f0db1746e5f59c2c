//! Systems without file locks, or whose locks nothing here knows (wasm). Opening a lock file says so, and `contract`
//! makes the types of what is never opened.

use std::time::Duration;

use super::Waited;
pub(crate) use super::contract::LockFile;
pub(in crate::os) use super::contract::{errors, holders, remove};
use super::found::Status;

/// What tells files apart.
pub(in crate::os) type FileId = u64;

/// What tells files in a directory apart.
pub(in crate::os) type Known = super::Identity;

pub(in crate::os) mod shared_directory {
    pub(crate) use crate::os::contract::shared_directory::*;
    pub(crate) use crate::os::contract::{Directory, MadeFile};

    pub(in crate::os) type Names = std::iter::Empty<std::io::Result<String>>;
}

impl Status {
    pub(crate) fn number(&self) -> u64 {
        0
    }
}

/// One wait, which never begins.
#[derive(Debug, Default)]
pub(crate) struct Interrupt(());

impl Interrupt {
    pub(crate) fn request(&self) {}

    pub(crate) fn pause(&self, _time: Duration) -> Option<Waited> {
        None
    }
}
