//! How long a request follows a lock file that is removed or replaced.
//!
//! Holders may remove the lock file, so a move says nothing: it is mostly the sign of progress elsewhere. A
//! request gives up when it has moved often and for long, and no lock was given out in the meantime as far
//! as can be seen: neither by the same handle, nor to another process for which this one had to wait.

use std::time::{Duration, Instant};

use super::FileLock;
use crate::driver::{RawGuard, Registration, new_rank};
use crate::queue::Rank;

/// A request gives up after so many moves in a row, over so long a time, with no progress anywhere.
pub(super) const MOST_IN_VAIN: u32 = 32;
pub(super) const LONGEST_IN_VAIN: Duration = Duration::from_secs(10);

/// The moves of one request.
#[derive(Debug, Default)]
pub(super) struct Moves {
    is_bound: bool,
    /// Its place among the requests that move.
    rank: Option<Rank>,
    /// The file that it leaves was locked by another process.
    was_locked: bool,
    in_vain: Option<InVain>,
}

#[derive(Debug)]
struct InVain {
    times: u32,
    since: Instant,
    /// The guards that the handle had given out when there was progress last.
    guards: usize,
}

impl Moves {
    /// Of a request for the lock of one file and no other.
    pub(super) fn none() -> Self {
        Self { is_bound: true, ..Self::default() }
    }

    /// `false` for a request that is for one file only.
    pub(super) fn are_followed(&self) -> bool {
        !self.is_bound
    }

    pub(super) fn rank(&self) -> Option<Rank> {
        self.rank
    }

    /// The request leaves the line of a file that is gone.
    pub(super) fn leave(&mut self, from: &Registration, rank: Rank) {
        self.rank = Some(rank);
        self.was_locked = from.has_waited();
    }

    /// The request gives back a lock of a file to which its path does not lead. Before it does: those behind
    /// it follow with higher ranks.
    pub(super) fn leave_with(&mut self, guard: &RawGuard) {
        let rank = self.rank.unwrap_or_else(new_rank);
        self.leave(guard.registration(), rank);
    }

    /// Whether to ask again where the path leads now.
    pub(super) fn go_on(&mut self, lock: &FileLock) -> bool {
        self.go_on_at(lock.handle.guards_given(), Instant::now())
    }

    /// The same, of a request for all of these, which leaves one of some files. What it has had in vain itself counts
    /// as no guard.
    pub(super) fn go_on_all<'a>(
        &mut self,
        locks: &[FileLock],
        mut from: impl Iterator<Item = &'a Registration>,
    ) -> bool {
        self.was_locked = from.any(Registration::has_waited);
        let guards = locks
            .iter()
            .fold(0, |guards: usize, lock| guards.wrapping_add(lock.handle.guards_given()));
        self.go_on_at(guards, Instant::now())
    }

    fn go_on_at(&mut self, guards: usize, now: Instant) -> bool {
        if self.is_bound {
            return false;
        }
        match &mut self.in_vain {
            Some(in_vain) if !self.was_locked && in_vain.guards == guards => {
                in_vain.times += 1;
                in_vain.times < MOST_IN_VAIN
                    || now.saturating_duration_since(in_vain.since) < LONGEST_IN_VAIN
            }
            _ => {
                self.in_vain = Some(InVain { times: 1, since: now, guards });
                true
            }
        }
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    /// So many moves, this far apart; how many until it gives up?
    fn moves(apart: Duration, mut what: impl FnMut(u32, &mut Moves) -> usize) -> Option<u32> {
        let (begun, mut moves) = (Instant::now(), Moves::default());
        (1..=10_000).find(|number| {
            let guards = what(*number, &mut moves);
            !moves.go_on_at(guards, begun + apart * *number)
        })
    }

    #[test]
    fn a_file_that_nobody_gets_to_lock_is_followed_for_ten_seconds() {
        assert_eq!(moves(Duration::from_millis(10), |_, _| 0), Some(1_001));
        assert_eq!(moves(Duration::from_secs(1), |_, _| 0), Some(MOST_IN_VAIN));
    }

    #[test]
    fn progress_of_others_counts() {
        let second = Duration::from_secs(1);
        // Another task of the handle has had the lock.
        assert_eq!(moves(second, |number, _| number as usize / 30), None);
        // Another process has.
        let locked = |number, moves: &mut Moves| {
            moves.was_locked = number % 30 == 0;
            0
        };
        assert_eq!(moves(second, locked), None);
    }

    #[test]
    fn a_request_for_one_file_does_not_move() {
        assert!(!Moves::none().go_on_at(0, Instant::now()));
    }
}
