//! Putting a value in its place, with the directory's lock shared: tasks that do so meet only in the fill of one
//! key. A task with a limit has room for the value before, or fetches it: under the lock of the books, or, if the
//! values have to be counted, with the directory alone.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::books::Books;
use super::look::is_key;
use super::room::{Amount, Taken};
use super::{Incoming, Place, Store, ask_anew};
use crate::cache::entry::Entry;
use crate::cache::key::Key;
use crate::os::shared_directory::Status;

/// When the books say this part of the limit more than there is, the values are counted before any is removed.
const TOO_MUCH: u64 = 4;

impl Store {
    /// Makes the value that came in the one of this key, and gives it, while others insert as well. The value
    /// comes back if its room was lost, because there was a count since it was taken; of a task without a
    /// limit, if the books have to be given up first, and their lock cannot be had at once.
    pub(in crate::cache) fn publish_beside_others<G>(
        &self,
        key: &Key,
        incoming: Incoming,
        room: Option<Taken>,
        writer: &str,
        try_lock_books: impl FnOnce() -> Option<G>,
    ) -> io::Result<Result<Entry, Incoming>> {
        let is_good = match &room {
            Some(room) => self.books_as_they_are()?.is_some_and(|books| room.is_of(&books)),
            None if self.are_books_given_up()? => true,
            None => match try_lock_books() {
                Some(_lock) => self.give_up_books(writer).map(|()| true)?,
                None => false,
            },
        };
        if !is_good {
            if room.is_some() {
                // First: what is given back here is no good either.
                drop(room);
                self.room.forget_unless_in(self.books_as_they_are()?.as_ref());
            }
            return Ok(Err(incoming));
        }
        self.publish_in_room(key, incoming, room, writer).map(Ok)
    }

    /// In room that is in the books, which were not counted anew since, or without a limit.
    pub(in crate::cache) fn publish_in_room(
        &self,
        key: &Key,
        incoming: Incoming,
        room: Option<Taken>,
        writer: &str,
    ) -> io::Result<Entry> {
        let Replaced { file, gone, rest } = self.replace(key, incoming, writer)?;
        // The value is there, also if a directory stays that was in its place.
        if let Some(room) = room {
            room.used(gone);
        }
        rest?;
        entry(file, self.value(key))
    }

    /// Room for a value of this length, and for others that come after it, under the lock of the books while others
    /// change values. What is in the way is removed, but for values whose lock cannot be had at once;
    /// `lock_of` gives that of a hash. `None` if that is not enough, or the values have to be counted: that takes
    /// the directory alone.
    pub(in crate::cache) fn fetch_room_beside_others<G>(
        &self,
        key: &Key,
        length: u64,
        writer: &str,
        lock_of: impl Fn(&str) -> Option<G>,
    ) -> io::Result<Option<Taken>> {
        let most = self.most();
        let Some(mut books) = self.books_as_they_are()?.filter(|_| length <= most) else {
            return Ok(None);
        };
        if books.is_count_due() {
            return Ok(None);
        }
        self.room.merge(&mut books);
        if self.is_too_much(&books, key, length)? {
            // Also for the other values that wait.
            let size = (most - length).saturating_sub(self.room.wanted(most).bytes);
            let [least, excess] =
                [size, with_some_more(size)].map(|size| books.bytes.saturating_sub(size));
            let says_too_much = |seen| books.bytes.saturating_sub(seen) > most / TOO_MUCH;
            let Some(removed) = self.make_room(least, excess, says_too_much, writer, lock_of)
            else {
                return Ok(None);
            };
            books.take_off(removed.values, removed.bytes);
            if self.is_too_much(&books, key, length)? {
                self.write_books_if_possible(books, writer);
                return Ok(None);
            }
        }
        self.put_down(books, length, writer).map(Some)
    }

    /// The same with the directory alone. `None` if the value is larger than the whole store may be, or if no room can
    /// be made: then it is not kept, and the one before it, which is out of date, is removed.
    pub(in crate::cache) fn fetch_room_alone(
        &self,
        key: &Key,
        length: u64,
        writer: &str,
    ) -> io::Result<Option<Taken>> {
        let most = self.most();
        let books =
            if length > most { None } else { self.with_room_for(key, length, most, writer)? };
        let Some(books) = books else {
            self.remove(key, writer)?;
            return Ok(None);
        };
        self.put_down(books, length, writer).map(Some)
    }

    fn put_down(&self, mut books: Books, length: u64, writer: &str) -> io::Result<Taken> {
        let put_down = self.room.put_down(&mut books, length, self.most());
        self.write_books(books, writer)?;
        Ok(put_down.written())
    }

    fn most(&self) -> u64 {
        self.settings.max_size.unwrap_or(u64::MAX)
    }

    /// Whether there is no room for a value of this length in place of that of the key.
    fn is_too_much(&self, books: &Books, key: &Key, length: u64) -> io::Result<bool> {
        let (_, replaced) = self.values_of(key)?;
        Ok(books.bytes.saturating_sub(replaced).saturating_add(length) > self.most())
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
        let books = self.books()?;
        let is_full = self.is_too_much(&books, key, length)?;
        if !is_full && !books.is_count_due() {
            return Ok(Some(books));
        }
        let (mut size, mut expected) = (most - length, 0);
        if is_full && !books.are_out_of_date() {
            size = with_some_more(size);
            expected = books.bytes.saturating_sub(size);
        }
        let books = self.shrink(Some(size), expected, writer, |_| {}).books;
        if books.bytes.saturating_add(length) <= most {
            return Ok(Some(books));
        }
        // What is in the way stays, but perhaps it is what is replaced, if that was not removed.
        self.write_books_if_possible(books, writer);
        Ok(if self.is_too_much(&books, key, length)? { None } else { Some(books) })
    }

    /// The new value, in place of the file or the directory that was there.
    fn replace(&self, key: &Key, incoming: Incoming, writer: &str) -> io::Result<Replaced> {
        let place = Place::of(key.value());
        let shard = self.directory_made(place, writer)?;
        ask_anew(&shard);
        let replaced = shard.status(key.value())?.filter(|status| status.is_file);
        if let Some(name) = key.key() {
            // For lists of keys: the name of the value is the key's own.
            if !is_key(&shard, &name, key).or_else(if_closed)? {
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
            None => {
                if shard.remove_file(&key.checksum()).is_ok() {
                    shard.show_change();
                }
            }
        }
        let file = self.put_in_directory(&shard, incoming.temporary, place, key.value(), writer)?;
        let file_gone = replaced.map(|status| status.length);
        let directory = self.remove_directory_in(&shard, key.hash(), writer);
        let (directory_gone, rest) = match directory {
            Ok(gone) => (gone, Ok(())),
            Err(error) => (None, Err(error)),
        };
        let mut gone = Amount::default();
        for bytes in [file_gone, directory_gone].into_iter().flatten() {
            gone.add(Amount::one(bytes));
        }
        Ok(Replaced { file, gone, rest })
    }
}

/// A value that has taken its place.
struct Replaced {
    file: File,
    /// What was there before.
    gone: Amount,
    /// A directory that was there is gone as well.
    rest: io::Result<()>,
}

/// Some more than needed is removed, so that the next one does not have to walk again.
fn with_some_more(size: u64) -> u64 {
    size - size / 10
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
