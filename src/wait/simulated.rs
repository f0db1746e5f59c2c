//! Where a simulated machine goes on by itself: in tasks of the runtime that asks, by the clock of that runtime. In a model of a
//! user there is no clock, and shuttle's threads are the tasks. loom allows five threads, so there nothing goes on by itself.
//!
//! A runtime that shuts down drops the jobs that were to run. So a job that must not be lost does its work when it is dropped.

use std::time::Duration;

use tokio::time::Instant;

#[cfg(not(any(tokio_filelock_loom, all(not(test), tokio_filelock_shuttle))))]
mod real {
    use tokio::runtime::Handle;

    use super::{Duration, Instant};

    /// The clock: that of tokio, which a test may pause.
    pub(crate) fn now() -> Instant {
        Instant::now()
    }

    /// There is a runtime whose tasks can go on.
    pub(crate) fn is_here() -> bool {
        Handle::try_current().is_ok()
    }

    /// Runs a job in a task, when the other tasks of the runtime have had so many turns; here where there is no runtime.
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
    pub(crate) fn after(time: Duration, job: impl FnOnce() + Send + 'static) {
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(async move {
                tokio::time::sleep(time).await;
                job();
            }));
        }
    }
}

#[cfg(any(tokio_filelock_loom, all(not(test), tokio_filelock_shuttle)))]
mod real {
    use super::{Duration, Instant};

    /// The clock stands still: real time would make the executions of a model differ.
    pub(crate) fn now() -> Instant {
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        *START
    }

    /// The threads of a model can go on.
    pub(crate) fn is_here() -> bool {
        cfg!(tokio_filelock_shuttle)
    }

    /// Runs a job when the explorer chooses to; here where it has no threads for that.
    pub(crate) fn after_turns(_turns: u32, job: impl FnOnce() + Send + 'static) {
        #[cfg(tokio_filelock_shuttle)]
        crate::shim::explorer::spawn(job);
        #[cfg(not(tokio_filelock_shuttle))]
        job();
    }

    /// No time passes.
    pub(crate) fn after(_time: Duration, _job: impl FnOnce() + Send + 'static) {}
}

pub(crate) use real::*;
