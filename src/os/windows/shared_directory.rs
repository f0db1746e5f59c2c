//! Directories, and the files in them.
//!
//! There are no calls relative to a handle that std or `windows-sys` offer here, so a [`Directory`] is a
//! path. Each step looks at what it has got: reparse points (symbolic links, junctions) are not
//! followed in the last two names, and a file is known by the handle that was opened. Opening shares
//! reading, writing and deleting. A name that is more than one name, or that of another stream of a file
//! (`:`), is an error.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions, ReadDir};
use std::io::{self, Write};
use std::os::windows::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_REPARSE_POINT, FILE_FLAG_OPEN_REPARSE_POINT,
};

use crate::os::found::{Found, Purpose, Status};

/// So many bytes are copied at a time.
const COPIED: usize = 256 * 1024;
/// A deeper tree is refused.
const DEEPEST: usize = 128;

/// A directory, for as long as it keeps its name.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

/// A file that this process has made. Other code has no business with its handle.
#[derive(Debug)]
pub(crate) struct MadeFile(File);

impl MadeFile {
    pub(crate) fn keep(file: &File) -> io::Result<Self> {
        file.try_clone().map(Self)
    }

    pub(crate) fn checked(&self) -> io::Result<&File> {
        Ok(&self.0)
    }
}

impl Directory {
    /// The directory at a path, which is followed up to its last name.
    ///
    /// [`io::ErrorKind::NotADirectory`] if something else stands there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if Status::of(&path.symlink_metadata()?).is_directory {
            Ok(Self(path.to_owned()))
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    /// The path of a name in here.
    fn at(&self, name: impl AsRef<OsStr>) -> io::Result<PathBuf> {
        let name = name.as_ref();
        let bytes = name.as_encoded_bytes();
        if bytes == b".." || bytes.iter().any(|byte| b"\\/:".contains(byte)) {
            let text = format!("{name:?} is not the name of a file in a directory");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(self.0.join(name))
    }

    /// Whether there is a directory at the path.
    pub(crate) fn is_at(&self, path: &Path) -> io::Result<bool> {
        Ok(path.symlink_metadata().is_ok_and(|there| Status::of(&there).is_directory))
    }

    /// Only users with a right that few have make links.
    pub(crate) fn is_led_to_by(&self, _path: &Path) -> io::Result<bool> {
        Ok(true)
    }

    /// To open a file asks the server.
    pub(crate) fn refresh(&self) {}

    /// To open a file asks the server.
    pub(crate) fn is_told_by_times(&self) -> bool {
        false
    }

    pub(crate) fn show_change(&self) {}

    /// Not known of any.
    pub(crate) fn is_seen_late(&self) -> bool {
        false
    }

    /// The mount that the directory is on is not looked at.
    pub(crate) fn mount(&self) -> Option<u64> {
        None
    }

    /// A directory in here; errors as those of [`open`](Directory::open).
    pub(crate) fn subdirectory(&self, name: &str) -> io::Result<Self> {
        Self::open(&self.at(name)?)
    }

    /// Makes a directory in here, unless there is one.
    pub(crate) fn make_subdirectory(
        &self,
        name: impl AsRef<OsStr>,
        _mode: Option<u32>,
        _other_name: &str,
    ) -> io::Result<()> {
        match fs::create_dir(self.at(name)?) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Opens a file in here, if it is one.
    pub(crate) fn open_file(&self, name: &str, purpose: Purpose) -> io::Result<Found> {
        let path = self.at(name)?;
        let mut options = OpenOptions::new();
        options.read(true).write(purpose == Purpose::Write);
        let file = match options.custom_flags(FILE_FLAG_OPEN_REPARSE_POINT).open(&path) {
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
        let status = Status::of_file(&file)?;
        Ok(if status.is_file { Found::File(file, status) } else { Found::NotAFile })
    }

    /// Opens a file for reading in a directory that is in here. A file that is no directory has no files in it.
    pub(crate) fn open_file_in(&self, subdirectory: &str, name: &str) -> io::Result<Found> {
        match self.subdirectory(subdirectory) {
            Ok(subdirectory) => subdirectory.open_file(name, Purpose::Read),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(Found::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// The same directory.
    pub(crate) fn kept(&self) -> io::Result<Self> {
        Ok(Self(self.0.clone()))
    }

    /// There is no handle.
    pub(crate) fn check(&self) -> io::Result<()> {
        Ok(())
    }

    /// Makes a file in here that was not there, to be written and read. Permission bits have no meaning
    /// here.
    pub(crate) fn create_file(&self, name: &str, _mode: Option<u32>) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(self.at(name)?)
    }

    /// What stands under a name, without opening it.
    pub(crate) fn status(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Status>> {
        match self.at(name)?.symlink_metadata() {
            Ok(metadata) => Ok(Some(Status::of(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Renames what stands under a name in here, over what stands under the other name.
    pub(crate) fn rename(
        &self,
        name: &str,
        to: &Directory,
        new_name: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        let target = to.at(new_name)?;
        fs::rename(self.at(name)?, &target).map_err(|error| {
            if error.kind() != io::ErrorKind::PermissionDenied || !target.is_file() {
                return error;
            }
            let text = format!(
                "a program has the value open that is there, and this version of Windows replaces no open \
                 file: insert again when it is closed ({error})"
            );
            io::Error::new(io::ErrorKind::PermissionDenied, text)
        })
    }

    /// Removes anything but a directory.
    pub(crate) fn remove_file(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name)?)
    }

    /// Removes an empty directory.
    pub(crate) fn remove_directory(&self, name: &str) -> io::Result<()> {
        fs::remove_dir(self.at(name)?)
    }

    /// Makes a directory in here that was not there. Permission bits have no meaning here.
    pub(crate) fn create_directory(&self, name: &str, _for_us_alone: bool) -> io::Result<Self> {
        fs::create_dir(self.at(name)?)?;
        self.subdirectory(name)
    }

    /// Rights are not looked at.
    pub(crate) fn may_others_write(&self) -> bool {
        false
    }

    /// There are no such paths.
    pub(crate) fn path_by_handle(&self) -> Option<PathBuf> {
        None
    }

    /// What must be done before others may see the tree in here; says how many bytes its files have. With
    /// `sync` their content survives a power failure.
    pub(crate) fn finish_tree(&self, _mode: Option<u32>, sync: bool) -> io::Result<u64> {
        let mut bytes = 0_u64;
        let mut levels = vec![fs::read_dir(&self.0)?];
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.next() else {
                levels.pop();
                continue;
            };
            let path = entry?.path();
            let status = Status::of(&path.symlink_metadata()?);
            if status.is_directory {
                if levels.len() == DEEPEST {
                    let text = format!("it is more than {DEEPEST} directories deep");
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
                }
                levels.push(fs::read_dir(path)?);
            } else if status.is_file {
                bytes = bytes.saturating_add(status.length);
                if sync {
                    match OpenOptions::new().write(true).open(&path) {
                        Ok(file) => file.sync_all()?,
                        // A file that may only be read cannot be asked for.
                        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(bytes)
    }

    /// Removes what stands under a name in here, whatever it is. No reparse point is followed.
    pub(crate) fn remove_tree(&self, name: &str) -> io::Result<()> {
        let path = self.at(name)?;
        let removed = match path.symlink_metadata() {
            Ok(found) if Status::of(&found).is_directory => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The names in here that are text.
    pub(crate) fn names(&self) -> io::Result<Names> {
        fs::read_dir(&self.0).map(Names)
    }

    /// The file system's journal has the names.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What [`Directory::names`] gives.
pub(crate) struct Names(ReadDir);

impl Iterator for Names {
    type Item = io::Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.next()? {
                Ok(entry) => {
                    if let Ok(name) = entry.file_name().into_string() {
                        return Some(Ok(name));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Status {
    /// What tells the file from others; not looked at.
    pub(crate) fn number(&self) -> u64 {
        0
    }

    /// Of an open file.
    pub(crate) fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::of(&file.metadata()?))
    }

    fn of(metadata: &Metadata) -> Self {
        let is_reparse_point = metadata.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT != 0;
        let times = [metadata.creation_time(), metadata.last_write_time()];
        let modified = metadata.modified().unwrap_or(UNIX_EPOCH);
        Self {
            is_file: metadata.is_file() && !is_reparse_point,
            is_directory: metadata.is_dir() && !is_reparse_point,
            identity: [times[0], times[1], metadata.file_size()],
            links: 1,
            length: metadata.len(),
            modified,
            accessed: metadata.accessed().unwrap_or(modified),
        }
    }
}

/// Makes the content of a file survive a power failure.
pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    file.sync_data()
}

/// Reads from the start of a file, whatever its place, which moves.
pub(crate) fn read_exact_at_start(file: &File, to: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < to.len() {
        match file.seek_read(&mut to[done..], done as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => done += more,
        }
    }
    Ok(())
}

/// Copies a file of this length from its start, whatever its place, which moves. Fails once the caller has
/// given up waiting.
pub(crate) fn copy(
    from: &File,
    length: u64,
    to: &MadeFile,
    is_cancelled: &AtomicBool,
) -> io::Result<()> {
    let (mut done, mut buffer) = (0, vec![0; COPIED]);
    while done < length {
        if is_cancelled.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let more = from.seek_read(&mut buffer, done)?;
        if more == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.checked()?.write_all(&buffer[..more])?;
        done += more as u64;
    }
    Ok(())
}

/// Whether to set the times of a file may copy all of it.
pub(crate) fn copies_to_note(_file: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_name() {
        let place = tempfile::tempdir().unwrap();
        let inside = place.path().join("inside");
        fs::create_dir(&inside).unwrap();
        fs::write(place.path().join("outside"), "").unwrap();
        fs::write(inside.join("file"), "").unwrap();
        let directory = Directory::open(&inside).unwrap();
        for name in ["..", "../outside", "..\\outside", "x\\..\\..\\outside", "file:s", "c:file"] {
            let errors = [
                directory.status(name).unwrap_err(),
                directory.remove_file(name).unwrap_err(),
                directory.rename("file", &directory, name).unwrap_err(),
                directory.create_file(name, None).unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
            }
        }
        for name in ["file", "..file", "fi..le"] {
            fs::write(inside.join(name), "").unwrap();
            assert!(directory.status(name).unwrap().is_some());
        }
    }
}
