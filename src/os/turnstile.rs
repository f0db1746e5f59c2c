//! Taking turns with other processes: the turnstile, a second, tiny lock in the lock file.
//!
//! A process that has to wait takes the turnstile, then waits for the lock, then lets the turnstile
//! go. A process that finds the turnstile taken queues there instead of overtaking, but for the few tries that follow a check
//! which found it free ([`Pace`]). So the process that has the turnstile is the next to get the lock, or nearly so, however often
//! the others ask.
//!
//! Order must never cost exclusion, nor make a free lock unavailable:
//! 1. The lock itself is taken in any case. The turnstile decides which process asks, never which one holds.
//! 2. The owner of the turnstile may be stopped, dead in all but name, or hostile. It is passed when it
//!    does not take a lock that is free: the lock was free, and [`CHANCE`] later it is free again, and the
//!    owner has had the turnstile all the time, and for [`FIRST_LIMIT`] at least. An owner that is
//!    awake takes a free lock and leaves the turnstile in that time. Once is not enough: an owner that
//!    was woken by the last unlock and has no processor yet looks the same as a stopped one.
//! 3. A process that asks whether the lock is free asks for it exclusively, for only so does a reader learn that
//!    no other reader has it, and gives it back at once, which wakes the owner if it came in between.
//! 4. "The owner has had it all the time" is not told by a pid, which is a name: a process that takes
//!    turn after turn has the turnstile whenever one looks. So the turnstile carries a number in its
//!    length, which is another one each time that it is taken ([`Taken`]). Where the number can not be
//!    had, an owner that takes turn after turn can be passed by mistake, which costs order only.
//! 5. What was seen is remembered with the open file, for each lock ([`Turnstiles`]): so tries, waits that
//!    are given up after some milliseconds, and long waits come to the same answer in the same time.
//! 6. Programs that take and leave the turnstile by turns, and never take the lock, are passed after
//!    [`MOST_OWNERS`] looks in a row at a free lock, over [`LONGEST`].
//! 7. An owner that was passed is ignored for [`DISTRUST`], then it has another chance: it may be awake by
//!    now. So a stopped owner costs the others one refused try in a second, or `CHANCE`.
//!
//! While a process holds the lock nothing can be seen of its next owner, and a wait goes on: an exclusive
//! one has the lock soon after it is free. A shared one that stands behind a writer could share the
//! lock with those who read. After [`LONGEST`] behind owners it does, be it a wait or a try, unless the kernel lists a call
//! that waits for the lock: that is taken for the owner's, which is awake then. It need not be the owner's: behind a stopped
//! owner and beside another program that waits, shared requests wait as long as that one does. The time counts from the first
//! owner, for a hostile one can change its number. An exclusive one waits in the kernel's line from
//! then on, where it overtakes none.
//!
//! The steps are here, what they call is a [`Turnstile`]: the kernel's, or under loom the model's.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Region, Tried, Waited, wire};

/// How long the turnstile must have been seen with one owner before that one is passed.
pub(super) const FIRST_LIMIT: Duration = Duration::from_millis(50);

/// How long an owner that finds the lock free has to take it. A process that was woken takes 23 µs at
/// the median, 129 µs at the 99th percentile; one that polls, because its waits can not be ended, up to 16 ms.
pub(super) const CHANCE: Duration = Duration::from_millis(20);

/// How often a waiter asks whether the lock is free: a limit is over when a chance is that begins with it.
const ASK_EVERY: Duration = Duration::from_millis(30);

/// How long an owner that had to be passed is ignored.
pub(super) const DISTRUST: Duration = Duration::from_secs(1);

/// So many looks in a row at a free lock, and over so long a time, show that one owner after the other
/// does not take it. As long a wait behind one owner goes on without its turn.
pub(super) const MOST_OWNERS: u32 = 32;
pub(super) const LONGEST: Duration = Duration::from_millis(1600);

/// So many locks of one open file are remembered.
const MOST_REMEMBERED: usize = 1024;

/// One time that a process has the turnstile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken(pub(crate) u64);

/// The largest number that the length of a turnstile carries: it is less than 2^22, as a pid on Linux is.
pub(super) const WIDEST: u32 = wire::TURNSTILE_IN_SLOT as u32 - 1;

/// The number of the next time that this process has a turnstile.
///
/// They count up in a process. Those of two processes can be the same by chance, which matters if one takes a
/// turnstile right after the other one, between two looks of a third one.
pub(super) fn new_number(pid: u32) -> u32 {
    /// A forked child has this of its parent, and must not wait for a thread that was about to set it.
    static FIRST: AtomicU32 = AtomicU32::new(0);
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if FIRST.load(Ordering::Relaxed) == 0 {
        let random = RandomState::new().hash_one(()) as u32 | 1;
        let _ = FIRST.compare_exchange(0, random, Ordering::Relaxed, Ordering::Relaxed);
    }
    // A forked child has the same counter as its parent, and a pid of its own.
    let first = FIRST.load(Ordering::Relaxed).wrapping_add(pid.wrapping_mul(0x9E37_79B1));
    first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) & WIDEST
}

/// What a check of the turnstile shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TurnstileState {
    /// It is free, or there is none.
    Free,
    Taken(Taken),
    /// Another lock covers it, such as one on the whole file: no process is next.
    #[cfg_attr(not(unix), allow(dead_code))] // other systems do not tell
    Covered,
}

/// What came of a wait for the turnstile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Taken,
    /// The time was up.
    TimedOut,
    /// There is no turnstile here.
    None,
    /// The wait was to end.
    Interrupted,
}

/// Which tries check the turnstile. A try need not that begins within [`HOT`] of a check which found it free, and is one of the
/// next [`HOT_TRIES`]. So each other process overtakes one that waits at most `HOT_TRIES` + 1 times, by tries begun within
/// `HOT` of its last check.
///
/// One for each lock of a process. There is one attempt at a lock at a time, and only an attempt begins or uses up such tries. Other
/// code only ends them, and may be missed at that: the number of tries is bounded all the same.
#[derive(Debug)]
pub(crate) struct Pace {
    made: Instant,
    /// When that check was, in nanoseconds since then. By halves, as not every processor has atomics of 64 bits.
    checked: [AtomicU32; 2],
    tries_left: AtomicU32,
}

/// As long as a check within a tenure counts ([`Pacing`](crate::queue::Pacing)).
const HOT: Duration = Duration::from_micros(50);
#[cfg(not(all(test, tokio_filelock_loom)))]
pub(crate) const HOT_TRIES: u32 = 15;
/// A model counts that many.
#[cfg(all(test, tokio_filelock_loom))]
pub(crate) const HOT_TRIES: u32 = 1;

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { made: now, checked: [const { AtomicU32::new(0) }; 2], tries_left: AtomicU32::new(0) }
    }

    /// Whether a try that begins now checks.
    #[inline]
    fn is_check_due(&self, now: Instant) -> bool {
        let left = self.tries_left.load(Ordering::Relaxed);
        if left == 0 {
            return true;
        }
        let [low, high] = self.checked.each_ref().map(|half| half.load(Ordering::Relaxed));
        let checked = u64::from(high) << 32 | u64::from(low);
        let is_due = self.since(now).wrapping_sub(checked) >= HOT.as_nanos() as u64;
        self.tries_left.store(if is_due { 0 } else { left - 1 }, Ordering::Relaxed);
        is_due
    }

    /// A check that began then has found the turnstile free.
    #[inline]
    fn saw_free(&self, began: Instant) {
        let checked = self.since(began);
        self.checked[0].store(checked as u32, Ordering::Relaxed);
        self.checked[1].store((checked >> 32) as u32, Ordering::Relaxed);
        self.tries_left.store(HOT_TRIES, Ordering::Relaxed);
    }

    /// The next try checks.
    #[inline]
    pub(crate) fn end(&self) {
        self.tries_left.store(0, Ordering::Relaxed);
    }

    fn since(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.made).as_nanos() as u64
    }
}

/// A lock and its turnstile, as an attempt sees them.
pub(crate) trait Turnstile {
    fn check(&self) -> TurnstileState;
    /// As `check`, by a call that asks for the lock as well: `None` if another one has that, so that a try would be
    /// refused.
    fn check_before_try(&self) -> Option<TurnstileState> {
        Some(self.check())
    }
    fn remembered(&self) -> &Turnstiles;
    fn pace(&self) -> &Pace;
    fn region(&self) -> Region;
    fn now(&self) -> Instant;
    /// Lets so much time pass.
    fn pause(&self, time: Duration);
    /// No process holds the lock, not even shared.
    fn is_free(&self) -> io::Result<bool>;
    fn try_lock(&self) -> io::Result<Tried>;
    /// The lock is to be shared, so it could be had past a writer that waits.
    fn is_shared(&self) -> bool;
    /// The kernel lists a call that waits for the lock itself, and not for the turnstile.
    fn is_lock_waited_for(&self) -> bool;
}

/// The same, for an attempt that may wait.
pub(super) trait Wait {
    type Turnstile: Turnstile;
    fn turnstile(&self) -> &Self::Turnstile;
    /// Waits for no longer than this; not at all with a limit of zero.
    fn take_turnstile(&self, limit: Duration) -> Turn;
    fn leave_turnstile(&self);
    fn lock(&self) -> io::Result<Waited>;
}

/// Tries the lock, if it is not the turn of another process. One that `may_pause` blocks for up to
/// [`CHANCE`] when all that is missing is that the owner of the turnstile has had its chance.
#[inline]
pub(crate) fn try_in_turn(turnstile: &impl Turnstile, may_pause: bool) -> io::Result<Tried> {
    let now = turnstile.now();
    if !turnstile.pace().is_check_due(now) {
        return turnstile.try_lock();
    }
    let state = match turnstile.check_before_try() {
        Some(state) => state,
        None if turnstile.remembered().is_empty() => return Ok(Tried::Busy),
        // What is remembered must not become old.
        None => turnstile.check(),
    };
    if state == TurnstileState::Free {
        turnstile.pace().saw_free(now);
    }
    let mut next = judge(turnstile, state)?;
    if let (Next::HasAChance(left), true) = (next, may_pause) {
        turnstile.pause(left);
        next = ask(turnstile)?;
    }
    match next {
        Next::Mine | Next::Ignored => turnstile.try_lock(),
        Next::Held { too_long: true } if may_share(turnstile) => turnstile.try_lock(),
        Next::Acquired => Ok(Tried::Acquired),
        Next::OfAnother(_) | Next::HasAChance(_) | Next::Held { .. } => Ok(Tried::Busy),
    }
}

/// Another process waits for the lock, and would be overtaken by one that takes it now. The next try checks for itself then.
pub(crate) fn is_turn_of_another(turnstile: &impl Turnstile) -> bool {
    let TurnstileState::Taken(taken) = turnstile.check() else { return false };
    turnstile.pace().end();
    !turnstile.remembered().ignores(turnstile.region(), taken, turnstile.now())
}

/// Waits for the lock, in turn if possible.
pub(super) fn lock_in_turn(wait: &impl Wait) -> io::Result<Waited> {
    let turnstile = wait.turnstile();
    let mut missed = 0;
    loop {
        let limit = match next_step(turnstile, &mut missed)? {
            WaitStep::TakeTurnstile(limit) => limit,
            WaitStep::Lock => break,
            WaitStep::Acquired => return Ok(Waited::Acquired),
        };
        match wait.take_turnstile(limit) {
            Turn::Taken => {
                turnstile.remembered().forget(turnstile.region());
                let waited = wait.lock();
                wait.leave_turnstile();
                return waited;
            }
            Turn::Interrupted => return Ok(Waited::Interrupted),
            Turn::None => break,
            Turn::TimedOut => {}
        }
    }
    wait.lock()
}

/// What a waiter does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitStep {
    /// It waits for the turnstile, for no longer than this.
    TakeTurnstile(Duration),
    /// It waits for the lock without the turnstile.
    Lock,
    /// It has the lock.
    Acquired,
}

/// The next step of a wait without the turnstile; `missed`: how often the turnstile was asked for that looked free.
pub(crate) fn next_step(turnstile: &impl Turnstile, missed: &mut u32) -> io::Result<WaitStep> {
    // Others may have come meanwhile.
    turnstile.pace().end();
    Ok(match ask(turnstile)? {
        Next::Mine if *missed == MOST_MISSED => WaitStep::Lock,
        Next::Mine => {
            *missed += 1;
            WaitStep::TakeTurnstile(Duration::ZERO)
        }
        Next::OfAnother(left) | Next::HasAChance(left) => WaitStep::TakeTurnstile(left),
        Next::Held { too_long: false } => WaitStep::TakeTurnstile(ASK_EVERY),
        Next::Held { too_long: true } if !turnstile.is_shared() || may_share(turnstile) => {
            WaitStep::Lock
        }
        Next::Held { too_long: true } => WaitStep::TakeTurnstile(ASK_EVERY),
        Next::Acquired => WaitStep::Acquired,
        Next::Ignored => WaitStep::Lock,
    })
}

/// Whether the lock is shared past the owner of the turnstile, which has had it for too long.
#[cold]
fn may_share(turnstile: &impl Turnstile) -> bool {
    if !turnstile.is_shared() {
        return false;
    }
    if turnstile.is_lock_waited_for() {
        turnstile.remembered().is_awake(turnstile.region(), turnstile.now());
        return false;
    }
    turnstile.remembered().passed(turnstile.region(), turnstile.now());
    true
}

/// So often a turnstile is asked for that is free, and then is not. More often something says so in place of
/// the kernel (a sandbox), and would for ever.
const MOST_MISSED: u32 = 100;

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Mine,
    /// Of the owner of the turnstile, for so long at least.
    OfAnother(Duration),
    /// The same, and the lock was found free before: this is all that is left of its chance.
    HasAChance(Duration),
    /// The lock was asked for, and it is held; and the turnstile may have had owners for too long.
    Held {
        too_long: bool,
    },
    /// There is an owner, which has lost its turn; or the turnstile is covered.
    Ignored,
    /// The owner was passed.
    Acquired,
}

#[inline]
fn ask(turnstile: &impl Turnstile) -> io::Result<Next> {
    judge(turnstile, turnstile.check())
}

#[inline]
fn judge(turnstile: &impl Turnstile, state: TurnstileState) -> io::Result<Next> {
    match state {
        TurnstileState::Free => {
            turnstile.remembered().forget(turnstile.region());
            Ok(Next::Mine)
        }
        TurnstileState::Covered => Ok(Next::Ignored),
        TurnstileState::Taken(taken) => ask_beside_owner(turnstile, taken),
    }
}

#[cold]
fn ask_beside_owner(turnstile: &impl Turnstile, taken: Taken) -> io::Result<Next> {
    let (remembered, region) = (turnstile.remembered(), turnstile.region());
    match remembered.see(region, taken, turnstile.now()) {
        Seen::Wait(left) => return Ok(Next::OfAnother(left)),
        Seen::Chance(left) => return Ok(Next::HasAChance(left)),
        Seen::Passed => return Ok(Next::Ignored),
        Seen::Ask => {}
    }
    let is_free = match turnstile.is_free() {
        Ok(is_free) => is_free,
        // If it was free and could not be given back, it is this process's, and must not stay so unused.
        Err(error) => {
            let is_kept = turnstile.try_lock().is_ok_and(|tried| tried == Tried::Acquired);
            return if is_kept { Ok(Next::Acquired) } else { Err(error) };
        }
    };
    match remembered.saw_lock(region, is_free, turnstile.now()) {
        Answer::Wait(left) => return Ok(Next::OfAnother(left)),
        Answer::Held { too_long } => return Ok(Next::Held { too_long }),
        Answer::Pass => {}
    }
    if turnstile.try_lock()? == Tried::Acquired {
        remembered.passed(region, turnstile.now());
        return Ok(Next::Acquired);
    }
    remembered.saw_lock(region, false, turnstile.now());
    Ok(Next::Held { too_long: false })
}

/// What an open file has seen of the turnstiles of its locks.
#[derive(Debug, Default)]
pub(crate) struct Turnstiles {
    /// There is something to forget.
    any: AtomicBool,
    owners: Mutex<HashMap<Region, Owner>>,
}

impl Turnstiles {
    #[inline]
    fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// The turnstile is free.
    #[inline]
    pub(crate) fn forget(&self, region: Region) {
        // What is remembered of the region is from the calls before this one: there is one at a time.
        if !self.is_empty() {
            self.forget_owner(region);
        }
    }

    #[cold]
    fn forget_owner(&self, region: Region) {
        let mut owners = self.owners();
        owners.remove(&region);
        self.any.store(!owners.is_empty(), Ordering::Release);
    }

    /// The owner has been passed, and not long ago.
    pub(crate) fn ignores(&self, region: Region, taken: Taken, now: Instant) -> bool {
        !self.is_empty()
            && self.owners().get(&region).is_some_and(|owner| owner.is_ignored(taken, now))
    }

    fn see(&self, region: Region, taken: Taken, now: Instant) -> Seen {
        let mut owners = self.owners();
        if owners.len() >= MOST_REMEMBERED && !owners.contains_key(&region) {
            let oldest = owners.iter().min_by_key(|(_, owner)| owner.looked);
            let oldest = oldest.map(|(region, _)| *region);
            oldest.and_then(|region| owners.remove(&region));
        }
        self.any.store(true, Ordering::Release);
        owners.entry(region).or_insert_with(|| Owner::new(taken, now)).see(taken, now)
    }

    fn saw_lock(&self, region: Region, is_free: bool, now: Instant) -> Answer {
        match self.owners().get_mut(&region) {
            Some(owner) if is_free => owner.saw_free(now),
            Some(owner) => owner.saw_held(now),
            None => Answer::Held { too_long: false },
        }
    }

    fn passed(&self, region: Region, now: Instant) {
        if let Some(owner) = self.owners().get_mut(&region) {
            owner.passed = Some(now);
        }
    }

    fn is_awake(&self, region: Region, now: Instant) {
        if let Some(owner) = self.owners().get_mut(&region) {
            owner.asleep_since = now;
        }
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<Region, Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was seen of the owner of a turnstile, at several looks with no free turnstile in between.
#[derive(Debug)]
struct Owner {
    taken: Taken,
    /// When this owner was seen first.
    since: Instant,
    /// When the first of the owners was.
    first: Instant,
    /// The same, or when an owner was last seen to be awake.
    asleep_since: Instant,
    looked: Instant,
    /// Since when the lock was free, whenever it was asked for in the time of this owner.
    free_since: Option<Instant>,
    /// The same, in the time of all of them, how often, and when last.
    always_free: Option<Free>,
    passed: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Free {
    first: Instant,
    last: Instant,
    times: u32,
}

enum Seen {
    Wait(Duration),
    Chance(Duration),
    Ask,
    Passed,
}

enum Answer {
    Wait(Duration),
    Held { too_long: bool },
    Pass,
}

impl Owner {
    fn new(taken: Taken, now: Instant) -> Self {
        Self {
            taken,
            since: now,
            first: now,
            asleep_since: now,
            looked: now,
            free_since: None,
            always_free: None,
            passed: None,
        }
    }

    fn is_ignored(&self, taken: Taken, now: Instant) -> bool {
        let recently = |passed: Instant| now.saturating_duration_since(passed) < DISTRUST;
        self.taken == taken && self.passed.is_some_and(recently)
    }

    fn see(&mut self, taken: Taken, now: Instant) -> Seen {
        self.looked = now;
        if self.taken != taken {
            let Self { first, asleep_since, always_free, .. } = *self;
            *self = Self { first, asleep_since, always_free, ..Self::new(taken, now) };
        }
        if self.is_ignored(taken, now) {
            return Seen::Passed;
        }
        if self.passed.take().is_some() {
            // It has another chance.
            (self.free_since, self.always_free) = (None, None);
        }
        let left = left(self.first, ASK_EVERY, now);
        if !left.is_zero() {
            return Seen::Wait(left);
        }
        let left =
            self.always_free.map_or(Duration::ZERO, |free| self::left(free.last, CHANCE, now));
        if left.is_zero() {
            Seen::Ask
        } else if self.free_since.is_some() && self::left(self.since, FIRST_LIMIT, now).is_zero() {
            Seen::Chance(left)
        } else {
            Seen::Wait(left)
        }
    }

    fn saw_free(&mut self, now: Instant) -> Answer {
        let since = *self.free_since.get_or_insert(now);
        let free = self.always_free.get_or_insert(Free { first: now, last: now, times: 0 });
        free.last = now;
        free.times += 1;
        let asleep = left(since, CHANCE, now).max(left(self.since, FIRST_LIMIT, now));
        let by_turns = left(free.first, LONGEST, now);
        if asleep.is_zero() || by_turns.is_zero() && free.times >= MOST_OWNERS {
            return Answer::Pass;
        }
        Answer::Wait(asleep.max(CHANCE))
    }

    fn saw_held(&mut self, now: Instant) -> Answer {
        (self.free_since, self.always_free) = (None, None);
        Answer::Held { too_long: left(self.asleep_since, LONGEST, now).is_zero() }
    }
}

/// What is left of a time that began then.
fn left(begun: Instant, time: Duration, now: Instant) -> Duration {
    time.saturating_sub(now.saturating_duration_since(begun))
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;

    use super::*;

    const ASLEEP: TurnstileState = TurnstileState::Taken(Taken(1));

    /// A lock whose turnstile shows what the test says, at the time that the test says.
    struct Scripted {
        begun: Instant,
        passed: Cell<Duration>,
        turnstile: Cell<TurnstileState>,
        is_free: Cell<bool>,
        /// The holders read.
        is_read: Cell<bool>,
        /// To ask is an error.
        cannot_ask: Cell<bool>,
        asked: Cell<u32>,
        /// How often the turnstile was checked.
        checks: Cell<u32>,
        remembered: Turnstiles,
        pace: Pace,
        region: Cell<u64>,
        /// What comes of waits for the turnstile; when there is no more, the time is up.
        turns: RefCell<VecDeque<Turn>>,
        is_shared: bool,
        is_waited_for: Cell<bool>,
    }

    fn scripted(turnstile: TurnstileState) -> Scripted {
        let begun = Instant::now();
        Scripted {
            begun,
            passed: Cell::default(),
            turnstile: Cell::new(turnstile),
            is_free: Cell::new(true),
            is_read: Cell::new(false),
            cannot_ask: Cell::new(false),
            asked: Cell::new(0),
            checks: Cell::new(0),
            remembered: Turnstiles::default(),
            pace: Pace::new(begun),
            region: Cell::new(0),
            turns: RefCell::default(),
            is_shared: false,
            is_waited_for: Cell::new(false),
        }
    }

    impl Scripted {
        fn is_to_be_had(&self) -> bool {
            self.is_free.get() || self.is_shared && self.is_read.get()
        }

        fn pass(&self, milliseconds: u64) {
            self.passed.set(self.passed.get() + Duration::from_millis(milliseconds));
        }

        #[track_caller]
        fn refused(&self) {
            assert_eq!(try_in_turn(self, true).unwrap(), Tried::Busy);
        }

        #[track_caller]
        fn granted(&self) {
            assert_eq!(try_in_turn(self, true).unwrap(), Tried::Acquired);
        }

        /// Tries every so many milliseconds; how many are refused before one is granted?
        fn refusals(&self, every: u64) -> u32 {
            let mut refused = 0;
            while try_in_turn(self, true).unwrap() == Tried::Busy {
                refused += 1;
                assert!(refused < 10_000, "never granted");
                self.pass(every);
            }
            refused
        }
    }

    impl Turnstile for Scripted {
        fn check(&self) -> TurnstileState {
            self.checks.set(self.checks.get() + 1);
            self.turnstile.get()
        }

        fn check_before_try(&self) -> Option<TurnstileState> {
            self.is_to_be_had().then(|| self.check())
        }

        fn remembered(&self) -> &Turnstiles {
            &self.remembered
        }

        fn pace(&self) -> &Pace {
            &self.pace
        }

        fn region(&self) -> Region {
            Region { start: self.region.get() }
        }

        fn now(&self) -> Instant {
            self.begun + self.passed.get()
        }

        fn pause(&self, time: Duration) {
            self.passed.set(self.passed.get() + time);
        }

        fn is_free(&self) -> io::Result<bool> {
            self.asked.set(self.asked.get() + 1);
            if self.cannot_ask.get() {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            Ok(self.is_free.get())
        }

        fn try_lock(&self) -> io::Result<Tried> {
            Ok(if self.is_to_be_had() { Tried::Acquired } else { Tried::Busy })
        }

        fn is_shared(&self) -> bool {
            self.is_shared
        }

        fn is_lock_waited_for(&self) -> bool {
            self.is_waited_for.get()
        }
    }

    impl Wait for Scripted {
        type Turnstile = Self;

        fn turnstile(&self) -> &Self {
            self
        }

        fn take_turnstile(&self, limit: Duration) -> Turn {
            self.pause(limit);
            self.turns.borrow_mut().pop_front().unwrap_or(Turn::TimedOut)
        }

        fn leave_turnstile(&self) {}

        fn lock(&self) -> io::Result<Waited> {
            Ok(Waited::Acquired)
        }
    }

    #[test]
    fn nobody_is_next() {
        for turnstile in [TurnstileState::Free, TurnstileState::Covered] {
            let scripted = scripted(turnstile);
            scripted.granted();
            scripted.is_free.set(false);
            scripted.refused();
        }
    }

    #[test]
    fn tries_shortly_after_a_check_of_a_free_turnstile_do_not_check() {
        let scripted = scripted(TurnstileState::Free);
        for checks in 1..=3 {
            for _ in 0..=HOT_TRIES {
                scripted.granted();
                assert_eq!(scripted.checks.get(), checks);
            }
        }
        for (after, checks) in [(0, 4), (49_999, 4), (1, 5), (49_999, 5), (50_000, 6)] {
            scripted.passed.set(scripted.passed.get() + Duration::from_nanos(after));
            scripted.granted();
            assert_eq!(scripted.checks.get(), checks, "after {after} ns more");
        }
    }

    #[test]
    fn each_try_checks_a_turnstile_that_is_not_free() {
        for turnstile in [ASLEEP, TurnstileState::Covered] {
            let scripted = scripted(turnstile);
            for checks in 1..=3 {
                let _ = try_in_turn(&scripted, false).unwrap();
                assert_eq!(scripted.checks.get(), checks, "{turnstile:?}");
            }
        }
    }

    #[test]
    fn a_try_after_a_wait_checks() {
        let scripted = scripted(TurnstileState::Free);
        scripted.granted();
        scripted.turns.borrow_mut().push_back(Turn::Taken);
        assert_eq!(lock_in_turn(&scripted).unwrap(), Waited::Acquired);
        let checks = scripted.checks.get();
        scripted.granted();
        assert_eq!(scripted.checks.get(), checks + 1);
    }

    #[test]
    fn the_limit_and_one_more_try() {
        let scripted = scripted(ASLEEP);
        scripted.refused();
        scripted.pass(60);
        scripted.refused();
        scripted.granted();
        assert_eq!(scripted.passed.get(), Duration::from_millis(60) + CHANCE, "it had its chance");
        for _ in 0..10 {
            scripted.granted();
        }
    }

    #[test]
    fn however_often_one_tries_the_limit_is_the_same() {
        for every in [1, 2, 5, 9, 11, 20, 49] {
            let scripted = scripted(ASLEEP);
            let refused = u64::from(scripted.refusals(every));
            let after_the_limit = refused.saturating_sub(50_u64.div_ceil(every));
            assert!(after_the_limit <= 1, "{refused} refused, one in {every} ms");
        }
        // Processes that try less often.
        for every in [50, 60, 1_000, 60_000] {
            assert_eq!(scripted(ASLEEP).refusals(every), 2, "one in {every} ms");
        }
    }

    #[test]
    fn an_owner_that_was_passed_has_another_chance_after_a_second() {
        let scripted = scripted(ASLEEP);
        scripted.refusals(5);
        scripted.pass(999);
        scripted.granted();
        scripted.pass(1);
        scripted.refused();
        scripted.granted();
        // By now it is awake, and has the lock.
        scripted.pass(1_000);
        scripted.refused();
        scripted.is_free.set(false);
        scripted.refused();
        scripted.is_free.set(true);
        scripted.turnstile.set(TurnstileState::Free);
        scripted.granted();
    }

    #[test]
    fn another_owner_is_trusted_anew() {
        let scripted = scripted(ASLEEP);
        scripted.refusals(5);
        scripted.turnstile.set(TurnstileState::Taken(Taken(2)));
        scripted.refused();
        scripted.pass(10);
        scripted.refused();
        scripted.pass(30);
        scripted.refused();
        scripted.pass(10);
        scripted.granted();
    }

    #[test]
    fn one_lock_says_nothing_of_another() {
        let scripted = scripted(ASLEEP);
        scripted.refusals(5);
        scripted.region.set(1 << 62);
        scripted.refused();
        scripted.region.set(0);
        scripted.granted();
    }

    #[test]
    fn a_lock_that_is_held_in_between_was_taken_by_its_next_owner() {
        let scripted = scripted(ASLEEP);
        scripted.refused();
        for _ in 0..100 {
            scripted.pass(50);
            scripted.is_free.set(true);
            scripted.refused();
            scripted.pass(50);
            scripted.is_free.set(false);
            scripted.refused();
        }
    }

    #[test]
    fn owners_that_come_and_go_and_never_take_the_lock_are_passed() {
        for every in [1, 5, 30, 100] {
            let scripted = scripted(ASLEEP);
            let mut refused = 0;
            while try_in_turn(&scripted, true).unwrap() == Tried::Busy {
                refused += 1;
                scripted.pass(every);
                scripted.turnstile.set(TurnstileState::Taken(Taken(refused)));
            }
            let limit = LONGEST.as_millis() as u64;
            assert!(refused * every >= limit, "passed after {refused} tries");
            assert!(refused <= (limit / every + 50).max(40), "passed after {refused} tries");
        }
    }

    #[test]
    fn a_lock_that_is_held_says_nothing_of_the_turnstile() {
        let scripted = scripted(ASLEEP);
        scripted.is_free.set(false);
        for _ in 0..100 {
            scripted.refused();
            scripted.pass(10);
        }
        assert!(scripted.remembered.is_empty());
        scripted.is_free.set(true);
        assert_eq!(scripted.refusals(60), 2, "as if it had not been tried before");
    }

    #[test]
    fn what_is_remembered_does_not_become_old_while_the_lock_is_held() {
        let scripted = scripted(ASLEEP);
        scripted.refused();
        scripted.pass(30);
        scripted.refused();
        // It is found free; the owner that wakes up now finds it held.
        scripted.is_free.set(false);
        scripted.pass(20);
        scripted.refused();
        scripted.is_free.set(true);
        scripted.pass(15);
        scripted.refused();
        scripted.granted();
    }

    /// As a process does that asks with a time limit, again and again: no wait is long enough by itself.
    #[test]
    fn waits_that_are_given_up_remember_as_one_long_wait() {
        let one = scripted(ASLEEP);
        assert_eq!(lock_in_turn(&one).unwrap(), Waited::Acquired);
        let limit = FIRST_LIMIT.as_millis() as u64;
        assert_eq!(one.passed.get(), Duration::from_millis(limit));

        let many = scripted(ASLEEP);
        let mut waits = 0;
        while many.passed.get() < FIRST_LIMIT * 2 {
            many.turns.borrow_mut().push_back(Turn::Interrupted);
            let before = many.passed.get();
            if lock_in_turn(&many).unwrap() == Waited::Acquired {
                break;
            }
            many.passed.set(before);
            many.pass(20);
            waits += 1;
        }
        assert_eq!(waits, 3, "of 20 ms each");
    }

    #[test]
    fn readers_wait_for_a_writer_that_is_awake_and_pass_one_that_sleeps() {
        let scripted = Scripted { is_shared: true, is_free: Cell::new(false), ..scripted(ASLEEP) };
        scripted.is_waited_for.set(true);
        scripted.turns.borrow_mut().extend([Turn::TimedOut; 500]);
        scripted.turns.borrow_mut().push_back(Turn::Interrupted);
        assert_eq!(lock_in_turn(&scripted).unwrap(), Waited::Interrupted);

        scripted.is_waited_for.set(false);
        assert_eq!(lock_in_turn(&scripted).unwrap(), Waited::Acquired);
        let before = scripted.passed.get();
        assert_eq!(lock_in_turn(&scripted).unwrap(), Waited::Acquired);
        assert_eq!(scripted.passed.get(), before, "the next one does not wait for it again");
        scripted.pass(1_000);
        assert_eq!(lock_in_turn(&scripted).unwrap(), Waited::Acquired);
        assert_eq!(scripted.passed.get(), before + DISTRUST, "it sleeps still");
    }

    /// With flock(2) to ask is to lock and to unlock, and the unlock may be refused.
    #[test]
    fn a_lock_that_cannot_be_given_back_is_used() {
        for is_free in [true, false] {
            let scripted = scripted(ASLEEP);
            scripted.cannot_ask.set(true);
            scripted.refused();
            scripted.pass(60);
            scripted.is_free.set(is_free);
            match (try_in_turn(&scripted, true), is_free) {
                (Ok(Tried::Acquired), true) => {}
                (Err(error), false) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
                (tried, _) => panic!("{tried:?}"),
            }
        }
    }

    fn read_beside_a_sleeper() -> Scripted {
        let (is_free, is_read) = (Cell::new(false), Cell::new(true));
        Scripted { is_shared: true, is_free, is_read, ..scripted(ASLEEP) }
    }

    #[test]
    fn tries_of_readers_pass_a_writer_that_sleeps_as_waits_do() {
        for every in [1, 20, 400] {
            let scripted = read_beside_a_sleeper();
            let refused = u64::from(scripted.refusals(every));
            let limit = LONGEST.as_millis() as u64;
            assert!((limit..=limit + every + 50).contains(&(refused * every)), "{refused} refused");
            scripted.granted();
        }
        let scripted = read_beside_a_sleeper();
        scripted.is_waited_for.set(true);
        for _ in 0..1_000 {
            scripted.refused();
            scripted.pass(20);
        }
        let exclusive = Scripted { is_shared: false, ..read_beside_a_sleeper() };
        for _ in 0..1_000 {
            exclusive.refused();
            exclusive.pass(20);
        }
    }

    /// As a hostile program can, that changes the length of its range.
    #[test]
    fn readers_pass_an_owner_that_changes_its_number() {
        let tries = read_beside_a_sleeper();
        let mut number = 0;
        let mut is_refused = |scripted: &Scripted| {
            number += 1;
            scripted.turnstile.set(TurnstileState::Taken(Taken(number)));
            scripted.pass(400);
            try_in_turn(scripted, true).unwrap() == Tried::Busy
        };
        let refused = (0..100).take_while(|_| is_refused(&tries)).count();
        assert!((4..=6).contains(&refused), "{refused} refused");
        assert!(!is_refused(&tries), "nor is it waited for again");
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let scripted = scripted(ASLEEP);
        for start in 0..3_000 {
            scripted.region.set(start);
            scripted.refused();
            scripted.pass(1);
        }
        assert_eq!(scripted.remembered.owners().len(), MOST_REMEMBERED);
        assert_eq!(scripted.refusals(60), 2, "the last one is remembered");
        scripted.turnstile.set(TurnstileState::Free);
        for start in 0..3_000 {
            scripted.region.set(start);
            // That of each region is its own.
            scripted.pace.end();
            scripted.granted();
        }
        assert!(!scripted.remembered.any.load(Ordering::Relaxed));
    }

    #[test]
    fn numbers_differ() {
        let [one, other, of_another_process] = [1, 1, 2].map(new_number);
        assert!(one != other && other != of_another_process && one <= WIDEST);
    }
}
