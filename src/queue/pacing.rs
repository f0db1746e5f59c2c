//! When a process checks the turnstile, and when its tenure is over. Pure: the time is passed in.
//!
//! A process that has the OS lock hands it from task to task without a system call. So that other processes get
//! in, it asks from time to time whether one of them waits at the turnstile, and ends its tenure if one does. Programs
//! that do not use the turnstile are not seen by that, so a tenure also ends when the lock has gone from task to task for
//! long enough.
//!
//! A check is a system call, and reading the clock costs as much as half a handover of an empty section. So neither is
//! done for each handover:
//! - a check is due after [`CHECK_EVERY`] handovers if they took [`NO_SOONER`], and after [`NO_LATER`] in any case. The first
//!   handover of a tenure checks, unless the tenure began with a wait: others were let in before it then;
//! - while [`CLOCK_EVERY`] handovers take less than [`QUICK`], the clock is read for one of them. So a check, or the end of a
//!   tenure, is late by as many critical sections if they become long all of a sudden.

use std::time::{Duration, Instant};

use super::End;
use crate::mode::Mode;

const CHECK_EVERY: u32 = 16;
const NO_SOONER: Duration = Duration::from_micros(50);
const NO_LATER: Duration = Duration::from_millis(1);

const CLOCK_EVERY: u32 = 8;
const QUICK: Duration = Duration::from_micros(100);

/// How one lock paces its checks and its tenures.
#[derive(Debug)]
pub(crate) struct Pacing {
    /// Handing over for longer than this ends a tenure.
    longest: Duration,
    /// Since when the lock goes from task to task with no chance for other processes, if it does.
    since: Option<Instant>,
    handovers_since_check: u32,
    /// In this tenure, or when the wait that began it ended. `None`: the next handover checks.
    last_check: Option<Instant>,
    /// The last time that the clock was read, and how often it need not be.
    last_clock: Option<Instant>,
    handovers_without_clock: u32,
}

/// A handover for which the clock is read. The task that has it reads the clock, and makes the check if one is due, both without
/// the mutex; then says so ([`Pacing::complete`]).
#[derive(Debug)]
#[must_use = "the clock is to be read"]
pub(crate) struct Step {
    handovers_since_check: u32,
    last_check: Option<Instant>,
}

impl Step {
    #[inline]
    pub(crate) fn is_check_due(&self, now: Instant) -> bool {
        self.last_check.is_none_or(|last| {
            let time = now.saturating_duration_since(last);
            time >= NO_LATER || self.handovers_since_check >= CHECK_EVERY && time >= NO_SOONER
        })
    }
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    NotDue,
    /// No process waits at the turnstile.
    Free,
    /// Another process waits.
    Taken,
}

impl Pacing {
    /// A tenure has no bound in time, until [`limit`](Self::limit) sets one.
    pub(crate) fn new() -> Self {
        Self {
            longest: Duration::MAX,
            since: None,
            handovers_since_check: 0,
            last_check: None,
            last_clock: None,
            handovers_without_clock: 0,
        }
    }

    /// From now on a tenure ends after so long a time of handing over, if that is shorter than before.
    pub(crate) fn limit(&mut self, longest: Duration) {
        self.longest = self.longest.min(longest);
    }

    /// The OS lock was acquired; if a wait ended with it, that was at this time.
    pub(crate) fn begin_tenure(&mut self, mode: Mode, waited: Option<Instant>) {
        self.last_check = waited;
        // Readers check at their first join, if that is not within the time of no check.
        self.handovers_since_check = if mode == Mode::Shared { CHECK_EVERY } else { 0 };
        self.last_clock = None;
        self.handovers_without_clock = 0;
    }

    /// The lock is about to go to another task, or a reader to join others. `Some` if the clock is to be read.
    #[inline]
    pub(crate) fn hand_over(&mut self) -> Option<Step> {
        self.handovers_since_check += 1;
        if self.handovers_without_clock > 0 {
            self.handovers_without_clock -= 1;
            return None;
        }
        let (handovers_since_check, last_check) = (self.handovers_since_check, self.last_check);
        Some(Step { handovers_since_check, last_check })
    }

    /// What the clock showed before the check, and what the check came to. Says whether the tenure is over.
    #[inline]
    pub(crate) fn complete(&mut self, now: Instant, check: Check) -> Option<End> {
        if check != Check::NotDue {
            self.handovers_since_check = 0;
            self.last_check = Some(now);
        }
        let last_clock = self.last_clock.replace(now);
        if last_clock.is_some_and(|last| now.saturating_duration_since(last) < QUICK) {
            self.handovers_without_clock = CLOCK_EVERY - 1;
        }
        let since = *self.since.get_or_insert(now);
        if check == Check::Taken {
            return Some(End::Seen);
        }
        (now.saturating_duration_since(since) >= self.longest).then_some(End::Unseen)
    }

    /// Other processes have had their chance: the OS lock was given back, and no task waits; or this process waits.
    #[inline]
    pub(crate) fn let_others_in(&mut self) {
        self.since = None;
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use Mode::{Exclusive, Shared};

    const fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    /// Pacing beside a clock that the test moves.
    struct Clocked {
        pacing: Pacing,
        begun: Instant,
        passed: Duration,
        is_taken: bool,
        /// The handovers for which the clock was read, and at which of them the turnstile was checked.
        clocks: Vec<u32>,
        checks: Vec<u32>,
        handovers: u32,
    }

    impl Clocked {
        fn new(longest: Duration) -> Self {
            let mut pacing = Pacing::new();
            pacing.limit(longest);
            let (clocks, checks) = (Vec::new(), Vec::new());
            let (begun, passed) = (Instant::now(), Duration::ZERO);
            Self { pacing, begun, passed, is_taken: false, clocks, checks, handovers: 0 }
        }

        fn now(&self) -> Instant {
            self.begun + self.passed
        }

        /// A tenure that began with a try.
        fn begin(&mut self, mode: Mode) {
            self.pacing.begin_tenure(mode, None);
        }

        fn hand_over(&mut self) -> Option<End> {
            self.handovers += 1;
            let step = self.pacing.hand_over()?;
            self.clocks.push(self.handovers);
            let now = self.now();
            let check = match step.is_check_due(now) {
                false => Check::NotDue,
                true => {
                    self.checks.push(self.handovers);
                    if self.is_taken { Check::Taken } else { Check::Free }
                }
            };
            self.pacing.complete(now, check)
        }

        /// So many handovers, so long after each other. None may end the tenure.
        fn run(&mut self, times: u32, apart: Duration) {
            for _ in 0..times {
                self.passed += apart;
                assert_eq!(self.hand_over(), None, "handover {}", self.handovers);
            }
        }
    }

    #[test]
    fn the_first_handover_of_a_tenure_checks() {
        for mode in [Exclusive, Shared] {
            let mut clocked = Clocked::new(Duration::MAX);
            clocked.begin(mode);
            clocked.run(1, micros(1));
            assert_eq!(clocked.checks, [1], "{mode:?}");
        }
    }

    #[test]
    fn a_wait_has_let_others_in() {
        let mut clocked = Clocked::new(Duration::MAX);
        let now = clocked.now();
        clocked.pacing.begin_tenure(Exclusive, Some(now));
        clocked.run(15, micros(10));
        assert!(clocked.checks.is_empty());
        // Handover 16 comes after 160 µs. The clock is read for one in eight.
        clocked.run(9, micros(10));
        assert_eq!(clocked.checks, [18]);
    }

    #[test]
    fn readers_that_have_waited_check_at_their_first_join_after_50_us() {
        for (after, checks) in [(49, &[][..]), (50, &[1][..])] {
            let mut clocked = Clocked::new(Duration::MAX);
            let now = clocked.now();
            clocked.pacing.begin_tenure(Shared, Some(now));
            clocked.run(1, micros(after));
            assert_eq!(clocked.checks, checks, "after {after} µs");
        }
    }

    #[test]
    fn sixteen_handovers_or_a_millisecond() {
        // Handovers so many microseconds apart: which of them check.
        let table = [
            (100, [1, 11, 21, 31]),
            // The clock is read for one in eight, then for the next one, and so on.
            (63, [1, 19, 37, 55]),
            (500, [1, 3, 5, 7]),
            (5_000, [1, 2, 3, 4]),
        ];
        for (apart, checks) in table {
            let mut clocked = Clocked::new(Duration::MAX);
            clocked.begin(Exclusive);
            clocked.run(64, micros(apart));
            assert_eq!(clocked.checks[..4], checks, "{apart} µs apart");
        }
    }

    #[test]
    fn quick_handovers_read_the_clock_once_in_eight() {
        let mut clocked = Clocked::new(Duration::MAX);
        clocked.begin(Exclusive);
        clocked.run(34, micros(1));
        assert_eq!(clocked.clocks, [1, 2, 10, 18, 26, 34]);
        clocked.run(100, micros(200));
        let late: Vec<u32> = clocked.clocks.iter().copied().filter(|at| *at > 42).collect();
        assert_eq!(late, (43..=134).collect::<Vec<_>>(), "each one, after the next reading");
    }

    #[test]
    fn a_process_that_is_seen_ends_the_tenure() {
        let mut clocked = Clocked::new(Duration::MAX);
        clocked.begin(Exclusive);
        clocked.is_taken = true;
        assert_eq!(clocked.hand_over(), Some(End::Seen));
    }

    #[test]
    fn handing_over_for_too_long_ends_the_tenure_and_the_next_one_begins_anew() {
        let mut clocked = Clocked::new(micros(1_000));
        clocked.begin(Exclusive);
        clocked.run(10, micros(100));
        clocked.passed += micros(100);
        assert_eq!(clocked.hand_over(), Some(End::Unseen));
        // No chance for others in between: it goes on.
        clocked.begin(Exclusive);
        assert_eq!(clocked.hand_over(), Some(End::Unseen));
        clocked.pacing.let_others_in();
        clocked.begin(Exclusive);
        clocked.run(10, micros(100));
    }

    #[test]
    fn the_strictest_limit_counts() {
        let mut clocked = Clocked::new(micros(500));
        clocked.pacing.limit(micros(2_000));
        clocked.begin(Exclusive);
        clocked.run(5, micros(100));
        clocked.passed += micros(100);
        assert_eq!(clocked.hand_over(), Some(End::Unseen));
    }

    proptest! {
        /// Whatever comes: a process that waits is seen within 16 handovers and 50 µs, or a millisecond, and as many
        /// handovers more as the clock is not read for.
        #[test]
        fn a_process_that_waits_is_seen_in_time(
            apart in vec(0..3_000_u64, 1..400),
            waits_from in 0..400_usize,
        ) {
            let mut clocked = Clocked::new(Duration::MAX);
            clocked.begin(Exclusive);
            let mut waited_for: Option<(u32, Duration)> = None;
            for (at, apart) in apart.into_iter().enumerate() {
                clocked.passed += micros(apart);
                if at >= waits_from && waited_for.is_none() {
                    clocked.is_taken = true;
                    waited_for = Some((clocked.handovers, clocked.passed));
                }
                let end = clocked.hand_over();
                let Some((handovers, passed)) = waited_for else {
                    prop_assert_eq!(end, None);
                    continue;
                };
                if end == Some(End::Seen) {
                    break;
                }
                let (handovers, time) = (clocked.handovers - handovers, clocked.passed - passed);
                let is_late = handovers > CHECK_EVERY + CLOCK_EVERY && time >= NO_SOONER;
                prop_assert!(!is_late, "not seen for {handovers} handovers and {time:?}");
            }
        }

        /// A check is never closer to the one before than 50 µs, but for the first of a tenure.
        #[test]
        fn checks_are_apart(apart in vec(0..200_u64, 1..400)) {
            let mut clocked = Clocked::new(Duration::MAX);
            clocked.begin(Exclusive);
            let mut last: Option<Duration> = None;
            for apart in apart {
                clocked.passed += micros(apart);
                let before = clocked.checks.len();
                let _ = clocked.hand_over();
                if clocked.checks.len() > before {
                    if let Some(last) = last.replace(clocked.passed) {
                        prop_assert!(clocked.passed - last >= NO_SOONER);
                    }
                }
            }
        }
    }
}
