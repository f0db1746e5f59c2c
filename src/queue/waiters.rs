//! The line of waiters: a slab of slots, linked in order of arrival. Those that have come from the line of a
//! lock file that was removed stand before all others, in the order that they had there.
//!
//! Invariants:
//! 1. A slot exists from `push` until its owner takes it with `remove`; only the owner frees it, so
//!    a [`Ticket`] never points to another waiter's slot.
//! 2. A slot is linked exactly while its state is `Waiting`. `complete_first` unlinks.
//!
//! 3. Waiters with a rank are linked together, from the lowest rank to the highest. Before them is none, or one
//!    that does not wait.
//!
//! Every operation is O(1), but for waiters that move: they pass the ones that have come before it was their turn.
//! A slab that has grown once allocates no more for as many waiters. A slot
//! takes 32 bytes, so a slab that has just doubled takes at most 64 for each waiter.

use std::num::NonZeroU32;

use slab::Slab;

use super::{Outcome, Patience};
use crate::mode::Mode;

/// A slot of the queue. Owned by one request, given back by polling or cancelling.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ticket(Index);

/// Where a slot is: its index and one, so that `Option<Index>` takes four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Index(NonZeroU32);

impl Ticket {
    /// No other request has it for as long as the ticket lasts.
    pub(crate) fn index(&self) -> Index {
        self.0
    }
}

impl Index {
    #[inline]
    fn at(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("fewer waiters than memory allows"))
    }

    #[inline]
    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Which of the requests that have moved from one lock file to the next came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank(pub(crate) NonZeroU32);

#[derive(Debug)]
pub(super) struct Waiter<W> {
    pub(super) mode: Mode,
    pub(super) patience: Patience,
    pub(super) rank: Option<Rank>,
    waker: Option<W>,
    previous: Option<Index>,
    next: Option<Index>,
}

#[derive(Debug)]
enum Slot<W, E> {
    Waiting(Waiter<W>),
    Completed(Outcome<E>),
}

#[derive(Debug)]
pub(super) struct Waiters<W, E> {
    slots: Slab<Slot<W, E>>,
    first: Option<Index>,
    last: Option<Index>,
    last_ranked: Option<Index>,
}

impl<W, E> Waiters<W, E> {
    pub(super) fn new() -> Self {
        // One slot up front: a lock without contention never allocates again.
        Self { slots: Slab::with_capacity(1), first: None, last: None, last_ranked: None }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The one at the head of the line.
    #[inline]
    pub(super) fn first(&self) -> Option<&Waiter<W>> {
        self.first.map(|at| self.waiting(at))
    }

    /// Where the first one is.
    pub(super) fn first_index(&self) -> Option<Index> {
        self.first
    }

    /// Whether the request with this index holds the lock, and does not know yet.
    pub(super) fn is_granted(&self, at: Index) -> bool {
        matches!(self.slots.get(at.index()), Some(Slot::Completed(Outcome::Granted(()))))
    }

    #[inline]
    pub(super) fn push(&mut self, mode: Mode, patience: Patience) -> Ticket {
        let (rank, previous) = (None, self.last);
        let waiter = Waiter { mode, patience, rank, waker: None, previous, next: None };
        let at = Index::at(self.slots.insert(Slot::Waiting(waiter)));
        match self.last {
            Some(last) => self.waiting_mut(last).next = Some(at),
            None => self.first = Some(at),
        }
        self.last = Some(at);
        Ticket(at)
    }

    /// Puts a request that has moved where its rank belongs.
    pub(super) fn insert(&mut self, mode: Mode, rank: Rank) -> Ticket {
        let mut previous = self.last_ranked;
        while let Some(at) = previous.filter(|at| self.waiting(*at).rank > Some(rank)) {
            previous = self.waiting(at).previous;
        }
        if previous.is_none() {
            // One that does not wait is answered as the first in line.
            let first = self.first;
            previous = first.filter(|at| self.waiting(*at).patience == Patience::Try);
        }
        let next = match previous {
            Some(previous) => self.waiting(previous).next,
            None => self.first,
        };
        let (patience, rank) = (Patience::Wait, Some(rank));
        let waiter = Waiter { mode, patience, rank, waker: None, previous, next };
        let at = Index::at(self.slots.insert(Slot::Waiting(waiter)));
        match previous {
            Some(previous) => self.waiting_mut(previous).next = Some(at),
            None => self.first = Some(at),
        }
        match next {
            Some(next) => self.waiting_mut(next).previous = Some(at),
            None => self.last = Some(at),
        }
        if next.is_none_or(|next| self.waiting(next).rank.is_none()) {
            self.last_ranked = Some(at);
        }
        Ticket(at)
    }

    /// Takes the head out of the line, leaves the outcome in its slot, and returns its waker.
    #[inline]
    pub(super) fn complete_first(&mut self, outcome: Outcome<E>) -> Option<W> {
        let at = self.first.expect("only a line with a waiter has a first one");
        let waker = self.unlink(at);
        self.slots[at.index()] = Slot::Completed(outcome);
        waker
    }

    /// `Err` with the registered waker while the request still waits.
    #[inline]
    pub(super) fn outcome(&self, ticket: &Ticket) -> Result<&Outcome<E>, Option<&W>> {
        match &self.slots[ticket.0.index()] {
            Slot::Waiting(waiter) => Err(waiter.waker.as_ref()),
            Slot::Completed(outcome) => Ok(outcome),
        }
    }

    /// Replaces the waker of a waiting request and returns what is to be dropped.
    #[inline]
    pub(super) fn register(&mut self, ticket: &Ticket, waker: W) -> Option<W> {
        match &mut self.slots[ticket.0.index()] {
            Slot::Waiting(waiter) => waiter.waker.replace(waker),
            Slot::Completed(_) => Some(waker),
        }
    }

    /// Frees the slot: the waker if it was still waiting, otherwise the outcome.
    #[inline]
    pub(super) fn remove(&mut self, ticket: Ticket) -> Result<Outcome<E>, Option<W>> {
        let at = ticket.0;
        if let Slot::Waiting(_) = self.slots[at.index()] {
            let waker = self.unlink(at);
            self.slots.remove(at.index());
            return Err(waker);
        }
        match self.slots.remove(at.index()) {
            Slot::Completed(outcome) => Ok(outcome),
            Slot::Waiting(_) => unreachable!("handled above"),
        }
    }

    /// No request is told any more that it was granted. All wait, and stand in no line.
    #[cfg(any(test, feature = "test-util"))]
    pub(super) fn take_grants_back(&mut self) {
        (self.first, self.last, self.last_ranked) = (None, None, None);
        for (_, slot) in &mut self.slots {
            match slot {
                Slot::Waiting(waiter) => (waiter.previous, waiter.next) = (None, None),
                Slot::Completed(Outcome::Granted(())) => {
                    let (mode, patience) = (Mode::Shared, Patience::Wait);
                    let (rank, waker, previous, next) = (None, None, None, None);
                    *slot = Slot::Waiting(Waiter { mode, patience, rank, waker, previous, next });
                }
                Slot::Completed(_) => {}
            }
        }
    }

    #[inline]
    fn waiting(&self, at: Index) -> &Waiter<W> {
        match &self.slots[at.index()] {
            Slot::Waiting(waiter) => waiter,
            Slot::Completed(_) => unreachable!("only waiting slots are linked"),
        }
    }

    #[inline]
    fn waiting_mut(&mut self, at: Index) -> &mut Waiter<W> {
        match &mut self.slots[at.index()] {
            Slot::Waiting(waiter) => waiter,
            Slot::Completed(_) => unreachable!("only waiting slots are linked"),
        }
    }

    /// Takes a waiting slot out of the line, and its waker out of the slot. The slot itself is left
    /// for the caller to overwrite or free.
    #[inline]
    fn unlink(&mut self, at: Index) -> Option<W> {
        let waiter = self.waiting_mut(at);
        let (previous, next, waker) = (waiter.previous, waiter.next, waiter.waker.take());
        match previous {
            Some(previous) => self.waiting_mut(previous).next = next,
            None => self.first = next,
        }
        match next {
            Some(next) => self.waiting_mut(next).previous = previous,
            None => self.last = previous,
        }
        if self.last_ranked == Some(at) {
            self.last_ranked = previous.filter(|at| self.waiting(*at).rank.is_some());
        }
        waker
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_slot_takes_32_bytes() {
        assert_eq!(size_of::<Slot<std::task::Waker, std::io::Error>>(), 32);
    }
}
