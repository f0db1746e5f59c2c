//! Opening a lock file, and which file it is.
//!
//! Opening changes nothing but what `create` allows: read-write, close-on-exec, never truncating,
//! never through a symbolic link in the last component, never blocking on a FIFO. The first try
//! is without `O_CREAT`, because in a sticky directory `open(O_CREAT)` on another user's file
//! fails even for root (proc(5), `protected_regular`).

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::fstat;

use super::errors::{errno, is_gone};
use super::kernel;
use crate::error::{Error, ErrorKind, Operation};
use crate::os::{Access, Identity, Opened};

/// Two processes that create and remove one file may make each other's open fail; after so many
/// rounds the last error is reported.
const OPEN_ROUNDS: usize = 16;

pub(in crate::os) fn open(path: &Path, access: Access) -> Result<Opened, Error> {
    let (file, writable) = open_file(path, access).map_err(|error| open_error(path, error))?;
    let metadata = file.metadata().map_err(|error| open_error(path, error))?;
    let identity = regular(&metadata, path)?;
    kernel::access_time::keep(&file);
    Ok(Opened { file, identity, writable })
}

/// The identity of the lock file at this path; `None` if there is none.
pub(in crate::os) fn identity_of(path: &Path) -> Result<Option<Identity>, Error> {
    match path.symlink_metadata() {
        Ok(metadata) => regular(&metadata, path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(open_error(path, error)),
    }
}

/// As `identity_of`, where a server may know better than this machine's cache.
pub(in crate::os) fn identity_at_server(path: &Path) -> Result<Option<Identity>, Error> {
    // To open a directory makes an NFS client ask whether the directory has changed, and to
    // forget what it knew of names in it if so ("close-to-open cache consistency", nfs(5)).
    // One that may be searched only cannot be opened.
    if let Some(directory) = path.parent() {
        let flags = libc::O_DIRECTORY | libc::O_NONBLOCK;
        let _ = OpenOptions::new().read(true).custom_flags(flags).open(directory);
    }
    identity_of(path)
}

/// Some path still leads to the file, as far as the link count tells: an NFS client that removes
/// a file which it has open renames it, and the count stays.
pub(in crate::os) fn is_linked(file: &File) -> io::Result<bool> {
    match fstat(file).map_err(io::Error::from) {
        Ok(status) => Ok(status.st_nlink > 0),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The file, and whether it is open for writing.
fn open_file(path: &Path, access: Access) -> io::Result<(File, bool)> {
    let mut last = None;
    for _ in 0..OPEN_ROUNDS {
        let opened = match open_existing(path, access.read_only) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && access.create => {
                create(path, access.mode).map(|file| (file, true))
            }
            opened => opened,
        };
        match opened {
            // Made by somebody else in between.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = Some(error),
            opened => return opened,
        }
    }
    Err(last.expect("the rounds end by an answer or an error"))
}

fn open_existing(path: &Path, read_only: bool) -> io::Result<(File, bool)> {
    let open = |write| base_options().write(write).open(path).map(|file| (file, write));
    if read_only {
        return open(false);
    }
    open(true).or_else(|error| match errno(&error) {
        // A read-only file, directory or file system still allows shared locks.
        Some(Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ETXTBSY) => {
            open(false).map_err(|_| error)
        }
        _ => Err(error),
    })
}

fn create(path: &Path, mode: Option<u32>) -> io::Result<File> {
    let file =
        base_options().write(true).create_new(true).mode(mode.unwrap_or(0o666)).open(path)?;
    if let Some(mode) = mode {
        // The umask of the first creator would decide for everybody.
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(file)
}

fn base_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // std adds O_CLOEXEC.
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    options
}

fn regular(metadata: &Metadata, path: &Path) -> Result<Identity, Error> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(Identity { device: metadata.dev(), inode: metadata.ino() });
    }
    let (what, remedy) = if kind.is_dir() {
        ("a directory", "name a file in it, or one beside it")
    } else if kind.is_symlink() {
        ("a symbolic link, which is not followed", "name the file that it leads to")
    } else if kind.is_fifo() {
        ("a FIFO", "name a regular file")
    } else if kind.is_socket() {
        ("a socket", "name a regular file")
    } else {
        ("a device", "name a regular file")
    };
    let detail = format!("it is {what}; {remedy}");
    Err(Error::found(ErrorKind::NotAFile, Operation::Open, path, detail))
}

pub(in crate::os) fn open_error(path: &Path, error: io::Error) -> Error {
    if errno(&error) == Some(Errno::ELOOP) {
        if let Ok(metadata) = path.symlink_metadata() {
            if let Err(error) = regular(&metadata, path) {
                return error;
            }
        }
    }
    Error::os(ErrorKind::Io, Operation::Open, path, error)
}
