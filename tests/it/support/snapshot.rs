//! What can be seen of a file or directory, to be compared before and after.

use std::fs::{self, FileType, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::place;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    kind: FileType,
    inode: u64,
    mode: u32,
    links: u64,
    size: u64,
    /// Of the content and of the inode, in seconds and nanoseconds.
    changed: [(i64, i64); 2],
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
            inode: metadata.ino(),
            mode: metadata.mode(),
            links: metadata.nlink(),
            size: metadata.size(),
            changed: [
                (metadata.mtime(), metadata.mtime_nsec()),
                (metadata.ctime(), metadata.ctime_nsec()),
            ],
            content: content(path, &metadata),
        }
    }
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
