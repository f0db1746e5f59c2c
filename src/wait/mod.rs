//! Where calls that may block run. The one layer that names tokio's runtime.
//!
//! Two kinds of calls, two places:
//! - a **parked wait** ends when another process lets go, perhaps never. It runs on the wait pool
//!   ([`Pool`]) and nowhere else: a runtime waits for its own blocking pool when it is dropped,
//!   and a full pool would stop `tokio::fs` and everybody's `spawn_blocking`.
//! - a **short call** ends by itself: opening, looking at a path, a lock call on a remote file
//!   system that does not wait for a holder. It runs on the runtime's blocking pool where there
//!   is a runtime, and on the wait pool where there is none.
//!
//! A runtime that shuts down drops the short calls in its queue unrun. One that a caller waits for
//! ([`call`]) is then that caller's error. One that others depend on ([`errand`]) moves to the
//! wait pool: it runs exactly once, whatever becomes of the runtime that was asked first.

mod pool;

use std::future::Future;

#[cfg(not(tokio_filelock_loom))]
use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub(crate) use pool::{Job, Pool};

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
    run_on_pool(pool, Box::new(job));
    answered.await.ok()
}

/// Runs a short call that others depend on.
pub(crate) fn errand(pool: &Pool, job: impl FnOnce() + Send + 'static) {
    let errand = Errand { job: Some(Box::new(job)), pool: pool.clone() };
    #[cfg(not(tokio_filelock_loom))]
    if let Ok(runtime) = Handle::try_current() {
        drop(runtime.spawn_blocking(move || errand.run()));
        return;
    }
    drop(errand);
}

/// Runs a short call for a caller that is willing to block its thread.
pub(crate) fn blocking_call<T: Send + 'static>(
    pool: &Pool,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (answer, answered) = std::sync::mpsc::sync_channel(1);
    run_on_pool(pool, Box::new(move || drop(answer.send(job()))));
    answered.recv().ok()
}

/// Short calls only: without a thread it runs late, on the caller's, which is better than never.
fn run_on_pool(pool: &Pool, job: Job) {
    if let Err((job, _)) = pool.submit(job) {
        job();
    }
}

/// A short call that runs when it is dropped, if it has not run before.
struct Errand {
    job: Option<Job>,
    pool: Pool,
}

impl Errand {
    #[cfg(not(tokio_filelock_loom))]
    fn run(mut self) {
        if let Some(job) = self.job.take() {
            job();
        }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            run_on_pool(&self.pool, job);
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
