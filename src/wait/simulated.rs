//! Where a simulated machine goes on by itself: in tasks of the runtime that asks, by the clock of that runtime.
//!
//! A runtime that shuts down drops the jobs that were to run. So a job that must not be lost does its work when it is dropped.

use std::time::Duration;

#[cfg(not(tokio_filelock_loom))]
use tokio::runtime::Handle;
use tokio::time::Instant;

/// The clock: that of tokio, which a test may pause.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// There is a runtime whose tasks can go on.
#[cfg(not(tokio_filelock_loom))]
pub(crate) fn is_here() -> bool {
    Handle::try_current().is_ok()
}

/// Runs a job in a task, when the other tasks of the runtime have had so many turns; here where there is no runtime.
#[cfg(not(tokio_filelock_loom))]
pub(crate) fn after_turns(turns: u32, job: impl FnOnce() + Send + 'static) {
    let Ok(runtime) = Handle::try_current() else { return job() };
    drop(runtime.spawn(async move {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        job();
    }));
}

/// Runs a job in a task when the time has passed. Where there is no runtime it does not run.
#[cfg(not(tokio_filelock_loom))]
pub(crate) fn after(time: Duration, job: impl FnOnce() + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        drop(runtime.spawn(async move {
            tokio::time::sleep(time).await;
            job();
        }));
    }
}

/// Models have no runtime.
#[cfg(tokio_filelock_loom)]
pub(crate) fn is_here() -> bool {
    false
}

#[cfg(tokio_filelock_loom)]
pub(crate) fn after_turns(_turns: u32, job: impl FnOnce() + Send + 'static) {
    job();
}

#[cfg(tokio_filelock_loom)]
pub(crate) fn after(_time: Duration, _job: impl FnOnce() + Send + 'static) {}
