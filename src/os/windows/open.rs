//! Opening a lock file, and which file it is.
//!
//! Opening changes nothing but what `create` allows: others may read, write, rename and delete the file
//! meanwhile, it is never truncated, and a reparse point (symbolic link, junction, placeholder) in
//! the last component is not followed.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::AsRawHandle;
use std::path::Path;
use std::thread;
use std::time::Duration;

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_DELETE_PENDING, ERROR_SHARING_VIOLATION, ERROR_WRITE_PROTECT,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_REPARSE_POINT, FILE_FLAG_BACKUP_SEMANTICS,
    FILE_FLAG_OPEN_REPARSE_POINT, FILE_FLAG_OVERLAPPED, FILE_READ_ATTRIBUTES, FILE_TYPE_DISK,
    GetFileType,
};

use super::descriptor::Descriptor;
use super::errors::code;
use super::information::{by_handle, number};
use super::overlapped;
use crate::error::{Error, ErrorKind, Operation};
use crate::os::file_system::Keyed;
use crate::os::names::{Names, Proof};
use crate::os::{Access, Identity, Location, Opened};

/// A file that is on its way to deletion, or that another process looks into for a moment, is denied to all
/// others: the pauses until that is believed, 0.2 s in all.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(15),
    Duration::from_millis(30),
    Duration::from_millis(50),
    Duration::from_millis(100),
];

pub(in crate::os) fn open(path: &Location, access: Access) -> Result<Opened, Error> {
    let (file, writable) = patiently(|| open_file(path, access))
        .map_err(|error| not_a_file(path).err().unwrap_or_else(|| open_error(path, error)))?;
    let identity = regular(&file, path)?;
    Ok(Opened { file: Descriptor::new(file, identity), writable })
}

/// What the lock file at this path is; `None` if there is none.
pub(in crate::os) fn names_at(path: &Location) -> Result<Option<Names>, Error> {
    let mut options = OpenOptions::new();
    options
        .access_mode(FILE_READ_ATTRIBUTES)
        .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS);
    match patiently(|| options.open(path)) {
        Ok(file) => {
            regular(&file, path).map(|identity| Some(names(&file, identity, Keyed::ByNumber)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(open_error(path, error)),
    }
}

/// As `names_at`: to open the file asks the server.
pub(in crate::os) fn names_at_server(path: &Location) -> Result<Option<Names>, Error> {
    names_at(path)
}

/// What an open file is: the number is 128 bits, or those of a file system that has no more.
pub(in crate::os) fn names(_file: &File, identity: Identity, _keyed: Keyed) -> Names {
    Names { identity, proof: Proof::Number }
}

/// The number that an open file has now.
pub(in crate::os) fn number_of(file: &File) -> io::Result<Identity> {
    Ok(number(file, &by_handle(file)?))
}

pub(in crate::os) fn open_error(path: &Path, error: io::Error) -> Error {
    Error::os(ErrorKind::Io, Operation::Open, path, error)
}

fn patiently<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for pause in PAUSES {
        match open() {
            Err(error)
                if matches!(
                    code(&error),
                    Some(ERROR_ACCESS_DENIED | ERROR_DELETE_PENDING | ERROR_SHARING_VIOLATION)
                ) =>
            {
                thread::sleep(pause);
            }
            opened => return opened,
        }
    }
    open()
}

/// The file, and whether it is open for writing.
fn open_file(path: &Path, access: Access) -> io::Result<(File, bool)> {
    // std lets others read, write, rename and delete.
    let mut options = OpenOptions::new();
    let overlapped = if overlapped::is_usable() { FILE_FLAG_OVERLAPPED } else { 0 };
    options.read(true).custom_flags(FILE_FLAG_OPEN_REPARSE_POINT | overlapped);
    if access.read_only {
        return options.open(path).map(|file| (file, false));
    }
    let reading = options.clone();
    let written = options.write(true).create(access.create).open(path);
    written.map(|file| (file, true)).or_else(|error| match code(&error) {
        // A read-only file or volume still allows locks.
        Some(ERROR_ACCESS_DENIED | ERROR_WRITE_PROTECT) => {
            reading.open(path).map(|file| (file, false)).map_err(|_| error)
        }
        _ => Err(error),
    })
}

/// What stands at the path is no file, if that can be seen.
fn not_a_file(path: &Location) -> Result<(), Error> {
    match names_at(path) {
        Err(error) if error.kind() == ErrorKind::NotAFile => Err(error),
        _ => Ok(()),
    }
}

fn regular(file: &File, path: &Path) -> Result<Identity, Error> {
    // SAFETY: the handle is open.
    let kind = unsafe { GetFileType(file.as_raw_handle()) };
    if kind != FILE_TYPE_DISK {
        return Err(no_file(path, "a device or a pipe", "name a regular file"));
    }
    let by_handle = by_handle(file).map_err(|error| open_error(path, error))?;
    if by_handle.dwFileAttributes & FILE_ATTRIBUTE_REPARSE_POINT != 0 {
        let what = "a symbolic link or another reparse point, which is not followed";
        return Err(no_file(path, what, "name the file that it leads to"));
    }
    if by_handle.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY != 0 {
        return Err(no_file(path, "a directory", "name a file in it, or one beside it"));
    }
    Ok(number(file, &by_handle))
}

fn no_file(path: &Path, what: &str, remedy: &str) -> Error {
    let detail = format!("it is {what}; {remedy}");
    Error::found(ErrorKind::NotAFile, Operation::Open, path, detail)
}
