//! Reading and writing what a lock file carries besides its lock: the record.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

pub(in crate::os) fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    file.read_at(buffer, at)
}

pub(in crate::os) fn write_all_at(file: &File, content: &[u8], at: u64) -> io::Result<()> {
    file.write_all_at(content, at)
}

pub(in crate::os) fn has_other_names(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() > 1)
}
