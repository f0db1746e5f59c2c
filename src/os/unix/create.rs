//! Creating a lock file with a mode that the umask has no part in.
//!
//! The file appears with its mode, or not at all: a process that is killed in between must not leave one that
//! other users can not open, for nothing would tell it from a file whose mode an administrator has chosen.
//! 1. A file without a name gets its mode, and then its name (open(2), `O_TMPFILE`; Linux only).
//! 2. Where the file system has none (NFS, older overlayfs), a file with another name in the same directory
//!    gets its mode, and then a link. A process that is killed here may leave that name behind: `.tokio-filelock-` and 16
//!    digits, an empty file that nothing needs.
//! 3. Where there are no links either (FAT, some FUSE and CIFS servers), the file is created, and then gets its
//!    mode, if such a file system has one.

use std::fs::{File, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::kernel::unnamed;
use super::path::open_at;
use super::permissions::{mode_bits, unless_refused};

/// Creates the file. `None` if there is one now: made by another process, or by this one and to be opened.
pub(super) fn create(
    from: BorrowedFd<'_>,
    path: &Path,
    mode: Option<u32>,
) -> io::Result<Option<File>> {
    let created = match mode {
        None => exclusively(from, path, 0o666).map(Some),
        Some(mode) => with_mode(from, path, mode),
    };
    match created {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        created => created,
    }
}

fn with_mode(from: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<Option<File>> {
    /// What the creator needs to open the file again.
    const OWNER: u32 = 0o600;
    let exists = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
    match unnamed::create(from, path, mode) {
        Err(error) if !exists(&error) => {}
        created => return created.map(Some),
    }
    if mode & OWNER == OWNER {
        match under_another_name(from, path, mode) {
            Err(error) if !exists(&error) => {}
            created => return created.map(|()| None),
        }
    }
    let file = exclusively(from, path, mode)?;
    set_mode(&file, mode)?;
    Ok(Some(file))
}

/// Leaves the file closed: an NFS client keeps a name that is removed while the file is open.
fn under_another_name(from: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<()> {
    let random = RandomState::new().build_hasher().finish();
    let other = path.with_file_name(format!(".tokio-filelock-{random:016x}"));
    let file = exclusively(from, &other, mode)?;
    let linked = set_mode(&file, mode).and_then(|()| {
        drop(file);
        Ok(linkat(from, &other, from, path, AtFlags::empty())?)
    });
    unlinkat(from, &other, UnlinkatFlags::NoRemoveDir)?;
    linked
}

fn exclusively(from: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<File> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
    open_at(from, path, flags, mode_bits(mode))
}

fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    unless_refused(file.set_permissions(Permissions::from_mode(mode)))
}
