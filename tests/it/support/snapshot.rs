//! What can be seen of a file or directory, to be compared before and after.

use std::fs::{self, FileType, Metadata};
use std::path::{Path, PathBuf};

use super::place;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    kind: FileType,
    size: u64,
    details: Details,
    content: Content,
}

#[derive(Debug, PartialEq, Eq)]
enum Content {
    Bytes(Vec<u8>),
    Names(Vec<String>),
    Target(PathBuf),
    None,
}

impl Snapshot {
    /// Does not follow a symbolic link.
    pub(crate) fn of(path: &Path) -> Self {
        let metadata = fs::symlink_metadata(path).expect("something to look at");
        Self {
            kind: metadata.file_type(),
            size: metadata.len(),
            details: details(&metadata),
            content: content(path, &metadata),
        }
    }
}

/// Inode, mode, links; the times of the content and of the inode in seconds and nanoseconds.
#[cfg(unix)]
type Details = (u64, u32, u64, [(i64, i64); 2]);

#[cfg(unix)]
fn details(metadata: &Metadata) -> Details {
    use std::os::unix::fs::MetadataExt;

    let content = (metadata.mtime(), metadata.mtime_nsec());
    let inode = (metadata.ctime(), metadata.ctime_nsec());
    (metadata.ino(), metadata.mode(), metadata.nlink(), [content, inode])
}

/// Attributes; the times of the creation and of the last write.
#[cfg(windows)]
type Details = (u32, [u64; 2]);

#[cfg(windows)]
fn details(metadata: &Metadata) -> Details {
    use std::os::windows::fs::MetadataExt;

    (metadata.file_attributes(), [metadata.creation_time(), metadata.last_write_time()])
}

fn content(path: &Path, metadata: &Metadata) -> Content {
    if metadata.is_file() {
        Content::Bytes(fs::read(path).unwrap())
    } else if metadata.is_dir() {
        Content::Names(place::names(path))
    } else if metadata.is_symlink() {
        Content::Target(fs::read_link(path).unwrap())
    } else {
        Content::None
    }
}
