//! There are no files without a name.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

pub(in crate::os::unix) fn create(
    _from: BorrowedFd<'_>,
    _path: &Path,
    _mode: u32,
) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}
