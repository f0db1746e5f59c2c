//! What is found in a directory that processes share: the same words on every system.

use std::fs::File;
use std::time::SystemTime;

use super::platform::Known;

/// What stands under a name.
#[cfg_attr(not(any(unix, windows)), allow(dead_code))] // no directory is ever opened
pub(crate) enum Found {
    File(File, Status),
    Nothing,
    /// A directory, a link, or what else is no regular file: a FIFO, a socket, a device.
    NotAFile,
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    /// To write it over in place.
    Write,
}

/// What can be said of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Status {
    pub(crate) is_file: bool,
    pub(crate) is_directory: bool,
    /// Which file it is, as far as the system tells.
    pub(crate) identity: Known,
    /// Names that lead to it, where they are counted.
    pub(crate) links: u64,
    pub(crate) length: u64,
    pub(crate) modified: SystemTime,
    /// As far as the file system notes it.
    pub(crate) accessed: SystemTime,
}
