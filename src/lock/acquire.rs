//! `Acquire`: the one future of the crate.
//!
//! It takes its place in the queue at the first poll, waits there, and before it gives out a
//! guard it makes sure that the lock is on the file its path leads to. Whatever state it is
//! dropped in, the state's own `Drop` gives back what it holds: the place (`Request`), the lock
//! (`RawGuard`), or the right to both while it looks at the path (`Checking`). A request whose time is up
//! has given up its place when it begins to look for the holders that kept it waiting.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::FusedFuture;
use pin_project_lite::pin_project;
use tokio::task::coop;
use tokio::time::Instant;

use super::guard::Guard;
use super::moves::Moves;
use super::on_wait::{OnWait, Waiting};
use super::{FileLock, operation};
use crate::driver::{Outcome, RawGuard, Registration, Request};
use crate::error::Error;
use crate::foreign;
use crate::holder::{Holders, Label};
use crate::mode::Mode;
use crate::shim::Arc;
use crate::trace;
use crate::wait::timer::{self, Sleep};

pin_project! {
    /// A lock on its way: the future of [`FileLock::lock`] and [`FileLock::lock_shared`].
    ///
    /// Takes its place in the queue when it is first polled. Runs on any executor; inside a tokio
    /// runtime it takes part in the task's budget (tokio's `coop`), so that a loop of locking and
    /// unlocking lets other tasks run.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time, polled or not, granted or not. You lose your place in the
    /// queue; nothing stays locked, and no other task loses anything.
    ///
    /// # Panics
    ///
    /// When polled after it was ready, as futures do;
    /// [`is_terminated`](FusedFuture::is_terminated) tells.
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Acquire<G> {
        // Goes into the guard.
        lock: Option<FileLock>,
        // In place of that of the handle.
        label: Option<Label>,
        state: State,
        moves: Moves,
        limit: Limit,
        #[pin]
        sleep: Option<Sleep>,
        on_wait: Option<Box<OnWait>>,
        traced: trace::Wait,
        guard: PhantomData<fn() -> G>,
    }
}

enum State {
    Start,
    Queued(Request),
    /// Looking where the path leads, with the lock held, or opening the file anew, without.
    Checking(Checking),
    /// Held, and waiting for the task's budget.
    Held(RawGuard),
    /// Its time is up after so long a wait, and it queries the holders.
    TimedOut(Duration, Pin<Box<dyn Future<Output = Holders> + Send + Sync>>),
    Done,
}

/// The guard, if the handle leads to its lock. Otherwise the handle has moved on.
type Checking = Pin<Box<dyn Future<Output = Result<Option<RawGuard>, Error>> + Send + Sync>>;

/// When to give up.
#[derive(Debug, Clone, Copy)]
enum Limit {
    Never,
    After(Duration),
    At(Instant),
    /// Set at the first poll.
    Running {
        since: Instant,
    },
}

impl<G: Guard> Acquire<G> {
    pub(super) fn new(lock: FileLock) -> Self {
        Self {
            lock: Some(lock),
            label: None,
            state: State::Start,
            moves: Moves::default(),
            limit: Limit::Never,
            sleep: None,
            on_wait: None,
            traced: trace::Wait::default(),
            guard: PhantomData,
        }
    }

    /// In line already, for the lock of this registration and no other: where the lock file was replaced
    /// the handle moves on, and the error is [`ErrorKind::Replaced`](crate::ErrorKind).
    pub(super) fn of_registration(lock: FileLock, registration: Arc<Registration>) -> Self {
        let state = State::Queued(Request::new(registration, G::MODE));
        Self { state, moves: Moves::none(), ..Self::new(lock) }
    }

    /// Gives up after this time, counted from the first poll. Replaces an earlier limit.
    ///
    /// A lock that is free is taken even with a time of zero, on a local file system; elsewhere it
    /// takes the time of a round trip to the server, and a process that is next in turn comes first. The error has
    /// [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut), and says on which file, how long
    /// was waited and who holds the lock ([`Error::holders`](crate::Error::holders)); to find that out
    /// it comes up to 250 ms later, when the place in the queue has been given up.
    /// [`tokio::time::timeout`] around the future works as well, and names nothing.
    ///
    /// # Panics
    ///
    /// The future panics at its first poll if it is not polled in a tokio runtime with its timer
    /// enabled ([`enable_time`](tokio::runtime::Builder::enable_time)).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let lock = tokio_filelock::FileLock::open(directory.path().join("app.lock")).await?;
    /// use std::time::Duration;
    /// use tokio_filelock::ErrorKind;
    ///
    /// let guard = lock.lock().await?;
    /// let error = lock.lock().timeout(Duration::from_millis(10)).await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::TimedOut);
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    pub fn timeout(mut self, after: Duration) -> Self {
        self.limit = Limit::After(after);
        self
    }

    /// Gives up at this instant; otherwise as [`timeout`](Acquire::timeout).
    ///
    /// # Panics
    ///
    /// As [`timeout`](Acquire::timeout).
    pub fn deadline(mut self, at: Instant) -> Self {
        self.limit = Limit::At(at);
        self
    }

    /// Says what the lock is held for, in place of the [label of the handle](crate::OpenOptions::label):
    /// [`FileLock::holders`] and the errors of this process show it, and with
    /// [records](crate::OpenOptions::record) those of other processes, if the tenure of this process begins
    /// with this acquisition. A lock that is handed over within a tenure changes no record.
    ///
    /// # Errors
    ///
    /// The future gives [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) if it is not one line
    /// of 1 to 200 bytes, or has characters that control, are invisible or change the direction of text.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let lock = tokio_filelock::FileLock::open(directory.path().join("app.lock")).await?;
    /// let guard = lock.lock().label("import 17").await?;
    /// assert_eq!(lock.holders().await?[0].label(), Some("import 17"));
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into().into());
        self
    }

    /// Calls a function when the wait has lasted for longer than `after`, counted from the first
    /// poll, and again whenever other processes are seen to hold the lock, which is looked at every
    /// second. For messages: which lock the task waits for, and which processes hold it. Replaces an earlier function.
    ///
    /// The function is called by the task that waits, while it is polled: it must not block.
    ///
    /// # Panics
    ///
    /// The future panics at its first poll if it is not polled in a tokio runtime with its timer
    /// enabled ([`enable_time`](tokio::runtime::Builder::enable_time)).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let lock = tokio_filelock::FileLock::open("/var/cache/app/index.lock").await?;
    /// // waiting for `/var/cache/app/index.lock` for 2 s: held by cargo (pid 4242) for 12 s
    /// let guard = lock
    ///     .lock()
    ///     .on_wait(Duration::from_secs(2), |waiting| eprintln!("{waiting}"))
    ///     .await?;
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_wait(
        mut self,
        after: Duration,
        tell: impl FnMut(&Waiting<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.on_wait = Some(Box::new(OnWait::new(after, tell)));
        self
    }
}

impl<G: Guard> Future for Acquire<G> {
    type Output = Result<G, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let lock = this.lock.as_ref().expect("`Acquire` polled after completion");
        if lock.handle.is_inherited() {
            let error = lock.inherited(operation(G::MODE));
            *this.state = State::Done;
            return Poll::Ready(Err(error));
        }
        lock.handle.step();
        start_timer(this.limit, this.sleep.as_mut());
        if let Some(on_wait) = this.on_wait {
            on_wait.start_timer();
        }
        let answer = loop {
            match acquire(lock, G::MODE, this.label.as_ref(), this.state, this.moves, cx) {
                Poll::Ready(answer) => break answer,
                Poll::Pending if matches!(this.state, State::TimedOut(..)) => return Poll::Pending,
                Poll::Pending => this.traced.begin(|| lock.path(), G::MODE),
            }
            if this.on_wait.is_none() && matches!(this.limit, Limit::Never) {
                return Poll::Pending;
            }
            if let Some(on_wait) = this.on_wait {
                on_wait.poll(lock, cx);
            }
            let Limit::Running { since } = *this.limit else { return Poll::Pending };
            let sleep = this.sleep.as_mut().as_pin_mut().expect("set with the limit");
            ready!(sleep.poll(cx));
            // Gives up the place in the queue before anything else.
            *this.state = State::Done;
            *this.on_wait = None;
            let query = Box::pin(lock.clone().query_holders());
            *this.state = State::TimedOut(since.elapsed(), query);
        };
        *this.state = State::Done;
        // Asked first: most have neither, and to drop them is a call each.
        if this.on_wait.is_some() {
            *this.on_wait = None;
        }
        if this.sleep.is_some() {
            this.sleep.set(None);
        }
        if answer.is_ok() {
            this.traced.end(|| lock.path(), G::MODE);
        }
        let lock = this.lock.take().expect("looked at above");
        Poll::Ready(match answer {
            Ok(guard) => {
                // One of several counts when all are there.
                if this.moves.are_followed() {
                    lock.handle.count_guard();
                }
                Ok(G::new(lock, guard))
            }
            Err(error) => Err(lock.named(error)),
        })
    }
}

impl<G: Guard> FusedFuture for Acquire<G> {
    fn is_terminated(&self) -> bool {
        matches!(self.state, State::Done)
    }
}

/// Looked for at the first poll, contended or not, so that a missing timer is found in the first
/// test and not in the first contention.
#[inline(always)]
fn start_timer(limit: &mut Limit, sleep: Pin<&mut Option<Sleep>>) {
    if let Limit::After(_) | Limit::At(_) = limit {
        set_timer(limit, sleep);
    }
}

#[cold]
fn set_timer(limit: &mut Limit, mut sleep: Pin<&mut Option<Sleep>>) {
    let timer = match *limit {
        Limit::Never | Limit::Running { .. } => return,
        Limit::After(after) => timer::sleep(after),
        Limit::At(at) => timer::sleep_until(at),
    };
    sleep.set(Some(timer));
    *limit = Limit::Running { since: Instant::now() };
}

#[inline(always)]
fn acquire(
    lock: &FileLock,
    mode: Mode,
    label: Option<&Label>,
    state: &mut State,
    moves: &mut Moves,
    cx: &mut Context<'_>,
) -> Poll<Result<RawGuard, Error>> {
    loop {
        match state {
            State::Start => {
                let registration = register(lock, mode, label)?;
                *state = State::Queued(Request::begin(registration, mode, moves.rank(), cx));
            }
            State::Queued(request) => match ready!(Pin::new(&mut *request).poll(cx)) {
                Outcome::Granted(guard) if !lock.handle.has_to_confirm(&guard) => {
                    return proceed(state, guard, cx);
                }
                Outcome::Granted(guard) => match check_granted(lock, mode, guard, moves)? {
                    Checked::LeadsThere(guard) => return proceed(state, guard, cx),
                    Checked::Later(checking) => *state = State::Checking(checking),
                },
                Outcome::Moved(rank) => {
                    let from = request.registration().clone();
                    moves.leave(&from, rank);
                    *state = State::Checking(Box::pin(move_on(lock.clone(), mode, from)));
                }
                Outcome::Failed(error) => {
                    return Poll::Ready(Err(lock.lock_error(mode, error)));
                }
                Outcome::Refused | Outcome::Busy => {
                    unreachable!("a request that waits is not refused")
                }
            },
            State::Checking(checked) => match ready!(checked.as_mut().poll(cx))? {
                Some(guard) => return proceed(state, guard, cx),
                None if moves.go_on(lock) => *state = State::Start,
                None => return Poll::Ready(Err(lock.replaced(mode))),
            },
            State::Held(_) => match std::mem::replace(state, State::Done) {
                State::Held(guard) => return proceed(state, guard, cx),
                _ => unreachable!("matched above"),
            },
            State::TimedOut(waited, query) => {
                let holders = ready!(query.as_mut().poll(cx));
                let error = Error::timed_out(operation(mode), lock.path(), *waited, holders);
                return Poll::Ready(Err(error));
            }
            State::Done => panic!("`Acquire` polled after completion"),
        }
    }
}

/// At the lock that the handle leads to, with the label of this request if it has one of its own.
#[inline]
fn register(
    lock: &FileLock,
    mode: Mode,
    label: Option<&Label>,
) -> Result<Arc<Registration>, Error> {
    let registration = lock.registration();
    let Some(label) = label else { return Ok(registration) };
    lock.check_label(label, operation(mode))?;
    Ok(registration.labelled(label.clone()))
}

enum Checked {
    LeadsThere(RawGuard),
    Later(Checking),
}

/// Finds out whether the handle leads to a lock that was granted, at once if no server has to be asked.
fn check_granted(
    lock: &FileLock,
    mode: Mode,
    guard: RawGuard,
    moves: &mut Moves,
) -> Result<Checked, Error> {
    if !guard.registration().answers_at_once() {
        // If it leads elsewhere. The lock is given back by another thread.
        moves.leave_with(&guard);
        return Ok(Checked::Later(Box::pin(confirm(lock.clone(), mode, guard))));
    }
    if lock.handle.confirm(&guard)? {
        return Ok(Checked::LeadsThere(guard));
    }
    let from = guard.registration().clone();
    moves.leave_with(&guard);
    guard.send_others_on();
    drop(guard);
    Ok(Checked::Later(Box::pin(move_on(lock.clone(), mode, from))))
}

/// Gives the lock out if the task has budget. Checked last, so a task without budget still keeps its place.
#[inline(always)]
fn proceed(
    state: &mut State,
    guard: RawGuard,
    cx: &mut Context<'_>,
) -> Poll<Result<RawGuard, Error>> {
    match coop::poll_proceed(cx) {
        Poll::Ready(budget) => {
            budget.made_progress();
            Poll::Ready(Ok(guard))
        }
        Poll::Pending => {
            *state = State::Held(guard);
            Poll::Pending
        }
    }
}

/// Finds out whether the handle leads to the lock, where that may take a while.
async fn confirm(lock: FileLock, mode: Mode, guard: RawGuard) -> Result<Option<RawGuard>, Error> {
    let registration = guard.registration().clone();
    let is_needed = || lock.handle.has_to_confirm(&guard);
    let Some(permit) = lock.handle.origin().permit(&registration, &is_needed).await else {
        // Another one has confirmed it meanwhile.
        return Ok(Some(guard));
    };
    let confirm = move || {
        let confirmed = lock.handle.confirm(&guard).and_then(|leads_there| {
            if leads_there {
                return Ok(Some(guard));
            }
            let from = guard.registration().clone();
            guard.send_others_on();
            drop(guard);
            lock.handle.move_on(&from, operation(mode), true).map(|()| None)
        });
        // Wakes the tasks that wait for it.
        foreign::let_go(permit);
        confirmed
    };
    registration.run(confirm).await
}

/// Finds the lock again, unless that has been done.
async fn move_on(
    lock: FileLock,
    mode: Mode,
    from: Arc<Registration>,
) -> Result<Option<RawGuard>, Error> {
    // A crowd that waited for a file that was replaced moves together: a job each would be a
    // thread each.
    let is_needed = || !lock.handle.has_moved_on(&from);
    let Some(permit) = lock.handle.origin().permit(&from, &is_needed).await else {
        return Ok(None);
    };
    let registration = from.clone();
    let job = move || {
        let moved = lock.handle.move_on(&from, operation(mode), true).map(|()| None);
        // Wakes the tasks that wait for it.
        foreign::let_go(permit);
        moved
    };
    registration.run(job).await
}

impl<G> fmt::Debug for Acquire<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("lock", &self.lock)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
