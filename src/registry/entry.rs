//! One lock of one file: its queue, its state, and the thread that carries out the effects.
//!
//! Every event goes through the same three steps: take the mutex and tell the queue, let go of
//! the mutex, carry out what the queue asked for. The answer of an OS call is the next event. So
//! a chain such as "unlock, then try for the next in line" runs on the thread that started it,
//! without recursion and without a mutex held across any of it.

use std::io;
use std::sync::OnceLock;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::Membership;
use crate::os::{self, Attempt, Identity, Interrupt, LockFile, Protocol, Region, Waited};
use crate::queue::{Counts, Effects, Mode, OsCall, Queue};
use crate::shim::{self, Arc, AtomicBool, Mutex, Ordering};
use crate::wait;

/// Handovers inside a tenure, after which the OS lock goes back so that other processes get in.
/// (Models are small: they reach a bound of one.)
const MAX_HANDOVERS: u32 = if cfg!(tokio_filelock_loom) { 1 } else { 64 };

/// Time since the first handover of a tenure, after which it ends at the next release.
const MAX_HANDING_OVER: Duration = Duration::from_millis(5);

/// The open file of an identity.
///
/// A second descriptor is kept if the first is read-only and a later opener may write: locks that
/// need write access (fcntl(2)) are then taken through that one.
#[derive(Debug)]
pub(crate) struct OpenFile {
    first: LockFile,
    writable: OnceLock<LockFile>,
}

impl OpenFile {
    pub(super) fn new(file: LockFile) -> Self {
        Self { first: file, writable: OnceLock::new() }
    }

    /// Takes the descriptor if it allows more than those there are; otherwise gives it back.
    pub(super) fn offer(&self, file: LockFile) -> Option<LockFile> {
        if self.is_writable() || !file.is_writable() {
            return Some(file);
        }
        self.writable.set(file).err()
    }

    pub(super) fn is_writable(&self) -> bool {
        self.first.is_writable() || self.writable.get().is_some()
    }

    pub(crate) fn is_local(&self) -> bool {
        self.first.is_local()
    }

    pub(super) fn identity(&self) -> Identity {
        self.first.identity()
    }
}

#[derive(Debug)]
pub(crate) struct Entry {
    file: Arc<OpenFile>,
    protocol: Protocol,
    region: Region,
    /// Which descriptor carries the OS lock. Changes only while there is none: at a try.
    on_writable: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: Queue<Waker, io::Error>,
    /// Since when the lock goes from task to task in this tenure, if it does.
    handing_over_since: Option<Instant>,
    /// How to end the wait that is parked, if there is one: of which epoch, and by what.
    parked: Option<(u64, Arc<Interrupt>)>,
}

/// What the thread that carries out effects may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thread {
    /// A worker or any other thread of the user: never block.
    Caller,
    /// May wait for a server, not for a holder.
    Errand,
    /// May wait as long as it takes.
    Parked,
}

impl Entry {
    pub(super) fn new(file: Arc<OpenFile>, protocol: Protocol, region: Region) -> Self {
        let state =
            State { queue: Queue::new(MAX_HANDOVERS), handing_over_since: None, parked: None };
        let on_writable = AtomicBool::new(false);
        Self { file, protocol, region, on_writable, state: Mutex::new(state) }
    }

    pub(crate) fn file(&self) -> &OpenFile {
        &self.file
    }

    pub(super) fn region(&self) -> Region {
        self.region
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state.lock().queue.counts()
    }

    /// One event of the queue, under the mutex.
    pub(super) fn event<T>(&self, event: impl FnOnce(&mut Queue<Waker, io::Error>) -> T) -> T {
        event(&mut self.state.lock().queue)
    }

    /// A holder lets go.
    pub(super) fn release(&self) -> Effects<Waker> {
        let mut state = self.state.lock();
        if state.queue.is_contended() {
            // The clock may be a system call.
            drop(state);
            let now = shim::now();
            state = self.state.lock();
            let since = *state.handing_over_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= MAX_HANDING_OVER {
                state.queue.end_tenure();
            }
        }
        state.queue.release()
    }

    /// The exclusive holder becomes a shared one.
    pub(super) fn downgrade(&self) -> Effects<Waker> {
        // The caller holds the exclusive lock until the event, so nobody else makes OS calls now.
        let in_place =
            self.file.is_local() && self.locked_file().downgrade(self.protocol, self.region);
        let os = if in_place { Mode::Shared } else { Mode::Exclusive };
        self.event(|queue| queue.downgrade(os))
    }

    /// The descriptor that carries the OS lock, or an attempt at it.
    fn locked_file(&self) -> &LockFile {
        if self.on_writable.load(Ordering::Relaxed) {
            self.file.writable.get().expect("never taken back")
        } else {
            &self.file.first
        }
    }

    fn try_os(&self, mode: Mode, epoch: u64) -> Effects<Waker> {
        self.on_writable.store(self.file.writable.get().is_some(), Ordering::Relaxed);
        match self.locked_file().try_lock(self.protocol, self.region, mode.into()) {
            Ok(Attempt::Acquired) => self.acquired(epoch),
            Ok(Attempt::Busy) => self.event(|queue| queue.os_busy(epoch)),
            Err(error) => self.event(|queue| queue.os_failed(epoch, error)),
        }
    }

    fn wait_os(&self, mode: Mode, epoch: u64) -> Effects<Waker> {
        let interrupt = Arc::new(Interrupt::default());
        {
            // From here on the wait can be interrupted; it may have been meanwhile.
            let mut state = self.state.lock();
            if state.queue.is_interrupted() {
                return state.queue.os_interrupted(epoch);
            }
            state.parked = Some((epoch, interrupt.clone()));
        }
        let waited = self.locked_file().lock(self.protocol, self.region, mode.into(), &interrupt);
        self.state.lock().parked = None;
        match waited {
            Ok(Waited::Acquired) => self.acquired(epoch),
            Ok(Waited::Interrupted) => self.event(|queue| queue.os_interrupted(epoch)),
            Err(error) => self.event(|queue| queue.os_failed(epoch, error)),
        }
    }

    /// Ends the wait of this epoch if it is parked. One that is only on its way to its thread sees
    /// that it is not wanted when it gets there; one that has come back needs nothing.
    fn interrupt(&self, epoch: u64) {
        let parked = self.state.lock().parked.clone();
        if let Some((of, interrupt)) = parked {
            if of == epoch {
                interrupt.request();
            }
        }
    }

    /// The OS lock is ours; is it on the right file?
    fn acquired(&self, epoch: u64) -> Effects<Waker> {
        let file = self.locked_file();
        let linked = file.is_linked();
        if let Ok(true) = linked {
            let mut state = self.state.lock();
            state.handing_over_since = None;
            return state.queue.os_acquired(epoch);
        }
        // Part of this attempt: the next one must not start before the lock is back. Where the
        // unlock fails, nobody has a lock on this file that he could lose.
        let _ = file.unlock(self.protocol, self.region);
        match linked {
            Ok(_) => self.event(|queue| queue.os_stale(epoch)),
            Err(error) => self.event(|queue| queue.os_failed(epoch, error)),
        }
    }

    fn unlock_os(&self) -> (io::Result<()>, Effects<Waker>) {
        let answer = self.locked_file().unlock(self.protocol, self.region);
        (answer, self.event(|queue| queue.os_released()))
    }
}

/// Carries out effects, and the effects of their answers, until none are left on this thread.
/// Returns what became of the unlock, if there was one here.
pub(super) fn carry_out(
    member: &Arc<Membership>,
    mut effects: Effects<Waker>,
    thread: Thread,
) -> io::Result<()> {
    let mut unlocked = Ok(());
    loop {
        let Effects { os, wake, wake_more, discard } = effects;
        // The call first: a waker that panics must not take it away.
        let next = os.and_then(|call| carry_out_call(member, call, thread, &mut unlocked));
        drop(discard);
        if let Some(waker) = wake {
            waker.wake();
            wake_more.into_iter().for_each(Waker::wake);
        }
        match next {
            Some(next) => effects = next,
            None => return unlocked,
        }
    }
}

fn carry_out_call(
    member: &Arc<Membership>,
    call: OsCall,
    thread: Thread,
    unlocked: &mut io::Result<()>,
) -> Option<Effects<Waker>> {
    let entry = member.entry();
    match call {
        OsCall::Try { .. } | OsCall::Unlock
            if thread == Thread::Caller && !entry.file.is_local() =>
        {
            let member = member.clone();
            let effects = Effects { os: Some(call), ..Effects::default() };
            wait::errand(member.clone().pool(), move || {
                let _ = carry_out(&member, effects, Thread::Errand);
            });
            None
        }
        OsCall::Try { mode, epoch } => Some(entry.try_os(mode, epoch)),
        OsCall::Unlock => {
            let (answer, effects) = entry.unlock_os();
            *unlocked = answer;
            Some(effects)
        }
        OsCall::Wait { mode, epoch } if thread == Thread::Parked => {
            Some(entry.wait_os(mode, epoch))
        }
        OsCall::Wait { epoch, .. } => {
            let parked = member.clone();
            let effects = Effects { os: Some(call), ..Effects::default() };
            let started = wait::park(member.pool(), member.wait_on(), move |placed| {
                let _ = match placed {
                    Ok(()) => carry_out(&parked, effects, Thread::Parked),
                    Err(error) => {
                        let effects = parked.entry().event(|queue| queue.os_failed(epoch, error));
                        carry_out(&parked, effects, Thread::Caller)
                    }
                };
            });
            match started {
                Ok(()) => None,
                Err(error) => Some(entry.event(|queue| queue.os_failed(epoch, error))),
            }
        }
        OsCall::Interrupt { epoch } => {
            entry.interrupt(epoch);
            None
        }
    }
}

impl From<Mode> for os::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Shared => os::Mode::Shared,
            Mode::Exclusive => os::Mode::Exclusive,
        }
    }
}
