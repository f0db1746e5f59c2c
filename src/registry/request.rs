//! A request for a lock, from its place in the queue to the hold.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::Membership;
use super::entry::{Thread, carry_out};
use super::recorded::Told;
use crate::queue::{Mode, Patience, Requested, Settled, Ticket};
use crate::shim::Arc;
use crate::wait;

/// Why a request did not become a hold.
#[derive(Debug)]
pub(crate) enum Denied {
    /// It would have had to wait, and did not want to.
    Refused,
    /// The lock file is gone from its path.
    Moved,
    Failed(io::Error),
}

/// A place in the queue, or the lock that came of it. Dropping gives either back.
#[derive(Debug)]
pub(crate) struct Request {
    member: Arc<Membership>,
    state: State,
}

#[derive(Debug)]
enum State {
    Queued(Option<Ticket>),
    Settled(Option<Settled<io::Error>>),
}

impl Request {
    /// Joins the queue now, not at the first poll.
    pub(crate) fn new(member: Arc<Membership>, mode: Mode) -> Self {
        Self::with(member, mode, Patience::Wait, Thread::Requester)
    }

    fn with(member: Arc<Membership>, mode: Mode, patience: Patience, thread: Thread) -> Self {
        let (requested, effects) = member.entry().request(mode, patience);
        let state = match requested {
            Requested::Queued(ticket) => State::Queued(Some(ticket)),
            Requested::Granted(epoch) => State::Settled(Some(Settled::Granted(epoch))),
            Requested::Refused => State::Settled(Some(Settled::Refused)),
            Requested::Moved => State::Settled(Some(Settled::Moved)),
        };
        // The request owns its place before anything of the effects can go wrong.
        let request = Self { member, state };
        let _ = carry_out(&request.member, effects, thread);
        request
    }

    pub(crate) fn member(&self) -> &Arc<Membership> {
        &self.member
    }

    fn settled(&self, settled: Settled<io::Error>) -> Result<Hold, Denied> {
        match settled {
            Settled::Granted(_) => Ok(Hold { member: self.member.clone(), held: true }),
            Settled::Failed(error) => Err(Denied::Failed(error)),
            Settled::Refused => Err(Denied::Refused),
            Settled::Moved => Err(Denied::Moved),
        }
    }
}

/// Asks without waiting for a holder. Blocks for the time of a lock call.
pub(crate) fn try_hold(member: &Arc<Membership>, mode: Mode) -> Result<Hold, Denied> {
    let mut request = Request::with(member.clone(), mode, Patience::Try, Thread::Errand);
    let settled = match &mut request.state {
        State::Settled(settled) => settled.take(),
        // The try was made on this thread, so it has been answered.
        State::Queued(ticket) => member.entry().event(|queue| queue.poll(ticket)),
    };
    request.settled(settled.expect("a request that does not wait is settled at once"))
}

impl Future for Request {
    type Output = Result<Hold, Denied>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ticket = match &mut this.state {
            State::Settled(settled) => {
                let settled = settled.take().expect("polled after completion");
                return Poll::Ready(this.settled(settled));
            }
            State::Queued(ticket) => ticket,
        };
        let entry = this.member.entry();
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
            drop(discard);
        }
        match settled {
            Ok(Some(settled)) => {
                this.state = State::Settled(None);
                Poll::Ready(this.settled(settled))
            }
            Ok(None) | Err(()) => Poll::Pending,
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.member.is_inherited() {
            return;
        }
        let effects = match &mut self.state {
            State::Queued(ticket) => {
                let Some(ticket) = ticket.take() else { return };
                self.member.entry().event(|queue| queue.cancel(ticket))
            }
            State::Settled(Some(Settled::Granted(_))) => self.member.entry().release(),
            State::Settled(_) => return,
        };
        let _ = carry_out(&self.member, effects, Thread::Caller);
    }
}

/// A granted lock. Dropping it releases.
#[derive(Debug)]
pub(crate) struct Hold {
    member: Arc<Membership>,
    held: bool,
}

impl Hold {
    pub(crate) fn member(&self) -> &Arc<Membership> {
        &self.member
    }

    /// An exclusive guard is given out: what it gets to know of the record of its tenure.
    pub(crate) fn tell(&self) -> Option<Told> {
        self.member.entry().tell()
    }

    /// Somebody waits for the lock, as far as this process can see. Makes a system call.
    pub(crate) fn is_contended(&self) -> bool {
        !self.member.is_inherited() && self.member.entry().is_contended()
    }

    /// On a local file system, where calls may be made in place.
    pub(crate) fn is_local(&self) -> bool {
        self.member.entry().file().is_local()
    }

    /// Whether a path was seen to lead to the file since the OS lock was acquired.
    pub(crate) fn was_seen_at_path(&self) -> bool {
        self.member.entry().was_seen_at_path()
    }

    pub(crate) fn saw_at_path(&self) {
        self.member.entry().saw_at_path();
    }

    /// Releases, and tells what the OS said to it.
    pub(crate) async fn unlock(mut self) -> io::Result<()> {
        self.held = false;
        let effects = self.member.entry().release();
        if effects.os.is_none() || self.is_local() {
            return carry_out(&self.member, effects, Thread::Caller);
        }
        let member = self.member.clone();
        let job = move || carry_out(&member, effects, Thread::Errand);
        wait::errand_with_answer(self.member.pool(), job).await
    }

    /// From exclusive to shared.
    pub(crate) fn downgrade(&self) {
        if self.member.is_inherited() {
            return;
        }
        let effects = self.member.entry().downgrade();
        let _ = carry_out(&self.member, effects, Thread::Caller);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.held && !self.member.is_inherited() {
            let effects = self.member.entry().release();
            let _ = carry_out(&self.member, effects, Thread::Caller);
        }
    }
}
