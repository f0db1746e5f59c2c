//! What one exclusive tenure has written into the lock file.
//!
//! Written after the OS lock is there and before any task gets a guard, so never by a loser; marked as
//! released before the OS lock goes back, so a record that the next holder finds `held` is that of
//! one who died. Nothing here makes sure of that order: the lock does, which calls `begin` in the
//! attempt and `end` in the unlock.
//!
//! A record that cannot be written leaves the content as it was, as far as that can be had: its token must
//! not be lost, and half a record not be taken for one. Whether the tenure goes on without is not decided
//! here.
//!
//! The find of a dead holder goes to the first exclusive guard of the tenure. A tenure without one
//! (the requests for it have given up) puts the dead holder's record back, for the next one to find.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::engine::TenureInfo;
use crate::holder::{LONGEST, Label, Record, Written, labelled};
use crate::os::{self, LockFile};

/// What this process says of itself in records.
#[derive(Debug)]
pub(crate) struct Signature {
    pid: u32,
    lines: String,
    /// Rather no lock than one without the record.
    pub(super) is_required: bool,
}

impl Signature {
    /// Makes some system calls.
    pub(crate) fn new(is_required: bool) -> Self {
        let process = os::this_process();
        Self { pid: process.pid, lines: process.lines(), is_required }
    }
}

/// A record is shorter than this unless its holder says a lot. Filling a buffer for the longest one with zeros would cost as
/// much as the rest of a tenure.
const EXPECTED: usize = 512;

#[derive(Debug)]
pub(super) struct Recorded {
    /// `None` if it could not be.
    written: Option<Written>,
    since: Option<SystemTime>,
    label: Option<Label>,
    /// That of a holder that died, until an exclusive guard is told.
    abandoned: Option<Record>,
}

impl Recorded {
    /// The OS lock is ours, exclusively. `last` is what this process wrote before, to be reused.
    /// The error is that of a record that could not be written.
    pub(super) fn begin(
        file: &LockFile,
        signature: &Signature,
        label: Option<Label>,
        last: Written,
    ) -> (Self, io::Result<()>) {
        let (mut few, mut all) = ([0; EXPECTED], Vec::new());
        let content = match read_replaceable(file, &mut few, &mut all, &last) {
            Ok(content) => content,
            Err(error) => {
                let (written, since, abandoned) = (None, None, None);
                return (Self { written, since, label, abandoned }, Err(error));
            }
        };
        // Mostly no other process was there in between. Then there is nothing to be found out: also if
        // the last tenure could not be marked as released.
        let (before, abandoned) = if content == last.text {
            (last.token, None)
        } else {
            match Record::parse(content) {
                Some(before) => (before.token(), Some(before).filter(Record::is_held)),
                None => (0, None),
            }
        };
        // One that is longer than ours is covered, and never cut: its token must be there whenever we die.
        let (mut written, since) = (last, since());
        let token = before.saturating_add(1);
        let lines = labelled(&signature.lines, label.as_deref());
        written.hold(signature.pid, token, since, &lines, content.len());
        let answer = file.write(&written.text, 0);
        if answer.is_err() {
            // What was there has its room.
            let _ = file.write(content, 0).and_then(|()| file.truncate(content.len() as u64));
        }
        let written = answer.is_ok().then_some(written);
        (Self { written, since, label, abandoned }, answer)
    }

    pub(super) fn label(&self) -> Option<&Label> {
        self.label.as_ref()
    }

    /// The lock goes to another request than it was acquired for. Where that can not be written, the record
    /// says what it said.
    pub(super) fn relabel(&mut self, file: &LockFile, signature: &Signature, label: Option<Label>) {
        if let Some(before) = &mut self.written {
            let mut written = before.clone();
            let lines = labelled(&signature.lines, label.as_deref());
            written.hold(signature.pid, written.token, self.since, &lines, before.text.len());
            if file.write(&written.text, 0).is_ok() {
                *before = written;
            } else {
                let _ = file.write(&before.text, 0);
            }
        }
        self.label = label;
    }

    /// An exclusive guard is given out.
    pub(super) fn take_info(&mut self) -> TenureInfo {
        let token = self.written.as_ref().map(|written| written.token);
        TenureInfo { token, abandoned: self.abandoned.take() }
    }

    /// The OS lock is about to go back. Returns what the file holds then, as far as it is this
    /// process's.
    pub(super) fn end(self, file: &LockFile) -> (Written, io::Result<()>) {
        let Some(mut written) = self.written else { return (Written::default(), Ok(())) };
        match self.abandoned {
            Some(abandoned) => {
                let text = abandoned.text(written.text.len());
                (Written::default(), file.write(&text, 0))
            }
            None => {
                let ended = written.release(|state, at| file.write(state, at));
                (written, ended)
            }
        }
    }
}

/// Reads what a record is to replace, unless that is no lock file's: a file with more in it than a record, or with another
/// name as well, may be the data of a program. It is looked at anew where another process was there in between.
fn read_replaceable<'a>(
    file: &LockFile,
    few: &'a mut [u8; EXPECTED],
    all: &'a mut Vec<u8>,
    last: &Written,
) -> io::Result<&'a [u8]> {
    let mut length = file.read(few)?;
    let mut content = &few[..length];
    if length == few.len() {
        all.resize(LONGEST + 1, 0);
        length = file.read(all)?;
        content = &all[..length];
    }
    if content == last.text {
        return Ok(content);
    }
    let refused = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    if length > LONGEST {
        return refused("there is more in the file than a record, so it is no lock file");
    }
    if file.has_other_names()? {
        return refused("the file has another name as well, so it may be no lock file");
    }
    Ok(content)
}

/// The time, unless the clock shows one that a record can not hold.
fn since() -> Option<SystemTime> {
    /// The beginning of the year 10000.
    const END: Duration = Duration::from_secs(253_402_300_800);
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).is_ok_and(|passed| passed < END).then_some(now)
}
