//! The machine: its disk, its kernel, its programs, its clock, and what is to happen next.
//!
//! A call that waits leaves a [`Sleeper`] and what is to go on. An unlock wakes the calls that would get in; each of them looks
//! again as an event of its own. Events are carried out one at a time, outside of the mutex, by the thread that comes by
//! ([`Machine::run`]). Without a seed that is at once and in order, so an unlock hands the lock on. With a seed the next
//! event, and whether it comes now or when other tasks have had their turns, are drawn: then a newcomer may take the lock
//! before one that was woken, as it is with a real kernel.
//!
//! Invariants:
//! 1. Nothing of a user, no driver and no registration is called or dropped under the mutex.
//! 2. A sleeper goes on exactly once: it is in the table until the event that goes on was made from it.
//! 3. Nothing goes on for a program that is stopped, before it is continued; nor for one that is dead.
//! 4. No map here has an order that differs between two runs.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::random::Random;
use crate::mode::Mode;
use crate::os::Tried;
use crate::os::kernel::{self, Description, Locks, Slot, excludes};
use crate::shim::explorer::Steps;
use crate::shim::{Arc, Mutex};
use crate::wait::simulated as runtime;

pub(crate) type Inode = u64;
pub(crate) type Pid = u32;

/// The first program has this pid, or the next ones.
const FIRST_PID: Pid = 1000;

/// A machine in memory.
pub(crate) struct Machine {
    /// Which of the machines of this process it is.
    number: u64,
    /// By the clock of the runtime, by that of the system, and by that of the day.
    begun: (tokio::time::Instant, Instant, SystemTime),
    steps: Steps,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clock: Clock,
    paths: BTreeMap<PathBuf, Inode>,
    files: BTreeMap<Inode, File>,
    descriptions: BTreeMap<Description, OpenFile>,
    programs: Vec<Program>,
    sleepers: BTreeMap<u64, Sleeper>,
    events: Vec<Event>,
    /// The number given last: to a file, an open file or a sleeper.
    last: u64,
    random: Option<Random>,
    /// An event is carried out.
    is_running: bool,
    /// A task of a runtime is to carry the next event out.
    is_left_to_runtime: bool,
    /// The time for which a timer is set.
    timer: Option<Duration>,
    trace: Vec<String>,
}

#[derive(Default)]
struct Clock {
    /// The most that was seen, so that it never goes back.
    shown: Duration,
    /// What was added by hand.
    advanced: Duration,
}

#[derive(Default)]
struct File {
    path: PathBuf,
    is_linked: bool,
    content: Vec<u8>,
    locks: Locks,
    /// With which error the next lock call fails.
    fault: Option<i32>,
}

#[derive(Debug, Clone, Copy)]
struct OpenFile {
    inode: Inode,
    pid: Pid,
}

struct Program {
    name: String,
    status: Status,
}

/// What becomes of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Awake,
    Stopped,
    Dead,
}

/// What a lock call is about: a lock of a file, through an open file description.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) description: Description,
    pub(crate) slot: Slot,
    pub(crate) mode: Mode,
}

/// A call that waits.
struct Sleeper {
    target: Target,
    /// It waits for no longer than this where the owner of the lock is stopped.
    limit: Option<Duration>,
    deadline: Option<Duration>,
    then: Then,
}

/// How a call comes back that may wait.
#[derive(Debug)]
pub(crate) enum Woken {
    Acquired,
    TimedOut,
    Interrupted,
    Failed(io::Error),
}

/// What goes on then.
pub(crate) type Then = Box<dyn FnOnce(Woken) + Send>;

/// What a thread does about the events.
enum Next {
    Nothing,
    Now(Event),
    /// A task of the runtime has the next one, after so many turns of the others.
    Later(u32),
}

/// An event that is left to a runtime waits for fewer turns of its tasks than this.
const MOST_TURNS: usize = 4;

struct Event {
    of: Pid,
    what: What,
}

enum What {
    /// A sleeper was woken and looks again.
    Retry(u64),
    GoOn(Then, Woken),
    Call(Box<dyn FnOnce() + Send>),
}

impl State {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn status(&self, pid: Pid) -> Status {
        self.programs[(pid - FIRST_PID) as usize].status
    }

    fn set_status(&mut self, pid: Pid, status: Status) {
        self.programs[(pid - FIRST_PID) as usize].status = status;
    }

    fn file_of(&mut self, description: Description) -> &mut File {
        let inode = self.descriptions[&description].inode;
        self.files.get_mut(&inode).expect("an open file keeps its file")
    }

    fn lock(&mut self, Target { description, slot, .. }: Target) -> &mut kernel::Lock {
        self.file_of(description).locks.at(slot)
    }

    fn is_awake(&self, description: Description) -> bool {
        self.status(self.descriptions[&description].pid) == Status::Awake
    }

    fn note(&mut self, description: Description, what: fmt::Arguments<'_>) {
        let OpenFile { inode, pid } = self.descriptions[&description];
        let name = &self.programs[(pid - FIRST_PID) as usize].name;
        let path = self.files[&inode].path.display();
        self.trace.push(format!("{name} {pid} {path}: {what}"));
    }

    /// Takes the lock if it is free; wakes the calls that get in by that.
    fn attempt(&mut self, target: Target) -> bool {
        let Target { description, slot, mode } = target;
        if self.status(self.descriptions[&description].pid) == Status::Dead {
            // It was killed in the middle of the call.
            return false;
        }
        let attempted = self.lock(target).attempt(slot, description, mode);
        if attempted.lets_others_in {
            self.wake(target);
        }
        if attempted.is_acquired {
            self.note(description, format_args!("has {slot:?}, {mode:?}"));
        }
        attempted.is_acquired
    }

    /// The calls that wait for this lock and would get it look again.
    fn wake(&mut self, at: Target) {
        let inode = self.descriptions[&at.description].inode;
        for by in self.lock(at).ready() {
            let OpenFile { inode: other, pid } = self.descriptions[&by];
            debug_assert_eq!(inode, other);
            let mut sleepers = self.sleepers.iter();
            let is_it = |sleeper: &Sleeper| {
                sleeper.target.description == by && sleeper.target.slot == at.slot
            };
            let Some((&number, _)) = sleepers.find(|(_, sleeper)| is_it(sleeper)) else { continue };
            let is_woken = |event: &Event| matches!(event.what, What::Retry(of) if of == number);
            if !self.events.iter().any(is_woken) {
                self.events.push(Event { of: pid, what: What::Retry(number) });
            }
        }
    }

    fn release(&mut self, target: Target) {
        if self.lock(target).release(target.description) {
            self.note(target.description, format_args!("leaves {:?}", target.slot));
            self.wake(target);
        }
    }

    /// A call waits no more.
    fn leave_line(&mut self, target: Target) {
        self.lock(target).leave_line(target.description);
        self.wake(target);
    }

    /// A sleeper is done.
    /// Whether it still slept.
    fn go_on(&mut self, number: u64, woken: Woken) -> bool {
        let Some(sleeper) = self.sleepers.remove(&number) else { return false };
        self.leave_line(sleeper.target);
        let of = self.descriptions[&sleeper.target.description].pid;
        self.events.push(Event { of, what: What::GoOn(sleeper.then, woken) });
        true
    }

    /// The sleeper that was woken, if it has the lock now.
    fn retry(&mut self, number: u64) -> Option<Then> {
        let target = self.sleepers.get(&number)?.target;
        if self.lock(target).is_behind(target.description) || !self.attempt(target) {
            return None;
        }
        let sleeper = self.sleepers.remove(&number).expect("looked at above");
        self.leave_line(target);
        Some(sleeper.then)
    }

    /// The lock is kept by an open file whose program is stopped.
    fn is_kept_by_stopped(&mut self, target: Target) -> bool {
        let holders: Vec<_> = self.lock(target).holders().collect();
        let mut others = holders.into_iter().filter(|(by, _)| *by != target.description);
        others.any(|(by, mode)| excludes(mode, target.mode) && !self.is_awake(by))
    }

    /// Where the owner is stopped a limit counts. Returns how long it is until then, if no timer is set for that yet.
    fn set_timer(&mut self, now: Duration) -> Option<Duration> {
        let numbers: Vec<_> = self.sleepers.keys().copied().collect();
        let mut nearest = None;
        for number in numbers {
            let Sleeper { target, limit: Some(limit), deadline, .. } = self.sleepers[&number]
            else {
                continue;
            };
            let is_stuck = self.is_kept_by_stopped(target);
            let deadline = is_stuck.then(|| deadline.unwrap_or(now + limit));
            self.sleepers.get_mut(&number).expect("looked at above").deadline = deadline;
            nearest = [nearest, deadline].into_iter().flatten().min();
        }
        let nearest = nearest.filter(|nearest| *nearest > now)?;
        if self.timer.is_some_and(|set| now < set && set <= nearest) {
            return None;
        }
        self.timer = Some(nearest);
        Some(nearest - now)
    }

    fn end_those_whose_time_is_up(&mut self, now: Duration) {
        let is_up = |sleeper: &Sleeper| sleeper.deadline.is_some_and(|deadline| deadline <= now);
        let numbers: Vec<_> =
            self.sleepers.iter().filter(|(_, sleeper)| is_up(sleeper)).map(|(at, _)| *at).collect();
        for number in numbers {
            self.go_on(number, Woken::TimedOut);
        }
    }

    /// Takes an event out, to be carried out now.
    fn take_next(&mut self) -> Option<Event> {
        let awake: Vec<_> = (0..self.events.len())
            .filter(|at| self.status(self.events[*at].of) == Status::Awake)
            .collect();
        let at = match &mut self.random {
            _ if awake.is_empty() => return None,
            None => 0,
            Some(random) => random.below(awake.len()),
        };
        self.is_running = true;
        Some(self.events.remove(awake[at]))
    }

    /// What the thread that is here does about the events.
    fn choose_next(&mut self, has_runtime: bool) -> Next {
        if self.is_left_to_runtime {
            return Next::Nothing;
        }
        let is_any = self.events.iter().any(|event| self.status(event.of) == Status::Awake);
        if let Some(random) = self.random.as_mut().filter(|_| is_any && has_runtime) {
            if random.coin() {
                self.is_left_to_runtime = true;
                return Next::Later(random.below(MOST_TURNS) as u32);
            }
        }
        self.take_next().map_or(Next::Nothing, Next::Now)
    }
}

impl Machine {
    pub(crate) fn new(seed: Option<u64>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let state = State { random: seed.map(Random::new), ..State::default() };
        Arc::new(Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            begun: (runtime::now(), Instant::now(), SystemTime::now()),
            steps: Steps::new(),
            state: Mutex::new(state),
        })
    }

    /// A call begins. In a model of a user others may come first.
    pub(crate) fn step(&self) {
        self.steps.step();
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    // ---- the clock ----

    fn elapsed(&self) -> Duration {
        let shown = runtime::now().saturating_duration_since(self.begun.0);
        let mut state = self.state.lock();
        state.clock.shown = state.clock.shown.max(shown);
        state.clock.shown + state.clock.advanced
    }

    pub(crate) fn now(&self) -> Instant {
        self.begun.1 + self.elapsed()
    }

    pub(crate) fn time(&self) -> SystemTime {
        self.begun.2 + self.elapsed()
    }

    pub(crate) fn advance(this: &Arc<Self>, time: Duration) {
        this.state.lock().clock.advanced += time;
        Self::run(this);
    }

    // ---- what is to happen ----

    /// Carries out what is to happen, or leaves the next of it to a task.
    pub(crate) fn run(this: &Arc<Self>) {
        let has_runtime = runtime::is_here();
        loop {
            let now = this.elapsed();
            let (timer, next) = {
                let mut state = this.state.lock();
                let timer = state.set_timer(now);
                state.end_those_whose_time_is_up(now);
                if state.is_running {
                    return;
                }
                (timer, state.choose_next(has_runtime))
            };
            if let Some(left) = timer {
                let timer = Timer(this.clone());
                runtime::after(left, move || timer.fire());
            }
            match next {
                Next::Nothing => return,
                Next::Later(turns) => {
                    let step = StepOfRuntime(Some(this.clone()));
                    return runtime::after_turns(turns, move || step.take());
                }
                Next::Now(event) => this.carry_out(event),
            }
        }
    }

    /// One event, now.
    fn take_step(this: &Arc<Self>) {
        let event = {
            let mut state = this.state.lock();
            state.is_left_to_runtime = false;
            if state.is_running {
                return;
            }
            state.take_next()
        };
        if let Some(event) = event {
            this.carry_out(event);
        }
        Self::run(this);
    }

    fn carry_out(&self, event: Event) {
        let _running = Running(self);
        match event.what {
            What::Retry(number) => {
                let then = self.state.lock().retry(number);
                if let Some(then) = then {
                    then(Woken::Acquired);
                }
            }
            What::GoOn(then, woken) => then(woken),
            What::Call(call) => call(),
        }
    }

    /// A program makes a call later: when it is continued, if it is stopped.
    pub(crate) fn put_off(this: &Arc<Self>, of: Pid, call: Box<dyn FnOnce() + Send>) {
        let kept = {
            let mut state = this.state.lock();
            if state.status(of) == Status::Dead {
                Some(call)
            } else {
                state.events.push(Event { of, what: What::Call(call) });
                None
            }
        };
        drop(kept);
        Self::run(this);
    }

    /// Whether a call is put off that could be made now.
    pub(crate) fn draws_a_delay(&self) -> bool {
        self.state.lock().random.as_mut().is_some_and(Random::coin)
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.state.lock().trace.clone()
    }

    // ---- the disk ----

    /// The file at this path.
    pub(crate) fn find(&self, path: &Path) -> io::Result<Inode> {
        let inode = self.state.lock().paths.get(path).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The file at this path, which is created if there is none.
    pub(crate) fn find_or_create(&self, path: &Path) -> Inode {
        let mut state = self.state.lock();
        if let Some(inode) = state.paths.get(path) {
            return *inode;
        }
        let inode = state.number();
        let file = File { path: path.to_owned(), is_linked: true, ..File::default() };
        state.files.insert(inode, file);
        state.paths.insert(path.to_owned(), inode);
        inode
    }

    pub(crate) fn open(&self, inode: Inode, pid: Pid) -> Description {
        let mut state = self.state.lock();
        let description = state.number();
        state.descriptions.insert(description, OpenFile { inode, pid });
        description
    }

    /// Gives back what the open file has.
    pub(crate) fn close(this: &Arc<Self>, description: Description) {
        let dropped = {
            let mut state = this.state.lock();
            let sleepers = state.close(description);
            state.descriptions.remove(&description);
            sleepers
        };
        drop(dropped);
        Self::run(this);
    }

    pub(crate) fn is_linked(&self, inode: Inode) -> bool {
        self.state.lock().files[&inode].is_linked
    }

    pub(crate) fn is_at(&self, inode: Inode, path: &Path) -> bool {
        self.state.lock().paths.get(path) == Some(&inode)
    }

    /// Removes the path; open files keep the file. `false` if there was none.
    pub(crate) fn unlink(&self, path: &Path) -> bool {
        let mut state = self.state.lock();
        let inode = state.paths.remove(path);
        if let Some(file) = inode.and_then(|inode| state.files.get_mut(&inode)) {
            file.is_linked = false;
        }
        inode.is_some()
    }

    /// Puts an empty file in the place of the one at this path.
    pub(crate) fn replace(&self, path: &Path) {
        self.unlink(path);
        self.find_or_create(path);
    }

    pub(crate) fn content(&self, inode: Inode) -> Vec<u8> {
        self.state.lock().files[&inode].content.clone()
    }

    pub(crate) fn change<T>(&self, inode: Inode, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        change(&mut self.state.lock().files.get_mut(&inode).expect("it is open").content)
    }

    /// The next lock call on this file fails.
    pub(crate) fn fail_next(&self, inode: Inode, errno: i32) {
        self.state.lock().files.get_mut(&inode).expect("it is on the disk").fault = Some(errno);
    }

    // ---- the programs ----

    pub(crate) fn start_program(&self, name: &str) -> Pid {
        let mut state = self.state.lock();
        state.programs.push(Program { name: name.to_owned(), status: Status::Awake });
        FIRST_PID + (state.programs.len() - 1) as Pid
    }

    pub(crate) fn status(&self, pid: Pid) -> Status {
        self.state.lock().status(pid)
    }

    /// `None` if no program had this pid.
    pub(crate) fn find_status(&self, pid: Pid) -> Option<Status> {
        let state = self.state.lock();
        let program = state.programs.get(pid.checked_sub(FIRST_PID)? as usize)?;
        Some(program.status)
    }

    /// It goes on with nothing, and keeps its locks. Its calls that wait stand in no line meanwhile: a signal that stops a
    /// process ends them, and they are made anew when it is continued.
    pub(crate) fn stop(this: &Arc<Self>, pid: Pid) {
        {
            let mut state = this.state.lock();
            if state.status(pid) != Status::Awake {
                return;
            }
            state.set_status(pid, Status::Stopped);
            for number in state.sleepers_of(pid) {
                let target = state.sleepers[&number].target;
                state.leave_line(target);
            }
            state.events.retain(|event| event.of != pid || !matches!(event.what, What::Retry(_)));
        }
        Self::run(this);
    }

    pub(crate) fn resume(this: &Arc<Self>, pid: Pid) {
        {
            let mut state = this.state.lock();
            if state.status(pid) != Status::Stopped {
                return;
            }
            state.set_status(pid, Status::Awake);
            for number in state.sleepers_of(pid) {
                let Target { description, mode, .. } = state.sleepers[&number].target;
                let target = state.sleepers[&number].target;
                state.lock(target).line_up(description, mode);
                state.events.push(Event { of: pid, what: What::Retry(number) });
            }
        }
        Self::run(this);
    }

    /// It is no more, and its locks are free. The caller runs the machine when it has ended what the program had.
    pub(crate) fn kill(&self, pid: Pid) -> bool {
        let dropped = {
            let mut state = self.state.lock();
            if state.status(pid) == Status::Dead {
                return false;
            }
            state.set_status(pid, Status::Dead);
            let (of, others) = std::mem::take(&mut state.events)
                .into_iter()
                .partition::<Vec<_>, _>(|event| event.of == pid);
            state.events = others;
            let its = state.descriptions.iter().filter(|(_, file)| file.pid == pid);
            let its: Vec<_> = its.map(|(description, _)| *description).collect();
            let sleepers: Vec<_> =
                its.into_iter().map(|description| state.close(description)).collect();
            (of, sleepers)
        };
        drop(dropped);
        true
    }

    // ---- the kernel ----

    pub(crate) fn new_number(&self) -> u64 {
        self.state.lock().number()
    }

    pub(crate) fn try_lock(&self, target: Target) -> io::Result<Tried> {
        let Target { description, slot, mode } = target;
        let mut state = self.state.lock();
        if let Some(errno) = state.file_of(description).fault.take() {
            state.note(description, format_args!("fails with {errno} at {slot:?}, {mode:?}"));
            return Err(io::Error::from_raw_os_error(errno));
        }
        if state.attempt(target) {
            return Ok(Tried::Acquired);
        }
        state.note(description, format_args!("is refused {slot:?}, {mode:?}"));
        Ok(Tried::Busy)
    }

    /// Waits for the lock, and goes on in an event of the machine, which the caller runs. `number`: a new one, by which the wait is interrupted.
    pub(crate) fn wait(&self, number: u64, target: Target, limit: Option<Duration>, then: Then) {
        let dead = {
            let mut state = self.state.lock();
            let OpenFile { pid, .. } = state.descriptions[&target.description];
            let go_on = |state: &mut State, then, woken| {
                state.events.push(Event { of: pid, what: What::GoOn(then, woken) });
                None
            };
            // A turnstile does not fail.
            let fault =
                if limit.is_none() { state.file_of(target.description).fault.take() } else { None };
            if state.status(pid) == Status::Dead {
                Some(then)
            } else if let Some(errno) = fault {
                let error = io::Error::from_raw_os_error(errno);
                go_on(&mut state, then, Woken::Failed(error))
            } else if state.status(pid) == Status::Awake && state.attempt(target) {
                go_on(&mut state, then, Woken::Acquired)
            } else if limit == Some(Duration::ZERO) {
                go_on(&mut state, then, Woken::TimedOut)
            } else {
                let Target { description, slot, mode } = target;
                if state.status(pid) == Status::Awake {
                    state.lock(target).line_up(description, mode);
                }
                state.note(description, format_args!("waits for {slot:?}, {mode:?}"));
                state.sleepers.insert(number, Sleeper { target, limit, deadline: None, then });
                None
            }
        };
        drop(dead);
    }

    /// Ends a wait, if it is one still.
    /// Whether it still waited.
    pub(crate) fn interrupt(&self, number: u64) -> bool {
        self.state.lock().go_on(number, Woken::Interrupted)
    }

    pub(crate) fn unlock(&self, target: Target) {
        self.state.lock().release(target);
    }

    /// What is known of the lock, and of its turnstile.
    pub(crate) fn with_lock<T>(&self, target: Target, look: impl FnOnce(&kernel::Lock) -> T) -> T {
        look(self.state.lock().lock(target))
    }

    /// Which program has this file open, if it has.
    pub(crate) fn owner(&self, description: Description) -> Option<(Pid, String)> {
        let state = self.state.lock();
        let pid = state.descriptions.get(&description)?.pid;
        Some((pid, state.programs[(pid - FIRST_PID) as usize].name.clone()))
    }

    /// How many calls wait for locks of the file at this path.
    #[cfg(all(test, not(tokio_filelock_loom)))]
    pub(crate) fn waiting(&self, path: &Path) -> usize {
        let state = self.state.lock();
        let Some(inode) = state.paths.get(path) else { return 0 };
        state
            .sleepers
            .values()
            .filter(|of| state.descriptions[&of.target.description].inode == *inode)
            .count()
    }
}

impl State {
    fn sleepers_of(&self, pid: Pid) -> Vec<u64> {
        let is_its = |sleeper: &Sleeper| self.descriptions[&sleeper.target.description].pid == pid;
        self.sleepers.iter().filter(|(_, sleeper)| is_its(sleeper)).map(|(at, _)| *at).collect()
    }

    /// Takes from an open file what it has, and its sleepers.
    fn close(&mut self, description: Description) -> Vec<Sleeper> {
        let is_its = |sleeper: &Sleeper| sleeper.target.description == description;
        let sleepers: Vec<_> = self
            .sleepers
            .iter()
            .filter(|(_, sleeper)| is_its(sleeper))
            .map(|(at, _)| *at)
            .collect();
        let sleepers: Vec<_> =
            sleepers.into_iter().filter_map(|number| self.sleepers.remove(&number)).collect();
        let slots: Vec<_> = self.file_of(description).locks.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            let target = Target { description, slot, mode: Mode::Shared };
            self.lock(target).leave_line(description);
            self.release(target);
            self.wake(target);
        }
        sleepers
    }
}

/// While an event is carried out.
struct Running<'a>(&'a Machine);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state.lock().is_running = false;
    }
}

/// A timer of a runtime. Where the runtime drops it, another one is set when the machine is run next.
struct Timer(Arc<Machine>);

impl Timer {
    fn fire(self) {
        let machine = self.0.clone();
        drop(self);
        Machine::run(&machine);
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.state.lock().timer = None;
    }
}

/// The next event, left to a runtime. One that the runtime drops is carried out there.
struct StepOfRuntime(Option<Arc<Machine>>);

impl StepOfRuntime {
    fn take(mut self) {
        if let Some(machine) = self.0.take() {
            Machine::take_step(&machine);
        }
    }
}

impl Drop for StepOfRuntime {
    fn drop(&mut self) {
        if let Some(machine) = self.0.take() {
            Machine::take_step(&machine);
        }
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Which program holds what, and which waits for what, a line each.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        let name = |description: Description| {
            let pid = state.descriptions[&description].pid;
            let program = &state.programs[(pid - FIRST_PID) as usize];
            let status = match program.status {
                Status::Awake => "",
                Status::Stopped => ", stopped",
                Status::Dead => ", dead",
            };
            format!("{} (pid {pid}{status})", program.name)
        };
        for file in state.files.values() {
            let path = file.path.display();
            for (slot, lock) in file.locks.iter() {
                for (by, mode) in lock.holders() {
                    writeln!(f, "{path}, {slot:?}: {} has it, {mode:?}", name(by))?;
                }
                for (by, mode) in lock.waiting() {
                    writeln!(f, "{path}, {slot:?}: {} waits for it, {mode:?}", name(by))?;
                }
            }
        }
        Ok(())
    }
}
