//! Where calls that may block run. The one layer that names tokio's runtime.
//!
//! - A **parked wait** ends when another process lets go, perhaps never. It runs on the wait pool
//!   ([`Pool`]), unless the user asks for the runtime's ([`WaitOn`]): a runtime waits for its own
//!   blocking pool when it is dropped, and a full pool would stop `tokio::fs` and every other
//!   `spawn_blocking`.
//! - An **errand** ends by itself, but other requests may wait for it: a lock call on a remote file system
//!   that does not wait for a holder, an unlock, a look at a path with the lock held. It runs on
//!   the wait pool too, at once.
//! - A **call** ends by itself, and only its caller waits for it: opening. It runs on the wait
//!   pool, behind others if there are very many.
//!
//! Where the process may not have another thread, errands and calls run on the thread that asks, and a
//! wait is an error ([`NoThread`]). tokio's pool is no way out: it panics if it has no thread either, or
//! leaves the job in its queue.
//!
//! Errands and calls hold tokio's clock if a test has paused it (`clock`); a parked wait does not, for it may never end.
//!
//! All of them run exactly once. A parked wait that a runtime drops unrun moves to the wait pool.

#[cfg(not(all(test, tokio_filelock_loom)))]
mod clock;
mod pool;
#[cfg(any(test, feature = "test-util"))]
pub(crate) mod simulated;
pub(crate) mod timer;

use std::fmt;
use std::future::Future;
use std::io;

#[cfg(not(all(test, tokio_filelock_loom)))]
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

pub(crate) use pool::{Job, Pool};

use crate::foreign;

/// Where a wait for another process is parked; see
/// [`OpenOptions::wait_on`](crate::OpenOptions::wait_on).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitOn {
    /// On a thread of this crate's own, at most one per contended file, which ends a few seconds
    /// after the last wait.
    #[default]
    WaitPool,
    /// On the blocking pool of the tokio runtime of the task that has to wait first, where it
    /// counts towards `max_blocking_threads`. Without a multi-thread runtime: as `WaitPool`.
    RuntimePool,
}

/// No thread can be had for a job that blocks.
#[derive(Debug)]
pub(crate) struct NoThread(io::Error);

impl NoThread {
    /// The kind of the system's error may be `WouldBlock`, which means something else of a lock.
    fn of(error: io::Error) -> io::Error {
        io::Error::other(Self(error))
    }

    /// Whether this is what an error says.
    pub(crate) fn is_said_by(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|error| error.is::<Self>())
    }
}

impl fmt::Display for NoThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no thread can be had to wait on: {}", self.0)
    }
}

impl std::error::Error for NoThread {}

/// Parks a wait: runs a job that may block until another process acts. The job gets an error, and
/// must not block, if no thread can be had for it after all.
///
/// # Errors
///
/// No thread can be had. The job is dropped then.
pub(crate) fn park(
    pool: &Pool,
    wait_on: WaitOn,
    job: impl FnOnce(io::Result<()>) + Send + 'static,
) -> io::Result<()> {
    let job: Job = Box::new(job);
    let job = match wait_on {
        WaitOn::WaitPool => job,
        WaitOn::RuntimePool => match run_on_runtime(pool, job) {
            None => return Ok(()),
            Some(job) => job,
        },
    };
    pool.submit(job).map_err(|(_, error)| error)
}

impl Pool {
    /// Runs an errand. Where no thread can be had, late on this one is better than never.
    pub(crate) fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        let job = with_clock_held(job);
        if let Err((job, error)) = self.submit(Box::new(|_| job())) {
            job(Err(error));
        }
    }

    /// Runs an errand and waits for its answer. The errand runs even if its caller does not wait any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (job, answered) = with_answer(job);
        self.spawn(job);
        answered.await.expect("an errand runs")
    }
}

/// Runs a call for its caller; it runs even if the caller does not wait any more.
pub(crate) async fn call<T: Send + 'static>(
    pool: &Pool,
    job: impl FnOnce() -> T + Send + 'static,
) -> T {
    // No threads, and no file locks either: the job says so, and blocks no task.
    if cfg!(not(any(unix, windows))) {
        return job();
    }
    let (job, answered) = with_answer(job);
    leave(pool, job);
    answered.await.expect("a call runs")
}

/// Runs a call that no caller waits for.
pub(crate) fn leave(pool: &Pool, job: impl FnOnce() + Send + 'static) {
    let job = with_clock_held(job);
    pool.call(Box::new(|_| job()));
}

#[cfg(not(all(test, tokio_filelock_loom)))]
fn with_clock_held(job: impl FnOnce() + Send + 'static) -> impl FnOnce() + Send + 'static {
    let hold = clock::hold();
    move || {
        // Also if the job panics: until after it has woken the task that waits for its answer.
        let _hold = hold;
        job();
    }
}

#[cfg(all(test, tokio_filelock_loom))]
fn with_clock_held(job: impl FnOnce() + Send + 'static) -> impl FnOnce() + Send + 'static {
    job
}

/// A job, and what waits for its answer.
pub(crate) fn with_answer<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> (impl FnOnce() + Send + 'static, oneshot::Receiver<T>) {
    let (answer, answered) = oneshot::channel();
    let job = move || {
        let done = job();
        // Wakes the caller.
        foreign::contained(|| drop(answer.send(done)));
    };
    (job, answered)
}

/// Gives the job to the blocking pool of this thread's runtime, if it is a multi-thread one and a thread
/// can be had; otherwise it comes back. A runtime that shuts down drops it, and so sends it to the wait
/// pool.
///
/// tokio panics if its pool has no thread and may not have one, which can be seen only by asking; that of a
/// multi-thread runtime has those of the workers.
#[cfg(not(all(test, tokio_filelock_loom)))]
fn run_on_runtime(pool: &Pool, job: Job) -> Option<Job> {
    let Ok(runtime) = Handle::try_current() else { return Some(job) };
    if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread || !threads_can_be_had() {
        return Some(job);
    }
    let sent = SentToRuntime { job: Some(job), pool: pool.clone() };
    drop(runtime.spawn_blocking(move || sent.run()));
    None
}

#[cfg(all(test, tokio_filelock_loom))]
fn run_on_runtime(pool: &Pool, job: Job) -> Option<Job> {
    let sent = SentToRuntime { job: Some(job), pool: pool.clone() };
    let mut sent = model_runtime::spawn_blocking(sent)?;
    sent.job.take()
}

/// Takes the time of a thread that does nothing. Without threads a job that is given to tokio's pool would stay
/// in its queue.
#[cfg(not(all(test, tokio_filelock_loom)))]
fn threads_can_be_had() -> bool {
    std::thread::Builder::new().spawn(|| ()).is_ok_and(|thread| thread.join().is_ok())
}

/// A job that goes to the wait pool when it is dropped, if it has not run before.
struct SentToRuntime {
    job: Option<Job>,
    pool: Pool,
}

impl SentToRuntime {
    #[cfg(not(all(test, tokio_filelock_loom)))]
    fn run(mut self) {
        if let Some(job) = self.job.take() {
            job(Ok(()));
        }
    }
}

impl Drop for SentToRuntime {
    fn drop(&mut self) {
        let Some(job) = self.job.take() else { return };
        if let Err((job, error)) = self.pool.submit(job) {
            job(Err(error));
        }
    }
}

/// Blocks the calling thread on a future: with the runtime's timers if the thread belongs to a
/// runtime, as `spawn_blocking` threads do, and with nothing if it does not. In a model of a user it is a thread of the model.
///
/// # Panics
///
/// On a thread that is driving a runtime or another `block_on`.
#[cfg(not(all(test, tokio_filelock_loom)))]
#[track_caller]
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    #[cfg(all(not(test), any(tokio_filelock_loom, tokio_filelock_shuttle)))]
    return crate::shim::explorer::block_on(future);
    #[cfg(not(all(not(test), any(tokio_filelock_loom, tokio_filelock_shuttle))))]
    match Handle::try_current() {
        Ok(runtime) => runtime.block_on(future),
        Err(_) => futures::executor::block_on(future),
    }
}

#[cfg(all(test, tokio_filelock_loom))]
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    loom::future::block_on(future)
}

/// In models: a runtime whose blocking pool has no thread left, until it shuts down.
#[cfg(all(test, tokio_filelock_loom))]
#[cfg_attr(not(test), allow(dead_code))] // used in models
pub(crate) mod model_runtime {
    use super::SentToRuntime;
    use crate::shim::Mutex;

    loom::lazy_static! {
        static ref QUEUE: Mutex<Option<Vec<SentToRuntime>>> = Mutex::new(None);
    }

    pub(crate) fn start() {
        *QUEUE.lock() = Some(Vec::new());
    }

    pub(super) fn spawn_blocking(sent: SentToRuntime) -> Option<SentToRuntime> {
        match &mut *QUEUE.lock() {
            Some(queue) => {
                queue.push(sent);
                None
            }
            None => Some(sent),
        }
    }

    /// Drops the queued jobs unrun.
    pub(crate) fn shut_down() {
        let queue = QUEUE.lock().take();
        drop(queue);
    }
}
