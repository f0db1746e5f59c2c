//! Where calls that may block run. The one layer that names tokio's runtime.
//!
//! Two kinds of calls, two places:
//! - a **parked wait** ends when another process lets go, perhaps never. It runs on the wait pool
//!   ([`Pool`]), unless the user asks for the runtime's ([`WaitOn`]) or there is no thread to be
//!   had: a runtime waits for its own blocking pool when it is dropped, and a full pool would stop
//!   `tokio::fs` and everybody's `spawn_blocking`.
//! - a **short call** ends by itself: opening, looking at a path, a lock call on a remote file
//!   system that does not wait for a holder. It runs on the runtime's blocking pool where there
//!   is a runtime, and on the wait pool where there is none.
//!
//! A runtime that shuts down drops the short calls in its queue unrun. One that a caller waits for
//! ([`call`]) is then that caller's error. One that others depend on ([`errand`]), and a parked wait,
//! moves to the wait pool: it runs exactly once, whatever becomes of the runtime that was asked
//! first.

mod pool;

use std::future::Future;
use std::io;

#[cfg(not(tokio_filelock_loom))]
use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub(crate) use pool::{Job, Pool};

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
    let (job, error) = match wait_on {
        WaitOn::RuntimePool => (job, None),
        WaitOn::WaitPool => match pool.submit(job) {
            Ok(()) => return Ok(()),
            Err((job, error)) => (job, Some(error)),
        },
    };
    let errand = Errand { job: Some(job), pool: pool.clone() };
    match (errand.run_on_runtime(), error) {
        (Some(mut refused), Some(error)) => {
            refused.job = None;
            Err(error)
        }
        // On the runtime, or, dropped here, on the wait pool.
        _ => Ok(()),
    }
}

/// Runs a short call for its caller. `None` if the runtime shut down before it ran.
pub(crate) async fn call<T: Send + 'static>(
    pool: &Pool,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    let job = move || drop(answer.send(job()));
    #[cfg(not(tokio_filelock_loom))]
    if let Ok(runtime) = Handle::try_current() {
        drop(runtime.spawn_blocking(job));
        return answered.await.ok();
    }
    drop(Errand::new(pool, job));
    answered.await.ok()
}

/// Runs a short call that others depend on.
pub(crate) fn errand(pool: &Pool, job: impl FnOnce() + Send + 'static) {
    drop(Errand::new(pool, job).run_on_runtime());
}

/// Runs a short call for a caller that is willing to block its thread.
pub(crate) fn blocking_call<T: Send + 'static>(
    pool: &Pool,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (answer, answered) = std::sync::mpsc::sync_channel(1);
    drop(Errand::new(pool, move || drop(answer.send(job()))));
    answered.recv().ok()
}

/// A job that goes to the wait pool when it is dropped, if it has not run before.
struct Errand {
    job: Option<Job>,
    pool: Pool,
}

impl Errand {
    /// A short call: where no thread can be had, late on this one is better than never.
    fn new(pool: &Pool, job: impl FnOnce() + Send + 'static) -> Self {
        Self { job: Some(Box::new(|_| job())), pool: pool.clone() }
    }

    /// Gives the errand to the runtime of this thread; comes back if there is none. A runtime that
    /// shuts down drops it, and so sends it to the wait pool.
    fn run_on_runtime(self) -> Option<Self> {
        #[cfg(not(tokio_filelock_loom))]
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn_blocking(move || self.run()));
            return None;
        }
        #[cfg(tokio_filelock_loom)]
        return model_runtime::spawn_blocking(self);
        #[cfg(not(tokio_filelock_loom))]
        Some(self)
    }

    #[cfg(not(tokio_filelock_loom))]
    fn run(mut self) {
        if let Some(job) = self.job.take() {
            job(Ok(()));
        }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        let Some(job) = self.job.take() else { return };
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
pub(crate) mod model_runtime {
    use super::Errand;
    use crate::shim::Mutex;

    loom::lazy_static! {
        static ref QUEUE: Mutex<Option<Vec<Errand>>> = Mutex::new(None);
    }

    pub(crate) fn start() {
        *QUEUE.lock() = Some(Vec::new());
    }

    pub(super) fn spawn_blocking(errand: Errand) -> Option<Errand> {
        match &mut *QUEUE.lock() {
            Some(queue) => {
                queue.push(errand);
                None
            }
            None => Some(errand),
        }
    }

    /// Drops what is queued, unrun.
    pub(crate) fn shut_down() {
        let queue = QUEUE.lock().take();
        drop(queue);
    }
}
