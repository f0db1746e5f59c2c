//! A model of the kernel's file locks, for loom and for tests: [`LockFile`] on the kernel in memory ([`kernel`](super::kernel)),
//! with calls that block their thread.
//!
//! A waiter retries when its thread runs after it was woken, so between the two any other one may take the lock. One that
//! is interrupted leaves without the lock, unless it has got it already. `scenarios` runs one table against this and the
//! real kernel.
//!
//! There is a clock for each file. It goes on when a thread lets time pass, and in that time each thread that is awake
//! does what it can do at once: the owner of the turnstile takes a lock that is free. A limit for the
//! turnstile runs out only if nothing else can happen.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::kernel::{Description, Lock, Locks, Slot, excludes};
use super::names::{Names, Proof, Recognized};
use super::platform::FileId;
use super::turnstile::{
    self, Pace, Taken, Turn, Turnstile, TurnstileState, Turnstiles, is_turn_of_another,
    lock_in_turn, try_in_turn,
};
use super::{Access, Effort, Identity, Kept, Location, Protocol, Region, Standing, Tried, Waited};
use crate::error::{Error, ErrorKind, Operation};
use crate::holder::Holder;
use crate::mode::Mode;
use crate::shim::{Arc, AtomicBool, Condvar, Mutex, Ordering, yield_now};

#[cfg(tokio_filelock_loom)]
loom::lazy_static! {
    static ref DISK: Mutex<Disk> = Mutex::new(Disk::default());
}
#[cfg(not(tokio_filelock_loom))]
static DISK: std::sync::LazyLock<Mutex<Disk>> = std::sync::LazyLock::new(Mutex::default);

/// The open file of a process that never goes on: its locks are never let go.
const STOPPED: Description = 0;

#[derive(Debug, Default)]
struct Disk {
    paths: HashMap<PathBuf, Arc<Inode>>,
    inodes: FileId,
    /// Files that are made now have one number.
    gives_one_number: bool,
}

#[derive(Debug)]
struct Inode {
    number: FileId,
    /// Other files may have its number.
    shares_number: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How often the file was opened.
    descriptions: Description,
    linked: bool,
    /// Marks by which the file is recognized: which open file has set them.
    marks: Vec<Description>,
    content: Vec<u8>,
    locks: Locks,
    /// Of each lock: for which mode its turnstile was taken last.
    turns: BTreeMap<Slot, Mode>,
    /// What the clock shows.
    time: Duration,
    /// Locks that were taken without waiting, past a waiter.
    overtakings: u64,
    /// The error of the next lock call.
    fault: Option<i32>,
    /// The error with which the next wait ends, or the one that is under way.
    wait_fault: Option<i32>,
}

impl Inode {
    /// Lets time pass.
    fn let_time_pass(&self, time: Duration) {
        let mut state = self.state.lock();
        let turn = state.turn();
        while state.is_about_to_change() && state.turn() == turn {
            state = self.changed.wait(state);
        }
        state.time += time;
    }

    /// Takes the lock if it is free.
    fn attempt(&self, state: &mut State, slot: Slot, description: Description, mode: Mode) -> bool {
        let attempted = state.locks.at(slot).attempt(slot, description, mode);
        if attempted.lets_others_in {
            self.changed.notify_all();
        }
        attempted.is_acquired
    }
}

impl State {
    /// Another open file waits that is kept out by a lock of this mode.
    fn others_wait(&self, slot: Slot, description: Description, mode: Mode) -> bool {
        let waiting = self.locks.get(slot).into_iter().flat_map(Lock::waiting);
        let next = self.owner(slot).map(|owner| (owner, self.turns[&slot]));
        let mut others = waiting.chain(next).filter(|(other, _)| *other != description);
        others.any(|(_, wanted)| excludes(wanted, mode))
    }

    /// Takes the turnstile of this lock if it is free.
    fn take_turnstile(&mut self, slot: Slot, description: Description, mode: Mode) -> bool {
        let turnstile = slot.turnstile();
        let is_taken =
            self.locks.at(turnstile).attempt(turnstile, description, Mode::Exclusive).is_acquired;
        if is_taken {
            self.turns.insert(slot, mode);
        }
        is_taken
    }

    /// Which open file has the turnstile of this lock.
    fn owner(&self, slot: Slot) -> Option<Description> {
        let (owner, _) = self.locks.get(slot.turnstile())?.holders().next()?;
        Some(owner)
    }

    /// How often a turnstile was taken.
    fn turn(&self) -> u64 {
        let turnstiles = self.turns.keys().filter_map(|slot| self.locks.get(slot.turnstile()));
        turnstiles.map(Lock::taken).sum()
    }

    /// The owner of a turnstile is awake, and the lock is free: it is about to have it.
    fn is_about_to_change(&self) -> bool {
        let is_awake = |slot| self.owner(slot).is_some_and(|owner| owner != STOPPED);
        self.turns.keys().any(|slot| is_awake(*slot) && self.is_free(*slot))
    }

    fn is_free(&self, slot: Slot) -> bool {
        self.locks.get(slot).is_none_or(Lock::is_free)
    }
}

/// An open file of the model, with the interface of the real one.
#[derive(Debug)]
pub(crate) struct LockFile {
    names: Names,
    inode: Arc<Inode>,
    description: Description,
    turnstiles: Turnstiles,
}

impl LockFile {
    pub(crate) fn names_at(at: &Location) -> Result<Option<Names>, Error> {
        Ok(DISK.lock().paths.get(&**at).map(|inode| names(inode)))
    }

    pub(crate) fn is_at(&self, at: &Location) -> Result<bool, Error> {
        Ok(DISK.lock().paths.get(&**at).is_some_and(|inode| Arc::ptr_eq(inode, &self.inode)))
    }

    pub(crate) fn open(at: &Location, access: Access) -> Result<Self, Error> {
        let path: &Path = at;
        let inode = {
            let mut disk = DISK.lock();
            match disk.paths.get(path) {
                Some(inode) => inode.clone(),
                None if access.create => {
                    disk.inodes += 1;
                    let shares_number = disk.gives_one_number;
                    let inode = Arc::new(Inode {
                        number: if shares_number { 0 } else { disk.inodes },
                        shares_number,
                        state: Mutex::new(State { linked: true, ..State::default() }),
                        changed: Condvar::default(),
                    });
                    disk.paths.insert(path.into(), inode.clone());
                    inode
                }
                None => {
                    let error = io::ErrorKind::NotFound.into();
                    return Err(Error::os(ErrorKind::Io, Operation::Open, path, error));
                }
            }
        };
        let description = {
            let mut state = inode.state.lock();
            state.descriptions += 1;
            state.descriptions
        };
        Ok(Self { names: names(&inode), inode, description, turnstiles: Turnstiles::default() })
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    pub(crate) fn identity(&self) -> Identity {
        self.names.identity
    }

    /// A mark on the one file is seen through the other if they are one.
    pub(crate) fn ask(&self, known: &[&Self]) -> Recognized {
        self.inode.state.lock().marks.push(self.description);
        let is_it = |known: &&Self| {
            Arc::ptr_eq(&known.inode, &self.inode)
                && known.inode.state.lock().marks.contains(&self.description)
        };
        let found = known.iter().position(is_it);
        self.inode.state.lock().marks.retain(|mark| *mark != self.description);
        found.map_or(Recognized::None, Recognized::Is)
    }

    pub(crate) fn is_writable(&self) -> bool {
        true
    }

    pub(crate) fn is_local(&self) -> bool {
        true
    }

    pub(crate) fn excludes_this_machine_only(&self, _protocol: Protocol) -> Option<&'static str> {
        None
    }

    pub(crate) fn closing_releases(_protocol: Protocol) -> bool {
        false
    }

    /// No number is ever given away here.
    pub(crate) fn standing(&self) -> io::Result<Standing> {
        let linked = self.inode.state.lock().linked;
        Ok(if linked { Standing::Linked } else { Standing::Unlinked })
    }

    pub(crate) fn check(&self) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn try_lock(
        &self,
        protocol: Protocol,
        region: Region,
        mode: Mode,
    ) -> io::Result<Tried> {
        let slot = Slot::of(protocol, region);
        let mut state = self.inode.state.lock();
        if let Some(errno) = state.fault.take() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let acquired = self.inode.attempt(&mut state, slot, self.description, mode);
        if acquired && state.others_wait(slot, self.description, mode) {
            state.overtakings += 1;
        }
        Ok(if acquired { Tried::Acquired } else { Tried::Busy })
    }

    pub(crate) fn try_lock_in_turn(
        &self,
        protocol: Protocol,
        region: Region,
        mode: Mode,
        pace: &Pace,
        may_pause: bool,
    ) -> io::Result<Tried> {
        try_in_turn(&Call { file: self, protocol, region, mode, pace }, may_pause)
    }

    pub(crate) fn is_turnstile_taken(
        &self,
        protocol: Protocol,
        region: Region,
        pace: &Pace,
    ) -> bool {
        is_turn_of_another(&Call { file: self, protocol, region, mode: Mode::Shared, pace })
    }

    pub(crate) fn lock(
        &self,
        protocol: Protocol,
        region: Region,
        mode: Mode,
        pace: &Pace,
        interrupt: &Interrupt,
    ) -> io::Result<Waited> {
        *interrupt.waits_on.lock() = Some(self.inode.clone());
        let call = Call { file: self, protocol, region, mode, pace };
        let waited = lock_in_turn(&Wait { call, interrupt });
        *interrupt.waits_on.lock() = None;
        waited
    }

    /// As `lock`, with no regard for waiters.
    #[cfg(not(tokio_filelock_loom))]
    pub(super) fn lock_out_of_turn(
        &self,
        protocol: Protocol,
        region: Region,
        mode: Mode,
        interrupt: &Interrupt,
    ) -> io::Result<Waited> {
        *interrupt.waits_on.lock() = Some(self.inode.clone());
        let waited = self.wait(Slot::of(protocol, region), mode, interrupt);
        *interrupt.waits_on.lock() = None;
        waited
    }

    fn wait(&self, slot: Slot, mode: Mode, interrupt: &Interrupt) -> io::Result<Waited> {
        let mut state = self.inode.state.lock();
        if self.inode.attempt(&mut state, slot, self.description, mode) {
            return Ok(Waited::Acquired);
        }
        state.locks.at(slot).line_up(self.description, mode);
        let answer = loop {
            if let Some(errno) = state.wait_fault.take() {
                break Err(io::Error::from_raw_os_error(errno));
            }
            if !state.locks.at(slot).is_behind(self.description)
                && self.inode.attempt(&mut state, slot, self.description, mode)
            {
                break Ok(Waited::Acquired);
            }
            if interrupt.requested.load(Ordering::SeqCst) {
                break Ok(Waited::Interrupted);
            }
            state = self.inode.changed.wait(state);
        };
        state.locks.at(slot).leave_line(self.description);
        drop(state);
        self.inode.changed.notify_all();
        answer
    }

    pub(crate) fn holders(
        &self,
        _protocol: Protocol,
        _region: Region,
        _effort: Effort,
    ) -> Vec<Holder> {
        Vec::new()
    }

    pub(crate) fn blocker(&self, _protocol: Protocol, _region: Region) -> Option<Holder> {
        None
    }

    pub(crate) fn pid(&self) -> u32 {
        1
    }

    pub(crate) fn remove(
        &self,
        location: &Location,
        _protocol: Protocol,
    ) -> io::Result<Option<Kept>> {
        let is_here = |inode: &Arc<Inode>| Arc::ptr_eq(inode, &self.inode);
        let there = DISK.lock().paths.get(&**location).cloned();
        if !there.as_ref().is_some_and(is_here) {
            return Ok(Some(Kept::Replaced));
        }
        unlink(location);
        Ok(None)
    }

    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.inode.state.lock();
        let length = buffer.len().min(state.content.len());
        buffer[..length].copy_from_slice(&state.content[..length]);
        Ok(length)
    }

    pub(crate) fn write(&self, content: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.inode.state.lock();
        let end = at as usize + content.len();
        let length = state.content.len().max(end);
        state.content.resize(length, 0);
        state.content[at as usize..end].copy_from_slice(content);
        Ok(())
    }

    pub(crate) fn mark_in_use(&self) {}

    pub(crate) fn has_other_names(&self) -> io::Result<bool> {
        Ok(false)
    }

    pub(crate) fn truncate(&self, length: u64) -> io::Result<()> {
        self.inode.state.lock().content.truncate(length as usize);
        Ok(())
    }

    pub(crate) fn unlock(&self, protocol: Protocol, region: Region) -> io::Result<()> {
        self.release(Slot::of(protocol, region));
        Ok(())
    }

    pub(crate) fn downgrade(&self, _protocol: Protocol, _region: Region) -> bool {
        false
    }

    fn release(&self, slot: Slot) {
        self.inode.state.lock().locks.at(slot).release(self.description);
        self.inode.changed.notify_all();
    }
}

impl Drop for LockFile {
    /// Closing gives back what the open file holds.
    fn drop(&mut self) {
        let mut state = self.inode.state.lock();
        let slots: Vec<_> = state.locks.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            state.locks.at(slot).release(self.description);
        }
        drop(state);
        self.inode.changed.notify_all();
    }
}

struct Call<'a> {
    file: &'a LockFile,
    protocol: Protocol,
    region: Region,
    mode: Mode,
    pace: &'a Pace,
}

impl Call<'_> {
    fn slot(&self) -> Slot {
        Slot::of(self.protocol, self.region)
    }
}

impl Turnstile for Call<'_> {
    fn check(&self) -> TurnstileState {
        let state = self.file.inode.state.lock();
        match state.owner(self.slot()) {
            Some(owner) if owner != self.file.description => {
                TurnstileState::Taken(Taken(state.turn()))
            }
            _ => TurnstileState::Free,
        }
    }

    fn remembered(&self) -> &Turnstiles {
        &self.file.turnstiles
    }

    fn pace(&self) -> &Pace {
        self.pace
    }

    fn region(&self) -> Region {
        self.region
    }

    fn now(&self) -> Instant {
        static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
        *BEGINNING + self.file.inode.state.lock().time
    }

    fn pause(&self, time: Duration) {
        self.file.inode.let_time_pass(time);
    }

    fn is_free(&self) -> io::Result<bool> {
        let mut state = self.file.inode.state.lock();
        let exclusive = Mode::Exclusive;
        if !self.file.inode.attempt(&mut state, self.slot(), self.file.description, exclusive) {
            return Ok(false);
        }
        // Others may come in between.
        drop(state);
        self.file.release(self.slot());
        Ok(true)
    }

    fn try_lock(&self) -> io::Result<Tried> {
        self.file.try_lock(self.protocol, self.region, self.mode)
    }

    fn is_shared(&self) -> bool {
        self.mode == Mode::Shared
    }

    fn is_lock_waited_for(&self) -> bool {
        let mut state = self.file.inode.state.lock();
        state.locks.at(self.slot()).waiting().next().is_some()
    }
}

struct Wait<'a> {
    call: Call<'a>,
    interrupt: &'a Interrupt,
}

impl<'a> turnstile::Wait for Wait<'a> {
    type Turnstile = Call<'a>;

    fn turnstile(&self) -> &Call<'a> {
        &self.call
    }

    fn take_turnstile(&self, limit: Duration) -> Turn {
        let (inode, slot) = (&self.call.file.inode, self.call.slot());
        let mut state = inode.state.lock();
        while !state.take_turnstile(slot, self.call.file.description, self.call.mode) {
            if limit.is_zero() {
                return Turn::TimedOut;
            }
            if state.owner(slot) == Some(STOPPED) && state.is_free(slot) {
                state.time += limit;
                return Turn::TimedOut;
            }
            if self.interrupt.requested.load(Ordering::SeqCst) {
                return Turn::Interrupted;
            }
            state = inode.changed.wait(state);
        }
        drop(state);
        inode.changed.notify_all();
        Turn::Taken
    }

    fn leave_turnstile(&self) {
        self.call.file.release(self.call.slot().turnstile());
    }

    fn lock(&self) -> io::Result<Waited> {
        self.call.file.wait(self.call.slot(), self.call.mode, self.interrupt)
    }
}

/// Ends a wait, as the repeated signal does: it cannot be lost between the look and the call.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    requested: AtomicBool,
    waits_on: Mutex<Option<Arc<Inode>>>,
}

impl Interrupt {
    /// There is no time here: others have their chance.
    pub(crate) fn pause(&self, _time: Duration) -> Option<Waited> {
        yield_now();
        self.requested.load(Ordering::SeqCst).then_some(Waited::Interrupted)
    }

    pub(crate) fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
        let waits_on = self.waits_on.lock().clone();
        if let Some(inode) = waits_on {
            drop(inode.state.lock());
            inode.changed.notify_all();
        }
    }
}

fn names(inode: &Inode) -> Names {
    let proof = if inode.shares_number { Proof::None } else { Proof::Number };
    Names { identity: Identity { device: 0, inode: inode.number }, proof }
}

/// All files that are made from now on have one number, which proves nothing.
#[cfg(tokio_filelock_loom)]
pub(crate) fn give_one_number() {
    DISK.lock().gives_one_number = true;
}

/// Removes the path; open files keep the inode.
pub(crate) fn unlink(path: &Path) {
    let inode = DISK.lock().paths.remove(path);
    if let Some(inode) = inode {
        inode.state.lock().linked = false;
    }
}

/// Makes the next lock call on the file at this path fail with this errno.
#[cfg(tokio_filelock_loom)]
pub(crate) fn fail_next(path: &Path, errno: i32) {
    let inode = DISK.lock().paths.get(path).cloned();
    inode.expect("the file exists").state.lock().fault = Some(errno);
}

/// Makes a wait on the file at this path end with this errno.
#[cfg(tokio_filelock_loom)]
pub(crate) fn fail_waiter(path: &Path, errno: i32) {
    let inode = DISK.lock().paths.get(path).cloned().expect("the file exists");
    inode.state.lock().wait_fault = Some(errno);
    inode.changed.notify_all();
}

/// Locks the file at this path for a holder that never lets go.
#[cfg(tokio_filelock_loom)]
pub(crate) fn hold_for_ever(path: &Path) {
    let inode = DISK.lock().paths.get(path).cloned().expect("the file exists");
    let mut state = inode.state.lock();
    let held = state.locks.at(Slot::File).attempt(Slot::File, STOPPED, Mode::Exclusive);
    assert!(held.is_acquired, "it was free");
}

/// How many lock calls on the file at this path are blocked.
#[cfg(not(tokio_filelock_loom))]
pub(crate) fn blocked(path: &Path) -> usize {
    let inode = DISK.lock().paths.get(path).cloned();
    let inode = inode.expect("the file exists");
    let state = inode.state.lock();
    state.locks.iter().map(|(_, lock)| lock.waiting().count()).sum()
}

/// Takes the turnstile of the file at this path for a process that never goes on.
#[cfg(tokio_filelock_loom)]
pub(crate) fn hold_turnstile_for_ever(path: &Path) {
    let inode = DISK.lock().paths.get(path).cloned().expect("the file exists");
    let is_taken = inode.state.lock().take_turnstile(Slot::File, STOPPED, Mode::Exclusive);
    assert!(is_taken, "it was free");
}

/// Returns when an open file has the turnstile of the file at this path.
#[cfg(tokio_filelock_loom)]
pub(crate) fn await_turnstile(path: &Path) {
    let inode = DISK.lock().paths.get(path).cloned().expect("the file exists");
    let mut state = inode.state.lock();
    while state.owner(Slot::File).is_none() {
        state = inode.changed.wait(state);
    }
}

/// Lets so much time pass as a turnstile may keep its owner.
#[cfg(tokio_filelock_loom)]
pub(crate) fn let_a_limit_pass(path: &Path) {
    let inode = DISK.lock().paths.get(path).cloned().expect("the file exists");
    inode.let_time_pass(turnstile::FIRST_LIMIT);
}

/// How often the lock of the file at this path was taken past a waiter.
#[cfg(tokio_filelock_loom)]
pub(crate) fn overtakings(path: &Path) -> u64 {
    let inode = DISK.lock().paths.get(path).cloned();
    inode.expect("the file exists").state.lock().overtakings
}
