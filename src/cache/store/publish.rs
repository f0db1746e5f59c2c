//! Putting a value in its place, under the directory's lock.

use std::fs::{self, File};
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, PersistError};

use super::books::Books;
use super::{Incoming, ROUNDS, Store, if_there};
use crate::cache::entry::Entry;
use crate::cache::key::Key;
use crate::cache::options::SyncPolicy;
use crate::os::cache_file;

impl Store {
    /// Makes the value that came in the one of this key, and gives it.
    ///
    /// A value that is larger than the whole store may be is given, but not kept.
    pub(in crate::cache) fn publish(
        &self,
        key: &Key,
        incoming: Incoming,
        writer: &str,
    ) -> io::Result<Entry> {
        let (path, length) = (self.value(key), incoming.length);
        if self.settings.max_size.is_some_and(|most| length > most) {
            self.remove(key, writer)?;
            let mut file = incoming.file.into_file();
            file.rewind()?;
            return entry(file, path);
        }
        let mut books = self.with_room_for(length, self.books()?, &path)?;
        books.add(length);
        self.write_books(books, writer)?;
        let replaced = match self.replace(key, incoming, &path, writer) {
            Ok((file, replaced)) => {
                if let Some(bytes) = replaced {
                    books.take_off(1, bytes);
                    self.write_books_if_possible(books, writer);
                }
                Ok(file)
            }
            Err(error) => {
                books.take_off(1, length);
                self.write_books_if_possible(books, writer);
                Err(error)
            }
        };
        entry(replaced?, path)
    }

    /// The books, after room was made for so many bytes more in place of what stands at the path.
    fn with_room_for(&self, length: u64, books: Books, path: &Path) -> io::Result<Books> {
        let Some(most) = self.settings.max_size else { return Ok(books) };
        let replaced = self.length_at(path)?.unwrap_or(0);
        let is_too_much = books.bytes.saturating_sub(replaced).saturating_add(length) > most;
        if !is_too_much && !books.is_count_due() {
            return Ok(books);
        }
        // Some more than needed, so that the next one does not have to walk again.
        let room = most - length;
        let size = if is_too_much { room - room / 10 } else { room };
        self.shrink(Some(size)).map(|(books, _)| books)
    }

    /// The new value, and how long the one was that it replaced.
    fn replace(
        &self,
        key: &Key,
        incoming: Incoming,
        path: &Path,
        writer: &str,
    ) -> io::Result<(File, Option<u64>)> {
        let replaced = self.length_at(path)?;
        if let Some(name) = key.key() {
            if !self.is_key(&name, key)? {
                // Whatever stands there belongs to the key that is stored beside it.
                if_there(fs::remove_file(path))?;
                self.write_whole(&self.in_shard(key.value(), &name), key.bytes(), writer)?;
            }
        }
        let checksum = self.in_shard(key.value(), &key.checksum());
        match incoming.checksum() {
            Some(next) => self.write_checksum(&checksum, &next, writer)?,
            None => drop(if_there(fs::remove_file(checksum))?),
        }
        let file = self.put_in_place(incoming.file, path, writer)?;
        Ok((file, replaced))
    }

    fn length_at(&self, path: &Path) -> io::Result<Option<u64>> {
        Ok(if_there(path.symlink_metadata())?.map(|metadata| metadata.len()))
    }

    /// Renames a file that is complete; opens it for reading before.
    pub(super) fn put_in_place(
        &self,
        mut file: NamedTempFile,
        path: &Path,
        writer: &str,
    ) -> io::Result<File> {
        let directory = path.parent().expect("a file of the store");
        let mut rounds = 0..ROUNDS;
        loop {
            let missing = match File::open(file.path()) {
                Ok(reader) => match file.persist(path) {
                    Ok(_) => return Ok(reader),
                    Err(PersistError { error, file: kept }) => {
                        file = kept;
                        error
                    }
                },
                Err(error) => error,
            };
            if missing.kind() != io::ErrorKind::NotFound || rounds.next().is_none() {
                return Err(missing);
            }
            if_there(self.make(directory))?;
            if !file.path().exists() {
                file = self.copy(file.as_file(), writer)?;
            }
        }
    }

    /// Somebody has wiped the directory: the file is gone, but it is open, and so nothing is lost.
    fn copy(&self, mut wiped: &File, writer: &str) -> io::Result<NamedTempFile> {
        let mut copy = self.temporary(writer)?;
        wiped.rewind()?;
        io::copy(&mut wiped, copy.as_file_mut())?;
        self.sync(copy.as_file())?;
        Ok(copy)
    }

    /// Whoever was told that the value is there finds it after a power failure, if that is wanted.
    pub(in crate::cache) fn settle(&self, key: &Key) -> io::Result<()> {
        if self.settings.sync != SyncPolicy::Inserts {
            return Ok(());
        }
        for directory in [self.directory.join(key.shard()), self.directory.clone()] {
            if_there(cache_file::sync_directory(&directory))?;
        }
        Ok(())
    }
}

fn entry(file: File, path: PathBuf) -> io::Result<Entry> {
    let metadata = file.metadata()?;
    let modified = metadata.modified()?;
    Ok(Entry::new(file, path, metadata.len(), modified))
}
