//! Who holds what, as the holders say themselves: a file with one byte for each task and lock, read
//! and written without any lock.
//!
//! A holder writes its byte, and reads the others' afterwards. So of two who hold one lock at the same
//! time at least the later one sees the earlier one. The byte goes before the lock does. A process that
//! is killed cannot take its byte back: before it is killed the parent marks it as doomed, and its
//! bytes count no more.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::arena::Arena;

/// How many processes have a mark, whether or not there are so many.
const DOOMED: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Claim {
    Nothing = 0,
    Shared = 1,
    Exclusive = 2,
}

/// The file.
#[derive(Debug)]
pub(crate) struct Witness {
    file: File,
    processes: usize,
    tasks: usize,
}

/// A task of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) process: usize,
    pub(crate) task: usize,
}

/// Two who hold one lock.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    row: usize,
    ours: (Holder, u8),
    theirs: (Holder, u8),
}

impl Witness {
    pub(crate) fn create(path: &Path, processes: usize, tasks: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let witness = Self { file, processes, tasks };
        witness.file.set_len((DOOMED + Arena::LOCKS * (witness.row_length() + TOKEN)) as u64)?;
        Ok(witness)
    }

    pub(crate) fn open(path: &Path, processes: usize, tasks: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, processes, tasks })
    }

    /// Says that a process is to be killed.
    pub(crate) fn doom(&self, process: usize) -> io::Result<()> {
        self.file.write_all_at(&[1], process as u64)
    }

    /// Takes back what a process that is gone has claimed. Its successor may begin.
    pub(crate) fn forget(&self, process: usize) -> io::Result<()> {
        let nothing = vec![Claim::Nothing as u8; self.tasks];
        for row in 0..Arena::LOCKS {
            self.file.write_all_at(&nothing, self.offset(row, Holder { process, task: 0 }))?;
        }
        self.file.write_all_at(&[0], process as u64)
    }

    /// Notes what a task holds, and looks for others who hold it as well.
    pub(crate) fn claim(
        self: &Arc<Self>,
        row: usize,
        holder: Holder,
        claim: Claim,
    ) -> io::Result<Testimony> {
        let testimony = Testimony { witness: self.clone(), row, holder, claim };
        testimony.write(claim)?;
        Ok(testimony)
    }

    fn row_length(&self) -> usize {
        self.processes * self.tasks
    }

    fn offset(&self, row: usize, holder: Holder) -> u64 {
        let task = holder.process * self.tasks + holder.task;
        (DOOMED + row * (self.row_length() + TOKEN) + task) as u64
    }
}

/// The last token of each lock is behind its row.
const TOKEN: usize = size_of::<u64>();

/// That a task holds a lock, until it is dropped: before the guard.
#[derive(Debug)]
pub(crate) struct Testimony {
    witness: Arc<Witness>,
    row: usize,
    holder: Holder,
    claim: Claim,
}

impl Testimony {
    /// The others who hold the lock at this moment and must not.
    pub(crate) fn conflict(&self) -> io::Result<Option<Conflict>> {
        let witness = &self.witness;
        // First, for a process may be forgotten after its bytes were read.
        let mut doomed = [0; DOOMED];
        witness.file.read_exact_at(&mut doomed, 0)?;
        let mut row = vec![0; witness.row_length()];
        let start = witness.offset(self.row, Holder { process: 0, task: 0 });
        witness.file.read_exact_at(&mut row, start)?;
        let holders = row.iter().enumerate().map(|(place, claim)| {
            (Holder { process: place / witness.tasks, task: place % witness.tasks }, *claim)
        });
        let ours = (self.holder, self.claim as u8);
        let excluded = |theirs: &(Holder, u8)| {
            let is_claim = theirs.0 != self.holder && theirs.1 != Claim::Nothing as u8;
            is_claim
                && ours.1.max(theirs.1) == Claim::Exclusive as u8
                && doomed[theirs.0.process] == 0
        };
        let theirs = holders.into_iter().find(excluded);
        Ok(theirs.map(|theirs| Conflict { row: self.row, ours, theirs }))
    }

    /// From exclusive to shared: before the lock is.
    pub(crate) fn downgrade(&mut self) -> io::Result<()> {
        self.claim = Claim::Shared;
        self.write(Claim::Shared)
    }

    /// Notes the token of a tenure: the last one before it, if that was not smaller.
    pub(crate) fn outdated(&self, token: u64) -> io::Result<Option<u64>> {
        let place = Holder { process: self.witness.processes, task: 0 };
        let offset = self.witness.offset(self.row, place);
        let mut last = [0; TOKEN];
        self.witness.file.read_exact_at(&mut last, offset)?;
        self.witness.file.write_all_at(&token.to_le_bytes(), offset)?;
        let last = u64::from_le_bytes(last);
        Ok((last > token).then_some(last))
    }

    fn write(&self, claim: Claim) -> io::Result<()> {
        self.witness.file.write_all_at(&[claim as u8], self.witness.offset(self.row, self.holder))
    }
}

impl Drop for Testimony {
    fn drop(&mut self) {
        // What cannot be taken back is found by the next holder.
        let _ = self.write(Claim::Nothing);
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |(holder, claim): (Holder, u8)| {
            let mode = if claim == Claim::Shared as u8 { "shared" } else { "exclusive" };
            format!("process {} task {} ({mode})", holder.process, holder.task)
        };
        let (ours, theirs) = (said(self.ours), said(self.theirs));
        write!(f, "lock {} is held by {ours} and by {theirs}", self.row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn witness() -> (tempfile::TempDir, Arc<Witness>) {
        let directory = tempfile::tempdir().unwrap();
        let witness = Witness::create(&directory.path().join("witness"), 3, 5).unwrap();
        (directory, Arc::new(witness))
    }

    const ONE: Holder = Holder { process: 0, task: 4 };
    const OTHER: Holder = Holder { process: 2, task: 0 };

    #[test]
    fn the_later_one_sees_the_earlier_one_unless_both_share() {
        use Claim::{Exclusive, Shared};
        let (_directory, witness) = witness();
        for (first, second, found) in
            [(Exclusive, Exclusive, true), (Shared, Exclusive, true), (Shared, Shared, false)]
        {
            let earlier = witness.claim(7, ONE, first).unwrap();
            assert_eq!(earlier.conflict().unwrap(), None);
            let later = witness.claim(7, OTHER, second).unwrap();
            assert_eq!(later.conflict().unwrap().is_some(), found);
            let elsewhere = witness.claim(6, OTHER, second).unwrap();
            assert_eq!(elsewhere.conflict().unwrap(), None);
            drop(earlier);
            assert_eq!(later.conflict().unwrap(), None);
        }
    }

    #[test]
    fn a_downgrade_lets_others_share() {
        let (_directory, witness) = witness();
        let mut first = witness.claim(0, ONE, Claim::Exclusive).unwrap();
        first.downgrade().unwrap();
        let second = witness.claim(0, OTHER, Claim::Shared).unwrap();
        assert_eq!((first.conflict().unwrap(), second.conflict().unwrap()), (None, None));
    }

    #[test]
    fn who_is_doomed_holds_nothing_and_its_successor_does() {
        let (_directory, witness) = witness();
        let dead = witness.claim(11, OTHER, Claim::Exclusive).unwrap();
        witness.doom(OTHER.process).unwrap();
        let holder = witness.claim(11, ONE, Claim::Exclusive).unwrap();
        assert_eq!(holder.conflict().unwrap(), None);
        witness.forget(OTHER.process).unwrap();
        std::mem::forget(dead);
        assert_eq!(holder.conflict().unwrap(), None);
        let _successor = witness.claim(11, OTHER, Claim::Shared).unwrap();
        assert!(holder.conflict().unwrap().is_some());
    }

    #[test]
    fn a_token_that_is_smaller_than_the_last_one_is_found() {
        let (_directory, witness) = witness();
        let holder = witness.claim(3, ONE, Claim::Exclusive).unwrap();
        assert_eq!(holder.outdated(5).unwrap(), None);
        assert_eq!(holder.outdated(5).unwrap(), None);
        assert_eq!(holder.outdated(4).unwrap(), Some(5));
        assert_eq!(holder.conflict().unwrap(), None);
    }
}
