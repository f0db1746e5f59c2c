//! One lock of a simulated process: what becomes of each call, and what goes on when a wait is over.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::{Arc as PlainArc, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::machine::{Inode, Machine, Status, Target, Woken};
use super::process::{Process, killed, stopped};
use crate::engine::locks::Waits;
use crate::engine::recorded::{RecordFile, Records, Signature, read_record};
use crate::engine::{Answer, Answered, Asked, Engine, Later, LockId, MayBlock, TenureInfo};
use crate::holder::{self, Circumstances, Holder, Label, Record, Source};
use crate::mode::Mode;
use crate::os::kernel::{self, Description, Slot, excludes};
use crate::os::{
    self, Effort, Identity, Kept, Pace, Protocol, Region, Taken, Tried, TurnstileState, Turnstiles,
    WaitStep,
};
use crate::queue::{AttemptId, Call};
use crate::shim::{Arc, Mutex};

/// A lock call through a descriptor that does not allow it fails with this: `EBADF` of Unix, `ERROR_ACCESS_DENIED` of Windows.
const NO_ACCESS: i32 = if cfg!(windows) { 5 } else { 9 };

/// One lock of one file of a simulated machine.
pub(crate) struct Lock {
    /// Itself.
    me: Weak<Self>,
    process: Arc<Process>,
    inode: Inode,
    description: Description,
    protocol: Protocol,
    region: Region,
    turnstiles: Turnstiles,
    pace: Pace,
    records: Records,
    /// What ends one is the number of its sleeper.
    waits: Mutex<Waits<u64>>,
}

/// A wait on its way.
struct Waiting {
    later: Later,
    of: AttemptId,
    mode: Mode,
    missed: u32,
}

impl Lock {
    pub(super) fn new(
        process: &Arc<Process>,
        inode: Inode,
        description: Description,
        protocol: Protocol,
        region: Region,
    ) -> PlainArc<Self> {
        PlainArc::new_cyclic(|me| Self {
            me: me.clone(),
            process: process.clone(),
            inode,
            description,
            protocol,
            region,
            turnstiles: Turnstiles::default(),
            pace: Pace::new(process.machine().now()),
            records: Records::new(),
            waits: Mutex::default(),
        })
    }

    pub(super) fn inode(&self) -> Inode {
        self.inode
    }

    pub(super) fn region(&self) -> Region {
        self.region
    }

    pub(super) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    pub(super) fn leave_records(&self, signature: Arc<Signature>) {
        self.records.leave(signature);
    }

    fn machine(&self) -> &Arc<Machine> {
        self.process.machine()
    }

    fn target(&self, mode: Mode) -> Target {
        Target { description: self.description, slot: Slot::of(self.protocol, self.region), mode }
    }

    /// Its turnstile. Readers that may not write wait side by side.
    fn turnstile(&self) -> Target {
        let mode = if self.process.may_write(self.inode) { Mode::Exclusive } else { Mode::Shared };
        let Target { description, slot, .. } = self.target(mode);
        Target { description, slot: slot.turnstile(), mode }
    }

    fn attempt(&self, mode: Mode) -> Attempt<'_> {
        Attempt { lock: self, mode }
    }

    /// Of fcntl(2): an exclusive lock needs a descriptor that may write.
    fn check_access(&self, mode: Mode) -> io::Result<()> {
        let needs_write = self.protocol == Protocol::Fcntl && mode == Mode::Exclusive;
        if needs_write && !self.process.may_write(self.inode) {
            return Err(io::Error::from_raw_os_error(NO_ACCESS));
        }
        Ok(())
    }

    /// A lock call that does not wait.
    fn try_now(&self, mode: Mode) -> io::Result<Tried> {
        self.check_access(mode)?;
        self.machine().try_lock(self.target(mode))
    }

    fn try_lock(&self, mode: Mode, asked: &Asked<'_>) -> Answer {
        let may_pause = asked.may_block == MayBlock::ForOneAnswer;
        match os::try_in_turn(&self.attempt(mode), may_pause) {
            Ok(Tried::Acquired) => self.acquired(mode, || asked.label()),
            Ok(Tried::Busy) => Answer::Busy,
            Err(error) => Answer::Failed(error),
        }
    }

    /// The lock is ours; is it on the right file?
    fn acquired(&self, mode: Mode, label: impl FnOnce() -> Option<Label>) -> Answer {
        if !self.machine().is_linked(self.inode) {
            self.machine().unlock(self.target(mode));
            return Answer::Gone;
        }
        if mode == Mode::Exclusive && self.records.are_left() {
            if let Err(error) = self.records.begin(self, label()) {
                self.machine().unlock(self.target(mode));
                return Answer::Failed(error);
            }
        }
        Answer::Acquired
    }

    fn end_record(&self) -> io::Result<()> {
        if self.records.are_left() { self.records.end(|| Ok(self)) } else { Ok(()) }
    }

    fn is_interrupted(&self, waiting: &Waiting) -> bool {
        self.waits.lock().is_interrupted(waiting.of)
    }

    /// A wait begins, or goes on without the turnstile. The caller runs the machine.
    fn wait_in_turn(self: PlainArc<Self>, mut waiting: Waiting) {
        if self.is_interrupted(&waiting) {
            return self.finish(waiting, Answer::Interrupted);
        }
        match os::next_step(&self.attempt(waiting.mode), &mut waiting.missed) {
            Ok(WaitStep::TakeTurnstile(limit)) => self.wait_for_turnstile(waiting, limit),
            Ok(WaitStep::Lock) => self.wait_for_lock(waiting, false),
            Ok(WaitStep::Acquired) => self.has_waited(waiting, Woken::Acquired),
            Err(error) => self.has_waited(waiting, Woken::Failed(error)),
        }
    }

    fn wait_for_turnstile(self: PlainArc<Self>, waiting: Waiting, limit: Duration) {
        let turnstile = self.turnstile();
        self.clone().park(turnstile, Some(limit), waiting, move |waiting, woken| match woken {
            Woken::Acquired => {
                self.turnstiles.forget(self.region);
                self.wait_for_lock(waiting, true);
            }
            Woken::TimedOut => self.wait_in_turn(waiting),
            Woken::Interrupted => self.finish(waiting, Answer::Interrupted),
            Woken::Failed(_) => self.wait_for_lock(waiting, false),
        });
    }

    fn wait_for_lock(self: PlainArc<Self>, waiting: Waiting, has_turn: bool) {
        let target = self.target(waiting.mode);
        let may = self.check_access(waiting.mode);
        let go_on = {
            let this = self.clone();
            move |waiting, woken| {
                if has_turn {
                    this.machine().unlock(this.turnstile());
                }
                this.has_waited(waiting, woken);
            }
        };
        match may {
            Ok(()) => self.park(target, None, waiting, go_on),
            Err(error) => go_on(waiting, Woken::Failed(error)),
        }
    }

    fn park(
        self: PlainArc<Self>,
        target: Target,
        limit: Option<Duration>,
        waiting: Waiting,
        then: impl FnOnce(Waiting, Woken) + Send + 'static,
    ) {
        let (of, number) = (waiting.of, self.machine().new_number());
        self.waits.lock().park(of, number);
        self.machine().wait(number, target, limit, Box::new(move |woken| then(waiting, woken)));
        // It may have been when there was no sleeper yet.
        if self.waits.lock().is_interrupted(of) {
            self.machine().interrupt(number);
        }
    }

    fn has_waited(&self, waiting: Waiting, woken: Woken) {
        let answer = match woken {
            Woken::Acquired => self.acquired(waiting.mode, || waiting.later.label()),
            Woken::Interrupted | Woken::TimedOut => Answer::Interrupted,
            Woken::Failed(error) => Answer::Failed(error),
        };
        self.finish(waiting, answer);
    }

    fn finish(&self, waiting: Waiting, answer: Answer) {
        self.waits.lock().unpark();
        waiting.later.answer_here(answer);
    }

    fn others<T>(&self, look: impl FnOnce(&kernel::Lock) -> T) -> T {
        self.machine().with_lock(self.target(Mode::Shared), look)
    }

    fn holder(&self, by: Description, mode: Mode, waits: bool) -> Option<Holder> {
        let (pid, name) = self.machine().owner(by)?;
        let mut holder = Holder::new(mode, waits, Some(pid), Source::LockTable);
        holder.is_this_process = pid == self.process.pid();
        holder.program = Some((name, Source::Process));
        Some(holder)
    }

    /// The exclusive holder removes the file at this path, if it is this one and nothing is in it.
    pub(super) fn remove_file(&self, at: &std::path::Path) -> Option<Kept> {
        match self.process.status() {
            Status::Awake => {}
            Status::Dead => return Some(Kept::Failed(killed())),
            Status::Stopped => return Some(Kept::Failed(stopped())),
        }
        let machine = self.machine();
        if !machine.is_at(self.inode, at) {
            return Some(Kept::Replaced);
        }
        if !machine.content(self.inode).is_empty() {
            return Some(Kept::NotEmpty);
        }
        machine.unlink(at);
        None
    }
}

impl Engine for Lock {
    fn submit(&self, asked: Asked<'_>) -> Option<Answered> {
        let pid = self.process.pid();
        let is_for_one_answer = asked.may_block == MayBlock::ForOneAnswer;
        let status = self.process.status();
        let answer = match asked.call {
            Call::Try(_) if is_for_one_answer && status == Status::Dead => Answer::Failed(killed()),
            _ if status == Status::Dead => return None,
            // A process that is stopped makes no call; the test that asks in its place is told so.
            Call::Try(_) if is_for_one_answer && status == Status::Stopped => Answer::Busy,
            Call::Try(_) | Call::Unlock if status == Status::Stopped => {
                let later = asked.later();
                let resume = move || later.resume(MayBlock::No);
                Machine::put_off(self.machine(), pid, Box::new(resume));
                return None;
            }
            Call::Try(_) if asked.may_block == MayBlock::No && self.machine().draws_a_delay() => {
                let later = asked.later();
                let resume = move || later.resume(MayBlock::ForServer);
                Machine::put_off(self.machine(), pid, Box::new(resume));
                return None;
            }
            Call::Try(mode) => self.try_lock(mode, &asked),
            Call::Unlock => {
                let ended = self.end_record();
                self.machine().unlock(self.target(Mode::Shared));
                Answer::Released(ended)
            }
            Call::Wait(mode) | Call::BackOff(mode) => {
                let of = asked.id();
                let waiting = Waiting { later: asked.later(), of, mode, missed: 0 };
                let this = self.me.upgrade().expect("its driver keeps it");
                // In an event of its own: those that the unlock has woken come first.
                let wait = move || this.wait_in_turn(waiting);
                Machine::put_off(self.machine(), pid, Box::new(wait));
                return None;
            }
        };
        let answered = asked.answer(answer);
        Machine::run(self.machine());
        Some(answered)
    }

    fn interrupt(&self, of: AttemptId) {
        let parked = self.waits.lock().interrupt(of);
        if let Some(number) = parked {
            self.machine().interrupt(number);
            Machine::run(self.machine());
        }
    }

    fn answers_at_once(&self) -> bool {
        true
    }

    fn is_contended(&self) -> bool {
        os::is_turn_of_another(&self.attempt(Mode::Shared))
    }

    fn downgrade(&self) -> Mode {
        if self.protocol == Protocol::Flock || self.process.status() != Status::Awake {
            return Mode::Exclusive;
        }
        let converted = self.machine().try_lock(self.target(Mode::Shared));
        let is_shared = matches!(converted, Ok(Tried::Acquired));
        if is_shared {
            if let Err(error) = self.end_record() {
                self.records.was_not_ended(error);
            }
        }
        Machine::run(self.machine());
        if is_shared { Mode::Shared } else { Mode::Exclusive }
    }

    fn is_labelled(&self, label: Option<&Label>) -> bool {
        self.records.is_labelled(label)
    }

    fn set_label(&self, label: Option<Label>) {
        self.records.set_label(self, label);
    }

    fn tenure_info(&self) -> Option<TenureInfo> {
        self.records.tenure_info()
    }

    fn now(&self) -> Instant {
        self.machine().now()
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// As the kernel tells it of a byte range.
    fn blocker(&self) -> Option<Holder> {
        if self.protocol == Protocol::Flock {
            return None;
        }
        let held: Vec<_> = self.others(|lock| lock.holders().collect());
        let (by, mode) = held.into_iter().find(|(by, _)| *by != self.description)?;
        self.holder(by, mode, false)
    }

    fn check(&self) -> io::Result<()> {
        if self.process.status() == Status::Dead { Err(killed()) } else { Ok(()) }
    }

    fn holders(&self, _effort: Effort) -> Vec<Holder> {
        let (held, mut waiting): (Vec<_>, Vec<_>) =
            self.others(|lock| (lock.holders().collect(), lock.waiting().collect()));
        waiting.extend(
            self.machine().with_lock(self.turnstile(), |lock| lock.waiting().collect::<Vec<_>>()),
        );
        let held = held.into_iter().filter_map(|(by, mode)| self.holder(by, mode, false));
        let waiting = waiting.into_iter().filter_map(|(by, mode)| self.holder(by, mode, true));
        held.chain(waiting).collect()
    }

    fn record(&self) -> Option<Record> {
        self.check().ok()?;
        read_record(self)
    }

    fn process(&self) -> holder::Process {
        self.process.identity()
    }

    fn look_up(&self, pid: u32) -> Circumstances {
        match self.machine().find_status(pid) {
            None | Some(Status::Dead) => Circumstances::Gone,
            Some(_) => Circumstances::Started(u64::from(pid)),
        }
    }

    fn describe_this_process(&self, holder: &mut Holder, _effort: Effort) {
        holder.program = Some((self.process.name().to_owned(), Source::Process));
    }

    fn tells_holders(&self) -> bool {
        true
    }

    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }

    fn run_queued(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }

    fn id(&self) -> LockId {
        // No disk has so high a number.
        let device = u64::MAX - self.machine().number();
        (Identity::simulated(device, self.inode), self.region)
    }

    fn step(&self) {
        self.machine().step();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl RecordFile for Lock {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let content = self.machine().content(self.inode);
        let length = buffer.len().min(content.len());
        buffer[..length].copy_from_slice(&content[..length]);
        Ok(length)
    }

    fn write(&self, content: &[u8], at: u64) -> io::Result<()> {
        let at = at as usize;
        self.machine().change(self.inode, |file| {
            file.resize(file.len().max(at + content.len()), 0);
            file[at..][..content.len()].copy_from_slice(content);
        });
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.machine().change(self.inode, |file| file.truncate(length as usize));
        Ok(())
    }

    fn has_other_names(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn time(&self) -> SystemTime {
        self.machine().time()
    }
}

/// One attempt at the lock, as the turnstile sees it.
struct Attempt<'a> {
    lock: &'a Lock,
    mode: Mode,
}

impl os::Turnstile for Attempt<'_> {
    fn check(&self) -> TurnstileState {
        let turnstile = self.lock.turnstile();
        let owner = self.lock.machine().with_lock(turnstile, |lock| {
            let is_other = lock.holders().any(|(by, _)| by != self.lock.description);
            is_other.then(|| lock.taken())
        });
        owner.map_or(TurnstileState::Free, |taken| TurnstileState::Taken(Taken(taken)))
    }

    /// With fcntl(2) one call asks for both.
    fn check_before_try(&self) -> Option<TurnstileState> {
        let is_held = self.lock.protocol == Protocol::Fcntl
            && self.lock.check_access(self.mode).is_ok()
            && self.lock.others(|lock| {
                let mut others = lock.holders().filter(|(by, _)| *by != self.lock.description);
                others.any(|(_, mode)| excludes(mode, self.mode))
            });
        (!is_held).then(|| self.check())
    }

    fn remembered(&self) -> &Turnstiles {
        &self.lock.turnstiles
    }

    fn pace(&self) -> &Pace {
        &self.lock.pace
    }

    fn region(&self) -> Region {
        self.lock.region
    }

    fn now(&self) -> Instant {
        self.lock.now()
    }

    /// The machine's time goes on, and in it what can happen does.
    fn pause(&self, time: Duration) {
        Machine::advance(self.lock.machine(), time);
    }

    fn is_free(&self) -> io::Result<bool> {
        Ok(self.lock.others(kernel::Lock::is_free))
    }

    fn try_lock(&self) -> io::Result<Tried> {
        self.lock.try_now(self.mode)
    }

    fn is_shared(&self) -> bool {
        self.mode == Mode::Shared
    }

    fn is_lock_waited_for(&self) -> bool {
        self.lock.others(|lock| lock.waiting().next().is_some())
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("process", &self.process.name())
            .field("inode", &self.inode)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}
