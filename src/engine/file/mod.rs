//! The file engine: a lock is a region of a lock file, held by the kernel.
//!
//! [`Lock`] makes the calls, and decides where: in place on a local file system, on another thread where a server has to be
//! waited for, on a thread of its own where another process has to be. `registry` has the open files of the process,
//! `origin` how a handle finds its file, also when that was removed or replaced.

mod closing;
mod open_file;
mod origin;
mod registry;

use std::any::Any;
use std::io;
use std::sync::Mutex as PlainMutex;
use std::time::{Duration, SystemTime};

pub(crate) use origin::Origin;
pub(crate) use registry::{Registry, Wanted};

use super::locks::Waits;
use super::recorded::{RecordFile, Records, Signature, read_record};
use super::{Answer, Answered, Asked, Engine, LockId, MayBlock, TenureInfo};
use crate::driver::Registration;
use crate::error::Error;
use crate::holder::{Circumstances, Holder, Label, Process, Record};
use crate::mode::Mode;
use crate::os::{
    self, Effort, Interrupt, Kept, Location, LockFile, Pace, Protocol, Region, Standing, Waited,
};
use crate::queue::{AttemptId, Call};
use crate::shim::{Arc, AtomicBool, Mutex, Ordering};
use crate::wait::{self, Pool};
use open_file::OpenFile;

/// For so long a process backs off after a tenure whose time is up. A process that the unlock has
/// woken takes 23 µs at the median to get the lock, 129 µs at the 99th percentile.
const BACK_OFF: Duration = Duration::from_micros(100);

/// One lock of one file.
#[derive(Debug)]
pub(crate) struct Lock {
    file: Arc<OpenFile>,
    protocol: Protocol,
    region: Region,
    /// Which tries check the turnstile.
    pace: Pace,
    pool: Pool,
    /// Which descriptor carries the OS lock. Changes only while there is none: when an attempt
    /// begins.
    on_writable: AtomicBool,
    records: Records,
    /// In this tenure a path was seen to lead to the file.
    seen_at_path: AtomicBool,
    waits: Mutex<Waits<Arc<Interrupt>>>,
}

impl Lock {
    fn new(file: Arc<OpenFile>, protocol: Protocol, region: Region, pool: Pool) -> Self {
        Self {
            pace: Pace::new(file.opened),
            file,
            protocol,
            region,
            pool,
            on_writable: AtomicBool::new(false),
            records: Records::new(),
            seen_at_path: AtomicBool::new(false),
            waits: Mutex::default(),
        }
    }

    /// The lock of a registration that was made here.
    fn of(registration: &Registration) -> &Self {
        Self::of_file(registration).expect("a registration at a file")
    }

    /// The same, if it was made here.
    fn of_file(registration: &Registration) -> Option<&Self> {
        registration.engine().as_any().downcast_ref()
    }

    /// Not by identity: a server may have given that of a file which is gone to the next one.
    fn is_of(&self, file: &Arc<OpenFile>) -> bool {
        Arc::ptr_eq(&self.file, file)
    }

    /// From the next exclusive tenure on, holders leave a record with this signature.
    fn leave_records(&self, signature: Arc<Signature>) {
        self.records.leave(signature);
    }

    /// Whether a path was seen to lead to the file since the OS lock was acquired.
    fn was_seen_at_path(&self) -> bool {
        self.seen_at_path.load(Ordering::Relaxed)
    }

    fn saw_at_path(&self) {
        self.seen_at_path.store(true, Ordering::Relaxed);
    }

    /// The descriptor that carries the OS lock, or an attempt at it.
    fn locked_file(&self) -> &LockFile {
        if self.on_writable.load(Ordering::Acquire) {
            self.file.writable.get().expect("never taken back")
        } else {
            &self.file.first
        }
    }

    /// The descriptor that allows most: for what a lock does not depend on.
    fn best_file(&self) -> &LockFile {
        self.file.writable.get().unwrap_or(&self.file.first)
    }

    /// An attempt at the OS lock, while nothing is locked: it goes through the descriptor that allows
    /// most. Where it fails and a better one has come since, the attempt is made anew, for it may be
    /// answered to a request that came with that one.
    fn attempt<T>(&self, call: impl Fn(&LockFile) -> io::Result<T>) -> io::Result<T> {
        loop {
            let writable = self.file.writable.get().is_some();
            self.on_writable.store(writable, Ordering::Release);
            match call(self.locked_file()) {
                Err(_) if !writable && self.file.writable.get().is_some() => {}
                answer => return answer,
            }
        }
    }

    fn try_lock(&self, mode: Mode, asked: &Asked<'_>) -> Answer {
        if self.file.is_gone() {
            return self.lost();
        }
        let may_pause = asked.may_block == MayBlock::ForOneAnswer;
        let tried = self.attempt(|file| {
            file.try_lock_in_turn(self.protocol, self.region, mode, &self.pace, may_pause)
        });
        match tried {
            Ok(os::Tried::Acquired) => self.acquired(mode, asked),
            Ok(os::Tried::Busy) => Answer::Busy,
            Err(error) => self.failed(error),
        }
    }

    /// Blocks for as long as it takes.
    fn wait(&self, mode: Mode, back_off: bool, asked: &Asked<'_>) -> Answer {
        let interrupt = Arc::new(Interrupt::default());
        {
            // From here on the wait can be interrupted; it may have been meanwhile.
            let mut waits = self.waits.lock();
            if waits.is_interrupted(asked.id()) {
                return Answer::Interrupted;
            }
            waits.park(asked.id(), interrupt.clone());
        }
        if back_off {
            let _ = interrupt.pause(BACK_OFF);
        }
        let waited = if self.file.is_gone() { None } else { Some(self.park(mode, &interrupt)) };
        self.waits.lock().unpark();
        match waited {
            None => self.lost(),
            Some(Ok(Waited::Acquired)) => self.acquired(mode, asked),
            Some(Ok(Waited::Interrupted)) => Answer::Interrupted,
            Some(Err(error)) => self.failed(error),
        }
    }

    fn park(&self, mode: Mode, interrupt: &Interrupt) -> io::Result<Waited> {
        self.attempt(|file| {
            // No wait is for the lock of a foreign file. Asked here and not when a try is busy, which is
            // to cost what the calls on the lock cost.
            file.check()?;
            file.lock(self.protocol, self.region, mode, &self.pace, interrupt)
        })
    }

    /// Has the wait made by a thread that may block for as long as it takes.
    fn park_elsewhere(&self, asked: Asked<'_>) -> Option<Answered> {
        let (call, wait_on) = (asked.call, asked.wait_on);
        // The thread takes it out. Without a thread it is answered here.
        let kept = std::sync::Arc::new(PlainMutex::new(Some(asked.later())));
        let take = |kept: &PlainMutex<Option<super::Later>>| {
            kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
        };
        let parked = kept.clone();
        let started = wait::park(&self.pool, wait_on, move |placed| {
            let later = take(&parked).expect("it runs once");
            match placed {
                Ok(()) => later.resume(MayBlock::ForHolder),
                Err(error) => later.answer_here(not_parked(call, error)),
            }
        });
        let error = started.err()?;
        Some(take(&kept).expect("it did not run").answer(not_parked(call, error)))
    }

    fn failed(&self, error: io::Error) -> Answer {
        if self.locked_file().check().is_err() {
            self.foreign()
        // No local file system forgets an open file; a sandbox may say so.
        } else if !self.file.is_local() && os::is_gone(&error) {
            self.gone()
        } else {
            Answer::Failed(error)
        }
    }

    fn gone(&self) -> Answer {
        // Before any request is told to open the path anew.
        self.file.set_gone();
        self.lost()
    }

    /// The descriptor does not stand for the file any more.
    fn foreign(&self) -> Answer {
        self.file.set_foreign();
        self.lost()
    }

    /// The open file is out of use. Where its descriptor is foreign the locks of this process are gone, which one
    /// request is told, for the process to know. All others open the path anew, and exclude as before.
    fn lost(&self) -> Answer {
        if self.file.tell_foreign() {
            return Answer::Failed(os::foreign_descriptor());
        }
        Answer::Gone
    }

    /// The OS lock is ours; is it on the right file?
    fn acquired(&self, mode: Mode, asked: &Asked<'_>) -> Answer {
        let file = self.locked_file();
        let standing = file.standing().and_then(|standing| {
            if standing == Standing::Linked {
                self.begin_record(mode, asked)?;
            }
            Ok(standing)
        });
        if let Ok(Standing::Linked) = standing {
            self.seen_at_path.store(false, Ordering::Relaxed);
            return Answer::Acquired;
        }
        // Part of this attempt: the next one must not start before the lock is back. Where the
        // unlock fails, no task has a lock on this file that it could lose.
        let _ = file.unlock(self.protocol, self.region);
        match standing {
            Ok(Standing::Foreign) => self.foreign(),
            Err(_) if self.best_file().check().is_err() => self.foreign(),
            Ok(_) => self.gone(),
            Err(error) => Answer::Failed(error),
        }
    }

    /// No task has a guard yet.
    fn begin_record(&self, mode: Mode, asked: &Asked<'_>) -> io::Result<()> {
        if mode != Mode::Exclusive || !self.records.are_left() {
            return Ok(());
        }
        let label = asked.label();
        // The handle that asks for records has brought a descriptor that may write, perhaps after the attempt
        // began on another one.
        let file = self.best_file();
        if !std::ptr::eq(file, self.locked_file()) {
            file.check()?;
        }
        self.records.begin(file, label)
    }

    /// No task has an exclusive guard any more.
    #[inline]
    fn end_record(&self) -> io::Result<()> {
        if self.records.are_left() { self.end_one_record() } else { Ok(()) }
    }

    fn end_one_record(&self) -> io::Result<()> {
        self.records.end(|| {
            let file = self.best_file();
            // Nothing is written into a foreign file.
            file.check().inspect_err(|_| self.file.set_foreign())?;
            Ok(file)
        })
    }

    fn unlock(&self) -> io::Result<()> {
        let ended = self.end_record();
        // The record may be on another descriptor.
        if self.file.is_foreign() && self.locked_file().check().is_err() {
            return Err(os::foreign_descriptor());
        }
        self.locked_file().unlock(self.protocol, self.region).and(ended)
    }

    /// The exclusive holder removes the file at this place, if it is this one. From then on all others look
    /// for another one. Makes system calls.
    fn remove_file(&self, at: &Location) -> Result<Option<Kept>, Error> {
        let file = self.locked_file();
        if !file.is_at(at)? {
            return Ok(Some(Kept::Replaced));
        }
        match file.remove(at, self.protocol) {
            Ok(None) => {
                // Before any request is told to open the path anew.
                self.file.set_gone();
                Ok(None)
            }
            Ok(Some(kept)) => Ok(Some(kept)),
            Err(error) => Ok(Some(Kept::Failed(error))),
        }
    }
}

/// There is no thread for a wait.
fn not_parked(call: Call, error: io::Error) -> Answer {
    match call {
        // The lock was free a moment ago, and others have had that moment.
        Call::BackOff(_) => Answer::NotBackedOff,
        _ => Answer::Failed(error),
    }
}

impl RecordFile for LockFile {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(buffer)
    }

    fn write(&self, content: &[u8], at: u64) -> io::Result<()> {
        self.write(content, at)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.truncate(length)
    }

    fn has_other_names(&self) -> io::Result<bool> {
        self.has_other_names()
    }

    fn time(&self) -> SystemTime {
        SystemTime::now()
    }
}

impl Engine for Lock {
    fn submit(&self, asked: Asked<'_>) -> Option<Answered> {
        let may_wait_for_server = asked.may_block != MayBlock::No;
        let answer = match asked.call {
            Call::Try(_) | Call::Unlock if !may_wait_for_server && !self.file.is_local() => {
                let later = asked.later();
                self.pool.spawn(move || later.resume(MayBlock::ForServer));
                return None;
            }
            Call::Try(mode) => self.try_lock(mode, &asked),
            Call::Unlock => Answer::Released(self.unlock()),
            Call::Wait(_) | Call::BackOff(_) if asked.may_block != MayBlock::ForHolder => {
                return self.park_elsewhere(asked);
            }
            Call::Wait(mode) => self.wait(mode, false, &asked),
            Call::BackOff(mode) => self.wait(mode, true, &asked),
        };
        Some(asked.answer(answer))
    }

    fn interrupt(&self, of: AttemptId) {
        let parked = self.waits.lock().interrupt(of);
        if let Some(interrupt) = parked {
            interrupt.request();
        }
    }

    fn answers_at_once(&self) -> bool {
        self.file.is_local()
    }

    fn is_contended(&self) -> bool {
        self.locked_file().is_turnstile_taken(self.protocol, self.region, &self.pace)
    }

    fn downgrade(&self) -> Mode {
        // The caller holds the exclusive lock until it has said so to the queue, so no other OS call is made now.
        let in_place = self.file.is_local()
            && self.locked_file().check().is_ok()
            && self.locked_file().downgrade(self.protocol, self.region);
        if !in_place {
            return Mode::Exclusive;
        }
        // Others may share the lock by now, but none can have it exclusively.
        if let Err(error) = self.end_record() {
            // The unlock says so.
            self.records.was_not_ended(error);
        }
        Mode::Shared
    }

    fn is_labelled(&self, label: Option<&Label>) -> bool {
        self.records.is_labelled(label)
    }

    fn set_label(&self, label: Option<Label>) {
        self.records.set_label(self.best_file(), label);
    }

    fn tenure_info(&self) -> Option<TenureInfo> {
        self.records.tenure_info()
    }

    fn pid(&self) -> u32 {
        self.file.first.pid()
    }

    fn blocker(&self) -> Option<Holder> {
        self.locked_file().blocker(self.protocol, self.region)
    }

    /// An error if the descriptor does not stand for the file any more. Makes a system call.
    fn check(&self) -> io::Result<()> {
        self.locked_file().check()
    }

    /// As the kernel sees it. Makes system calls.
    fn holders(&self, effort: Effort) -> Vec<Holder> {
        match self.check() {
            Ok(()) => self.locked_file().holders(self.protocol, self.region, effort),
            Err(_) => Vec::new(),
        }
    }

    /// Makes a system call.
    fn record(&self) -> Option<Record> {
        self.check().ok()?;
        read_record(self.locked_file())
    }

    fn process(&self) -> Process {
        os::this_process()
    }

    fn look_up(&self, pid: u32) -> Circumstances {
        os::look_up(pid)
    }

    fn describe_this_process(&self, holder: &mut Holder, effort: Effort) {
        os::describe_this_process(holder, effort);
    }

    fn tells_holders(&self) -> bool {
        os::tells_holders(self.protocol)
    }

    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        self.pool.spawn(job);
    }

    fn run_queued(&self, job: Box<dyn FnOnce() + Send>) {
        wait::leave(&self.pool, job);
    }

    fn id(&self) -> LockId {
        (self.file.identity(), self.region)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
