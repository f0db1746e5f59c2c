//! Directories as values.
//!
//! Each is a generation, `dirs/<hash>-<number>`, which is never changed once it has that name. The
//! pointer beside the values, `<hash>.dir`, says which generation is the one of its key, how large it is, and
//! the key. It is replaced by renaming, so a key has the one generation or the next, and never none.
//!
//! 1. A generation has its name only when it is complete. On its way in and on its way out it is called
//!    `<writer>-<number>`, which no reader looks for; what is so called is removed as the temporary files of dead
//!    writers are.
//! 2. Who gives a name to a generation, or takes it away, holds its pin exclusively (`pin`).
//! 3. A generation that no pointer names is garbage. Before there may be one, an empty file in `tmp` has
//!    its name (a mark), and this file goes after it. So who opens the directory looks at marks only, and not at all
//!    generations; a walk looks at all.
//! 4. Garbage that is pinned stays, with its mark, until the last pin goes.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::SystemTime;

use super::books::Books;
use super::look::{forget_use, note_use};
use super::{
    Freshness, Noted, Place, ROUNDS, Store, SyncPolicy, ask_anew, if_there, named, temporary_name,
    writer_in,
};
use crate::cache::key::{self, Key};
use crate::cache::pin::unless_pinned;
use crate::error::{Error, Operation};
use crate::lock::ExclusiveGuard;
use crate::os::shared_directory::{Directory, Found, Purpose, Status};
use crate::shim::Arc;

/// How long the lines before the key in a pointer are.
const HEADER: usize = "generation 0123456789abcdef\nbytes 00000000000000000007\n".len();

/// A directory that is, or was, the value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cache) struct Generation {
    name: String,
    number: u64,
}

impl Generation {
    fn new(hash: &str, number: u64) -> Self {
        Self { name: format!("{hash}-{number:016x}"), number }
    }

    fn any(key: &Key) -> Self {
        Self::new(key.hash(), RandomState::new().build_hasher().finish())
    }

    /// `None` if no generation has such a name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (hash, number) = name.split_once('-')?;
        let generation = Self::new(hash, u64::from_str_radix(number, 16).ok()?);
        (key::is_hash(hash) && generation.name == name).then_some(generation)
    }

    pub(in crate::cache) fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::cache) fn number(&self) -> u64 {
        self.number
    }

    fn hash(&self) -> &str {
        &self.name[..self.name.len() - "-0123456789abcdef".len()]
    }
}

/// What a pointer says, but for the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) generation: Generation,
    pub(super) bytes: u64,
}

/// A pointer that was read up to the key.
pub(super) struct OpenPointer {
    pub(super) pointer: Pointer,
    pub(super) status: Status,
    file: File,
}

impl Pointer {
    fn header(&self) -> String {
        format!("generation {:016x}\nbytes {:020}\n", self.generation.number, self.bytes)
    }

    fn parse(hash: &str, header: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(header).ok()?.split_whitespace().skip(1).step_by(2);
        let number = u64::from_str_radix(words.next()?, 16).ok()?;
        let bytes = words.next()?.parse().ok()?;
        let pointer = Self { generation: Generation::new(hash, number), bytes };
        (pointer.header().as_bytes() == header).then_some(pointer)
    }
}

impl OpenPointer {
    /// `None` if it cannot be understood.
    fn new(hash: &str, mut file: File, status: Status) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER];
        match file.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let pointer = Pointer::parse(hash, &header);
        Ok(pointer.map(|pointer| Self { pointer, status, file }))
    }

    /// The pointer of a hash in its directory, to look at it: that is no use. What is no such file is none.
    pub(super) fn open(shard: &Directory, hash: &str) -> io::Result<Option<Self>> {
        let opened = match shard.open_file(&key::pointer(hash), Purpose::Read)? {
            Found::File(file, status) => Self::new(hash, file, status)?,
            Found::Nothing | Found::NotAFile => None,
        };
        if let Some(open) = &opened {
            forget_use(&open.file, &open.status);
        }
        Ok(opened)
    }

    /// The key, if it is not longer than so.
    pub(super) fn key(self, longest: u64) -> io::Result<Option<Vec<u8>>> {
        let length = self.status.length.saturating_sub(HEADER as u64);
        if length > longest {
            return Ok(None);
        }
        let mut key = Vec::new();
        self.file.take(longest).read_to_end(&mut key)?;
        Ok(Some(key))
    }
}

/// What stands in the place of the pointer that is to be written. What another user has closed to this
/// one, or has a lease on, is replaced unseen.
fn replaced(shard: &Directory, hash: &str) -> io::Result<Option<Pointer>> {
    match OpenPointer::open(shard, hash) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::WouldBlock
            ) =>
        {
            Ok(None)
        }
        opened => Ok(opened?.map(|open| open.pointer)),
    }
}

/// A directory on its way in.
#[derive(Debug)]
pub(in crate::cache) struct Staging {
    name: String,
    /// For who fills it.
    pub(in crate::cache) path: PathBuf,
    handle: Directory,
}

/// A directory that was found.
#[derive(Debug)]
pub(in crate::cache) struct FoundDirectory {
    pub(in crate::cache) generation: Generation,
    pub(in crate::cache) path: PathBuf,
    pub(in crate::cache) bytes: u64,
    pub(in crate::cache) modified: SystemTime,
}

/// A directory that was put in its place.
#[derive(Debug)]
pub(in crate::cache) struct Published {
    pub(in crate::cache) found: FoundDirectory,
    /// No process can have pinned it yet.
    pub(in crate::cache) lock: ExclusiveGuard,
    /// Garbage now.
    pub(in crate::cache) replaced: Option<Generation>,
}

/// Whether there is room for a directory.
enum RoomFor {
    Unlimited,
    Booked(Books),
    Not,
}

/// A pointer that was put in its place.
struct Pointed {
    replaced: Option<Generation>,
    modified: SystemTime,
}

impl Store {
    /// A directory with nothing in it, to be filled.
    pub(in crate::cache) fn stage(&self, writer: &str) -> io::Result<Staging> {
        self.check_format()?;
        let mut rounds = 0..ROUNDS;
        loop {
            let name = temporary_name(writer);
            let parent = self.directory_made(Place::Directories, writer)?;
            // While it is filled no other user may put anything into it.
            let handle = match parent.create_directory(&name, self.settings.mode.is_some()) {
                // It was wiped in the same moment, or exchanged.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound
                            | io::ErrorKind::NotADirectory
                            | io::ErrorKind::AlreadyExists
                    ) =>
                {
                    rounds.next().ok_or(error)?;
                    continue;
                }
                created => created?.kept()?,
            };
            // Names that others may exchange are no way for a fill.
            let is_exposed = parent.may_others_write() || self.root()?.may_others_write();
            let by_handle = if is_exposed { handle.path_by_handle() } else { None };
            let path = by_handle.unwrap_or_else(|| self.directory_path(&name));
            return Ok(Staging { name, path, handle });
        }
    }

    pub(in crate::cache) fn directory_path(&self, name: &str) -> PathBuf {
        self.path(Place::Directories, name)
    }

    /// The directory is filled. After a power failure it is whole, or absent. How many bytes it has.
    pub(in crate::cache) fn finish_directory(&self, staging: &Staging) -> io::Result<u64> {
        let is_synced = self.settings.sync != SyncPolicy::Never;
        staging.handle.check()?;
        staging.handle.finish_tree(self.settings.mode, is_synced).map_err(or_wiped)
    }

    /// Removes a directory that was to be filled. What cannot be removed is left to who opens the cache
    /// later.
    pub(in crate::cache) fn discard(&self, staging: Staging, writer: &str) {
        let Ok(Some(directory)) = self.directory(Place::Directories) else { return };
        // What the fill may have left running does not find it any more.
        let name = temporary_name(writer);
        let is_renamed = directory.rename(&staging.name, &directory, &name).is_ok();
        let _ = directory.remove_tree(if is_renamed { &name } else { &staging.name });
    }

    /// Makes the directory that was filled the value of this key, under the locks of both, and gives it.
    ///
    /// One that is larger than the whole store may be, or for which no room can be made, is given, but not
    /// kept: it goes with its last pin.
    pub(in crate::cache) fn publish_directory(
        &self,
        key: &Key,
        staging: &Staging,
        bytes: u64,
        writer: &str,
    ) -> io::Result<Published> {
        let room = match self.settings.max_size {
            None => {
                self.give_up_books(writer)?;
                RoomFor::Unlimited
            }
            Some(most) if bytes > most => RoomFor::Not,
            Some(most) => {
                let books = self.with_room_for(key, bytes, most, writer)?;
                books.map_or(RoomFor::Not, RoomFor::Booked)
            }
        };
        let (generation, lock) = self.new_generation(key)?;
        self.mark(&generation, writer)?;
        let directory = self.directory_made(Place::Directories, writer)?;
        directory.rename(&staging.name, &directory, generation.name()).map_err(or_wiped)?;
        directory.show_change();
        let pointed = match room {
            // The one before it is out of date.
            RoomFor::Not => self
                .remove(key, writer)
                .map(|_| Pointed { replaced: None, modified: SystemTime::now() }),
            RoomFor::Unlimited => self.point_to(key, &generation, bytes, writer),
            RoomFor::Booked(books) => {
                self.book_and_point_to(key, &generation, bytes, writer, books)
            }
        };
        match pointed {
            Ok(Pointed { replaced, modified }) => {
                let path = self.directory_path(generation.name());
                let found = FoundDirectory { generation, path, bytes, modified };
                Ok(Published { found, lock, replaced })
            }
            Err(error) => {
                drop(lock);
                let _ = self.remove_garbage(&generation, writer);
                Err(error)
            }
        }
    }

    fn book_and_point_to(
        &self,
        key: &Key,
        generation: &Generation,
        bytes: u64,
        writer: &str,
        mut books: Books,
    ) -> io::Result<Pointed> {
        let replaced = self.values_of(key)?;
        books.add(bytes);
        self.write_books(books, writer)?;
        // After an error it may be in its place all the same, beside what was there: then both count.
        let pointed = self.point_to(key, generation, bytes, writer)?;
        let (values, bytes) = replaced;
        books.take_off(values, bytes);
        self.write_books_if_possible(books, writer);
        Ok(pointed)
    }

    /// Puts the pointer to a generation in its place, and removes the file that was the value.
    fn point_to(
        &self,
        key: &Key,
        generation: &Generation,
        bytes: u64,
        writer: &str,
    ) -> io::Result<Pointed> {
        self.sync_generation()?;
        let place = Place::of(key.value());
        let shard = self.directory_made(place, writer)?;
        ask_anew(&shard);
        let replaced = replaced(&shard, key.hash())?.map(|pointer| pointer.generation);
        if let Some(replaced) = &replaced {
            self.mark(replaced, writer)?;
        }
        let pointer = Pointer { generation: generation.clone(), bytes };
        let mut content = pointer.header().into_bytes();
        content.extend_from_slice(key.bytes());
        self.write_whole(place, &key.pointer(), &content, writer)?;
        self.unmark(generation);
        self.remove_file_of(key)?;
        let modified = shard.status(key.pointer())?.map(|status| status.modified);
        Ok(Pointed { replaced, modified: modified.unwrap_or_else(SystemTime::now) })
    }

    /// How many values a key has, a file or a directory, and how many bytes they have.
    pub(super) fn values_of(&self, key: &Key) -> io::Result<(u64, u64)> {
        let Some(shard) = self.directory(Place::of(key.value()))? else { return Ok((0, 0)) };
        ask_anew(&shard);
        let file = shard.status(key.value())?.filter(|status| status.is_file);
        let file = file.map(|status| status.length);
        let directory = replaced(&shard, key.hash())?.map(|pointer| pointer.bytes);
        let both = [file, directory].into_iter().flatten();
        Ok(both.fold((0, 0), |(values, bytes), more| (values + 1, bytes.saturating_add(more))))
    }

    /// A generation that is not there yet, and its lock: another one if the pin of that slot is held.
    fn new_generation(&self, key: &Key) -> io::Result<(Generation, ExclusiveGuard)> {
        for _ in 0..ROUNDS {
            let generation = Generation::any(key);
            if let Some(lock) = self.pins.try_alone(generation.name(), generation.number()) {
                return Ok((generation, lock));
            }
        }
        let text =
            "no lock for a new directory can be had: another program has all of the lock file";
        Err(io::Error::other(text))
    }

    /// Says that a generation may be garbage.
    fn mark(&self, generation: &Generation, writer: &str) -> io::Result<()> {
        let mut rounds = 0..ROUNDS;
        loop {
            let directory = self.directory_made(Place::Temporary, writer)?;
            match directory.create_file(generation.name(), self.settings.mode) {
                // It was wiped in the same moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    rounds.next().ok_or(error)?;
                }
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => return Ok(()),
            }
        }
    }

    /// A mark that cannot be removed is looked at again, and does no harm.
    fn unmark(&self, generation: &Generation) {
        if let Ok(Some(directory)) = self.directory(Place::Temporary) {
            let _ = directory.remove_file(generation.name());
        }
    }

    /// Removes a generation, if no pointer names it and no process pins it.
    pub(in crate::cache) fn remove_garbage(
        &self,
        generation: &Generation,
        writer: &str,
    ) -> io::Result<()> {
        let lock = self.pins.try_alone(generation.name(), generation.number());
        let renamed = unless_pinned(lock, || self.rename_garbage(generation, writer));
        match renamed.transpose()?.flatten() {
            Some((directory, name)) => directory.remove_tree(&name),
            None => Ok(()),
        }
    }

    /// From now on no reader finds it.
    fn rename_garbage(
        &self,
        generation: &Generation,
        writer: &str,
    ) -> io::Result<Option<(Arc<Directory>, String)>> {
        // Another machine may have put the pointer there.
        self.refresh(&[Place::Root, Place::of(generation.hash())])?;
        let shard = self.directory(Place::of(generation.hash()))?;
        let pointer = shard.map(|shard| OpenPointer::open(&shard, generation.hash()));
        let pointer = pointer.transpose()?.flatten();
        let mut renamed = None;
        if pointer.is_none_or(|open| open.pointer.generation != *generation) {
            if let Some(directory) = self.directory(Place::Directories)? {
                let name = temporary_name(writer);
                let done = directory.rename(generation.name(), &directory, &name);
                if if_there(done)?.is_some() {
                    directory.show_change();
                    self.sync_removal(&directory)?;
                    renamed = Some((directory, name));
                }
            }
        }
        self.unmark(generation);
        Ok(renamed)
    }

    /// Removes what the pin has kept that was the last one.
    pub(in crate::cache) fn remove_if_marked(&self, generation: &Generation, writer: &str) {
        let Ok(Some(directory)) = self.directory(Place::Temporary) else { return };
        if let Ok(Some(_)) = directory.status(generation.name()) {
            let _ = self.remove_garbage(generation, writer);
        }
    }

    /// Removes the pointer of a key, and what it names, unless that is pinned: what cannot be removed then has
    /// no name. How many bytes it had.
    pub(super) fn remove_directory_of(&self, hash: &str, writer: &str) -> io::Result<Option<u64>> {
        match self.directory(Place::of(hash))? {
            Some(shard) => {
                ask_anew(&shard);
                self.remove_directory_in(&shard, hash, writer)
            }
            None => Ok(None),
        }
    }

    /// The same in a subdirectory that is held.
    pub(super) fn remove_directory_in(
        &self,
        shard: &Directory,
        hash: &str,
        writer: &str,
    ) -> io::Result<Option<u64>> {
        let Some(OpenPointer { pointer, .. }) = OpenPointer::open(shard, hash)? else {
            return Ok(None);
        };
        self.mark(&pointer.generation, writer)?;
        let removed = if_there(shard.remove_file(&key::pointer(hash)))?;
        if removed.is_some() {
            shard.show_change();
        }
        let _ = self.remove_garbage(&pointer.generation, writer);
        Ok(removed.map(|()| pointer.bytes))
    }

    /// Looks at everything that is called as a directory of the cache, and removes what is garbage, as far as
    /// that can be removed; `see` is told of what cannot.
    pub(super) fn remove_lost_directories<G>(
        &self,
        writer: &str,
        of_dead: impl Fn(&str) -> Option<G>,
        mut see: impl FnMut(PathBuf, io::Error),
    ) -> io::Result<()> {
        let Some(directory) = self.directory(Place::Directories)? else { return Ok(()) };
        for name in directory.names()? {
            let name = name?;
            let removed = match Generation::parse(&name) {
                Some(generation) => self.remove_garbage(&generation, writer),
                None if writer_in(&name).and_then(&of_dead).is_some() => {
                    directory.remove_tree(&name)
                }
                None => Ok(()),
            };
            if let Err(error) = removed {
                see(self.directory_path(&name), error);
            }
        }
        Ok(())
    }

    /// Whether there is such a directory, as the server knows, where there is one.
    pub(in crate::cache) fn is_there(&self, generation: &Generation) -> io::Result<bool> {
        self.refresh(&[Place::Root, Place::Directories])?;
        self.has(generation)
    }

    fn has(&self, generation: &Generation) -> io::Result<bool> {
        let Some(directory) = self.directory(Place::Directories)? else { return Ok(false) };
        let status = directory.status(generation.name())?;
        Ok(status.is_some_and(|status| status.is_directory))
    }

    pub(in crate::cache) fn look_for_directory(
        &self,
        key: &Key,
        freshness: Freshness,
        noted: Noted,
    ) -> Result<Option<FoundDirectory>, Error> {
        let failed = |error| {
            let path = self.path(Place::of(key.value()), &key.pointer());
            named(Operation::ReadValue, path, error)
        };
        if freshness == Freshness::AtServer {
            self.refresh(&[Place::Root, Place::of(key.value()), Place::Directories])
                .map_err(failed)?;
        }
        let found = self.find_directory(key, noted).map_err(failed)?;
        if found.is_none() {
            self.check_format_anew().map_err(failed)?;
        }
        Ok(found)
    }

    fn find_directory(&self, key: &Key, noted: Noted) -> io::Result<Option<FoundDirectory>> {
        self.check_format()?;
        let mut before = None;
        // More than one round only if the directory is replaced in the same moment.
        for _ in 0..ROUNDS {
            let Some(root) = if_there(self.root())? else { return Ok(None) };
            let open = match root.open_file_in(key.shard(), &key.pointer())? {
                Found::File(file, status) => OpenPointer::new(key.hash(), file, status)?,
                Found::Nothing => None,
                Found::NotAFile => {
                    let text = "something that is not a regular file stands there";
                    return Err(io::Error::new(io::ErrorKind::IsADirectory, text));
                }
            };
            let Some(open) = open else { return Ok(None) };
            let OpenPointer { pointer: Pointer { generation, bytes }, status, .. } = &open;
            if self.is_unwanted(*bytes, status.modified) {
                return Ok(None);
            }
            if self.has(generation)? {
                let found = FoundDirectory {
                    generation: generation.clone(),
                    path: self.directory_path(generation.name()),
                    bytes: *bytes,
                    modified: status.modified,
                };
                if noted == Noted::AsUse {
                    note_use(&open.file, status);
                }
                let is_of_key =
                    open.key(key.bytes().len() as u64)?.is_some_and(|it| it == key.bytes());
                return Ok(is_of_key.then_some(found));
            }
            let looked = Some(generation.clone());
            if looked == before {
                return Ok(None); // wiped
            }
            before = looked;
        }
        Ok(None)
    }
}

fn wiped() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        "the directory was wiped while it was filled; fill it again",
    )
}

fn or_wiped(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::NotFound { wiped() } else { error }
}
