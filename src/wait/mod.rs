//! Where calls that may block run. The one layer that names tokio's runtime.
//!
//! - A **parked wait** ends when another process lets go, perhaps never. It runs on the wait pool
//!   ([`Pool`]), unless the user asks for the runtime's ([`WaitOn`]) or there is no thread to be
//!   had: a runtime waits for its own blocking pool when it is dropped, and a full pool would stop
//!   `tokio::fs` and everybody's `spawn_blocking`.
//! - An **errand** ends by itself, but others may wait for it: a lock call on a remote file system
//!   that does not wait for a holder, an unlock, a look at a path with the lock held. It runs on
//!   the wait pool too. On the runtime's, an unlock would queue behind the very threads that wait
//!   for it.
//! - A **call** ends by itself, and nobody but its caller waits for it: opening. It is an ordinary
//!   blocking call of the caller's runtime, or of the wait pool where there is none. A runtime
//!   that shuts down drops it unrun, and that is its caller's error.
//!
//! Parked waits and errands run exactly once, whatever becomes of the runtime that was asked: one
//! that is dropped unrun moves to the wait pool.

mod pool;

use std::future::Future;
use std::io;

#[cfg(not(tokio_filelock_loom))]
use std::panic::{self, AssertUnwindSafe};

#[cfg(not(tokio_filelock_loom))]
use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub(crate) use pool::{Job, Pool};

use crate::foreign;
use crate::shim::{Arc, Mutex};

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
    /// counts towards `max_blocking_threads`. Without a runtime: as `WaitPool`.
    RuntimePool,
}

/// Parks a wait: runs a job that may block until another process acts. The job gets an error, and
/// must not block, if the thread it was promised is not to be had after all.
///
/// # Errors
///
/// No thread can be had, and there is no runtime to ask for one. The job is dropped then.
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
    run_somewhere(pool, job).map_err(|(_, error)| error)
}

/// Runs a short job that others depend on. Where no thread can be had, late on this one is better
/// than never.
pub(crate) fn errand(pool: &Pool, job: impl FnOnce() + Send + 'static) {
    if let Err((job, error)) = run_somewhere(pool, Box::new(|_| job())) {
        job(Err(error));
    }
}

/// Runs an errand and waits for its answer; the errand runs even if nobody waits any more.
pub(crate) async fn errand_with_answer<T: Send + 'static>(
    pool: &Pool,
    job: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (answer, answered) = oneshot::channel();
    errand(pool, move || {
        let done = job();
        // Wakes whoever waits.
        foreign::contained(|| drop(answer.send(done)));
    });
    answered.await.expect("an errand runs")
}

/// Runs an errand for a caller that is willing to block its thread.
pub(crate) fn blocking_errand<T: Send + 'static>(
    pool: &Pool,
    job: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (answer, answered) = std::sync::mpsc::sync_channel(1);
    errand(pool, move || drop(answer.send(job())));
    answered.recv().expect("an errand runs")
}

/// Runs a call for its caller. `None` if the runtime shut down before it ran.
///
/// Where the runtime has no thread to give and may not have one, it runs as an errand does.
pub(crate) async fn call<T: Send + 'static>(
    pool: &Pool,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    // No threads, and no file locks either: the job says so, and blocks nobody.
    if cfg!(not(any(unix, windows))) {
        return Some(job());
    }
    #[cfg(not(tokio_filelock_loom))]
    let job = match Handle::try_current() {
        Err(_) => job,
        Ok(runtime) => {
            let kept = Arc::new(Mutex::new(Some(job)));
            let sent = kept.clone();
            let run = move || {
                let job = sent.lock().take();
                job.map(|job| job())
            };
            // tokio panics without a thread; see `run_on_runtime`.
            let spawn = AssertUnwindSafe(|| runtime.spawn_blocking(run));
            match panic::catch_unwind(spawn) {
                Ok(running) => return running.await.ok().flatten(),
                Err(_) => kept.lock().take()?,
            }
        }
    };
    Some(errand_with_answer(pool, job).await)
}

/// On the wait pool, or else on the runtime's pool.
fn run_somewhere(pool: &Pool, job: Job) -> Result<(), (Job, io::Error)> {
    let Err((job, error)) = pool.submit(job) else { return Ok(()) };
    match run_on_runtime(pool, job) {
        None => Ok(()),
        Some(job) => Err((job, error)),
    }
}

/// Gives the job to the blocking pool of this thread's runtime; comes back if there is no runtime,
/// or no thread that it could give. A
/// runtime that shuts down drops it, and so sends it to the wait pool.
fn run_on_runtime(pool: &Pool, job: Job) -> Option<Job> {
    let sent = Arc::new(Mutex::new(Some(job)));
    let carrier = SentToRuntime { job: sent.clone(), pool: pool.clone() };
    #[cfg(not(tokio_filelock_loom))]
    if let Ok(runtime) = Handle::try_current() {
        // tokio panics if its pool has no thread and may not have one, and leaves in its queue what
        // it was given: the job is taken out of there.
        let spawn = AssertUnwindSafe(|| drop(runtime.spawn_blocking(move || carrier.run())));
        return match panic::catch_unwind(spawn) {
            Ok(()) => None,
            Err(_) => sent.lock().take(),
        };
    }
    #[cfg(tokio_filelock_loom)]
    let carrier = model_runtime::spawn_blocking(carrier)?;
    let job = carrier.job.lock().take();
    drop((carrier, sent));
    job
}

/// A job that goes to the wait pool when it is dropped, if it has not run before.
struct SentToRuntime {
    job: Arc<Mutex<Option<Job>>>,
    pool: Pool,
}

impl SentToRuntime {
    #[cfg(not(tokio_filelock_loom))]
    fn run(self) {
        let job = self.job.lock().take();
        if let Some(job) = job {
            job(Ok(()));
        }
    }
}

impl Drop for SentToRuntime {
    fn drop(&mut self) {
        let Some(job) = self.job.lock().take() else { return };
        if let Err((job, error)) = self.pool.submit(job) {
            job(Err(error));
        }
    }
}

/// Blocks the calling thread on a future: with the runtime's timers if the thread belongs to a
/// runtime, as `spawn_blocking` threads do, and with nothing if it does not.
///
/// # Panics
///
/// On a thread that is driving a runtime or another `block_on`.
#[cfg(not(tokio_filelock_loom))]
#[track_caller]
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    match Handle::try_current() {
        Ok(runtime) => runtime.block_on(future),
        Err(_) => futures::executor::block_on(future),
    }
}

#[cfg(tokio_filelock_loom)]
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    loom::future::block_on(future)
}

/// In models: a runtime whose blocking pool has no thread left, until it shuts down.
#[cfg(tokio_filelock_loom)]
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

    /// Drops what is queued, unrun.
    pub(crate) fn shut_down() {
        let queue = QUEUE.lock().take();
        drop(queue);
    }
}
