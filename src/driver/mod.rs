//! One lock of this process: its queue, and the thread that carries out what the queue asks for.
//!
//! The queue asks, an engine answers ([`engine`](crate::engine)); this joins the two, and makes no call on a file. Every event goes
//! through the same three steps: take the mutex and tell the queue, let go of the mutex, carry out what the queue asked for.
//! The answer of a call is the next event. So a chain such as "unlock, then try for the next in line" runs on the thread
//! that started it, without recursion and without a mutex held across any of it.

mod handle;
mod key;
mod labels;
mod queries;
mod registration;
mod request;
mod tenure;

#[cfg(test)]
mod models;

use std::io;
use std::mem;
use std::sync::Arc as PlainArc;
use std::sync::atomic::AtomicBool as PlainAtomicBool;
use std::task::Waker;
use std::time::Instant;

pub(crate) use handle::{Handle, Origin, Permit};
pub(crate) use key::Key;
pub(crate) use queries::query_together;
pub(crate) use registration::{Registration, Seat};
pub(crate) use request::{Outcome, RawGuard, Request, new_rank, try_lock};
pub use tenure::Tenure;

use crate::engine::{Answer, Answered, Asked, Client, Engine, MayBlock};
use crate::foreign;
use crate::holder::{Holder, Label};
use crate::mode::Mode;
use crate::queue::{
    self, Ask, Attempt, Call, Check, Counts, Effects, End, Pacing, Patience, Queue, Rank,
    Requested, Step, Ticket,
};
use crate::shim::{Arc, AtomicBool, Mutex, MutexGuard, Ordering};
use crate::trace;
use crate::wait::WaitOn;
use labels::Labels;
use queries::Queries;

#[derive(Debug)]
pub(crate) struct Driver {
    engine: PlainArc<dyn Engine>,
    /// All calls but waits return at once.
    answers_at_once: bool,
    has_tenure_info: AtomicBool,
    /// A request that comes now is expected to wait, and so to need a waker. A hint, whose every value is right, so
    /// models need not know of it.
    would_wait: [PlainAtomicBool; 2],
    queries: Queries,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: Queue<Waker, io::Error>,
    pacing: Pacing,
    /// A wait for this lock was asked for: another process has had it, or was next.
    has_waited: bool,
    /// Made by the first request that says what it does.
    labels: Option<Box<Labels>>,
    /// What a trace tells of the tenure when it ends, and the handovers before it.
    traced: Option<(trace::Tenure, u64)>,
}

impl State {
    fn labels(&mut self) -> &mut Labels {
        self.labels.get_or_insert_default()
    }

    #[cold]
    fn label(&mut self, requested: &Requested<io::Error>, label: Label) {
        match requested {
            Requested::Queued(ticket) => self.labels().insert(ticket.index(), label),
            Requested::Now(queue::Outcome::Granted(())) => self.labels().hold(label),
            Requested::Now(_) => {}
        }
    }

    fn label_of_head(&self) -> Option<&Label> {
        self.labels.as_ref()?.at(self.queue.head()?)
    }
}

impl Driver {
    pub(crate) fn new(engine: PlainArc<dyn Engine>) -> Self {
        let state = State {
            queue: Queue::new(new_rank),
            pacing: Pacing::new(),
            has_waited: false,
            labels: None,
            traced: None,
        };
        Self {
            answers_at_once: engine.answers_at_once(),
            engine,
            has_tenure_info: AtomicBool::new(false),
            would_wait: [const { PlainAtomicBool::new(false) }; 2],
            queries: Queries::new(),
            state: Mutex::new(state),
        }
    }

    #[inline]
    pub(crate) fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state.lock().queue.counts()
    }

    /// From now on these bounds count, where they are stricter than those before.
    pub(crate) fn limit(&self, tenure: Tenure) {
        let mut state = self.state.lock();
        state.queue.limit_handovers(tenure.handovers);
        state.pacing.limit(tenure.time);
    }

    /// The process is killed: a simulated one.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn end(&self) {
        self.event(Queue::end);
    }

    /// Another process has had the lock or was next, for this one has had to wait.
    fn has_waited(&self) -> bool {
        self.state.lock().has_waited
    }

    /// Whether a request of this mode is expected to wait. It may come otherwise.
    #[inline]
    fn would_wait(&self, mode: Mode) -> bool {
        self.would_wait[mode as usize].load(Ordering::Relaxed)
    }

    #[inline]
    fn update_would_wait(&self, queue: &Queue<Waker, io::Error>) {
        for mode in [Mode::Shared, Mode::Exclusive] {
            self.would_wait[mode as usize].store(queue.would_wait(mode), Ordering::Relaxed);
        }
    }

    /// One event of the queue, under the mutex.
    #[inline(always)]
    fn event<T>(&self, event: impl FnOnce(&mut Queue<Waker, io::Error>) -> T) -> T {
        event(&mut self.state.lock().queue)
    }

    /// Takes the waker if the request is in line behind others. Otherwise the requester has something
    /// to do before it waits.
    #[inline(always)]
    fn request(
        &self,
        mode: Mode,
        patience: Patience,
        rank: Option<Rank>,
        label: Option<&Label>,
        waker: &mut Option<Waker>,
        effects: &mut Effects<Waker>,
    ) -> Requested<io::Error> {
        let mut state = self.state.lock();
        if state.queue.would_join(mode) {
            state = self.check_before_handover(state);
        }
        let requested = state.queue.request(mode, patience, rank, effects);
        self.update_would_wait(&state.queue);
        if let (Requested::Queued(ticket), None, Some(_)) = (&requested, &effects.ask, &waker) {
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
    fn poll_labelled(
        &self,
        ticket: &mut Option<Ticket>,
        label: &Label,
        waker: Waker,
    ) -> (Option<queue::Outcome<io::Error>>, Option<Waker>) {
        let mut state = self.state.lock();
        let index = ticket.as_ref().expect("polled with its ticket").index();
        let Some(outcome) = state.queue.poll(ticket) else {
            let ticket = ticket.as_ref().expect("still in line");
            return (None, state.queue.register(ticket, waker));
        };
        let labels = state.labels();
        labels.leave(index);
        if let queue::Outcome::Granted(()) = outcome {
            labels.hold(label.clone());
        }
        (Some(outcome), Some(waker))
    }

    /// A request gives up.
    fn cancel(&self, ticket: Ticket, label: Option<&Label>, effects: &mut Effects<Waker>) {
        let mut state = self.state.lock();
        if label.is_some() {
            state.labels().leave(ticket.index());
        }
        state.queue.cancel(ticket, effects);
    }

    /// A holder lets go.
    #[inline(always)]
    fn release(&self, label: Option<&Label>, effects: &mut Effects<Waker>) {
        let mut state = self.state.lock();
        if let Some(label) = label {
            state.labels().release(label);
        }
        if state.queue.is_contended() {
            state = self.check_before_handover(state);
        }
        state.queue.release(effects);
        self.update_would_wait(&state.queue);
        if effects.ask.is_some() && !state.queue.is_contended() {
            state.pacing.let_others_in();
        }
    }

    /// Ends the tenure if other processes have waited for long enough, or are seen to wait.
    #[inline(always)]
    fn check_before_handover<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        match state.pacing.hand_over() {
            None => state,
            Some(step) => self.read_clock(state, step),
        }
    }

    #[cold]
    fn read_clock<'a>(&'a self, state: MutexGuard<'a, State>, step: Step) -> MutexGuard<'a, State> {
        // The clock may be a system call, and the turnstile is one.
        drop(state);
        let now = self.engine.now();
        let check = match step.is_check_due(now) {
            false => Check::NotDue,
            true if self.engine.is_contended() => Check::Taken,
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
    fn is_contended(&self) -> bool {
        if self.event(|queue| queue.is_contended()) {
            return true;
        }
        let seen = self.engine.is_contended();
        if seen {
            self.event(|queue| queue.end_tenure(End::Seen));
        }
        seen
    }

    /// The exclusive holder becomes a shared one.
    fn downgrade(&self, effects: &mut Effects<Waker>) {
        let os = self.engine.downgrade();
        self.event(|queue| queue.downgrade(os, effects));
    }

    /// Tells the queue what a call came to.
    #[inline(always)]
    fn answer(
        &self,
        Answered { call, attempt, answer }: Answered,
        unlocked: &mut io::Result<()>,
        effects: &mut Effects<Waker>,
    ) {
        match (answer, call) {
            (Answer::Acquired, Call::Try(mode)) => {
                let mut state = self.begin_tenure(mode, None);
                state.queue.answer(attempt, Answer::Acquired, effects);
            }
            (Answer::Released(result), _) => {
                if unlocked.is_ok() {
                    *unlocked = result;
                }
                if trace::IS_ON {
                    self.end_trace();
                }
                self.event(|queue| {
                    queue.answer(attempt, Answer::Released(Ok(())), effects);
                    self.update_would_wait(queue);
                });
            }
            (answer, call) => self.answer_after_wait(call, attempt, answer, effects),
        }
    }

    /// The uncommon ways: a wait is over, or begins, or a call has failed.
    #[inline(never)]
    fn answer_after_wait(
        &self,
        call: Call,
        attempt: Attempt,
        answer: Answer,
        effects: &mut Effects<Waker>,
    ) {
        let mut state = match (&answer, call) {
            (Answer::Acquired, Call::Wait(mode) | Call::BackOff(mode)) => {
                // A wait has let others in before this tenure.
                self.begin_tenure(mode, Some(self.engine.now()))
            }
            _ => self.state.lock(),
        };
        if matches!(call, Call::Wait(_) | Call::BackOff(_)) {
            state.pacing.let_others_in();
        }
        state.queue.answer(attempt, answer, effects);
        state.has_waited |= matches!(effects.ask, Some(Ask::Call(Call::Wait(_), _)));
    }

    /// If a wait ended with the lock, that was at this time.
    #[inline]
    fn begin_tenure(&self, mode: Mode, waited: Option<Instant>) -> MutexGuard<'_, State> {
        let traced = trace::Tenure::begin();
        let mut state = self.state.lock();
        state.pacing.begin_tenure(mode, waited);
        state.traced = traced.map(|tenure| (tenure, state.queue.counts().handovers));
        if self.has_tenure_info() { self.label_for_head(state) } else { state }
    }

    /// The label that other processes see is to be that of the request that gets the lock now, which may be another one than it
    /// was when the engine published it.
    #[cold]
    fn label_for_head<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.queue.is_contended() && !self.engine.is_labelled(state.label_of_head()) {
            let label = state.label_of_head().cloned();
            drop(state);
            self.engine.set_label(label);
            state = self.state.lock();
        }
        state
    }

    /// The engine may publish the tenures of this process, and know something of those before.
    #[inline]
    fn has_tenure_info(&self) -> bool {
        self.has_tenure_info.load(Ordering::Acquire)
    }

    /// From now on it may.
    pub(crate) fn expect_tenure_info(&self) {
        self.has_tenure_info.store(true, Ordering::Release);
    }

    fn end_trace(&self) {
        let (traced, handovers) = {
            let mut state = self.state.lock();
            (state.traced.take(), state.queue.counts().handovers)
        };
        if let Some((tenure, before)) = traced {
            tenure.end(self.engine.id().0, handovers - before);
        }
    }

    /// This process, if it holds the OS lock: once for each thing that its tasks say that they do. Makes no
    /// system call.
    fn own_holders(&self) -> Vec<Holder> {
        let (mode, labels, others) = {
            let state = self.state.lock();
            let Some(mode) = state.queue.os_mode() else { return Vec::new() };
            let is_granted = |slot| state.queue.is_granted(slot);
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
        let pid = self.engine.pid();
        labels.iter().map(|label| Holder::of_this_process(mode, pid, *label)).collect()
    }
}

/// Where calls are made, and for whom.
#[derive(Debug, Clone, Copy)]
struct Thread {
    may_block: MayBlock,
    /// Where a wait is parked. The wish of a request counts for its own wait only.
    wait_on: WaitOn,
}

impl Thread {
    fn may_block(may_block: MayBlock) -> Self {
        Self { may_block, wait_on: WaitOn::WaitPool }
    }

    /// A thread that may not block, for a request that has to wait itself.
    fn of_request(registration: &Registration) -> Self {
        Self { may_block: MayBlock::No, wait_on: registration.wait_on() }
    }
}

/// Carries out effects, and the effects of their answers, until none are left on this thread.
/// Returns what became of the unlock, if there was one here.
#[inline(always)]
fn drive(
    registration: &Arc<Registration>,
    mut effects: Effects<Waker>,
    thread: Thread,
) -> io::Result<()> {
    let unlocked = if effects.ask.is_some() {
        drive_calls(registration, &mut effects, thread)
    } else {
        wake_and_discard(&mut effects);
        Ok(())
    };
    // All of it was taken out, which the compiler does not know.
    mem::forget(effects);
    unlocked
}

fn drive_calls(
    registration: &Arc<Registration>,
    effects: &mut Effects<Waker>,
    mut thread: Thread,
) -> io::Result<()> {
    let mut unlocked = Ok(());
    let driver = registration.driver();
    loop {
        let ask = effects.ask.take();
        // First: the call may wait for a server, and the tasks that are woken have their answer already.
        wake_and_discard(effects);
        let (call, attempt) = match ask {
            None => return unlocked,
            Some(Ask::Interrupt(of)) => {
                driver.engine.interrupt(of);
                return unlocked;
            }
            Some(Ask::Call(call, attempt)) => (call, attempt),
        };
        let Thread { may_block, wait_on } = thread;
        let asked = Asked::new(call, attempt, may_block, wait_on, registration);
        let Some(answered) = driver.engine.submit(asked) else { return unlocked };
        if may_block == MayBlock::ForOneAnswer {
            thread.may_block = MayBlock::No;
        }
        driver.answer(answered, &mut unlocked, effects);
    }
}

impl Client for Arc<Registration> {
    fn keep(&self) -> Box<dyn Client> {
        Box::new(self.clone())
    }

    fn label(&self) -> Option<Label> {
        self.driver().state.lock().label_of_head().cloned()
    }

    fn resume(&self, call: Call, attempt: Attempt, may_block: MayBlock) {
        let effects = Effects { ask: Some(Ask::Call(call, attempt)), ..Effects::default() };
        let _ = drive(self, effects, Thread::may_block(may_block));
    }

    fn answered(&self, answered: Answered) {
        let (mut unlocked, mut effects) = (Ok(()), Effects::default());
        self.driver().answer(answered, &mut unlocked, &mut effects);
        let _ = drive(self, effects, Thread::may_block(MayBlock::No));
    }
}

#[inline(always)]
fn wake_and_discard(effects: &mut Effects<Waker>) {
    if let Some(waker) = effects.discard.take() {
        discard_waker(waker);
    }
    if let Some(waker) = effects.wake.take() {
        wake_up(waker);
        if !effects.wake_more.is_empty() {
            wake_all(mem::take(&mut effects.wake_more));
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
