//! The locks of a file as a kernel keeps them: which open files hold one, and which calls wait for it. Pure: no mutex, no
//! thread, no clock.
//!
//! There is one kernel in memory, and two use it: [`model`](super::model), whose calls block a thread, for loom; and the
//! simulated machine (`engine::sim`), whose waits take none. Faithful where it matters, and `scenarios` runs one table
//! against both and the real kernel:
//! - a second lock call on the same open file succeeds (it converts the lock; flock(2) gives it back first, and may come
//!   away with nothing);
//! - an unlock drops whatever the open file holds, also when it comes late;
//! - a waiter is served after the first one that it would exclude, and so exclusive ones in order of arrival; but a
//!   newcomer looks at the holders only, and a release is not a hand-off: between the wake-up and the retry of a waiter
//!   another open file may take the lock. When a waiter retries is up to the caller.
//! - flock(2) and the byte ranges of fcntl(2) do not see each other, as on Linux.

use std::collections::BTreeMap;

use super::{Protocol, Region, wire};
use crate::mode::Mode;

/// An open file description, as POSIX calls what each `open` makes: the owner of locks.
pub(crate) type Description = u64;

/// One lock of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slot {
    /// The whole file, by flock(2).
    File,
    /// The byte range that begins here, by fcntl(2). Those of a lock file begin at one byte or do not meet.
    Range(u64),
}

impl Slot {
    pub(crate) fn of(protocol: Protocol, region: Region) -> Self {
        match protocol {
            Protocol::Flock => Self::File,
            Protocol::Fcntl => Self::Range(region.start),
        }
    }

    /// The turnstile of this lock (docs/WIRE.md).
    pub(crate) fn turnstile(self) -> Self {
        Self::Range(match self {
            Self::File => wire::TURNSTILE_OF_FILE,
            Self::Range(start) => start + wire::TURNSTILE_IN_SLOT,
        })
    }
}

/// All locks of one file.
#[derive(Debug, Default)]
pub(crate) struct Locks(BTreeMap<Slot, Lock>);

impl Locks {
    pub(crate) fn at(&mut self, slot: Slot) -> &mut Lock {
        self.0.entry(slot).or_default()
    }

    #[cfg(test)]
    pub(crate) fn get(&self, slot: Slot) -> Option<&Lock> {
        self.0.get(&slot)
    }

    /// Those that are held or waited for, or were.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Lock)> {
        self.0.iter().map(|(slot, lock)| (*slot, lock))
    }
}

/// What came of an attempt at a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) struct Attempted {
    pub(crate) is_acquired: bool,
    /// The open file had the lock in another way before, so others may get in now.
    pub(crate) lets_others_in: bool,
}

/// One lock: its holders, and the calls that wait for it in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Lock {
    held: Vec<(Description, Mode)>,
    waiting: Vec<Waiter>,
    /// How often it was taken.
    taken: u64,
}

#[derive(Debug)]
struct Waiter {
    by: Description,
    mode: Mode,
    /// The waiter that it waits for; `None`: the holders.
    behind: Option<Description>,
}

impl Lock {
    /// Takes the lock if it is free.
    pub(crate) fn attempt(&mut self, slot: Slot, by: Description, mode: Mode) -> Attempted {
        let own = self.held.iter().position(|held| held.0 == by);
        let own = own.map(|at| self.held.remove(at));
        let is_acquired = self.held.iter().all(|held| !excludes(held.1, mode));
        if is_acquired {
            self.taken += 1;
            self.held.push((by, mode));
        } else if let (Slot::Range(_), Some(own)) = (slot, own) {
            self.held.push(own);
            return Attempted { is_acquired: false, lets_others_in: false };
        }
        Attempted { is_acquired, lets_others_in: own.is_some() }
    }

    /// A call begins to wait.
    pub(crate) fn line_up(&mut self, by: Description, mode: Mode) {
        let mut behind = None;
        while let Some(ahead) =
            self.waiting.iter().find(|ahead| ahead.behind == behind && excludes(ahead.mode, mode))
        {
            behind = Some(ahead.by);
        }
        self.waiting.push(Waiter { by, mode, behind });
    }

    /// A call waits no more. Those right behind it look at the holders now.
    pub(crate) fn leave_line(&mut self, by: Description) {
        self.waiting.retain(|waiter| waiter.by != by);
        for waiter in &mut self.waiting {
            if waiter.behind == Some(by) {
                waiter.behind = None;
            }
        }
    }

    /// The call waits for another one that came before it.
    pub(crate) fn is_behind(&self, by: Description) -> bool {
        self.waiting.iter().any(|waiter| waiter.by == by && waiter.behind.is_some())
    }

    /// Gives back what the open file holds; `false` if that is nothing.
    pub(crate) fn release(&mut self, by: Description) -> bool {
        let held = self.held.len();
        self.held.retain(|(other, _)| *other != by);
        held != self.held.len()
    }

    /// No open file holds it.
    pub(crate) fn is_free(&self) -> bool {
        self.held.is_empty()
    }

    /// How often it was taken: another number for each time that one has it.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    pub(crate) fn holders(&self) -> impl Iterator<Item = (Description, Mode)> {
        self.held.iter().copied()
    }

    pub(crate) fn waiting(&self) -> impl Iterator<Item = (Description, Mode)> {
        self.waiting.iter().map(|waiter| (waiter.by, waiter.mode))
    }

    /// The calls that would have the lock if they looked now: an unlock wakes them.
    pub(crate) fn ready(&self) -> Vec<Description> {
        let is_ready = |waiter: &&Waiter| {
            let mut others = self.held.iter().filter(|held| held.0 != waiter.by);
            waiter.behind.is_none() && others.all(|held| !excludes(held.1, waiter.mode))
        };
        self.waiting.iter().filter(is_ready).map(|waiter| waiter.by).collect()
    }
}

/// Whether a lock of one mode keeps out one of another.
pub(crate) fn excludes(one: Mode, other: Mode) -> bool {
    one == Mode::Exclusive || other == Mode::Exclusive
}
