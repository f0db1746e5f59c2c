//! `Protocol::Flock`: flock(2), through `fs2`, which passes EINTR on instead of retrying.
//!
//! The lock belongs to the open file description: a second call on the same description converts
//! the lock instead of waiting for it, and the conversion is not atomic (flock(2)).
#![allow(clippy::disallowed_methods)]

use std::fs::File;
use std::io;

use fs2::FileExt;

use crate::holder::Mode;

pub(super) fn try_lock(file: &File, mode: Mode) -> io::Result<()> {
    match mode {
        Mode::Shared => FileExt::try_lock_shared(file),
        Mode::Exclusive => FileExt::try_lock_exclusive(file),
    }
}

pub(super) fn lock(file: &File, mode: Mode) -> io::Result<()> {
    match mode {
        Mode::Shared => FileExt::lock_shared(file),
        Mode::Exclusive => FileExt::lock_exclusive(file),
    }
}

pub(super) fn unlock(file: &File) -> io::Result<()> {
    FileExt::unlock(file)
}
