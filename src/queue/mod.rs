//! The fair queue of one lock, and the phase of the lock of its engine. Pure: events in, effects out.
//!
//! Nothing here does I/O, reads a clock or calls a waker; the wakers are opaque values that go in
//! with [`Queue::register`] and come out in [`Effects`]. The driver calls an event under its
//! mutex, lets go of the mutex, and carries out the effects, each exactly once.
//!
//! Invariants:
//! 1. A holder exists => the phase is `Held` in a mode at least as strong as the holder's.
//! 2. At most one OS call is under way: a call is asked for only in `Free` (try), while a try
//!    comes back busy or a wait comes back interrupted (wait), or when the last holder leaves
//!    (unlock); `Trying`, `Waiting` and `Releasing` last until its answer arrives. So an unlock
//!    is over before the next lock call: on one open file a second lock call would "succeed"
//!    against our own old lock, and the late unlock would drop it.
//! 3. In `Held` there is a holder. The event that removes the last holder either grants to the next
//!    in line or moves to `Releasing`.
//! 4. Waiters are granted from the head only. A newcomer is granted at once only if the line is empty. One that
//!    comes from the line of a file that was removed stands before the newcomers.
//! 5. A waiter leaves the line by an outcome or by its own cancel, never otherwise; a completed
//!    grant that is cancelled counts as released.
//!
//! Liveness follows from 2 and 3: while a request waits there is a call under way or a holder, and
//! each of their ends looks at the line again (`advance`).

mod pacing;
mod waiters;

#[cfg(all(test, not(tokio_filelock_loom)))]
mod properties;
#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests;

pub(crate) use pacing::{Check, Pacing, Step};
pub(crate) use waiters::{Index, Rank, Ticket};

use waiters::Waiters;

use crate::mode::Mode;

/// Whether a request stays when it cannot be granted at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    Wait,
    Try,
}

/// What the queue asks of an engine. Each call has exactly one [`Answer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Ask for the lock without blocking.
    Try(Mode),
    /// Ask and wait until it is there.
    Wait(Mode),
    /// Let those processes in that the unlock has woken, then as `Wait`.
    BackOff(Mode),
    /// Give the lock back.
    Unlock,
}

/// How an engine answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<E> {
    /// To all but `Unlock`.
    Acquired,
    /// To `Try`: another process has the lock, or is next.
    Busy,
    /// To `Wait` and `BackOff`: it came back without the lock because it was asked to.
    Interrupted,
    /// To `BackOff`: there is no thread to back off on. The lock is asked for at once.
    NotBackedOff,
    /// To all but `Unlock`: the lock was on something that the handles do not lead to any more, and has been
    /// given back. The requests in line move on, and so do all that come later.
    Gone,
    /// To all but `Unlock`: the request at the head of the line learns it, and the next one makes an attempt of its own.
    Failed(E),
    /// To `Unlock`; with what the system said to it. Whatever that is, the lock counts as free.
    Released(Result<(), E>),
}

/// A call that is under way. Its answer consumes it, so there is exactly one.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a call has exactly one answer"]
pub(crate) struct Attempt(AttemptId);

impl Attempt {
    /// One of a call that no queue has asked for.
    #[cfg(all(test, not(tokio_filelock_loom)))]
    pub(crate) fn numbered(number: u64) -> Self {
        Self(AttemptId(number))
    }

    pub(crate) fn id(&self) -> AttemptId {
        self.0
    }
}

/// Which call an interrupt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttemptId(u64);

/// What one event asks of an engine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Call(Call, Attempt),
    /// Make this wait return early, if that is possible. Has no answer of its own.
    Interrupt(AttemptId),
}

/// What became of a request. `G` is what a grant comes with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome<E, G = ()> {
    Granted(G),
    /// It would have had to wait for other requests of this process, and did not want to.
    Refused,
    /// The same, but another process is in the way: the engine was asked.
    Busy,
    /// The lock is gone from where its handle leads: ask again on the new one, with this rank.
    Moved(Rank),
    Failed(E),
}

/// What an event asks for, to be carried out after the mutex is let go.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "effects are carried out exactly once"]
pub(crate) struct Effects<W> {
    pub(crate) ask: Option<Ask>,
    /// Wake these. The first one is apart because one is the common number, and free of heap.
    pub(crate) wake: Option<W>,
    pub(crate) wake_more: Vec<W>,
    /// Drop these: a waker's drop is foreign code as well.
    pub(crate) discard: Option<W>,
}

impl<W> Default for Effects<W> {
    fn default() -> Self {
        Self { ask: None, wake: None, wake_more: Vec::new(), discard: None }
    }
}

impl<W> Effects<W> {
    #[inline]
    fn wake(&mut self, waker: Option<W>) {
        match self.wake {
            None => self.wake = waker,
            Some(_) => self.wake_more.extend(waker),
        }
    }
}

#[cfg(test)]
impl<E: std::fmt::Debug, G: std::fmt::Debug> Outcome<E, G> {
    #[track_caller]
    pub(crate) fn unwrap(self) -> G {
        match self {
            Outcome::Granted(guard) => guard,
            other => panic!("not granted: {other:?}"),
        }
    }

    pub(crate) fn is_granted(&self) -> bool {
        matches!(self, Outcome::Granted(_))
    }
}

/// The answer to a request.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a granted lock must be released, a ticket polled or cancelled"]
pub(crate) enum Requested<E> {
    /// At once.
    Now(Outcome<E>),
    Queued(Ticket),
}

/// What the queue has counted since it exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Locks granted.
    pub(crate) granted: u64,
    /// Times the OS lock was acquired.
    pub(crate) tenures: u64,
    /// Times the lock went on to another holder, or group of shared ones, inside a tenure.
    pub(crate) handovers: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Free,
    Trying(Mode),
    Waiting {
        mode: Mode,
        interrupted: bool,
    },
    /// The handovers so far, and whether the tenure was ended before their bound.
    Held {
        mode: Mode,
        handovers: Option<u32>,
        over: Option<End>,
    },
    Releasing {
        back_off: bool,
    },
    /// The process was killed: a simulated one. Nothing is granted and no answer counts any more.
    #[cfg_attr(not(any(test, feature = "test-util")), allow(dead_code))]
    Ended,
}

/// Why a tenure is ended before its bound, and so what comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Another process waits in its turn: the next try sees it.
    Seen,
    /// Another program may wait that takes no turns: it cannot be seen, and needs a moment to get in.
    Unseen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holders {
    None,
    Shared(usize),
    Exclusive,
}

impl Holders {
    #[inline]
    fn admit(self, mode: Mode) -> bool {
        match self {
            Holders::None => true,
            Holders::Shared(_) => mode == Mode::Shared,
            Holders::Exclusive => false,
        }
    }
}

/// The queue and OS phase of one lock. `W` is a waker, `E` the error of an engine.
#[derive(Debug)]
pub(crate) struct Queue<W, E> {
    waiters: Waiters<W, E>,
    holders: Holders,
    phase: Phase,
    /// Calls so far: the number of the last one.
    calls: u64,
    /// The rank of a request that moves for the first time, behind all that have moved before.
    new_rank: fn() -> Rank,
    max_handovers: u32,
    stale: bool,
    counts: Counts,
}

impl<W, E> Queue<W, E> {
    /// A tenure has no bound, until [`limit_handovers`](Self::limit_handovers) sets one.
    pub(crate) fn new(new_rank: fn() -> Rank) -> Self {
        Self {
            waiters: Waiters::new(),
            holders: Holders::None,
            phase: Phase::Free,
            calls: 0,
            new_rank,
            max_handovers: u32::MAX,
            stale: false,
            counts: Counts::default(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// How the OS lock is held.
    pub(crate) fn os_mode(&self) -> Option<Mode> {
        match self.phase {
            Phase::Held { mode, .. } => Some(mode),
            Phase::Free
            | Phase::Trying(_)
            | Phase::Waiting { .. }
            | Phase::Releasing { .. }
            | Phase::Ended => None,
        }
    }

    /// How many hold the lock.
    pub(crate) fn holders(&self) -> usize {
        match self.holders {
            Holders::None => 0,
            Holders::Exclusive => 1,
            Holders::Shared(count) => count,
        }
    }

    /// Where the head of the line is.
    pub(crate) fn head(&self) -> Option<Index> {
        self.waiters.first_index()
    }

    /// Whether the request with this index holds the lock, and does not know yet.
    pub(crate) fn is_granted(&self, at: Index) -> bool {
        self.waiters.is_granted(at)
    }

    /// A request waits in line.
    #[inline]
    pub(crate) fn is_contended(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// A request of this mode would be granted at once, beside the holders.
    #[inline]
    pub(crate) fn would_join(&self, mode: Mode) -> bool {
        mode == Mode::Shared && self.waiters.is_empty() && self.may_join()
    }

    /// Shared holders let others join them for as long as no other process is seen to wait:
    /// one of them may be waiting for the very task that comes.
    #[inline]
    fn may_join(&self) -> bool {
        let seen = matches!(self.phase, Phase::Held { over: Some(End::Seen), .. });
        matches!(self.holders, Holders::Shared(_)) && !seen && !self.has_ended()
    }

    /// Costs nothing where no process is simulated.
    #[inline]
    fn has_ended(&self) -> bool {
        cfg!(any(test, feature = "test-util")) && matches!(self.phase, Phase::Ended)
    }

    /// A request of this mode would be in line behind others, or wait for the holders, unless that changes.
    #[inline]
    pub(crate) fn would_wait(&self, mode: Mode) -> bool {
        let is_free = self.phase == Phase::Free && self.waiters.is_empty();
        !is_free && !self.would_join(mode)
    }

    /// From now on a tenure ends after this many handovers, if that is fewer than before.
    pub(crate) fn limit_handovers(&mut self, most: u32) {
        self.max_handovers = self.max_handovers.min(most);
    }

    // ---- events from tasks ----

    /// `rank`: that of a request that had to move here.
    #[inline(always)]
    pub(crate) fn request(
        &mut self,
        mode: Mode,
        patience: Patience,
        rank: Option<Rank>,
        effects: &mut Effects<W>,
    ) -> Requested<E> {
        if self.stale {
            return Requested::Now(Outcome::Moved(rank.unwrap_or_else(self.new_rank)));
        }
        if self.would_join(mode) {
            self.grant(mode);
            return Requested::Now(Outcome::Granted(()));
        }
        if patience == Patience::Try && !(self.waiters.is_empty() && self.phase == Phase::Free) {
            return Requested::Now(Outcome::Refused);
        }
        let ticket = match rank {
            None => self.waiters.push(mode, patience),
            Some(rank) => self.waiters.insert(mode, rank),
        };
        self.advance(effects);
        Requested::Queued(ticket)
    }

    /// `Some` once the request is completed; `None` leaves it in line. Consumes the slot when it
    /// answers `Some`: the ticket is then void.
    #[inline(always)]
    pub(crate) fn poll(&mut self, ticket: &mut Option<Ticket>) -> Option<Outcome<E>> {
        let held = ticket.as_ref().expect("polled with its ticket");
        self.waiters.outcome(held).ok()?;
        let ticket = ticket.take().expect("looked at above");
        self.waiters.remove(ticket).ok()
    }

    /// The waker to call when a waiting request is completed.
    pub(crate) fn waker(&self, ticket: &Ticket) -> Option<&W> {
        self.waiters.outcome(ticket).err().flatten()
    }

    /// Registers the waker of a waiting request; returns the one to drop.
    #[inline]
    pub(crate) fn register(&mut self, ticket: &Ticket, waker: W) -> Option<W> {
        self.waiters.register(ticket, waker)
    }

    /// Gives up a request: in line, completed, or granted and never polled.
    pub(crate) fn cancel(&mut self, ticket: Ticket, effects: &mut Effects<W>) {
        match self.waiters.remove(ticket) {
            Ok(Outcome::Granted(())) => self.release(effects),
            Ok(_) => {}
            Err(waker) => {
                effects.discard = waker;
                self.advance(effects);
            }
        }
    }

    /// A holder lets go.
    #[inline(always)]
    pub(crate) fn release(&mut self, effects: &mut Effects<W>) {
        self.holders = match self.holders {
            Holders::Exclusive | Holders::Shared(1) => Holders::None,
            Holders::Shared(count) => Holders::Shared(count - 1),
            Holders::None => unreachable!("only a holder releases"),
        };
        self.advance(effects);
    }

    /// The exclusive holder goes on as a shared one; `os` is the mode the OS lock has now.
    pub(crate) fn downgrade(&mut self, os: Mode, effects: &mut Effects<W>) {
        debug_assert_eq!(self.holders, Holders::Exclusive);
        self.holders = Holders::Shared(1);
        if let Phase::Held { mode, .. } = &mut self.phase {
            *mode = os;
        }
        self.advance(effects);
    }

    /// No more handovers: the OS lock goes back when the present holders leave. Nothing happens
    /// outside a tenure.
    pub(crate) fn end_tenure(&mut self, end: End) {
        if let Phase::Held { over, .. } = &mut self.phase {
            if *over != Some(End::Seen) {
                *over = Some(end);
            }
        }
    }

    /// The requests in line find out where their paths lead, for that of a holder leads elsewhere. Each has the
    /// rank that it had, or a new one.
    pub(crate) fn send_on(&mut self, effects: &mut Effects<W>) {
        while let Some(first) = self.waiters.first() {
            let rank = first.rank.unwrap_or_else(self.new_rank);
            effects.wake(self.waiters.complete_first(Outcome::Moved(rank)));
        }
    }

    /// A holder has removed the file.
    pub(crate) fn removed(&mut self, effects: &mut Effects<W>) {
        self.stale = true;
        self.send_on(effects);
    }

    /// The process is killed. The requests in line wait for ever, also one that was granted the lock and does not know yet; holders
    /// hold nothing.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn end(&mut self) {
        self.phase = Phase::Ended;
        self.waiters.take_grants_back();
    }

    // ---- the answers of the engine ----

    #[inline(always)]
    pub(crate) fn answer(&mut self, attempt: Attempt, answer: Answer<E>, effects: &mut Effects<W>) {
        debug_assert_eq!(attempt.0, AttemptId(self.calls), "an answer to another call");
        match (self.phase, answer) {
            (Phase::Releasing { back_off }, Answer::Released(_)) => {
                self.released(back_off, effects)
            }
            (Phase::Trying(mode) | Phase::Waiting { mode, .. }, Answer::Acquired) => {
                self.counts.tenures += 1;
                self.phase = Phase::Held { mode, handovers: None, over: None };
                self.advance(effects);
            }
            (Phase::Trying(tried), Answer::Busy) => self.busy(tried, effects),
            (Phase::Waiting { .. }, Answer::Interrupted) => self.interrupted(effects),
            (Phase::Waiting { .. }, Answer::NotBackedOff) => {
                self.phase = Phase::Free;
                self.advance(effects);
            }
            (Phase::Trying(_) | Phase::Waiting { .. }, Answer::Gone) => {
                self.phase = Phase::Free;
                self.removed(effects);
            }
            (Phase::Trying(_) | Phase::Waiting { .. }, Answer::Failed(error)) => {
                self.phase = Phase::Free;
                if !self.waiters.is_empty() {
                    effects.wake(self.waiters.complete_first(Outcome::Failed(error)));
                }
                self.advance(effects);
            }
            (Phase::Ended, _) => {}
            _ => unreachable!("no answer to the call that is under way"),
        }
    }

    #[cold]
    fn busy(&mut self, tried: Mode, effects: &mut Effects<W>) {
        // It was alone when it came, so there is one at most.
        if self.waiters.first().is_some_and(|first| first.patience == Patience::Try) {
            effects.wake(self.waiters.complete_first(Outcome::Busy));
        }
        match self.waiters.first() {
            Some(first) if first.mode == tried => self.wait(tried, Call::Wait(tried), effects),
            // Another mode may well be free: ask for that one.
            _ => {
                self.phase = Phase::Free;
                self.advance(effects);
            }
        }
    }

    #[cold]
    fn interrupted(&mut self, effects: &mut Effects<W>) {
        match self.waiters.first() {
            // A request came in between: the wait is its now.
            Some(first) => {
                let mode = first.mode;
                self.wait(mode, Call::Wait(mode), effects);
            }
            None => self.phase = Phase::Free,
        }
    }

    fn released(&mut self, back_off: bool, effects: &mut Effects<W>) {
        self.phase = Phase::Free;
        match self.waiters.first() {
            Some(first) if back_off => {
                let mode = first.mode;
                self.wait(mode, Call::BackOff(mode), effects);
            }
            _ => self.advance(effects),
        }
    }

    // ---- the machine ----

    #[inline]
    fn call(&mut self, call: Call, effects: &mut Effects<W>) {
        self.calls += 1;
        effects.ask = Some(Ask::Call(call, Attempt(AttemptId(self.calls))));
    }

    fn wait(&mut self, mode: Mode, call: Call, effects: &mut Effects<W>) {
        self.phase = Phase::Waiting { mode, interrupted: false };
        self.call(call, effects);
    }

    /// Looks at the line and does what can be done now. Every event ends here.
    #[inline(always)]
    fn advance(&mut self, effects: &mut Effects<W>) {
        let wanted = self.waiters.first().map(|first| first.mode);
        match &mut self.phase {
            Phase::Free => {
                if let Some(mode) = wanted {
                    self.phase = Phase::Trying(mode);
                    self.call(Call::Try(mode), effects);
                }
            }
            Phase::Waiting { mode, interrupted } => {
                if wanted != Some(*mode) && !*interrupted {
                    *interrupted = true;
                    effects.ask = Some(Ask::Interrupt(AttemptId(self.calls)));
                }
            }
            Phase::Held { over, .. } => {
                let back_off = *over == Some(End::Unseen);
                self.admit_head(effects);
                if self.holders == Holders::None {
                    self.phase = Phase::Releasing { back_off };
                    self.call(Call::Unlock, effects);
                }
            }
            Phase::Trying(_) | Phase::Releasing { .. } | Phase::Ended => {}
        }
    }

    /// Grants to the head and, if it is shared, to all shared requests right behind it: they
    /// enter together, as one handover, or join the shared holders.
    #[inline(always)]
    fn admit_head(&mut self, effects: &mut Effects<W>) {
        let Phase::Held { mode: os, .. } = self.phase else { return };
        let mut open = self.may_join();
        while let Some(mode) = self.waiters.first().map(|first| first.mode) {
            if !self.holders.admit(mode) || os < mode {
                return;
            }
            open = open || self.holders == Holders::None && self.hand_over();
            if !open {
                return;
            }
            self.grant(mode);
            effects.wake(self.waiters.complete_first(Outcome::Granted(())));
        }
    }

    /// Counts one more group of holders in this tenure; `false` if the tenure is over. The first
    /// group of a tenure is what the OS lock was acquired for, and no handover.
    #[inline]
    fn hand_over(&mut self) -> bool {
        let Phase::Held { handovers, over, .. } = &mut self.phase else { return false };
        match handovers {
            None => *handovers = Some(0),
            Some(_) if over.is_some() => return false,
            Some(count) if *count >= self.max_handovers => return false,
            Some(count) => {
                *count += 1;
                self.counts.handovers += 1;
            }
        }
        true
    }

    #[inline]
    fn grant(&mut self, mode: Mode) {
        self.holders = match (mode, self.holders) {
            (Mode::Exclusive, Holders::None) => Holders::Exclusive,
            (Mode::Shared, Holders::None) => Holders::Shared(1),
            (Mode::Shared, Holders::Shared(count)) => Holders::Shared(count + 1),
            _ => unreachable!("admitted before granted"),
        };
        self.counts.granted += 1;
    }
}
