//! The files of a cache directory: what of them differs between systems.
//!
//! A cache directory is shared, so anything may stand where a value should be. Opening follows no
//! symbolic link, does not hang on a FIFO, and looks at what it has got.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

use super::errors::errno;

/// What stands at the path of a value.
pub(crate) enum Found {
    Value(File, Metadata),
    Nothing,
    /// A directory, a symbolic link, a device: nothing that this crate has put there.
    NotAFile,
}

/// Opens a value for reading.
pub(crate) fn open(path: &Path) -> io::Result<Found> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        // A symbolic link, or a socket.
        Err(error) if matches!(errno(&error), Some(Errno::ELOOP | Errno::ENXIO)) => {
            return Ok(Found::NotAFile);
        }
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    Ok(if metadata.is_file() { Found::Value(file, metadata) } else { Found::NotAFile })
}

/// Whether the path still leads to the open file that the metadata describes.
pub(crate) fn leads_to(path: &Path, file: &Metadata) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(now) => Ok((now.dev(), now.ino()) == (file.dev(), file.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The permissions of a file that is made with these bits, where bits mean something.
pub(crate) fn permissions(mode: u32) -> Option<Permissions> {
    Some(Permissions::from_mode(mode))
}

/// The permissions of the directories around files with these bits: who reads or writes the files may
/// enter.
pub(crate) fn directory_permissions(mode: u32) -> Option<Permissions> {
    Some(Permissions::from_mode(mode | (mode & 0o444) >> 2))
}

/// Makes the names in a directory survive a power failure.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
