//! Making room: by age, and by when a value was used last. And removing all.
//!
//! With the directory alone, so nothing is put in place meanwhile; but `make_room` has the books and the key of each value
//! that it removes, while other tasks change other values; it removes what an earlier walk of any process has found (`oldest`), and
//! walks only if that is not enough. One walk counts, and removes what is too
//! old and what stands beside no value. It remembers what was not used for longest, as much as is going to be
//! too much if the books are right: so an insert that makes room walks once. Another walk is made only if there
//! is still too much. In memory are no more than the values that must go, those that cannot, and what fits into the list.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet};
use std::io;
use std::time::SystemTime;

use super::books::Books;
use super::look::used;
use super::oldest::Line;
use super::room::Amount;
use super::shard::{Kept, Shard, Value};
use super::{
    DIRECTORIES, Place, Store, ask_anew, if_there, named, oldest, subdirectory, writer_in,
};
use crate::cache::key::{self, Key, Kind};
use crate::error::{Error, Operation};
use crate::os::shared_directory::{Directory, Status};

/// A process that makes room beside others removes no more values than this beyond what it needs, for other processes wait for
/// the books; if the list has those that go next. Or else each walk would be made for so few.
const AT_ONCE: u64 = 64;

/// A walk remembers values of this part of the limit, for processes that make room next: they find out that the books say too much.
const REMEMBERED: u64 = 4;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Values.
    pub values: u64,
    /// The bytes of these values.
    pub bytes: u64,
}

impl Removed {
    fn add(&mut self, bytes: u64) {
        self.values += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What a walk found and did.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) books: Books,
    removed: Removed,
    kept: Kept,
    /// Not everything could be looked at.
    is_partial: bool,
}

impl Walk {
    fn new() -> Self {
        let (removed, kept) = (Removed::default(), Kept::default());
        Self { books: Books::new(), removed, kept, is_partial: false }
    }
}

impl Store {
    /// Removes what is too old, and then what was not used for longest until no more than so many
    /// bytes are left.
    pub(in crate::cache) fn prune<G>(
        &self,
        writer: &str,
        of_dead: impl Fn(&str) -> Option<G>,
    ) -> Result<Removed, Error> {
        let failed = |error| named(Operation::PruneCache, &self.directory, error);
        self.check_format_anew().map_err(failed)?;
        let see = |shard: &Shard| shard.remove_lost_files(&of_dead);
        let mut walk = self.shrink(self.settings.max_size, 0, writer, see);
        let lost = self
            .remove_lost_directories(writer, &of_dead, |path, error| walk.kept.add(path, error));
        if let Err(error) = lost {
            walk.kept.add(self.directory.join(DIRECTORIES), error);
        }
        self.write_books_if_possible(walk.books, writer);
        walk.kept.check(Operation::PruneCache)?;
        Ok(walk.removed)
    }

    /// As `prune`, to a size of the caller's choice, who expects to have so many bytes removed. Leaves the books
    /// to the caller, who sees every subdirectory.
    pub(super) fn shrink(
        &self,
        size: Option<u64>,
        expected: u64,
        writer: &str,
        see: impl Fn(&Shard),
    ) -> Walk {
        let mut walk = Walk::new();
        let mut oldest = Oldest::of(expected, 0);
        for name in key::shards() {
            let mut shard = self.shard(&name);
            let (of_no_use, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut shard.values)
                .into_iter()
                .partition(|value| self.is_of_no_use(value));
            shard.values = rest;
            let in_use = shard.values.len();
            for value in of_no_use {
                let removed = self.remove_from(&shard, &value, writer);
                if !self.note_removal(&value, removed, &mut walk) {
                    // Keeps what stands beside it, and is counted already.
                    shard.values.push(value);
                }
            }
            self.note_unseen(&name, &mut shard, &mut walk);
            see(&shard);
            shard.values.truncate(in_use);
            for value in shard.values {
                walk.books.see(value.bytes);
                oldest.see(value, true);
            }
        }
        let (mut stuck, mut stuck_bytes) = (HashSet::new(), 0_u64);
        let excess = |walk: &Walk| size.map_or(0, |size| walk.books.bytes.saturating_sub(size));
        let mut is_first = true;
        while excess(&walk) > 0 {
            // Another round only if more is too much than was expected, or one of them could not be removed. What is
            // stuck doubles from one to the next, so there are few.
            if !std::mem::take(&mut is_first) {
                let wanted = excess(&walk).saturating_add(stuck_bytes);
                oldest = self.least_recently_used(wanted, &stuck);
                if oldest.values.is_empty() {
                    break;
                }
            }
            for ByUse { value, .. } in std::mem::take(&mut oldest.values).into_sorted_vec() {
                if excess(&walk) == 0 {
                    break;
                }
                walk.books.take_off(1, value.bytes);
                let shard = self.shard_for_removal(&value);
                let removed = shard.and_then(|shard| self.remove_from(&shard, &value, writer));
                if !self.note_removal(&value, removed, &mut walk) {
                    stuck_bytes = stuck_bytes.saturating_add(value.bytes);
                    stuck.insert(value.name);
                }
            }
        }
        if walk.is_partial {
            walk.books.give_up();
        }
        walk
    }

    /// Files without a value go, where it is known that there is none.
    fn note_unseen(&self, name: &str, shard: &mut Shard, walk: &mut Walk) {
        match shard.unseen.take() {
            None => shard.remove_orphans(),
            Some(error) => {
                walk.is_partial = true;
                walk.kept.add(self.directory.join(name), error);
            }
        }
    }

    /// No look finds it: it is too old, or of a format that has other names.
    fn is_of_no_use(&self, value: &Value) -> bool {
        self.is_expired(value.modified) || key::is_of_format_before(&value.name)
    }

    fn remove_from(&self, shard: &Shard, value: &Value, writer: &str) -> io::Result<()> {
        match &value.of_directory {
            None => shard.remove_value(&value.name).map(drop),
            Some(hash) => self.remove_directory_of(hash, writer).map(drop),
        }
    }

    /// Counts it as removed, or as what is still there.
    fn note_removal(&self, value: &Value, removed: io::Result<()>, walk: &mut Walk) -> bool {
        match removed {
            Ok(()) => {
                walk.removed.add(value.bytes);
                true
            }
            Err(error) => {
                walk.books.see(value.bytes);
                walk.kept.add(self.path(Place::of(&value.name), &value.name), error);
                false
            }
        }
    }

    fn shard_for_removal(&self, value: &Value) -> io::Result<Shard> {
        Ok(Shard { directory: self.directory(Place::of(&value.name))?, ..Shard::default() })
    }

    /// Values that come to so many bytes, those that were not used for longest.
    fn least_recently_used(&self, bytes: u64, stuck: &HashSet<String>) -> Oldest {
        let mut oldest = Oldest::of(bytes, 0);
        for name in key::shards() {
            let values = self.shard(&name).values.into_iter();
            values
                .filter(|value| !stuck.contains(&value.name))
                .for_each(|value| oldest.see(value, true));
        }
        oldest
    }

    /// Removes values of so many bytes, those that are too old and those that were not used for longest, while
    /// other tasks change values, and hold the locks of these. Some more are removed as well, up to so many bytes.
    /// `None` if there is more to be done: something cannot be looked at, or what is there says that the books say too
    /// much.
    pub(super) fn make_room<G>(
        &self,
        least: u64,
        most: u64,
        says_too_much: impl Fn(u64) -> bool,
        writer: &str,
        lock_of: impl Fn(&str) -> Option<G>,
    ) -> Option<Amount> {
        let root = self.root().ok()?;
        let remove = |value: &Value| {
            // A task that has this lock replaces the value, or removes it.
            let _lock = lock_of(value.hash())?;
            self.remove_unused(&root, value, writer).ok().flatten()
        };
        let mut progress = Progress::new(least, most);
        oldest::take_each(&root, |value| {
            let removed = remove(value);
            match (progress.see(value, removed), removed) {
                (true, _) => Line::Enough,
                (false, Some(_)) => Line::Removed,
                (false, None) => Line::Missed,
            }
        });
        let removed = progress.removed;
        if removed.bytes >= least {
            return Some(removed);
        }
        let remembered = self.settings.max_size.unwrap_or(0) / REMEMBERED;
        let (mut oldest, mut seen) = (Oldest::of(most, remembered), removed.bytes);
        for name in key::shards() {
            let shard = Shard::of(&name, subdirectory(&root, &name));
            if shard.unseen.is_some() {
                return None;
            }
            for value in shard.values {
                seen = seen.saturating_add(value.bytes);
                let is_of_use = !self.is_of_no_use(&value);
                oldest.see(value, is_of_use);
            }
        }
        if says_too_much(seen) {
            return None;
        }
        let values = oldest.values.into_sorted_vec();
        let values: Vec<_> = values.into_iter().map(|ByUse { value, .. }| value).collect();
        // The list is there before any value goes: what it keeps need not go at once.
        let mut if_all_go = progress;
        let goes = values.iter().position(|value| if_all_go.see(value, Some(value.bytes)));
        let rest = goes.map_or(values.len(), |last| last + 1);
        progress.is_remembered = self.remember_oldest(&root, &values[rest..], writer).is_ok();
        let _ = values.iter().find(|value| progress.see(value, remove(value)));
        Some(progress.removed)
    }

    /// Unless it was used since, or is gone. How many bytes it had. One that was too old for the process which has found it may be
    /// in use for this one.
    fn remove_unused(
        &self,
        root: &Directory,
        value: &Value,
        writer: &str,
    ) -> io::Result<Option<u64>> {
        let directory = subdirectory(root, key::shard(&value.name))?;
        let shard = Shard { directory, ..Shard::default() };
        let Some(directory) = &shard.directory else { return Ok(None) };
        ask_anew(directory);
        let is_unused = |status: &Status| {
            status.is_file
                && status.modified == value.modified
                && (self.is_of_no_use(value) || used(status) == value.used)
        };
        let Some(status) = directory.status(&value.name)?.filter(is_unused) else {
            return Ok(None);
        };
        match &value.of_directory {
            Some(hash) => self.remove_directory_of(hash, writer),
            None => Ok(shard.remove_value(&value.name)?.then_some(status.length)),
        }
    }

    /// Removes the value of a key, a file or a directory; whether there was one.
    pub(in crate::cache) fn remove(&self, key: &Key, writer: &str) -> io::Result<bool> {
        // Where no handle keeps books they may say too much.
        let mut books = self.books_if_kept()?;
        let file = self.remove_file_of(key)?;
        let directory = self.remove_directory_of(key.hash(), writer);
        let removed = [file, *directory.as_ref().unwrap_or(&None)];
        if let Some(books) = &mut books {
            for bytes in removed.into_iter().flatten() {
                books.take_off(1, bytes);
            }
            self.write_books_if_possible(*books, writer);
        }
        directory.map(|_| removed.iter().any(Option::is_some))
    }

    /// Removes the file that is the value of a key; how long it was.
    pub(super) fn remove_file_of(&self, key: &Key) -> io::Result<Option<u64>> {
        let directory = self.directory(Place::of(key.value()))?;
        let shard = Shard { directory, ..Shard::default() };
        let Some(directory) = &shard.directory else { return Ok(None) };
        ask_anew(directory);
        let file = directory.status(key.value())?.filter(|status| status.is_file);
        let was_there = shard.remove_value(key.value())?;
        Ok(file.filter(|_| was_there).map(|status| status.length))
    }

    /// Removes every value.
    pub(in crate::cache) fn clear<G>(
        &self,
        writer: &str,
        of_dead: impl Fn(&str) -> Option<G>,
    ) -> Result<Removed, Error> {
        let mut walk = Walk::new();
        for name in key::shards() {
            let mut shard = self.shard(&name);
            for value in std::mem::take(&mut shard.values) {
                let removed = self.remove_from(&shard, &value, writer);
                if !self.note_removal(&value, removed, &mut walk) {
                    // Keeps what stands beside it.
                    shard.values.push(value);
                }
            }
            self.note_unseen(&name, &mut shard, &mut walk);
        }
        let lost = self
            .remove_lost_directories(writer, &of_dead, |path, error| walk.kept.add(path, error));
        if let Err(error) = lost {
            walk.kept.add(self.directory.join(DIRECTORIES), error);
        }
        if walk.is_partial {
            walk.books.give_up();
        }
        self.forget_oldest();
        self.write_books_if_possible(walk.books, writer);
        walk.kept.check(Operation::ClearCache)?;
        Ok(walk.removed)
    }
}

impl Shard {
    /// Left behind by a process that was killed in the middle, or by a wipe; or put there by another user
    /// in the place of a file of ours. What cannot be removed stays.
    fn remove_orphans(&self) {
        let Some(directory) = &self.directory else { return };
        let hash = |name| match key::kind(name) {
            Kind::Value { hash } | Kind::Beside { hash } => Some(hash),
            Kind::Pointer { .. } | Kind::Foreign => None,
        };
        let hashes: HashSet<_> = self.values.iter().map(|value| hash(&value.name)).collect();
        let orphans = self.beside.iter().filter(|name| !hashes.contains(&hash(name)));
        let mut is_changed = false;
        for name in orphans.chain(&self.strange) {
            let removed = directory.remove_file(name);
            is_changed |= removed.or_else(|_| directory.remove_directory(name)).is_ok();
        }
        if is_changed {
            directory.show_change();
        }
    }

    /// Temporary files of the dead, which some file systems need in here.
    fn remove_lost_files<G>(&self, of_dead: impl Fn(&str) -> Option<G>) {
        let Some(directory) = &self.directory else { return };
        for name in &self.other {
            if writer_in(name).and_then(&of_dead).is_some() {
                let _ = directory.remove_file(name);
            }
        }
    }

    /// Removes a value, and then what stands beside it, as far as that can be removed. Beside one of a format before may be
    /// what belongs to the value that the key has now: it stays, until a walk finds that no value is there.
    fn remove_value(&self, name: &str) -> io::Result<bool> {
        let Some(directory) = &self.directory else { return Ok(false) };
        let removed = match directory.remove_file(name) {
            // A directory is no value.
            Err(_) if directory.status(name)?.is_some_and(|status| status.is_directory) => {
                let _ = directory.remove_directory(name);
                return Ok(false);
            }
            removed => if_there(removed)?.is_some(),
        };
        let mut is_changed = removed;
        if !key::is_of_format_before(name) {
            for beside in key::names_beside(name) {
                is_changed |= directory.remove_file(&beside).is_ok();
            }
        }
        if is_changed {
            directory.show_change();
        }
        Ok(removed)
    }
}

/// How far a process is that makes room.
#[derive(Debug, Clone, Copy)]
struct Progress {
    least: u64,
    most: u64,
    removed: Amount,
    /// Bytes of values that were removed, and of those that stay.
    seen_to: u64,
    /// What does not go now is in the list, for the next process.
    is_remembered: bool,
}

impl Progress {
    fn new(least: u64, most: u64) -> Self {
        Self { least, most, removed: Amount::default(), seen_to: 0, is_remembered: true }
    }

    /// Whether that is enough, after a value of which so many bytes were removed.
    fn see(&mut self, value: &Value, removed: Option<u64>) -> bool {
        if let Some(bytes) = removed {
            self.removed.add(Amount::one(bytes));
        }
        // What stays is not made up for by what was used later.
        self.seen_to = self.seen_to.saturating_add(value.bytes);
        let is_many = self.is_remembered && self.removed.values >= AT_ONCE;
        self.removed.bytes >= self.least && (self.seen_to >= self.most || is_many)
    }
}

/// Of all values that were seen those that were not used for longest, and come to so many bytes; and those for the list, as
/// many as fit into it.
struct Oldest {
    wanted: u128,
    /// So many more, if the list has room for them.
    remembered: u128,
    /// Of all of these. Another user's pointer may say any number.
    bytes: u128,
    values: BinaryHeap<ByUse>,
}

impl Oldest {
    fn of(bytes: u64, remembered: u64) -> Self {
        let (wanted, remembered) = (bytes.into(), remembered.into());
        Self { wanted, remembered, bytes: 0, values: BinaryHeap::new() }
    }

    /// Whether so many bytes, of so many values, are enough.
    fn are_enough(&self, bytes: u128, values: usize) -> bool {
        let is_full = values >= oldest::MOST_VALUES || bytes >= self.wanted + self.remembered;
        bytes >= self.wanted && is_full
    }

    /// What is of no use goes before all others.
    fn see(&mut self, value: Value, is_of_use: bool) {
        let seen = ByUse { is_of_use, value };
        let is_newest = self.values.peek().is_none_or(|last| *last <= seen);
        if self.are_enough(self.bytes, self.values.len()) && is_newest {
            return;
        }
        self.bytes += u128::from(seen.value.bytes);
        self.values.push(seen);
        // The one that was used last among them may stay if the others are enough.
        while let Some(last) = self.values.peek() {
            let without = self.bytes - u128::from(last.value.bytes);
            if !self.are_enough(without, self.values.len() - 1) {
                break;
            }
            self.bytes = without;
            self.values.pop();
        }
    }
}

/// The greatest is the one that was used last.
struct ByUse {
    is_of_use: bool,
    value: Value,
}

impl ByUse {
    fn order(&self) -> (bool, SystemTime, &str) {
        (self.is_of_use, self.value.used, &self.value.name)
    }
}

impl Ord for ByUse {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for ByUse {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByUse {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for ByUse {}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn no_more_is_in_memory_than_must_go_or_fits_the_list() {
        const VALUES: u64 = 40_000;
        for (must_go, kept) in [(10, 16_384), (20_000, 20_000), (VALUES * 2, VALUES)] {
            let mut oldest = Oldest::of(must_go, VALUES);
            // The newest first, and the oldest first.
            for at in
                (0..VALUES / 2).rev().map(|at| 2 * at).chain((0..VALUES / 2).map(|at| 2 * at + 1))
            {
                let used = UNIX_EPOCH + Duration::from_secs(at);
                let name = at.to_string();
                oldest
                    .see(Value { name, of_directory: None, bytes: 1, modified: used, used }, true);
                assert!(oldest.values.len() as u64 <= kept);
            }
            assert_eq!(oldest.values.len() as u64, kept);
            let values = oldest.values.into_sorted_vec();
            for (at, ByUse { value, .. }) in values.iter().enumerate() {
                assert_eq!(value.name, at.to_string());
            }
        }
    }
}
