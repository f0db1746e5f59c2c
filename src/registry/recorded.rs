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

use crate::holder::{LONGEST, Record, Written};
use crate::os::{self, LockFile};

/// What this process says of itself in records.
#[derive(Debug)]
pub(crate) struct Signature {
    pid: u32,
    lines: String,
}

impl Signature {
    /// Makes some system calls.
    pub(crate) fn new(label: Option<&str>) -> Self {
        let process = os::this_process();
        Self { pid: process.pid, lines: process.lines(label) }
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
    written: Written,
    /// That of a holder that died, until an exclusive guard is told.
    abandoned: Option<Record>,
}

impl Recorded {
    /// The OS lock is ours, exclusively. `last` is what this process wrote before, to be reused.
    pub(super) fn begin(file: &LockFile, signature: &Signature, last: Written) -> io::Result<Self> {
        let mut content = [0; LONGEST + 1];
        let length = file.read(&mut content)?;
        let content = &content[..length];
        // Mostly nobody else was there in between. Then there is nothing to be found out: also if
        // the last tenure could not be marked as released.
        let (before, abandoned) = if content == last.text {
            (last.token, None)
        } else {
            match Record::parse(content) {
                Some(before) => (before.token(), Some(before).filter(Record::is_held)),
                None => (0, None),
            }
        };
        if length > LONGEST {
            // No record. One that is only longer than ours is covered, and never cut: its token must
            // be there whenever we die.
            file.truncate(0)?;
        }
        let mut written = last;
        let token = before.saturating_add(1);
        written.hold(signature.pid, token, since(), &signature.lines, length);
        file.write(&written.text, 0)?;
        Ok(Self { written, abandoned })
    }

    /// An exclusive guard is given out.
    pub(super) fn tell(&mut self) -> Told {
        Told { token: self.written.token, abandoned: self.abandoned.take() }
    }

    /// The OS lock is about to go back. Returns what the file holds then, as far as it is this
    /// process's.
    pub(super) fn end(mut self, file: &LockFile) -> (Written, io::Result<()>) {
        match self.abandoned {
            Some(abandoned) => {
                let text = abandoned.text(self.written.text.len());
                (Written::default(), file.write(&text, 0))
            }
            None => {
                let ended = self.written.release(|state, at| file.write(state, at));
                (self.written, ended)
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
