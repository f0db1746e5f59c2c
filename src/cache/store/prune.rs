//! Making room: by age, and by when a value was used last. And removing all.
//!
//! Under the directory's lock, so nothing is put in place meanwhile. Two walks: the first counts and
//! removes what is too old and what stands beside no value; the second is made only if there is still
//! too much, and keeps in memory no more than the values that must go.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet};
use std::fs;
use std::io;
use std::time::SystemTime;

use super::books::Books;
use super::shard::{Shard, Value};
use super::{Store, if_there};
use crate::cache::key::{self, Key, Kind};

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
        self.bytes += bytes;
    }
}

impl Store {
    /// Removes what is too old, and then what was not used for longest until no more than so many
    /// bytes are left.
    pub(in crate::cache) fn prune(&self, writer: &str) -> io::Result<Removed> {
        let (books, removed) = self.shrink(self.settings.max_size)?;
        self.write_books_if_possible(books, writer);
        Ok(removed)
    }

    /// As `prune`, to a size of the caller's choice. Leaves the books to the caller.
    pub(super) fn shrink(&self, size: Option<u64>) -> io::Result<(Books, Removed)> {
        let (mut books, mut removed) = (Books::default(), Removed::default());
        for name in key::shards() {
            let shard = self.shard(&name)?;
            self.remove_orphans(&shard)?;
            for value in shard.values {
                if self.is_expired(value.modified) {
                    self.remove_value(&value.name)?;
                    removed.add(value.bytes);
                } else {
                    books.bytes += value.bytes;
                    books.values += 1;
                }
            }
        }
        let excess = size.map_or(0, |size| books.bytes.saturating_sub(size));
        if excess > 0 {
            for victim in self.least_recently_used(excess)? {
                self.remove_value(&victim.0.name)?;
                removed.add(victim.0.bytes);
                books.take_off(1, victim.0.bytes);
            }
        }
        Ok((books, removed))
    }

    /// Values that come to so many bytes, those that were not used for longest.
    fn least_recently_used(&self, excess: u64) -> io::Result<BinaryHeap<ByUse>> {
        let mut oldest = BinaryHeap::<ByUse>::new();
        let mut bytes = 0;
        for name in key::shards() {
            for value in self.shard(&name)?.values {
                bytes += value.bytes;
                oldest.push(ByUse(value));
                // The one that was used last among them may stay if the others are enough.
                while let Some(last) = oldest.peek() {
                    if bytes - last.0.bytes < excess {
                        break;
                    }
                    bytes -= last.0.bytes;
                    oldest.pop();
                }
            }
        }
        Ok(oldest)
    }

    /// Left behind by somebody who was killed in the middle, or by a wipe.
    fn remove_orphans(&self, shard: &Shard) -> io::Result<()> {
        let hash = |name| match key::kind(name) {
            Kind::Value { hash } | Kind::Beside { hash } => Some(hash),
            Kind::Foreign => None,
        };
        let hashes: HashSet<_> = shard.values.iter().map(|value| hash(&value.name)).collect();
        for name in &shard.beside {
            if !hashes.contains(&hash(name)) {
                if_there(fs::remove_file(self.in_shard(name, name)))?;
            }
        }
        Ok(())
    }

    /// Removes a value, and then what stands beside it.
    fn remove_value(&self, name: &str) -> io::Result<bool> {
        let was_there = if_there(fs::remove_file(self.in_shard(name, name)))?.is_some();
        for beside in key::names_beside(name) {
            if_there(fs::remove_file(self.in_shard(name, &beside)))?;
        }
        Ok(was_there)
    }

    /// Removes the value of a key; whether there was one.
    pub(in crate::cache) fn remove(&self, key: &Key, writer: &str) -> io::Result<bool> {
        let mut books = self.books()?;
        let length = if_there(self.value(key).symlink_metadata())?.map(|metadata| metadata.len());
        let was_there = self.remove_value(key.value())?;
        if let Some(length) = length.filter(|_| was_there) {
            books.take_off(1, length);
            self.write_books_if_possible(books, writer);
        }
        Ok(was_there)
    }

    /// Removes every value.
    pub(in crate::cache) fn clear(&self, writer: &str) -> io::Result<Removed> {
        let mut removed = Removed::default();
        for name in key::shards() {
            let shard = self.shard(&name)?;
            for Value { name, bytes, .. } in &shard.values {
                self.remove_value(name)?;
                removed.add(*bytes);
            }
            self.remove_orphans(&Shard { values: Vec::new(), beside: shard.beside })?;
        }
        self.write_books_if_possible(Books::default(), writer);
        Ok(removed)
    }
}

/// The greatest is the one that was used last.
struct ByUse(Value);

impl ByUse {
    fn order(&self) -> (SystemTime, &str) {
        (self.0.used, &self.0.name)
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
