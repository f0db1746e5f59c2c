//! A request for a lock, from its place in the queue to the guard.

use std::future::Future;
use std::io;
use std::mem;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{self, AtomicU32};
use std::task::{Context, Poll, Waker};

use super::{Driver, Registration, Thread, drive};
use crate::engine::{MayBlock, TenureInfo};
use crate::foreign;
use crate::mode::Mode;
use crate::queue::{self, Effects, Patience, Rank, Requested, Ticket};
use crate::shim::Arc;

/// What became of a request.
pub(crate) type Outcome = queue::Outcome<io::Error, RawGuard>;

/// A place in the queue, or the lock that came of it. Dropping gives either back.
#[derive(Debug)]
pub(crate) struct Request {
    /// `None` when the lock has been given out with it.
    registration: Option<Arc<Registration>>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// In line. `None` only for a moment, when it is completed.
    Queued(Option<Ticket>),
    /// In line with the waker of the first poll, which is still to come.
    Registered(Ticket),
    /// Completed when it was made.
    Completed(queue::Outcome<io::Error>),
    Done,
}

/// The rank of a request that moves for the first time, behind all that have moved before. After 2^32 moves it begins
/// anew: those that are on their way at that moment are overtaken once, which costs them a turn and nothing else.
pub(crate) fn new_rank() -> Rank {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    loop {
        if let Some(number) = NonZeroU32::new(NEXT.fetch_add(1, atomic::Ordering::Relaxed)) {
            return Rank(number);
        }
    }
}

impl Request {
    /// Joins the queue now, not at the first poll.
    pub(crate) fn new(registration: Arc<Registration>, mode: Mode) -> Self {
        let thread = Thread::of_request(&registration);
        Self::with(registration, mode, Patience::Wait, None, thread, None)
    }

    /// Joins the queue where the rank belongs, not at the first poll.
    #[cfg(all(test, tokio_filelock_loom))]
    pub(super) fn ranked(registration: Arc<Registration>, mode: Mode, rank: Rank) -> Self {
        let thread = Thread::of_request(&registration);
        Self::with(registration, mode, Patience::Wait, Some(rank), thread, None)
    }

    /// Joins the queue, where its rank belongs if it comes from another one, and does what of the first
    /// poll needs the queue.
    #[inline(always)]
    pub(crate) fn begin(
        registration: Arc<Registration>,
        mode: Mode,
        rank: Option<Rank>,
        cx: &mut Context<'_>,
    ) -> Self {
        // Cloning is foreign code, so it comes before the mutex. Whether it is needed is mostly known.
        let waker = registration.driver().would_wait(mode).then(|| cx.waker().clone());
        let thread = Thread::of_request(&registration);
        Self::with(registration, mode, Patience::Wait, rank, thread, waker)
    }

    #[inline(always)]
    fn with(
        registration: Arc<Registration>,
        mode: Mode,
        patience: Patience,
        rank: Option<Rank>,
        thread: Thread,
        mut waker: Option<Waker>,
    ) -> Self {
        let mut effects = Effects::default();
        let polled = waker.is_some();
        let (driver, label) = (registration.driver(), registration.label());
        let requested = driver.request(mode, patience, rank, label, &mut waker, &mut effects);
        let state = match requested {
            Requested::Queued(ticket) if polled && waker.is_none() => State::Registered(ticket),
            Requested::Queued(ticket) => State::Queued(Some(ticket)),
            Requested::Now(outcome) => State::Completed(outcome),
        };
        // The request owns its place before anything of the effects can go wrong.
        let request = Self { registration: Some(registration), state };
        if let Some(waker) = waker {
            foreign::let_go(waker);
        }
        let _ = drive(request.registration(), effects, thread);
        request
    }

    #[inline]
    pub(crate) fn registration(&self) -> &Arc<Registration> {
        self.registration.as_ref().expect("not given out yet")
    }

    /// What became of it, once that is known.
    #[inline]
    fn completed(&mut self, outcome: queue::Outcome<io::Error>) -> Outcome {
        self.state = State::Done;
        match outcome {
            queue::Outcome::Granted(()) => Outcome::Granted(RawGuard(self.registration.take())),
            queue::Outcome::Failed(error) => Outcome::Failed(error),
            queue::Outcome::Refused => Outcome::Refused,
            queue::Outcome::Busy => Outcome::Busy,
            queue::Outcome::Moved(rank) => Outcome::Moved(rank),
        }
    }
}

/// Asks without waiting for a holder. Blocks for the time of a lock call.
pub(crate) fn try_lock(registration: &Arc<Registration>, mode: Mode) -> Outcome {
    let thread = Thread::may_block(MayBlock::ForOneAnswer);
    let mut request = Request::with(registration.clone(), mode, Patience::Try, None, thread, None);
    // The try was made on this thread, so it has been answered, unless its simulated process was killed meanwhile.
    match Pin::new(&mut request).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Outcome::Refused,
    }
}

impl Future for Request {
    type Output = Outcome;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let State::Registered(_) = &this.state {
            let State::Registered(ticket) = mem::replace(&mut this.state, State::Done) else {
                unreachable!("looked at above")
            };
            this.state = State::Queued(Some(ticket));
            return Poll::Pending;
        }
        // It keeps its ticket until it is completed, whatever foreign code does.
        let State::Queued(ticket) = &mut this.state else {
            let State::Completed(outcome) = mem::replace(&mut this.state, State::Done) else {
                panic!("polled after completion")
            };
            return Poll::Ready(this.completed(outcome));
        };
        let registration = this.registration.as_ref().expect("not given out yet");
        let completed = match registration.label() {
            None => poll_in_line(registration.driver(), ticket, cx),
            Some(label) => {
                let waker = cx.waker().clone();
                let (completed, discard) =
                    registration.driver().poll_labelled(ticket, label, waker);
                if let Some(waker) = discard {
                    foreign::let_go(waker);
                }
                completed
            }
        };
        match completed {
            Some(completed) => Poll::Ready(this.completed(completed)),
            None => Poll::Pending,
        }
    }
}

/// What became of a request without a label; `None`: it is still in line, with this waker.
#[inline]
fn poll_in_line(
    driver: &Driver,
    ticket: &mut Option<Ticket>,
    cx: &mut Context<'_>,
) -> Option<queue::Outcome<io::Error>> {
    let polled = driver.event(|queue| {
        let completed = queue.poll(ticket);
        let waker = ticket.as_ref().and_then(|ticket| queue.waker(ticket));
        match waker {
            Some(waker) if waker.will_wake(cx.waker()) => Err(()),
            _ => Ok(completed),
        }
    });
    match polled {
        Ok(Some(completed)) => return Some(completed),
        Err(()) => return None,
        Ok(None) => {}
    }
    // Cloning is foreign code, and so is dropping: both outside the mutex.
    let waker = cx.waker().clone();
    let (completed, discard) = driver.event(|queue| match queue.poll(ticket) {
        Some(completed) => (Some(completed), Some(waker)),
        None => {
            let ticket = ticket.as_ref().expect("still in line");
            (None, queue.register(ticket, waker))
        }
    });
    if let Some(waker) = discard {
        foreign::let_go(waker);
    }
    completed
}

impl Drop for Request {
    /// The common one has given the lock out, and nothing is left to give up.
    #[inline]
    fn drop(&mut self) {
        if let Some(registration) = self.registration.take() {
            give_up(&registration, mem::replace(&mut self.state, State::Done));
        }
    }
}

#[inline(never)]
fn give_up(registration: &Arc<Registration>, state: State) {
    if !registration.is_inherited() {
        registration.step();
        let mut effects = Effects::default();
        match state {
            State::Queued(Some(ticket)) | State::Registered(ticket) => {
                registration.driver().cancel(ticket, registration.label(), &mut effects);
            }
            State::Completed(queue::Outcome::Granted(())) => release(registration, &mut effects),
            State::Queued(None) | State::Completed(_) | State::Done => return,
        }
        let _ = drive(registration, effects, Thread::may_block(MayBlock::No));
    }
}

/// A holder lets go.
#[inline(always)]
fn release(registration: &Registration, effects: &mut Effects<Waker>) {
    registration.driver().release(registration.label(), effects);
}

/// A granted lock. Dropping it releases. Empty only while it is unlocked.
#[derive(Debug)]
pub(crate) struct RawGuard(Option<Arc<Registration>>);

impl RawGuard {
    #[inline]
    pub(crate) fn registration(&self) -> &Arc<Registration> {
        self.0.as_ref().expect("held until it is unlocked")
    }

    /// An exclusive guard is given out: what it gets to know of its tenure.
    #[inline]
    pub(crate) fn tenure_info(&self) -> Option<TenureInfo> {
        let driver = self.registration().driver();
        if driver.has_tenure_info() { driver.engine().tenure_info() } else { None }
    }

    /// A task or another process waits for the lock, as far as this process can see. Makes a system call.
    pub(crate) fn is_contended(&self) -> bool {
        let registration = self.registration();
        if registration.is_inherited() {
            return false;
        }
        registration.step();
        registration.driver().is_contended()
    }

    /// The handle does not lead to this lock. The requests in line find out where their handles lead before they hold
    /// what this one holds.
    pub(crate) fn send_others_on(&self) {
        self.update_queue(queue::Queue::send_on);
    }

    /// The file that is locked is gone. All requests that wait for it, and all that come, look for where their handle leads.
    pub(crate) fn set_removed(&self) {
        self.update_queue(queue::Queue::removed);
    }

    /// From exclusive to shared.
    pub(crate) fn downgrade(&self) {
        let registration = self.registration();
        if registration.is_inherited() {
            return;
        }
        registration.step();
        let mut effects = Effects::default();
        registration.driver().downgrade(&mut effects);
        let _ = drive(registration, effects, Thread::may_block(MayBlock::No));
    }

    fn update_queue(&self, event: fn(&mut queue::Queue<Waker, io::Error>, &mut Effects<Waker>)) {
        let mut effects = Effects::default();
        self.registration().driver().event(|queue| event(queue, &mut effects));
        let _ = drive(self.registration(), effects, Thread::may_block(MayBlock::No));
    }

    /// Releases, and tells what the engine said to it.
    pub(crate) async fn unlock(mut self) -> io::Result<()> {
        let registration = self.0.take().expect("held until now");
        registration.step();
        let mut effects = Effects::default();
        release(&registration, &mut effects);
        if effects.ask.is_none() || registration.answers_at_once() {
            return drive(&registration, effects, Thread::may_block(MayBlock::No));
        }
        let unlocking = registration.clone();
        let thread = Thread::may_block(MayBlock::ForOneAnswer);
        registration.run(move || drive(&unlocking, effects, thread)).await
    }
}

impl Drop for RawGuard {
    #[inline]
    fn drop(&mut self) {
        if let Some(registration) = &self.0 {
            give_back(registration);
        }
    }
}

#[inline(never)]
fn give_back(registration: &Arc<Registration>) {
    if !registration.is_inherited() {
        registration.step();
        let mut effects = Effects::default();
        release(registration, &mut effects);
        let _ = drive(registration, effects, Thread::may_block(MayBlock::No));
    }
}
