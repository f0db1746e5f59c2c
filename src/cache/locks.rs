//! The locks of a cache directory. They lie beside it, so no wipe of the directory touches them.
//!
//! - The **directory**: byte 0 of the lock file. Held exclusively by a process that walks over the values or
//!   does what concerns more than one, and shared by one that inserts a value or removes one without a limit to
//!   keep, for the time of some file-system calls.
//! - The **books**: a range of the lock file. Held by a process that writes the books while others have the directory
//!   shared as well, and while it makes room. Who has the directory alone needs no more.
//! - A **fill** for each key: the lock file is a `LockSpace`. Held from before the look that finds
//!   nothing until the value is in place, by the task that fills, replaces or removes the value.
//! - A **writer** for each open cache directory: a range of its own, below those of the space. Held
//!   for as long as it is open, and named in its temporary files: they are left behind by a dead
//!   process exactly if this lock can be had.
//!
//! In this order: fill, directory, books. Who holds the directory waits for no fill: who makes room beside others leaves
//! the values of keys that are busy, and who has the directory alone removes them as well. A writer's lock is waited for
//! only when a cache is opened, and then only if those of both numbers that were drawn are taken.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

use super::key::Key;
use super::store::Settings;
use super::waits::Waits;
use crate::error::{Error, TryLockError};
use crate::lock::{ExclusiveGuard, FileLock};
use crate::os::wire::{BOOKS, FIRST_WRITER, SLOT_LENGTH_BITS, WRITER_BITS};
use crate::os::{Protocol, Region};
use crate::process;
use crate::space::LockSpace;
use crate::wait;

#[derive(Debug)]
pub(super) struct Locks {
    directory: FileLock,
    books: FileLock,
    fills: LockSpace,
    writer: String,
    _alive: ExclusiveGuard,
}

impl Locks {
    pub(super) async fn open(
        path: &Path,
        fills: Option<LockSpace>,
        settings: &Settings,
        waits: &Waits,
    ) -> Result<Self, Error> {
        let file = FileLock::options().protocol(Protocol::Fcntl);
        let mut file = file.this_machine_only(settings.this_machine_only);
        let mut space = LockSpace::options().this_machine_only(settings.this_machine_only);
        if let Some(mode) = settings.mode {
            (file, space) = (file.mode(mode), space.mode(mode));
        }
        let (directory, fills) = match fills {
            Some(fills) => (file.open(path).await?, fills),
            // The first file of the space, opened once: a second open may not be told to be the same file.
            None => {
                let fills = space.open(path).await?;
                (fills.first_file().clone(), fills)
            }
        };
        let (writer, alive) = become_writer(&directory, waits).await?;
        let books = directory.of_key(b"books", Region { start: BOOKS });
        Ok(Self { directory, books, fills, writer, _alive: alive })
    }

    pub(super) fn directory(&self) -> &FileLock {
        &self.directory
    }

    pub(super) fn books(&self) -> &FileLock {
        &self.books
    }

    /// The lock of a key whose hash a file name says, unless it is held. Blocks for the time of a lock call.
    pub(super) fn try_fill(&self, hash: &str) -> Option<ExclusiveGuard> {
        let hash = u64::from_str_radix(hash.get(..16)?, 16).ok()?;
        self.fills.key_of_hash(hash).try_lock().ok()
    }

    pub(super) fn fill(&self, key: &Key) -> FileLock {
        self.fills.key(key.bytes())
    }

    /// The name of this process's temporary files.
    pub(super) fn writer(&self) -> &str {
        &self.writer
    }

    /// The lock of a writer that is dead. Blocks for the time of a lock call.
    pub(super) fn of_dead(&self, writer: &str) -> Option<ExclusiveGuard> {
        writer_lock(&self.directory, writer)?.try_lock().ok()
    }
}

async fn become_writer(file: &FileLock, waits: &Waits) -> Result<(String, ExclusiveGuard), Error> {
    let (writer, lock) = any_writer(file);
    let trying = lock.clone();
    match wait::call(process::pool(), move || trying.try_lock()).await {
        Ok(alive) => return Ok((writer, alive)),
        // Another one has it, by a strange chance, or another program has the whole file.
        Err(TryLockError::WouldBlock(_)) => {}
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Then this is busy as well, and it can be told who waits for whom.
    let (writer, lock) = any_writer(file);
    Ok((writer, waits.lock(&lock).await?))
}

/// A name and a lock for a writer.
fn any_writer(file: &FileLock) -> (String, FileLock) {
    let number = RandomState::new().build_hasher().finish();
    let writer = format!("{number:016x}");
    let lock = lock_of(file, number, &writer);
    (writer, lock)
}

/// `None` if no writer has such a name.
fn writer_lock(file: &FileLock, writer: &str) -> Option<FileLock> {
    let number = u64::from_str_radix(writer, 16).ok()?;
    if format!("{number:016x}") != writer {
        return None;
    }
    Some(lock_of(file, number, writer))
}

fn lock_of(file: &FileLock, number: u64, writer: &str) -> FileLock {
    let slot = number & ((1 << WRITER_BITS) - 1);
    let start = FIRST_WRITER + (slot << SLOT_LENGTH_BITS);
    file.of_key(writer.as_bytes(), Region { start })
}
