//! What one exclusive tenure has written into the lock file.
//!
//! Written after the OS lock is there and before anybody gets a guard, so never by a loser; marked as
//! released before the OS lock goes back, so a record that the next holder finds `held` is that of
//! one who died. Nothing here makes sure of that order: `entry` does, which calls `begin` in the
//! attempt and `end` in the unlock.
//!
//! The find of a dead holder goes to the first exclusive guard of the tenure. A tenure without one
//! (whoever asked has given up) puts the dead holder's record back, for the next one to find.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::holder::{LONGEST, Process, Record};
use crate::os::{self, LockFile};

/// What this process says of itself in records.
#[derive(Debug)]
pub(crate) struct Signature {
    process: Process,
    label: Option<String>,
}

impl Signature {
    /// Makes some system calls.
    pub(crate) fn new(label: Option<String>) -> Self {
        Self { process: os::this_process(), label }
    }
}

/// What an exclusive guard gets to know of the record.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) token: u64,
    pub(crate) abandoned: Option<Record>,
}

#[derive(Debug)]
pub(super) struct Recorded {
    record: Record,
    /// That of a holder that died, until an exclusive guard is told.
    abandoned: Option<Record>,
    /// Of the text in the file.
    length: usize,
}

impl Recorded {
    /// The OS lock is ours, exclusively. `unreleased` is the token of an own tenure that could not
    /// be marked as released.
    pub(super) fn begin(
        file: &LockFile,
        signature: &Signature,
        unreleased: Option<u64>,
    ) -> io::Result<Self> {
        let mut content = [0; LONGEST + 1];
        let length = file.read(&mut content)?;
        let before = Record::parse(&content[..length]);
        let token = before.as_ref().map_or(0, Record::token).saturating_add(1);
        let (process, label) = (signature.process.clone(), signature.label.clone());
        let record = Record::held(process, token, since(), label);
        if length > LONGEST {
            // No record. One that is only longer than ours is covered, and never cut: its token must
            // be there whenever we die.
            file.truncate(0)?;
        }
        let text = record.text(length);
        file.write(text.as_bytes(), 0)?;
        let abandoned =
            before.filter(|before| before.is_held() && Some(before.token()) != unreleased);
        Ok(Self { record, abandoned, length: text.len() })
    }

    pub(super) fn token(&self) -> u64 {
        self.record.token()
    }

    /// An exclusive guard is given out.
    pub(super) fn tell(&mut self) -> Told {
        Told { token: self.record.token(), abandoned: self.abandoned.take() }
    }

    /// The OS lock is about to go back.
    pub(super) fn end(&self, file: &LockFile) -> io::Result<()> {
        match &self.abandoned {
            Some(abandoned) => file.write(abandoned.text(self.length).as_bytes(), 0),
            None => {
                let (at, state) = self.record.release();
                file.write(state.as_bytes(), at)
            }
        }
    }
}

/// The time, unless the clock shows one that a record can not hold.
fn since() -> Option<SystemTime> {
    /// The beginning of the year 10000.
    const END: Duration = Duration::from_secs(253_402_300_800);
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).is_ok_and(|passed| passed < END).then_some(now)
}
