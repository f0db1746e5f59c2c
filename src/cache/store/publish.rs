//! Putting a value in its place, under the directory's lock: shared by those who have no limit or have room
//! in the books already, who meet only in the fill of one key; exclusively by others.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::books::Books;
use super::look::is_key;
use super::{Incoming, Place, Store, if_there};
use crate::cache::entry::Entry;
use crate::cache::key::Key;
use crate::os::shared_directory::Status;

impl Store {
    /// Makes the value that came in the one of this key, and gives it, while others insert as well. The value
    /// comes back if that takes the directory alone.
    pub(in crate::cache) fn publish_beside_others(
        &self,
        key: &Key,
        incoming: Incoming,
        writer: &str,
    ) -> io::Result<Result<Entry, Incoming>> {
        let length = incoming.length;
        if !self.keeps_books() {
            self.give_up_books(writer)?;
        } else if !self.take_room(length)? {
            return Ok(Err(incoming));
        }
        let replaced = self.values_of(key)?;
        let file = self.replace(key, incoming, writer);
        if self.keeps_books() {
            let (values, bytes) = if file.is_ok() { replaced } else { (1, length) };
            self.give_room(values, bytes);
        }
        entry(file?, self.value(key)).map(Ok)
    }

    /// The same with the directory alone, for who has a limit to keep.
    ///
    /// A value that is larger than the whole store may be, or for which no room can be made, is given,
    /// but not kept.
    pub(in crate::cache) fn publish_alone(
        &self,
        key: &Key,
        incoming: Incoming,
        writer: &str,
    ) -> io::Result<Entry> {
        let length = incoming.length;
        let most = self.settings.max_size.unwrap_or(u64::MAX);
        let books =
            if length > most { None } else { self.with_room_for(key, length, most, writer)? };
        let Some(mut books) = books else {
            // The one before it is out of date.
            self.remove(key, writer)?;
            return incoming.into_entry(self.value(key));
        };
        let replaced = self.values_of(key)?;
        books.add(length);
        self.make_room(&mut books, length, most);
        self.write_books(books, writer)?;
        let file = self.replace(key, incoming, writer);
        let (values, bytes) = if file.is_ok() { replaced } else { (1, length) };
        books.take_off(values, bytes);
        self.write_books_if_possible(books, writer);
        entry(file?, self.value(key))
    }

    /// The books, after room was made for so many bytes more in place of the value of the key. `None` if what
    /// is in the way cannot be removed.
    pub(super) fn with_room_for(
        &self,
        key: &Key,
        length: u64,
        most: u64,
        writer: &str,
    ) -> io::Result<Option<Books>> {
        let is_too_much = |bytes: u64| {
            let (_, replaced) = self.values_of(key)?;
            io::Result::Ok(bytes.saturating_sub(replaced).saturating_add(length) > most)
        };
        let books = self.books()?;
        let is_full = is_too_much(books.bytes)?;
        if !is_full && !books.is_count_due() {
            return Ok(Some(books));
        }
        let room = most - length;
        let mut size = room;
        if is_full && !books.are_out_of_date() {
            // Some more than needed, so that the next one does not have to walk again.
            size -= room / 10;
        }
        let books = self.shrink(Some(size), writer, |_| {}).books;
        if books.bytes.saturating_add(length) <= most {
            return Ok(Some(books));
        }
        // What is in the way stays, but perhaps it is what is replaced, if that was not removed.
        self.write_books_if_possible(books, writer);
        Ok(if is_too_much(books.bytes)? { None } else { Some(books) })
    }

    /// The new value, in place of the file or the directory that was there.
    fn replace(&self, key: &Key, incoming: Incoming, writer: &str) -> io::Result<File> {
        let place = Place::of(key.value());
        let shard = self.directory_made(place, writer)?;
        let replaced = shard.status(key.value())?.filter(|status| status.is_file);
        if let Some(name) = key.key() {
            if !is_key(&shard, &name, key).or_else(if_closed)? {
                // Whatever stands there belongs to the key that is stored beside it.
                if replaced.is_some() {
                    if_there(shard.remove_file(key.value()))?;
                }
                self.write_whole(place, &name, key.bytes(), writer)?;
            }
        }
        match incoming.checksum() {
            Some(sum) => {
                let next = Status::of_file(incoming.temporary.file()?)?;
                self.write_checksum(key, &sum, &next, replaced.as_ref(), writer)?;
                if replaced.is_some() {
                    self.sync_checksum(key)?;
                }
            }
            // What cannot be removed belongs to no value.
            None => drop(shard.remove_file(&key.checksum())),
        }
        let file = self.put_in_place(incoming.temporary, place, key.value(), writer)?;
        self.remove_directory_of(key.hash(), writer)?;
        Ok(file)
    }
}

/// What another user has closed to this one, or has a lease on, is replaced.
fn if_closed(error: io::Error) -> io::Result<bool> {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::WouldBlock => Ok(false),
        _ => Err(error),
    }
}

pub(super) fn entry(file: File, path: PathBuf) -> io::Result<Entry> {
    let status = Status::of_file(&file)?;
    Ok(Entry::new(file, path, status.length, status.modified))
}
