//! What one exclusive tenure has written into the lock file.
//!
//! Written after the OS lock is there and before any task gets a guard, so never by a loser; marked as
//! released before the OS lock goes back, so a record that the next holder finds `held` is that of
//! a holder that died. Nothing here makes sure of that order: the lock does, which calls `begin` in the
//! attempt and `end` in the unlock.
//!
//! A record that cannot be written leaves the content as it was, as far as that can be had: its token must
//! not be lost, and half a record not be taken for one. Whether the tenure goes on without is not decided
//! here.
//!
//! The engine says what the file is ([`RecordFile`]): a file on a disk, or one of a simulated machine.
//!
//! The find of a dead holder goes to the first exclusive guard of the tenure. A tenure without one
//! (the requests for it have given up) puts the dead holder's record back, for the next one to find.

use std::io;
use std::mem;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::TenureInfo;
use crate::holder::{LONGEST, Label, Process, Record, Written, labelled};
use crate::shim::{Arc, AtomicBool, Mutex, Ordering};

/// The lock file, as what a record is written into.
pub(crate) trait RecordFile {
    /// Reads the beginning of the file, as much as there is or fits.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    fn write(&self, content: &[u8], at: u64) -> io::Result<()>;
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// More than one name leads to it.
    fn has_other_names(&self) -> io::Result<bool>;
    /// The time of day.
    fn time(&self) -> SystemTime;
}

/// The records of one lock: whether this process leaves them, and that of the tenure.
#[derive(Debug)]
pub(super) struct Records {
    /// There is a signature: one of the handles wants records.
    are_left: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    signature: Option<Arc<Signature>>,
    /// Of one of the handles that asked: no exclusive lock without a record.
    is_required: bool,
    /// In an exclusive tenure, if one of the handles wanted records when it began.
    recorded: Option<Recorded>,
    /// The record of the last tenure, as it stands in the file if no other process was there since.
    written: Written,
    /// Why it could not be marked as released when the tenure became a shared one.
    not_ended: Option<io::Error>,
}

impl Records {
    pub(super) fn new() -> Self {
        Self { are_left: AtomicBool::new(false), state: Mutex::default() }
    }

    /// From the next exclusive tenure on, holders leave a record with this signature.
    pub(super) fn leave(&self, signature: Arc<Signature>) {
        let mut state = self.state.lock();
        state.is_required |= signature.is_required;
        state.signature = Some(signature);
        drop(state);
        self.are_left.store(true, Ordering::Release);
    }

    #[inline]
    pub(super) fn are_left(&self) -> bool {
        self.are_left.load(Ordering::Acquire)
    }

    /// The OS lock is ours, exclusively, and records are left. No task has a guard yet.
    pub(super) fn begin(&self, file: &impl RecordFile, label: Option<Label>) -> io::Result<()> {
        let (signature, written) = {
            let mut state = self.state.lock();
            (state.signature.clone(), mem::take(&mut state.written))
        };
        let signature = signature.expect("there is one if a handle wants records");
        let (recorded, answer) = Recorded::begin(file, &signature, label, written);
        let mut state = self.state.lock();
        match answer {
            Err(error) if state.is_required => Err(of_record("written", error)),
            _ => {
                state.recorded = Some(recorded);
                Ok(())
            }
        }
    }

    /// Records are left, and no task has an exclusive guard any more. `file` gives the file, or why nothing may be written
    /// into it.
    pub(super) fn end<'a, F: RecordFile + 'a>(
        &self,
        file: impl FnOnce() -> io::Result<&'a F>,
    ) -> io::Result<()> {
        let (recorded, not_ended) = {
            let mut state = self.state.lock();
            (state.recorded.take(), state.not_ended.take())
        };
        let Some(recorded) = recorded else { return not_ended.map_or(Ok(()), Err) };
        let (written, ended) = recorded.end(file()?);
        self.state.lock().written = written;
        ended.map_err(|error| of_record("marked as released", error))
    }

    /// It could not be marked as released when the tenure became a shared one. Its end says so.
    pub(super) fn was_not_ended(&self, error: io::Error) {
        self.state.lock().not_ended = Some(error);
    }

    pub(super) fn is_labelled(&self, label: Option<&Label>) -> bool {
        if !self.are_left() {
            return true;
        }
        let state = self.state.lock();
        state.recorded.as_ref().is_none_or(|recorded| recorded.label() == label)
    }

    pub(super) fn set_label(&self, file: &impl RecordFile, label: Option<Label>) {
        let (recorded, signature) = {
            let mut state = self.state.lock();
            (state.recorded.take(), state.signature.clone())
        };
        let Some(mut recorded) = recorded else { return };
        let signature = signature.expect("there is one if there is a record");
        recorded.relabel(file, &signature, label);
        self.state.lock().recorded = Some(recorded);
    }

    pub(super) fn tenure_info(&self) -> Option<TenureInfo> {
        if !self.are_left() {
            return None;
        }
        self.state.lock().recorded.as_mut().map(Recorded::take_info)
    }
}

fn of_record(done: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("its record can not be {done}: {error}"))
}

/// What a file holds of a record.
pub(super) fn read_record(file: &impl RecordFile) -> Option<Record> {
    let mut content = [0; LONGEST + 1];
    let length = file.read(&mut content).ok()?;
    Record::parse(&content[..length])
}

/// What this process says of itself in records.
#[derive(Debug)]
pub(crate) struct Signature {
    pid: u32,
    lines: String,
    /// Rather no lock than one without the record.
    is_required: bool,
}

impl Signature {
    pub(crate) fn new(process: &Process, is_required: bool) -> Self {
        Self { pid: process.pid, lines: process.lines(), is_required }
    }
}

/// A record is shorter than this unless its holder says a lot. Filling a buffer for the longest one with zeros would cost as
/// much as the rest of a tenure.
const EXPECTED: usize = 513;

#[derive(Debug)]
struct Recorded {
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
    fn begin(
        file: &impl RecordFile,
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
        let (mut written, since) = (last, since(file));
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

    fn label(&self) -> Option<&Label> {
        self.label.as_ref()
    }

    /// The lock goes to another request than it was acquired for. Where that can not be written, the record
    /// says what it said.
    fn relabel(&mut self, file: &impl RecordFile, signature: &Signature, label: Option<Label>) {
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
    fn take_info(&mut self) -> TenureInfo {
        let token = self.written.as_ref().map(|written| written.token);
        TenureInfo { token, abandoned: self.abandoned.take() }
    }

    /// The OS lock is about to go back. Returns what the file holds then, as far as it is this
    /// process's.
    fn end(self, file: &impl RecordFile) -> (Written, io::Result<()>) {
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
    file: &impl RecordFile,
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
fn since(file: &impl RecordFile) -> Option<SystemTime> {
    /// The beginning of the year 10000.
    const END: Duration = Duration::from_secs(253_402_300_800);
    let now = file.time();
    now.duration_since(UNIX_EPOCH).is_ok_and(|passed| passed < END).then_some(now)
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A file of which so many writes succeed, and then none for a while.
    #[derive(Default)]
    struct Disk {
        content: RefCell<Vec<u8>>,
        /// How many writes fail, after how many.
        fails: Cell<(u32, u32)>,
    }

    impl RecordFile for Disk {
        fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
            let content = self.content.borrow();
            let length = buffer.len().min(content.len());
            buffer[..length].copy_from_slice(&content[..length]);
            Ok(length)
        }

        fn write(&self, content: &[u8], at: u64) -> io::Result<()> {
            let (fails, after) = self.fails.get();
            self.fails.set((fails.saturating_sub(u32::from(after == 0)), after.saturating_sub(1)));
            let is_failure = after == 0 && fails > 0;
            let all = &mut *self.content.borrow_mut();
            let (begin, end) = (at as usize, at as usize + content.len());
            all.resize(all.len().max(end), 0);
            // A record may be written in part; the few bytes of a mark are, or are not.
            let part = if content.len() > 64 { content.len() - 1 } else { 0 };
            let written = if is_failure { part } else { content.len() };
            all[begin..begin + written].copy_from_slice(&content[..written]);
            if is_failure { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn truncate(&self, length: u64) -> io::Result<()> {
            self.content.borrow_mut().truncate(length as usize);
            Ok(())
        }

        fn has_other_names(&self) -> io::Result<bool> {
            Ok(false)
        }

        fn time(&self) -> SystemTime {
            UNIX_EPOCH
        }
    }

    impl Disk {
        fn record(&self) -> Record {
            Record::parse(&self.content.borrow()).expect("a record")
        }

        fn fail(&self, times: u32, after: u32) {
            self.fails.set((times, after));
        }
    }

    fn records(is_required: bool) -> Records {
        let records = Records::new();
        records.leave(Arc::new(Signature::new(&crate::os::this_process(), is_required)));
        records
    }

    fn label(text: &str) -> Option<Label> {
        Some(text.into())
    }

    #[test]
    fn what_could_not_be_marked_as_released_is_told_by_the_next_end_and_once() {
        let (disk, records) = (Disk::default(), records(false));
        records.begin(&disk, None).unwrap();
        disk.fail(1, 0);
        // As a downgrade does it.
        let error = records.end(|| Ok(&disk)).unwrap_err();
        records.was_not_ended(error);
        let told = records.end(|| Ok(&disk)).unwrap_err();
        assert!(told.to_string().contains("can not be marked as released"), "{told}");
        records.end(|| Ok(&disk)).unwrap();
        assert!(disk.record().is_held());
        // The next tenure is this process's own, so it finds no dead one.
        records.begin(&disk, None).unwrap();
        let info = records.tenure_info().unwrap();
        assert!(info.abandoned.is_none() && info.token == Some(2));
    }

    #[test]
    fn a_record_that_cannot_be_written_leaves_what_was_there() {
        for is_required in [false, true] {
            let disk = Disk::default();
            let before = records(false);
            before.begin(&disk, label("before")).unwrap();
            before.end(|| Ok(&disk)).unwrap();
            let content = disk.content.borrow().clone();
            let records = records(is_required);
            disk.fail(1, 0);
            assert_eq!(records.begin(&disk, label("after")).is_err(), is_required);
            assert_eq!(*disk.content.borrow(), content);
            records.end(|| Ok(&disk)).unwrap();
            assert_eq!(*disk.content.borrow(), content, "a tenure without a record ends none");
        }
    }

    #[test]
    fn a_label_that_cannot_be_written_is_that_of_before() {
        let (disk, records) = (Disk::default(), records(false));
        records.begin(&disk, label("one")).unwrap();
        disk.fail(1, 0);
        records.set_label(&disk, label("other"));
        assert_eq!(disk.record().label(), Some("one"));
        records.set_label(&disk, label("another"));
        assert_eq!(disk.record().label(), Some("another"));
    }
}
