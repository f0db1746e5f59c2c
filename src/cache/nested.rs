//! Fills inside of fills: what a fill asks the cache for while it is polled.
//!
//! Two keys may share a slot, by a strange chance, and then they have one lock. A fill of the one that
//! wants the other would wait for itself. So the fills that are being polled on a thread are known there, and
//! who wants a slot that one of them holds takes turns with the others inside of it: no other fill can
//! have the slot meanwhile. The lock itself is held until all of them are through.
//!
//! What a fill gives to another task is not seen here.
#![allow(clippy::missing_const_for_thread_local)] // it is: clippy 1.96 does not see it for Windows

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::key::Key;
use super::turns::{Turn, Turns};
use crate::lock::{ExclusiveGuard, FileLock};

thread_local! {
    /// From the outermost to the innermost.
    static FILLS: RefCell<Vec<Arc<Fill>>> = const { RefCell::new(Vec::new()) };
}

/// A fill that is under way.
#[derive(Debug)]
struct Fill {
    key: Arc<Key>,
    lock: FileLock,
    guard: Arc<ExclusiveGuard>,
    turns: Turns,
}

/// The lock of a key's slot, and the turn among those who share it.
#[derive(Debug)]
pub(super) struct FillLock {
    guard: Arc<ExclusiveGuard>,
    _turn: Option<Turn>,
}

impl FillLock {
    pub(super) fn new(guard: ExclusiveGuard) -> Self {
        Self { guard: Arc::new(guard), _turn: None }
    }
}

/// Where a fill asks from.
#[derive(Debug)]
pub(super) enum Asked {
    Outside,
    /// Inside of a fill that has this slot.
    Inside(Outer),
    /// Inside of a fill of this very key.
    ForItself,
}

/// A fill that has the slot that is wanted.
#[derive(Debug)]
pub(super) struct Outer(Arc<Fill>);

impl Outer {
    /// `None` if others have it for longer than the limit.
    pub(super) async fn turn(self, limit: Option<Duration>) -> Option<FillLock> {
        let turn = self.0.turns.turn();
        let turn = match limit {
            None => turn.await,
            Some(limit) => tokio::time::timeout(limit, turn).await.ok()?,
        };
        Some(FillLock { guard: self.0.guard.clone(), _turn: Some(turn) })
    }
}

/// Where the task that is polled on this thread asks from for a key with this lock.
pub(super) fn asked(key: &Key, lock: &FileLock) -> Asked {
    let of_slot = |fills: &RefCell<Vec<Arc<Fill>>>| {
        let fills = fills.borrow();
        let mut of_slot = fills.iter().rev().filter(|fill| fill.lock.is_same_lock(lock));
        let innermost = of_slot.clone().next().cloned();
        innermost.map(|fill| (fill, of_slot.any(|fill| *fill.key == *key)))
    };
    match FILLS.try_with(of_slot).ok().flatten() {
        None => Asked::Outside,
        Some((_, true)) => Asked::ForItself,
        Some((fill, false)) => Asked::Inside(Outer(fill)),
    }
}

/// A fill of a key, for what is polled inside of it.
#[derive(Debug, Clone)]
pub(super) struct Inside(Arc<Fill>);

impl Inside {
    pub(super) fn of(key: Arc<Key>, lock: FileLock, held: &FillLock) -> Self {
        let (guard, turns) = (held.guard.clone(), Turns::new(1));
        Self(Arc::new(Fill { key, lock, guard, turns }))
    }

    pub(super) fn poll<F: Future>(&self, future: F) -> PolledInside<F> {
        PolledInside { fill: self.0.clone(), future }
    }
}

pin_project! {
    /// A future that is a part of a fill.
    pub(super) struct PolledInside<F> {
        fill: Arc<Fill>,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for PolledInside<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        struct Entered;

        impl Drop for Entered {
            fn drop(&mut self) {
                drop(FILLS.with(|fills| fills.borrow_mut().pop()));
            }
        }

        let this = self.project();
        let fill = this.fill.clone();
        // Threads that end poll nothing that fills.
        let _entered =
            FILLS.try_with(|fills| fills.borrow_mut().push(fill)).is_ok().then_some(Entered);
        this.future.poll(cx)
    }
}
