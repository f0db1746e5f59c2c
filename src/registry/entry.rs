//! One lock of one file: its queue, its state, and the thread that carries out the effects.
//!
//! Every event goes through the same three steps: take the mutex and tell the queue, let go of
//! the mutex, carry out what the queue asked for. The answer of an OS call is the next event. So
//! a chain such as "unlock, then try for the next in line" runs on the thread that started it,
//! without recursion and without a mutex held across any of it.

use std::io;
use std::mem;
use std::sync::OnceLock;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::labels::Labels;
use super::looks::Looks;
use super::open_file::OpenFile;
use super::recorded::{Recorded, Signature, Told};
use super::request::new_rank;
use super::{Membership, Tenure};
use crate::error::Error;
use crate::foreign;
use crate::holder::{Holder, LONGEST, Label, Record, Written};
use crate::mode::Mode;
use crate::os::{
    self, Attempt, Effort, Interrupt, Kept, Location, LockFile, Protocol, Region, Standing, Waited,
};
use crate::queue::{
    Check, Counts, Effects, End, OsCall, Pacing, Patience, Queue, Rank, Requested, Settled, Ticket,
};
use crate::shim::{self, Arc, AtomicBool, Mutex, MutexGuard, Ordering};
use crate::trace;
use crate::wait::{self, WaitOn};

/// For so long a process stands back after a tenure whose time is up. A process that the unlock has
/// woken takes 23 µs at the median to get the lock, 129 µs at the 99th percentile.
const STAND_BACK: Duration = Duration::from_micros(100);

#[derive(Debug)]
pub(crate) struct Entry {
    file: Arc<OpenFile>,
    protocol: Protocol,
    region: Region,
    /// Which descriptor carries the OS lock. Changes only while there is none: when an attempt
    /// begins.
    on_writable: AtomicBool,
    /// There is a signature: somebody wants records.
    records: AtomicBool,
    /// A wait for this lock has begun: another process has had it, or was next.
    has_waited: AtomicBool,
    /// Made by the first one: most locks are never asked for.
    looks: OnceLock<Looks>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: Queue<Waker, io::Error>,
    pacing: Pacing,
    /// In this tenure a path was seen to lead to the file.
    seen_at_path: bool,
    /// How to end the wait that is parked, if there is one: of which epoch, and by what.
    parked: Option<(u64, Arc<Interrupt>)>,
    signature: Option<Arc<Signature>>,
    /// Of one of those who asked: no exclusive lock without.
    record_is_required: bool,
    /// Made by the first request that says what it does.
    labels: Option<Box<Labels>>,
    /// In an exclusive tenure, if somebody wanted records when it began.
    recorded: Option<Recorded>,
    /// The record of the last tenure, as it stands in the file if nobody else was there since.
    written: Written,
    /// What is told of the tenure when it ends, and the handovers before it.
    traced: Option<(trace::Tenure, u64)>,
}

impl State {
    fn labels(&mut self) -> &mut Labels {
        self.labels.get_or_insert_default()
    }

    #[cold]
    fn label(&mut self, requested: &Requested, label: Label) {
        match requested {
            Requested::Queued(ticket) => self.labels().place(ticket.place(), label),
            Requested::Granted(_) => self.labels().hold(label),
            Requested::Refused | Requested::Moved => {}
        }
    }

    fn label_of_head(&self) -> Option<Label> {
        self.labels.as_ref()?.at(self.queue.head()?).cloned()
    }
}

/// What the thread that carries out effects may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thread {
    /// A worker or any other thread of the user that asks for the lock: never block. A wait may be
    /// parked where the request wants it.
    Requester,
    /// The same, but whoever has to wait is somebody else.
    Caller,
    /// May wait for a server, not for a holder, and for one answer only: what the first call came back
    /// with is waited for.
    Asked,
    /// May wait for a server, not for a holder.
    Errand,
    /// May wait as long as it takes.
    Parked,
}

impl Entry {
    pub(super) fn new(file: Arc<OpenFile>, protocol: Protocol, region: Region) -> Self {
        let state = State {
            queue: Queue::new(),
            pacing: Pacing::new(),
            seen_at_path: false,
            parked: None,
            signature: None,
            record_is_required: false,
            labels: None,
            recorded: None,
            written: Written::default(),
            traced: None,
        };
        Self {
            file,
            protocol,
            region,
            on_writable: AtomicBool::new(false),
            records: AtomicBool::new(false),
            has_waited: AtomicBool::new(false),
            looks: OnceLock::new(),
            state: Mutex::new(state),
        }
    }

    #[inline]
    pub(crate) fn file(&self) -> &OpenFile {
        &self.file
    }

    /// Not by identity: a server may have given that of a file which is gone to the next one.
    pub(super) fn is_of_same_file(&self, other: &Entry) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
    }

    pub(super) fn is_of(&self, file: &Arc<OpenFile>) -> bool {
        Arc::ptr_eq(&self.file, file)
    }

    /// Another process has had the lock or was next, for this one has had to wait.
    pub(super) fn has_waited(&self) -> bool {
        self.has_waited.load(Ordering::Acquire)
    }

    /// Whether a path was seen to lead to the file since the OS lock was acquired.
    pub(super) fn was_seen_at_path(&self) -> bool {
        self.state.lock().seen_at_path
    }

    pub(super) fn saw_at_path(&self) {
        self.state.lock().seen_at_path = true;
    }

    pub(super) fn region(&self) -> Region {
        self.region
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state.lock().queue.counts()
    }

    /// One event of the queue, under the mutex.
    #[inline]
    pub(super) fn event<T>(&self, event: impl FnOnce(&mut Queue<Waker, io::Error>) -> T) -> T {
        event(&mut self.state.lock().queue)
    }

    /// From now on these bounds count, where they are stricter than those before.
    pub(super) fn limit(&self, tenure: Tenure) {
        let mut state = self.state.lock();
        state.queue.limit_handovers(tenure.handovers);
        state.pacing.limit(tenure.time);
    }

    /// From the next exclusive tenure on, holders leave a record with this signature.
    pub(super) fn record(&self, signature: Arc<Signature>) {
        let mut state = self.state.lock();
        state.record_is_required |= signature.is_required;
        state.signature = Some(signature);
        drop(state);
        self.records.store(true, Ordering::Release);
    }

    /// What an exclusive guard that is given out now gets to know of the record of its tenure.
    pub(super) fn tell(&self) -> Option<Told> {
        if !self.records.load(Ordering::Acquire) {
            return None;
        }
        self.state.lock().recorded.as_mut().map(Recorded::tell)
    }

    /// Takes the waker if the request is in line behind others. Otherwise the requester has something
    /// to do before it waits.
    #[inline]
    pub(super) fn request(
        &self,
        mode: Mode,
        patience: Patience,
        rank: Option<Rank>,
        label: Option<&Label>,
        waker: &mut Option<Waker>,
        effects: &mut Effects<Waker>,
    ) -> Requested {
        let mut state = self.state.lock();
        if state.queue.would_join(mode) {
            state = self.check_before_handover(state);
        }
        let requested = match rank {
            None => state.queue.request(mode, patience, effects),
            Some(rank) => state.queue.request_again(mode, rank, effects),
        };
        if let (Requested::Queued(ticket), None, Some(_)) = (&requested, &effects.os, &waker) {
            *waker = waker.take().and_then(|waker| state.queue.register(ticket, waker));
        }
        if let Some(label) = label {
            state.label(&requested, label.clone());
        }
        requested
    }

    /// A request that says what it does is polled: what became of it, or that it is still in line with
    /// this waker; and a waker to drop.
    #[cold]
    pub(super) fn poll_labelled(
        &self,
        ticket: &mut Option<Ticket>,
        label: &Label,
        waker: Waker,
    ) -> (Option<Settled<io::Error>>, Option<Waker>) {
        let mut state = self.state.lock();
        let place = ticket.as_ref().expect("polled with its ticket").place();
        let Some(settled) = state.queue.poll(ticket) else {
            let ticket = ticket.as_ref().expect("still in line");
            return (None, state.queue.register(ticket, waker));
        };
        let labels = state.labels();
        labels.leave(place);
        if let Settled::Granted(_) = settled {
            labels.hold(label.clone());
        }
        (Some(settled), Some(waker))
    }

    /// A request that says what it does gives up.
    #[cold]
    pub(super) fn cancel_labelled(&self, ticket: Ticket) -> Effects<Waker> {
        let mut state = self.state.lock();
        state.labels().leave(ticket.place());
        state.queue.cancel(ticket)
    }

    /// A holder that says what it does is about to let go.
    #[cold]
    pub(super) fn release_label(&self, label: &Label) {
        self.state.lock().labels().release(label);
    }

    /// A holder lets go.
    #[inline]
    pub(super) fn release(&self, effects: &mut Effects<Waker>) {
        let mut state = self.state.lock();
        if state.queue.is_contended() {
            state = self.check_before_handover(state);
        }
        state.queue.release(effects);
        if effects.os.is_some() && !state.queue.is_contended() {
            state.pacing.let_others_in();
        }
    }

    /// Ends the tenure if others have waited for long enough, or are seen to wait.
    #[inline]
    fn check_before_handover<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        let Some(step) = state.pacing.hand_over() else { return state };
        // The clock may be a system call, and the turnstile is one.
        drop(state);
        let now = shim::now();
        let check = match step.is_check_due(now) {
            false => Check::NotDue,
            true if self.is_turnstile_taken() => Check::Taken,
            true => Check::Free,
        };
        let mut state = self.state.lock();
        if let Some(end) = state.pacing.complete(now, check) {
            state.queue.end_tenure(end);
        }
        state
    }

    /// A task of this process waits for the lock or, as far as it can be seen, another process.
    ///
    /// The caller holds the lock, so what is seen is of this tenure. It counts for all: newcomers queue.
    pub(super) fn is_contended(&self) -> bool {
        if self.event(|queue| queue.is_contended()) {
            return true;
        }
        let seen = self.is_turnstile_taken();
        if seen {
            self.event(|queue| queue.end_tenure(End::Seen));
        }
        seen
    }

    fn is_turnstile_taken(&self) -> bool {
        self.locked_file().is_turnstile_taken(self.protocol, self.region)
    }

    /// The exclusive holder becomes a shared one.
    pub(super) fn downgrade(&self) -> Effects<Waker> {
        // The caller holds the exclusive lock until the event, so nobody else makes OS calls now.
        let in_place = self.file.is_local()
            && self.locked_file().check().is_ok()
            && self.locked_file().downgrade(self.protocol, self.region);
        let os = if in_place { Mode::Shared } else { Mode::Exclusive };
        if in_place {
            // Others may share the lock by now, but nobody can have it exclusively.
            let _ = self.end_record();
        }
        self.event(|queue| queue.downgrade(os))
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

    fn try_os(&self, mode: Mode, epoch: u64, may_pause: bool) -> Effects<Waker> {
        if self.file.is_gone() {
            return self.lost(epoch);
        }
        let (protocol, region) = (self.protocol, self.region);
        let tried = self.attempt(|file| file.try_lock_in_turn(protocol, region, mode, may_pause));
        match tried {
            Ok(Attempt::Acquired) => self.acquired(mode, epoch, None),
            Ok(Attempt::Busy) => self.event(|queue| queue.os_busy(epoch)),
            Err(error) => self.failed(epoch, error),
        }
    }

    fn wait_os(&self, mode: Mode, epoch: u64, stand_back: bool) -> Effects<Waker> {
        let interrupt = Arc::new(Interrupt::default());
        {
            // From here on the wait can be interrupted; it may have been meanwhile.
            let mut state = self.state.lock();
            if state.queue.is_interrupted() {
                return state.queue.os_interrupted(epoch);
            }
            state.parked = Some((epoch, interrupt.clone()));
            // The others have their chance now.
            state.pacing.let_others_in();
        }
        if stand_back {
            let _ = interrupt.pause(STAND_BACK);
        } else {
            self.has_waited.store(true, Ordering::Release);
        }
        if self.file.is_gone() {
            self.state.lock().parked = None;
            return self.lost(epoch);
        }
        let waited = self.attempt(|file| {
            // No wait is for the lock of a foreign file. Asked here and not when a try is busy, which is
            // to cost what the calls on the lock cost.
            file.check()?;
            file.lock(self.protocol, self.region, mode, &interrupt)
        });
        self.state.lock().parked = None;
        match waited {
            Ok(Waited::Acquired) => self.acquired(mode, epoch, Some(shim::now())),
            Ok(Waited::Interrupted) => self.event(|queue| queue.os_interrupted(epoch)),
            Err(error) => self.failed(epoch, error),
        }
    }

    /// There is no thread for a wait.
    fn not_parked(&self, call: OsCall, epoch: u64, error: io::Error) -> Effects<Waker> {
        match call {
            // The lock was free a moment ago, and others have had that moment.
            OsCall::StandBack { .. } => self.event(|queue| queue.os_not_stood_back(epoch)),
            _ => self.event(|queue| queue.os_failed(epoch, error)),
        }
    }

    fn failed(&self, epoch: u64, error: io::Error) -> Effects<Waker> {
        if self.locked_file().check().is_err() {
            self.foreign(epoch)
        // No local file system forgets an open file; a sandbox may say so.
        } else if !self.file.is_local() && os::is_gone(&error) {
            self.gone(epoch)
        } else {
            self.event(|queue| queue.os_failed(epoch, error))
        }
    }

    fn gone(&self, epoch: u64) -> Effects<Waker> {
        // Before anybody is told to open the path anew.
        self.file.set_gone();
        self.lost(epoch)
    }

    /// The descriptor does not stand for the file any more.
    fn foreign(&self, epoch: u64) -> Effects<Waker> {
        self.file.set_foreign();
        self.lost(epoch)
    }

    /// The open file is out of use. Where its descriptor is foreign the locks of this process are gone, which one
    /// request is told, for the process to know. All others open the path anew, and exclude as before.
    fn lost(&self, epoch: u64) -> Effects<Waker> {
        if self.file.tell_foreign() {
            return self.event(|queue| queue.os_failed(epoch, os::foreign_descriptor()));
        }
        self.event(|queue| queue.os_stale(epoch, new_rank))
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

    /// The OS lock is ours; is it on the right file? If a wait ended with it, that was at this time.
    fn acquired(&self, mode: Mode, epoch: u64, waited: Option<Instant>) -> Effects<Waker> {
        let file = self.locked_file();
        let standing = file.standing().and_then(|standing| {
            if standing == Standing::Linked {
                self.begin_record(mode)?;
            }
            Ok(standing)
        });
        if let Ok(Standing::Linked) = standing {
            let traced = trace::Tenure::begin();
            let mut state = self.state.lock();
            state.pacing.begin_tenure(mode, waited);
            state.traced = traced.map(|tenure| (tenure, state.queue.counts().handovers));
            state.seen_at_path = false;
            state = self.record_head(state);
            return state.queue.os_acquired(epoch);
        }
        // Part of this attempt: the next one must not start before the lock is back. Where the
        // unlock fails, nobody has a lock on this file that he could lose.
        let _ = file.unlock(self.protocol, self.region);
        match standing {
            Ok(Standing::Foreign) => self.foreign(epoch),
            Err(_) if self.best_file().check().is_err() => self.foreign(epoch),
            Ok(_) => self.gone(epoch),
            Err(error) => self.event(|queue| queue.os_failed(epoch, error)),
        }
    }

    /// Nobody has a guard yet.
    fn begin_record(&self, mode: Mode) -> io::Result<()> {
        if mode != Mode::Exclusive || !self.records.load(Ordering::Acquire) {
            return Ok(());
        }
        let (signature, label, written) = {
            let mut state = self.state.lock();
            (state.signature.clone(), state.label_of_head(), mem::take(&mut state.written))
        };
        let signature = signature.expect("there is one if somebody wants records");
        // Whoever asks for records has brought a descriptor that may write, perhaps after the attempt
        // began on another one.
        let file = self.best_file();
        if !std::ptr::eq(file, self.locked_file()) {
            file.check()?;
        }
        let (recorded, answer) = Recorded::begin(file, &signature, label, written);
        let mut state = self.state.lock();
        match answer {
            Err(error) if state.record_is_required => Err(of_record("written", error)),
            _ => {
                state.recorded = Some(recorded);
                Ok(())
            }
        }
    }

    /// The record is to name the one that gets the lock now, which may be another one than it was when the
    /// record was written.
    fn record_head<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.recorded.is_some() && state.queue.is_contended() {
            let label = state.label_of_head();
            let Some(mut recorded) =
                state.recorded.take_if(|recorded| recorded.label() != label.as_ref())
            else {
                break;
            };
            let signature = state.signature.clone().expect("there is one if there is a record");
            drop(state);
            recorded.relabel(self.best_file(), &signature, label);
            state = self.state.lock();
            state.recorded = Some(recorded);
        }
        state
    }

    /// Nobody has an exclusive guard any more.
    #[inline]
    fn end_record(&self) -> io::Result<()> {
        if self.records.load(Ordering::Acquire) { self.end_one_record() } else { Ok(()) }
    }

    fn end_one_record(&self) -> io::Result<()> {
        let Some(recorded) = self.state.lock().recorded.take() else { return Ok(()) };
        let file = self.best_file();
        // Nothing is written into a foreign file.
        if let Err(error) = file.check() {
            self.file.set_foreign();
            return Err(error);
        }
        let (written, ended) = recorded.end(file);
        self.state.lock().written = written;
        ended.map_err(|error| of_record("marked as released", error))
    }

    /// The exclusive holder removes the file at this place, if it is this one. From then on all others look
    /// for another one. Makes system calls.
    pub(super) fn remove_file(&self, at: &Location) -> Result<Result<Effects<Waker>, Kept>, Error> {
        let file = self.locked_file();
        if !file.is_at(at)? {
            return Ok(Err(Kept::Replaced));
        }
        match file.remove(at, self.protocol) {
            Ok(None) => {
                // Before anybody is told to open the path anew.
                self.file.set_gone();
                Ok(Ok(self.event(|queue| queue.removed(new_rank))))
            }
            Ok(Some(kept)) => Ok(Err(kept)),
            Err(error) => Ok(Err(Kept::Failed(error))),
        }
    }

    fn unlock_os(&self) -> (io::Result<()>, Effects<Waker>) {
        let ended = self.end_record();
        // The record may be on another descriptor.
        let answer = if self.file.is_foreign() && self.locked_file().check().is_err() {
            Err(os::foreign_descriptor())
        } else {
            self.locked_file().unlock(self.protocol, self.region)
        };
        if trace::IS_ON {
            self.end_trace();
        }
        (answer.and(ended), self.event(|queue| queue.os_released()))
    }

    fn end_trace(&self) {
        let (traced, handovers) = {
            let mut state = self.state.lock();
            (state.traced.take(), state.queue.counts().handovers)
        };
        if let Some((tenure, before)) = traced {
            tenure.end(self.file.identity(), handovers - before);
        }
    }

    /// This process, if it holds the OS lock: once for each thing that its tasks say that they do. Makes no
    /// system call.
    pub(super) fn own_holders(&self) -> Vec<Holder> {
        let (mode, labels, others) = {
            let state = self.state.lock();
            let Some(mode) = state.queue.os_mode() else { return Vec::new() };
            let is_granted = |place| state.queue.is_granted(place);
            let labels = state.labels.as_ref().map(|labels| labels.of_holders(is_granted));
            let labels = labels.unwrap_or_default();
            let others = state.queue.holders().saturating_sub(labels.len());
            (mode, labels, others)
        };
        let mut labels: Vec<_> = labels.iter().map(|label| Some(&**label)).collect();
        labels.sort_unstable();
        labels.dedup();
        if others > 0 || labels.is_empty() {
            labels.insert(0, None);
        }
        let pid = self.file.first.pid();
        labels.iter().map(|label| Holder::of_this_process(mode, pid, *label)).collect()
    }

    /// One of those who keep this process from the OS lock, if that can be had in one system call.
    pub(super) fn blocker(&self) -> Option<Holder> {
        self.locked_file().blocker(self.protocol, self.region)
    }

    /// Who holds the OS lock, and whose calls wait for it, as the kernel sees it. Makes system
    /// calls.
    pub(super) fn holders(&self, effort: Effort) -> Vec<Holder> {
        match self.check() {
            Ok(()) => self.locked_file().holders(self.protocol, self.region, effort),
            Err(_) => Vec::new(),
        }
    }

    /// An error if the descriptor does not stand for the file any more. Makes a system call.
    pub(super) fn check(&self) -> io::Result<()> {
        self.locked_file().check()
    }

    pub(super) fn looks(&self) -> &Looks {
        self.looks.get_or_init(Looks::new)
    }

    /// The record in the lock file, if there is one. Makes a system call.
    pub(super) fn read_record(&self) -> Option<Record> {
        self.check().ok()?;
        let mut content = [0; LONGEST + 1];
        let length = self.locked_file().read(&mut content).ok()?;
        Record::parse(&content[..length])
    }
}

fn of_record(done: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("its record can not be {done}: {error}"))
}

/// Carries out effects, and the effects of their answers, until none are left on this thread.
/// Returns what became of the unlock, if there was one here.
#[inline(always)]
pub(super) fn carry_out(
    member: &Arc<Membership>,
    effects: Effects<Waker>,
    thread: Thread,
) -> io::Result<()> {
    if effects.os.is_some() {
        return carry_out_calls(member, effects, thread);
    }
    wake_and_discard(effects);
    Ok(())
}

#[inline(always)]
fn wake_and_discard(effects: Effects<Waker>) {
    let Effects { os: _, wake, wake_more, discard } = effects;
    if let Some(waker) = discard {
        discard_waker(waker);
    }
    if let Some(waker) = wake {
        wake_up(waker);
        if !wake_more.is_empty() {
            wake_all(wake_more);
        }
    }
}

#[inline(never)]
fn wake_all(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(wake_up);
}

#[inline(never)]
fn discard_waker(waker: Waker) {
    foreign::let_go(waker);
}

// A call of its own, as what catches a panic is not small.
#[inline(never)]
fn wake_up(waker: Waker) {
    foreign::contained(|| waker.wake());
}

fn carry_out_calls(
    member: &Arc<Membership>,
    mut effects: Effects<Waker>,
    mut thread: Thread,
) -> io::Result<()> {
    let mut unlocked = Ok(());
    loop {
        let call = effects.os.take();
        // First: the call may wait for a server, and those who are woken have their answer already.
        wake_and_discard(effects);
        let next = call.and_then(|call| carry_out_call(member, call, thread, &mut unlocked));
        if thread == Thread::Asked {
            thread = Thread::Caller;
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
        OsCall::Try { .. } | OsCall::Unlock if thread < Thread::Asked && !entry.file.is_local() => {
            let member = member.clone();
            let effects = Effects { os: Some(call), ..Effects::default() };
            wait::errand(member.clone().pool(), move || {
                let _ = carry_out(&member, effects, Thread::Errand);
            });
            None
        }
        OsCall::Try { mode, epoch } => Some(entry.try_os(mode, epoch, thread == Thread::Asked)),
        OsCall::Unlock => {
            let (answer, effects) = entry.unlock_os();
            if unlocked.is_ok() {
                *unlocked = answer;
            }
            Some(effects)
        }
        OsCall::Wait { mode, epoch } if thread == Thread::Parked => {
            Some(entry.wait_os(mode, epoch, false))
        }
        OsCall::StandBack { mode, epoch } if thread == Thread::Parked => {
            Some(entry.wait_os(mode, epoch, true))
        }
        OsCall::Wait { epoch, .. } | OsCall::StandBack { epoch, .. } => {
            let parked = member.clone();
            let effects = Effects { os: Some(call), ..Effects::default() };
            let wait_on = match thread {
                Thread::Requester => member.wait_on(),
                _ => WaitOn::WaitPool,
            };
            let started = wait::park(member.pool(), wait_on, move |placed| {
                let _ = match placed {
                    Ok(()) => carry_out(&parked, effects, Thread::Parked),
                    Err(error) => {
                        let effects = parked.entry().not_parked(call, epoch, error);
                        carry_out(&parked, effects, Thread::Caller)
                    }
                };
            });
            started.err().map(|error| entry.not_parked(call, epoch, error))
        }
        OsCall::Interrupt { epoch } => {
            entry.interrupt(epoch);
            None
        }
    }
}
