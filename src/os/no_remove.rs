//! Removing lock files: not tried here, and so not offered.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::descriptor::Descriptor;
use crate::os::{Kept, Location, Protocol};

pub(in crate::os) fn remove(
    _location: &Location,
    _file: &Descriptor,
    _protocol: Protocol,
) -> io::Result<Option<Kept>> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn remove_unused(
    _directory: &Path,
    _is_chosen: impl Fn(&OsStr) -> bool,
    _unchanged_for: Duration,
    _tell: impl FnMut(&OsStr, Option<Kept>),
) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
