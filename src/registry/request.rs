//! A request for a lock, from its place in the queue to the hold.

use std::future::Future;
use std::io;
use std::mem;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{self, AtomicU32};
use std::task::{Context, Poll, Waker};

use super::Membership;
use super::entry::{Thread, carry_out};
use super::recorded::Told;
use crate::error::Error;
use crate::foreign;
use crate::mode::Mode;
use crate::os::{Kept, Location};
use crate::queue::{Effects, Patience, Rank, Requested, Settled, Ticket};
use crate::shim::Arc;
use crate::wait;

/// Why a request did not become a hold.
#[derive(Debug)]
pub(crate) enum Denied {
    /// It would have had to wait, and did not want to.
    Refused,
    /// The lock file is gone from its path. Who asks again does so with this rank.
    Moved(Rank),
    Failed(io::Error),
}

/// A place in the queue, or the lock that came of it. Dropping gives either back.
#[derive(Debug)]
pub(crate) struct Request {
    /// `None` when the lock has been given out with it.
    member: Option<Arc<Membership>>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// In line. `None` only for a moment, when it is settled.
    Queued(Option<Ticket>),
    /// In line with the waker of the first poll, which is still to come.
    Registered(Ticket),
    Granted,
    Refused,
    Moved(Rank),
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
    pub(crate) fn new(member: Arc<Membership>, mode: Mode) -> Self {
        Self::with(member, mode, Patience::Wait, None, Thread::Requester, None)
    }

    /// Joins the queue where the rank belongs, not at the first poll.
    #[cfg(all(test, tokio_filelock_loom))]
    pub(super) fn ranked(member: Arc<Membership>, mode: Mode, rank: Rank) -> Self {
        Self::with(member, mode, Patience::Wait, Some(rank), Thread::Requester, None)
    }

    /// Joins the queue, where its rank belongs if it comes from another one, and does what of the first
    /// poll needs the queue.
    #[inline]
    pub(crate) fn begin(
        member: Arc<Membership>,
        mode: Mode,
        rank: Option<Rank>,
        cx: &mut Context<'_>,
    ) -> Self {
        // Cloning is foreign code, so it comes before the mutex, needed or not.
        let waker = cx.waker().clone();
        Self::with(member, mode, Patience::Wait, rank, Thread::Requester, Some(waker))
    }

    #[inline]
    fn with(
        member: Arc<Membership>,
        mode: Mode,
        patience: Patience,
        rank: Option<Rank>,
        thread: Thread,
        mut waker: Option<Waker>,
    ) -> Self {
        let mut effects = Effects::default();
        let polled = waker.is_some();
        let (entry, label) = (member.entry(), member.label());
        let requested = entry.request(mode, patience, rank, label, &mut waker, &mut effects);
        let state = match requested {
            Requested::Queued(ticket) if polled && waker.is_none() => State::Registered(ticket),
            Requested::Queued(ticket) => State::Queued(Some(ticket)),
            Requested::Granted(_) => State::Granted,
            Requested::Refused => State::Refused,
            Requested::Moved => State::Moved(rank.unwrap_or_else(new_rank)),
        };
        // The request owns its place before anything of the effects can go wrong.
        let request = Self { member: Some(member), state };
        if let Some(waker) = waker {
            foreign::let_go(waker);
        }
        let _ = carry_out(request.member(), effects, thread);
        request
    }

    #[inline]
    pub(crate) fn member(&self) -> &Arc<Membership> {
        self.member.as_ref().expect("not given out yet")
    }

    /// What became of it, once that is known.
    #[inline]
    fn settled(&mut self, settled: Settled<io::Error>) -> Result<Hold, Denied> {
        self.state = State::Done;
        match settled {
            Settled::Granted(_) => Ok(Hold(self.member.take())),
            Settled::Failed(error) => Err(Denied::Failed(error)),
            Settled::Refused => Err(Denied::Refused),
            Settled::Moved(rank) => Err(Denied::Moved(rank)),
        }
    }
}

/// Asks without waiting for a holder. Blocks for the time of a lock call.
pub(crate) fn try_hold(member: &Arc<Membership>, mode: Mode) -> Result<Hold, Denied> {
    let mut request = Request::with(member.clone(), mode, Patience::Try, None, Thread::Asked, None);
    // The try was made on this thread, so it has been answered.
    match Pin::new(&mut request).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => unreachable!("a request that does not wait is settled at once"),
    }
}

impl Future for Request {
    type Output = Result<Hold, Denied>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let State::Registered(_) = &this.state {
            let State::Registered(ticket) = mem::replace(&mut this.state, State::Done) else {
                unreachable!("looked at above")
            };
            this.state = State::Queued(Some(ticket));
            return Poll::Pending;
        }
        // It keeps its ticket until it is settled, whatever foreign code does.
        let State::Queued(ticket) = &mut this.state else {
            return Poll::Ready(match mem::replace(&mut this.state, State::Done) {
                State::Granted => Ok(Hold(this.member.take())),
                State::Refused => Err(Denied::Refused),
                State::Moved(rank) => Err(Denied::Moved(rank)),
                _ => panic!("polled after completion"),
            });
        };
        let member = this.member.as_ref().expect("not given out yet");
        let entry = member.entry();
        if let Some(label) = member.label() {
            let (settled, discard) = entry.poll_labelled(ticket, label, cx.waker().clone());
            if let Some(waker) = discard {
                foreign::let_go(waker);
            }
            return match settled {
                Some(settled) => Poll::Ready(this.settled(settled)),
                None => Poll::Pending,
            };
        }
        let mut settled = entry.event(|queue| {
            let settled = queue.poll(ticket);
            let waker = ticket.as_ref().and_then(|ticket| queue.waker(ticket));
            match waker {
                Some(waker) if waker.will_wake(cx.waker()) => Err(()),
                _ => Ok(settled),
            }
        });
        if let Ok(None) = settled {
            // Cloning is foreign code, and so is dropping: both outside the mutex.
            let waker = cx.waker().clone();
            let discard;
            (settled, discard) = entry.event(|queue| match queue.poll(ticket) {
                Some(settled) => (Ok(Some(settled)), Some(waker)),
                None => {
                    let ticket = ticket.as_ref().expect("still in line");
                    (Ok(None), queue.register(ticket, waker))
                }
            });
            if let Some(waker) = discard {
                foreign::let_go(waker);
            }
        }
        match settled {
            Ok(Some(settled)) => Poll::Ready(this.settled(settled)),
            Ok(None) | Err(()) => Poll::Pending,
        }
    }
}

impl Drop for Request {
    #[inline]
    fn drop(&mut self) {
        let Some(member) = self.member.take().filter(|member| !member.is_inherited()) else {
            return;
        };
        let mut effects = Effects::default();
        match mem::replace(&mut self.state, State::Done) {
            State::Queued(Some(ticket)) | State::Registered(ticket) => {
                effects = match member.label() {
                    None => member.entry().event(|queue| queue.cancel(ticket)),
                    Some(_) => member.entry().cancel_labelled(ticket),
                };
            }
            State::Granted => release(&member, &mut effects),
            State::Queued(None) | State::Refused | State::Moved(_) | State::Done => return,
        }
        let _ = carry_out(&member, effects, Thread::Caller);
    }
}

/// A holder lets go.
#[inline(always)]
fn release(member: &Membership, effects: &mut Effects<Waker>) {
    if let Some(label) = member.label() {
        member.entry().release_label(label);
    }
    member.entry().release(effects);
}

/// A granted lock. Dropping it releases. Empty only while it is unlocked.
#[derive(Debug)]
pub(crate) struct Hold(Option<Arc<Membership>>);

impl Hold {
    #[inline]
    pub(crate) fn member(&self) -> &Arc<Membership> {
        self.0.as_ref().expect("held until it is unlocked")
    }

    /// An exclusive guard is given out: what it gets to know of the record of its tenure.
    #[inline]
    pub(crate) fn tell(&self) -> Option<Told> {
        self.member().entry().tell()
    }

    /// Somebody waits for the lock, as far as this process can see. Makes a system call.
    pub(crate) fn is_contended(&self) -> bool {
        !self.member().is_inherited() && self.member().entry().is_contended()
    }

    /// On a local file system, where calls may be made in place.
    #[inline]
    pub(crate) fn is_local(&self) -> bool {
        self.member().entry().file().is_local()
    }

    /// The path does not lead to the file. Those in line find out where theirs leads before they hold what
    /// this one holds.
    pub(crate) fn send_others_on(&self) {
        let member = self.member();
        let effects = member.entry().event(|queue| queue.send_on(new_rank));
        let _ = carry_out(member, effects, Thread::Caller);
    }

    /// Whether a path was seen to lead to the file since the OS lock was acquired.
    pub(crate) fn was_seen_at_path(&self) -> bool {
        self.member().entry().was_seen_at_path()
    }

    pub(crate) fn saw_at_path(&self) {
        self.member().entry().saw_at_path();
    }

    /// Releases, and tells what the OS said to it.
    pub(crate) async fn unlock(mut self) -> io::Result<()> {
        let member = self.0.take().expect("held until now");
        let mut effects = Effects::default();
        release(&member, &mut effects);
        if effects.os.is_none() || member.entry().file().is_local() {
            return carry_out(&member, effects, Thread::Caller);
        }
        let pool = member.pool().clone();
        let job = move || carry_out(&member, effects, Thread::Asked);
        wait::errand_with_answer(&pool, job).await
    }

    /// Removes the lock file at this place, and releases in any case.
    pub(crate) async fn remove_file(self, at: Location) -> Result<Option<Kept>, Error> {
        let is_local = self.is_local();
        let pool = self.member().pool().clone();
        let job = move || match self.member().entry().remove_file(&at)? {
            Ok(effects) => {
                let _ = carry_out(self.member(), effects, Thread::Caller);
                Ok(None)
            }
            Err(kept) => Ok(Some(kept)),
        };
        if is_local { job() } else { wait::errand_with_answer(&pool, job).await }
    }

    /// From exclusive to shared.
    pub(crate) fn downgrade(&self) {
        let member = self.member();
        if member.is_inherited() {
            return;
        }
        let effects = member.entry().downgrade();
        let _ = carry_out(member, effects, Thread::Caller);
    }
}

impl Drop for Hold {
    #[inline]
    fn drop(&mut self) {
        let Some(member) = self.0.take().filter(|member| !member.is_inherited()) else { return };
        let mut effects = Effects::default();
        release(&member, &mut effects);
        let _ = carry_out(&member, effects, Thread::Caller);
    }
}
