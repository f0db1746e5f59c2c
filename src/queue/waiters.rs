//! The line of waiters: a slab of slots, linked in order of arrival.
//!
//! Invariants:
//! 1. A slot exists from `push` until its owner takes it with `remove`; nobody else frees it, so
//!    a [`Ticket`] never points to another waiter's slot.
//! 2. A slot is linked exactly while its state is `Waiting`. `settle` unlinks.
//!
//! Every operation is O(1); a slab that has grown once allocates no more for as many waiters.

use slab::Slab;

use super::{Mode, Patience};

/// A place in the queue. Owned by one request, given back by polling or cancelling.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ticket(usize);

/// What became of a waiter that is no longer in line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled<E> {
    /// It holds the lock, in the tenure of this epoch.
    Granted(u64),
    /// The OS refused the lock for a reason other than contention.
    Failed(E),
    /// It did not want to wait, and would have had to.
    Refused,
    /// The lock file is gone from its path: ask again on a new one.
    Moved,
}

#[derive(Debug)]
pub(super) struct Waiter<W> {
    pub(super) mode: Mode,
    pub(super) patience: Patience,
    waker: Option<W>,
    previous: Option<usize>,
    next: Option<usize>,
}

#[derive(Debug)]
enum Slot<W, E> {
    Waiting(Waiter<W>),
    Settled(Settled<E>),
}

#[derive(Debug)]
pub(super) struct Waiters<W, E> {
    slots: Slab<Slot<W, E>>,
    first: Option<usize>,
    last: Option<usize>,
}

impl<W, E> Waiters<W, E> {
    pub(super) fn new() -> Self {
        // One slot up front: a lock that nobody contends for never allocates again.
        Self { slots: Slab::with_capacity(1), first: None, last: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The one at the head of the line.
    pub(super) fn first(&self) -> Option<&Waiter<W>> {
        self.first.map(|at| self.waiting(at))
    }

    pub(super) fn push(&mut self, mode: Mode, patience: Patience) -> Ticket {
        let waiter = Waiter { mode, patience, waker: None, previous: self.last, next: None };
        let at = self.slots.insert(Slot::Waiting(waiter));
        match self.last {
            Some(last) => self.waiting_mut(last).next = Some(at),
            None => self.first = Some(at),
        }
        self.last = Some(at);
        Ticket(at)
    }

    /// Takes the head out of the line, leaves the outcome in its slot, and returns its waker.
    pub(super) fn settle_first(&mut self, outcome: Settled<E>) -> Option<W> {
        let at = self.first.expect("only a non-empty line is settled");
        let waker = self.unlink(at).waker;
        self.slots[at] = Slot::Settled(outcome);
        waker
    }

    /// `Err` with the registered waker while the request still waits.
    pub(super) fn outcome(&self, ticket: &Ticket) -> Result<&Settled<E>, Option<&W>> {
        match &self.slots[ticket.0] {
            Slot::Waiting(waiter) => Err(waiter.waker.as_ref()),
            Slot::Settled(outcome) => Ok(outcome),
        }
    }

    /// Replaces the waker of a waiting request and returns what is to be dropped.
    pub(super) fn register(&mut self, ticket: &Ticket, waker: W) -> Option<W> {
        match &mut self.slots[ticket.0] {
            Slot::Waiting(waiter) => waiter.waker.replace(waker),
            Slot::Settled(_) => Some(waker),
        }
    }

    /// Frees the slot: the waker if it was still waiting, otherwise the outcome.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Result<Settled<E>, Option<W>> {
        if let Slot::Waiting(_) = self.slots[ticket.0] {
            let waker = self.unlink(ticket.0).waker;
            self.slots.remove(ticket.0);
            return Err(waker);
        }
        match self.slots.remove(ticket.0) {
            Slot::Settled(outcome) => Ok(outcome),
            Slot::Waiting(_) => unreachable!("handled above"),
        }
    }

    fn waiting(&self, at: usize) -> &Waiter<W> {
        match &self.slots[at] {
            Slot::Waiting(waiter) => waiter,
            Slot::Settled(_) => unreachable!("only waiting slots are linked"),
        }
    }

    fn waiting_mut(&mut self, at: usize) -> &mut Waiter<W> {
        match &mut self.slots[at] {
            Slot::Waiting(waiter) => waiter,
            Slot::Settled(_) => unreachable!("only waiting slots are linked"),
        }
    }

    /// Takes a waiting slot out of the line. The slot itself is left as `Refused` for the caller
    /// to overwrite or free.
    fn unlink(&mut self, at: usize) -> Waiter<W> {
        let slot = std::mem::replace(&mut self.slots[at], Slot::Settled(Settled::Refused));
        let Slot::Waiting(waiter) = slot else { unreachable!("only waiting slots are linked") };
        match waiter.previous {
            Some(previous) => self.waiting_mut(previous).next = waiter.next,
            None => self.first = waiter.next,
        }
        match waiter.next {
            Some(next) => self.waiting_mut(next).previous = waiter.previous,
            None => self.last = waiter.previous,
        }
        waiter
    }
}
