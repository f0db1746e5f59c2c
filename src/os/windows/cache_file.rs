//! The files of a cache directory: what of them differs between systems.
//!
//! Opening follows no reparse point, shares reading, writing and deleting, and looks at what it has got.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::windows::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_REPARSE_POINT, FILE_FLAG_OPEN_REPARSE_POINT,
};

/// What stands at the path of a value.
pub(crate) enum Found {
    Value(File, Metadata),
    Nothing,
    /// A directory, a reparse point, a device: nothing that this crate has put there.
    NotAFile,
}

/// Opens a value for reading.
pub(crate) fn open(path: &Path) -> io::Result<Found> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(FILE_FLAG_OPEN_REPARSE_POINT);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // A directory is denied; a file on its way to deletion is as good as gone.
            return match path.symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => Ok(Found::NotAFile),
                Ok(_) => Err(error),
                Err(_) => Ok(Found::Nothing),
            };
        }
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    let is_reparse_point = metadata.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT != 0;
    let is_value = metadata.is_file() && !is_reparse_point;
    Ok(if is_value { Found::Value(file, metadata) } else { Found::NotAFile })
}

/// Whether the path still leads to the open file that the metadata describes, as far as its times
/// and its length tell.
pub(crate) fn leads_to(path: &Path, file: &Metadata) -> io::Result<bool> {
    let looks = |of: &Metadata| (of.creation_time(), of.last_write_time(), of.file_size());
    match path.symlink_metadata() {
        Ok(now) => Ok(looks(&now) == looks(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Permission bits have no meaning here.
pub(crate) fn permissions(_mode: u32) -> Option<Permissions> {
    None
}

pub(crate) fn directory_permissions(_mode: u32) -> Option<Permissions> {
    None
}

/// The file system's journal has the names.
pub(crate) fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}
