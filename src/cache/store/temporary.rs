//! Files that no reader looks for yet, and how they get their place.
//!
//! They are open for as long as a value takes to come in, and other code of the process may take their
//! descriptors meanwhile: so whose these are is looked at before each use.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::AtomicBool;

use super::{Place, ROUNDS, Store, if_there, temporary_name};
use crate::os::shared_directory::{self, Directory, Found, MadeFile, Purpose, Status};
use crate::shim::Arc;

/// A file that can be renamed to any place in the store; removed when it is dropped.
#[derive(Debug)]
pub(super) struct Temporary {
    file: MadeFile,
    /// `None` when it is in its place, or has none.
    name: Option<Name>,
}

/// Where it can be found. Held open, so that it can be removed when there is no descriptor left.
#[derive(Debug)]
struct Name {
    directory: Directory,
    name: String,
}

impl Name {
    /// To be used now.
    fn directory(&self) -> io::Result<&Directory> {
        self.directory.check().map(|()| &self.directory)
    }

    fn remove(&self) -> io::Result<()> {
        self.directory()?.remove_file(&self.name)
    }
}

impl Temporary {
    fn create(directory: Directory, writer: &str, mode: Option<u32>) -> io::Result<Self> {
        loop {
            let name = temporary_name(writer);
            match directory.create_file(&name, mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(file) => {
                    let name = Name { directory, name };
                    let kept = MadeFile::keep(&file);
                    if kept.is_err() {
                        let _ = name.remove();
                    }
                    return Ok(Self { file: kept?, name: Some(name) });
                }
            }
        }
    }

    /// A file that no other process can find, outside of the cache.
    pub(super) fn unnamed() -> io::Result<Self> {
        let directory = Directory::open(&env::temp_dir().canonicalize()?)?;
        let mut file = Self::create(directory, "tokio-filelock", Some(0o600))?;
        match file.name.take() {
            None => {}
            Some(name) => name.remove()?,
        }
        Ok(file)
    }

    /// To be used now.
    pub(super) fn file(&self) -> io::Result<&File> {
        self.file.checked()
    }

    /// The same file, to be read only. [`NotFound`](io::ErrorKind::NotFound) if it was wiped, or
    /// something else stands under its name.
    fn reader(&self) -> io::Result<File> {
        let name = self.named();
        match name.directory()?.open_file(&name.name, Purpose::Read)? {
            Found::File(reader, status)
                if status.identity == Status::of_file(self.file()?)?.identity =>
            {
                Ok(reader)
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&mut self, to: &Directory, new_name: &str) -> io::Result<()> {
        let name = self.named();
        name.directory()?.rename(&name.name, to, new_name)?;
        self.name = None;
        Ok(())
    }

    fn named(&self) -> &Name {
        self.name.as_ref().expect("not in its place yet")
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = name.remove();
        }
    }
}

impl Store {
    pub(super) fn temporary(&self, writer: &str) -> io::Result<Temporary> {
        self.temporary_in(Place::Temporary, writer)
    }

    fn temporary_in(&self, place: Place<'_>, writer: &str) -> io::Result<Temporary> {
        let mut rounds = 0..ROUNDS;
        loop {
            let directory = self.directory_made(place, writer)?.kept();
            let created = directory
                .and_then(|directory| Temporary::create(directory, writer, self.settings.mode));
            match created {
                // It was wiped in the same moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    rounds.next().ok_or(error)?;
                }
                created => return created,
            }
        }
    }

    /// Puts a small file in its place, whole.
    pub(super) fn write_whole(
        &self,
        place: Place<'_>,
        name: &str,
        content: &[u8],
        writer: &str,
    ) -> io::Result<()> {
        let temporary = self.temporary(writer)?;
        temporary.file()?.write_all(content)?;
        self.sync_file(temporary.file()?)?;
        self.put_in_place(temporary, place, name, writer).map(drop)
    }

    /// Renames a file that is complete, and on the disk if that is wanted; gives it, to be read.
    pub(super) fn put_in_place(
        &self,
        temporary: Temporary,
        place: Place<'_>,
        name: &str,
        writer: &str,
    ) -> io::Result<File> {
        let directory = self.directory_made(place, writer)?;
        self.put_in_directory(&directory, temporary, place, name, writer)
    }

    /// The same for who holds the directory, which may have been wiped since.
    pub(super) fn put_in_directory(
        &self,
        directory: &Arc<Directory>,
        mut temporary: Temporary,
        place: Place<'_>,
        name: &str,
        writer: &str,
    ) -> io::Result<File> {
        let mut directory = directory.clone();
        let mut rounds = 0..ROUNDS;
        loop {
            let failed = match temporary.reader() {
                Ok(reader) => match temporary.rename(&directory, name) {
                    Ok(()) => {
                        directory.show_change();
                        return Ok(reader);
                    }
                    Err(error) => error,
                },
                // The file is open, and so nothing is lost.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    temporary = self.copy(&temporary, Place::Temporary, writer)?;
                    error
                }
                Err(error) => return Err(error),
            };
            match failed.kind() {
                // Another process has wiped the one directory or the other.
                io::ErrorKind::NotFound => {}
                // To the file system they are apart: mounts, or disks of a union.
                io::ErrorKind::CrossesDevices => {
                    temporary = self.copy(&temporary, place, writer)?;
                }
                io::ErrorKind::IsADirectory
                | io::ErrorKind::AlreadyExists
                | io::ErrorKind::DirectoryNotEmpty => {
                    self.remove_directory(&directory, place, name)?
                }
                // Windows denies it.
                io::ErrorKind::PermissionDenied
                    if directory.status(name)?.is_some_and(|status| status.is_directory) =>
                {
                    self.remove_directory(&directory, place, name)?;
                }
                _ => return Err(failed),
            }
            rounds.next().ok_or(failed)?;
            directory = self.directory_made(place, writer)?;
        }
    }

    /// Where a file of ours belongs.
    fn remove_directory(
        &self,
        directory: &Directory,
        place: Place<'_>,
        name: &str,
    ) -> io::Result<()> {
        if_there(directory.remove_directory(name)).map(drop).map_err(|error| {
            let path = self.path(place, name);
            let text = format!(
                "a directory that cannot be removed stands in place of `{}`: {error}",
                path.display()
            );
            io::Error::new(io::ErrorKind::IsADirectory, text)
        })
    }

    fn copy(&self, from: &Temporary, place: Place<'_>, writer: &str) -> io::Result<Temporary> {
        let copy = self.temporary_in(place, writer)?;
        let length = Status::of_file(from.file()?)?.length;
        let is_cancelled = AtomicBool::new(false);
        shared_directory::copy(from.file()?, length, &copy.file, &is_cancelled)?;
        // Only what was read from there may be kept.
        from.file()?;
        self.sync_file(copy.file()?)?;
        Ok(copy)
    }
}
