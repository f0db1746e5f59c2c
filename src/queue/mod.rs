//! The fair queue of one entry, and the phase of its OS lock. Pure: events in, effects out.
//!
//! Nothing here does I/O, reads a clock or calls a waker; the wakers are opaque values that go in
//! with [`Queue::register`] and come out in [`Effects`]. The registry calls an event under its
//! mutex, lets go of the mutex, and carries out the effects, each exactly once.
//!
//! Invariants:
//! 1. A holder exists => the phase is `Held` in a mode at least as strong as the holder's.
//! 2. At most one OS call is under way: a call is asked for only in `Free` (try), while a try
//!    comes back busy or a wait comes back interrupted (wait), or when the last holder leaves
//!    (unlock); `Trying`, `Waiting` and `Releasing` last until its answer arrives. So an unlock
//!    is over before the next lock call: on one open file a second lock call would "succeed"
//!    against our own old lock, and the late unlock would drop it.
//! 3. In `Held` somebody holds. The event that removes the last holder either grants to the next
//!    in line or moves to `Releasing`.
//! 4. Waiters are granted from the head only. A newcomer is granted at once only if nobody waits. One that
//!    comes from the line of a file that was removed stands before the newcomers.
//! 5. A waiter leaves the line by an outcome or by its own cancel, never otherwise; a settled
//!    grant that is cancelled counts as released.
//!
//! Liveness follows from 2 and 3: while somebody waits there is a call under way or a holder, and
//! each of their ends looks at the line again (`advance`).

mod pacing;
mod waiters;

#[cfg(all(test, not(tokio_filelock_loom)))]
mod properties;
#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests;

pub(crate) use pacing::{Check, Pacing};
pub(crate) use waiters::{Place, Rank, Settled, Ticket};

use waiters::Waiters;

use crate::mode::Mode;

/// Whether a request stays when it cannot be granted at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    Wait,
    Try,
}

/// A call on the OS lock. The epoch names the attempt that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OsCall {
    /// Ask without blocking; answered by `os_acquired`, `os_busy`, `os_stale` or `os_failed`.
    Try { mode: Mode, epoch: u64 },
    /// Ask and block; answered by `os_acquired`, `os_interrupted`, `os_stale` or `os_failed`.
    Wait { mode: Mode, epoch: u64 },
    /// Let those of other processes in who were woken by the unlock, then as `Wait`; answered by
    /// `os_not_stood_back` as well.
    StandBack { mode: Mode, epoch: u64 },
    /// Make the wait of this epoch return early, if that is possible. Has no answer of its own.
    Interrupt { epoch: u64 },
    /// Give the lock back; answered by `os_released`.
    Unlock,
}

/// What an event asks for, to be carried out after the mutex is let go.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "effects are carried out exactly once"]
pub(crate) struct Effects<W> {
    pub(crate) os: Option<OsCall>,
    /// Wake these. The first one is apart because one is the common number, and free of heap.
    pub(crate) wake: Option<W>,
    pub(crate) wake_more: Vec<W>,
    /// Drop these: a waker's drop is foreign code as well.
    pub(crate) discard: Option<W>,
}

impl<W> Default for Effects<W> {
    fn default() -> Self {
        Self { os: None, wake: None, wake_more: Vec::new(), discard: None }
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

/// The answer to a request.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a granted lock must be released, a ticket polled or cancelled"]
pub(crate) enum Requested {
    /// Held at once, in the tenure of this epoch.
    Granted(u64),
    Queued(Ticket),
    /// It would have to wait, and did not want to.
    Refused,
    /// The lock file is gone from its path: ask on a new one.
    Moved,
}

/// What the queue has counted since the entry exists.
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
        stand_back: bool,
    },
}

/// Why a tenure is ended before its bound, and so what comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Somebody waits who is seen by the next try.
    Seen,
    /// Somebody may wait who can not be seen, and needs a moment to get in.
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

/// The queue and OS phase of one entry. `W` is a waker, `E` an OS error.
#[derive(Debug)]
pub(crate) struct Queue<W, E> {
    waiters: Waiters<W, E>,
    holders: Holders,
    phase: Phase,
    epoch: u64,
    max_handovers: u32,
    stale: bool,
    counts: Counts,
}

impl<W, E> Queue<W, E> {
    /// A tenure has no bound, until [`limit_handovers`](Self::limit_handovers) sets one.
    pub(crate) fn new() -> Self {
        Self {
            waiters: Waiters::new(),
            holders: Holders::None,
            phase: Phase::Free,
            epoch: 0,
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
            Phase::Free | Phase::Trying(_) | Phase::Waiting { .. } | Phase::Releasing { .. } => {
                None
            }
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

    /// The place at the head of the line.
    pub(crate) fn head(&self) -> Option<Place> {
        self.waiters.first_place()
    }

    /// Whether the request at this place holds the lock, and does not know yet.
    pub(crate) fn is_granted(&self, place: Place) -> bool {
        self.waiters.is_granted(place)
    }

    /// Somebody waits in line.
    #[inline]
    pub(crate) fn is_contended(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// A request of this mode would be granted at once, by those who hold.
    #[inline]
    pub(crate) fn would_join(&self, mode: Mode) -> bool {
        mode == Mode::Shared && self.waiters.is_empty() && self.may_join()
    }

    /// Those who share the lock let others join them for as long as nobody is seen to wait for it:
    /// one of them may be waiting for the very one that comes.
    #[inline]
    fn may_join(&self) -> bool {
        let seen = matches!(self.phase, Phase::Held { over: Some(End::Seen), .. });
        matches!(self.holders, Holders::Shared(_)) && !seen
    }

    /// From now on a tenure ends after this many handovers, if that is fewer than before.
    pub(crate) fn limit_handovers(&mut self, most: u32) {
        self.max_handovers = self.max_handovers.min(most);
    }

    /// The wait that is under way is to return early.
    pub(crate) fn is_interrupted(&self) -> bool {
        matches!(self.phase, Phase::Waiting { interrupted: true, .. })
    }

    // ---- events from tasks ----

    #[inline]
    pub(crate) fn request(
        &mut self,
        mode: Mode,
        patience: Patience,
        effects: &mut Effects<W>,
    ) -> Requested {
        if self.stale {
            return Requested::Moved;
        }
        if self.would_join(mode) {
            return Requested::Granted(self.grant(mode));
        }
        if patience == Patience::Try && !(self.waiters.is_empty() && self.phase == Phase::Free) {
            return Requested::Refused;
        }
        let ticket = self.waiters.push(mode, patience);
        self.advance(effects);
        Requested::Queued(ticket)
    }

    /// As `request`, of one that had to move here and waits.
    pub(crate) fn request_again(
        &mut self,
        mode: Mode,
        rank: Rank,
        effects: &mut Effects<W>,
    ) -> Requested {
        if self.stale || self.would_join(mode) {
            return self.request(mode, Patience::Wait, effects);
        }
        let ticket = self.waiters.insert(mode, rank);
        self.advance(effects);
        Requested::Queued(ticket)
    }

    /// `Some` once the request is settled; `None` leaves it in line. Consumes the slot when it
    /// answers `Some`: the ticket is then void.
    #[inline]
    pub(crate) fn poll(&mut self, ticket: &mut Option<Ticket>) -> Option<Settled<E>> {
        let held = ticket.as_ref().expect("polled with its ticket");
        self.waiters.outcome(held).ok()?;
        let ticket = ticket.take().expect("looked at above");
        self.waiters.remove(ticket).ok()
    }

    /// The waker to call when a waiting request is settled.
    pub(crate) fn waker(&self, ticket: &Ticket) -> Option<&W> {
        self.waiters.outcome(ticket).err().flatten()
    }

    /// Registers the waker of a waiting request; returns the one to drop.
    #[inline]
    pub(crate) fn register(&mut self, ticket: &Ticket, waker: W) -> Option<W> {
        self.waiters.register(ticket, waker)
    }

    /// Gives up a request: in line, settled, or granted and never polled.
    pub(crate) fn cancel(&mut self, ticket: Ticket) -> Effects<W> {
        let mut effects = Effects::default();
        match self.waiters.remove(ticket) {
            Ok(Settled::Granted(_)) => self.release(&mut effects),
            Ok(_) => {}
            Err(waker) => {
                effects.discard = waker;
                self.advance(&mut effects);
            }
        }
        effects
    }

    /// A holder lets go.
    #[inline]
    pub(crate) fn release(&mut self, effects: &mut Effects<W>) {
        self.holders = match self.holders {
            Holders::Exclusive | Holders::Shared(1) => Holders::None,
            Holders::Shared(count) => Holders::Shared(count - 1),
            Holders::None => unreachable!("only a holder releases"),
        };
        self.advance(effects);
    }

    /// The exclusive holder goes on as a shared one; `os` is the mode the OS lock has now.
    pub(crate) fn downgrade(&mut self, os: Mode) -> Effects<W> {
        let mut effects = Effects::default();
        debug_assert_eq!(self.holders, Holders::Exclusive);
        self.holders = Holders::Shared(1);
        if let Phase::Held { mode, .. } = &mut self.phase {
            *mode = os;
        }
        self.advance(&mut effects);
        effects
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

    /// Those in line find out where their paths lead, for that of a holder leads elsewhere. They have the
    /// rank that they had, or a new one.
    pub(crate) fn send_on(&mut self, mut new_rank: impl FnMut() -> Rank) -> Effects<W> {
        let mut effects = Effects::default();
        while let Some(first) = self.waiters.first() {
            let rank = first.rank.unwrap_or_else(&mut new_rank);
            effects.wake(self.waiters.settle_first(Settled::Moved(rank)));
        }
        effects
    }

    /// A holder has removed the file.
    pub(crate) fn removed(&mut self, new_rank: impl FnMut() -> Rank) -> Effects<W> {
        self.stale = true;
        self.send_on(new_rank)
    }

    // ---- events from the OS ----

    pub(crate) fn os_acquired(&mut self, epoch: u64) -> Effects<W> {
        let mut effects = Effects::default();
        let mode = self.attempted(epoch);
        self.counts.tenures += 1;
        self.phase = Phase::Held { mode, handovers: None, over: None };
        self.advance(&mut effects);
        effects
    }

    pub(crate) fn os_busy(&mut self, epoch: u64) -> Effects<W> {
        let mut effects = Effects::default();
        let tried = self.attempted(epoch);
        // It was alone when it came, so there is one at most.
        if self.waiters.first().is_some_and(|first| first.patience == Patience::Try) {
            effects.wake(self.waiters.settle_first(Settled::Refused));
        }
        match self.waiters.first() {
            Some(first) if first.mode == tried => {
                self.phase = Phase::Waiting { mode: tried, interrupted: false };
                effects.os = Some(OsCall::Wait { mode: tried, epoch });
            }
            // Another mode may well be free: ask for that one.
            _ => {
                self.phase = Phase::Free;
                self.advance(&mut effects);
            }
        }
        effects
    }

    /// The wait came back without the lock because it was asked to.
    pub(crate) fn os_interrupted(&mut self, epoch: u64) -> Effects<W> {
        let mut effects = Effects::default();
        self.attempted(epoch);
        match self.waiters.first() {
            // Somebody came in between: the wait is theirs now.
            Some(first) => {
                let mode = first.mode;
                self.epoch += 1;
                self.phase = Phase::Waiting { mode, interrupted: false };
                effects.os = Some(OsCall::Wait { mode, epoch: self.epoch });
            }
            None => self.phase = Phase::Free,
        }
        effects
    }

    /// There is no thread to stand back on: the lock is asked for at once.
    pub(crate) fn os_not_stood_back(&mut self, epoch: u64) -> Effects<W> {
        let mut effects = Effects::default();
        self.attempted(epoch);
        self.phase = Phase::Free;
        self.advance(&mut effects);
        effects
    }

    /// The OS refuses. The head of the line learns it; the next one makes an attempt of its own.
    pub(crate) fn os_failed(&mut self, epoch: u64, error: E) -> Effects<W> {
        let mut effects = Effects::default();
        self.attempted(epoch);
        self.phase = Phase::Free;
        if !self.waiters.is_empty() {
            effects.wake(self.waiters.settle_first(Settled::Failed(error)));
        }
        self.advance(&mut effects);
        effects
    }

    /// The lock was on a file that no path leads to any more, and has been given back. Those in line move
    /// on, and so do all who come later.
    pub(crate) fn os_stale(&mut self, epoch: u64, new_rank: impl FnMut() -> Rank) -> Effects<W> {
        self.attempted(epoch);
        self.phase = Phase::Free;
        self.stale = true;
        self.send_on(new_rank)
    }

    pub(crate) fn os_released(&mut self) -> Effects<W> {
        let mut effects = Effects::default();
        debug_assert!(matches!(self.phase, Phase::Releasing { .. }));
        let stand_back = self.phase == Phase::Releasing { stand_back: true };
        self.phase = Phase::Free;
        match self.waiters.first() {
            Some(first) if stand_back => {
                let mode = first.mode;
                self.epoch += 1;
                self.phase = Phase::Waiting { mode, interrupted: false };
                effects.os = Some(OsCall::StandBack { mode, epoch: self.epoch });
            }
            _ => self.advance(&mut effects),
        }
        effects
    }

    // ---- the machine ----

    /// The mode of the attempt that is being answered.
    fn attempted(&self, epoch: u64) -> Mode {
        debug_assert_eq!(epoch, self.epoch, "an answer to another attempt");
        match self.phase {
            Phase::Trying(mode) | Phase::Waiting { mode, .. } => mode,
            Phase::Free | Phase::Held { .. } | Phase::Releasing { .. } => {
                unreachable!("no attempt is under way")
            }
        }
    }

    /// Looks at the line and does what can be done now. Every event ends here.
    #[inline]
    fn advance(&mut self, effects: &mut Effects<W>) {
        let wanted = self.waiters.first().map(|first| first.mode);
        match &mut self.phase {
            Phase::Free => {
                if let Some(mode) = wanted {
                    self.epoch += 1;
                    self.phase = Phase::Trying(mode);
                    effects.os = Some(OsCall::Try { mode, epoch: self.epoch });
                }
            }
            Phase::Waiting { mode, interrupted } => {
                if wanted != Some(*mode) && !*interrupted {
                    *interrupted = true;
                    effects.os = Some(OsCall::Interrupt { epoch: self.epoch });
                }
            }
            Phase::Held { over, .. } => {
                let stand_back = *over == Some(End::Unseen);
                self.admit_head(effects);
                if self.holders == Holders::None {
                    self.phase = Phase::Releasing { stand_back };
                    effects.os = Some(OsCall::Unlock);
                }
            }
            Phase::Trying(_) | Phase::Releasing { .. } => {}
        }
    }

    /// Grants to the head and, if it is shared, to all shared requests right behind it: they
    /// enter together, as one handover, or join those who share the lock.
    #[inline]
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
            let epoch = self.grant(mode);
            effects.wake(self.waiters.settle_first(Settled::Granted(epoch)));
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
    fn grant(&mut self, mode: Mode) -> u64 {
        self.holders = match (mode, self.holders) {
            (Mode::Exclusive, Holders::None) => Holders::Exclusive,
            (Mode::Shared, Holders::None) => Holders::Shared(1),
            (Mode::Shared, Holders::Shared(count)) => Holders::Shared(count + 1),
            _ => unreachable!("admitted before granted"),
        };
        self.counts.granted += 1;
        self.epoch
    }
}
