//! The primitives that loom replaces, and what an explorer of interleavings sees of the crate.
//!
//! Two kinds of models run on it.
//!
//! - **The crate's own**, by `cargo loom`, are about what happens inside of a call. `driver`, the file engine, `wait` and the
//!   model kernel take their mutexes, condition variables, reference counts and threads from here and from nowhere else, so
//!   that loom sees every one of them.
//! - **Those of users**, under loom or shuttle, are about the order of calls. There the primitives are std's, and what the
//!   explorer sees is one [`step`](explorer::Steps::step) before each call on a simulated machine (`explorer`).
//!
//! The cfgs are the crate's own (`--cfg tokio_filelock_loom`): `--cfg loom` would change tokio itself.
//!
//! Poisoning is not part of the interface. The crate's critical sections call nothing that
//! panics on purpose, and a lock that refused to be released after a panic elsewhere would turn
//! one failure into a deadlock of other processes.

pub(crate) mod explorer;

#[cfg(not(all(test, tokio_filelock_loom)))]
mod real {
    use std::sync::{self, PoisonError};
    use std::time::Duration;

    pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
    pub(crate) use std::sync::{Arc, MutexGuard};
    #[cfg(test)]
    pub(crate) use std::thread::yield_now;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        #[inline]
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(sync::Condvar);

    impl Condvar {
        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        /// Returns the guard, and whether the time ran out.
        pub(crate) fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            limit: Duration,
            _mutex: &'a Mutex<T>,
        ) -> (MutexGuard<'a, T>, bool) {
            let (guard, result) =
                self.0.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner);
            (guard, result.timed_out())
        }
    }

    impl Condvar {
        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
        }
    }

    pub(crate) fn pause(time: Duration) {
        std::thread::sleep(time);
    }

    /// Starts a detached thread with this name. Its stack has std's own size: wakers run on it, panics
    /// with backtraces, and glibc takes thread-local storage out of it. What is not touched costs nothing.
    pub(crate) fn spawn_thread(
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        std::thread::Builder::new().name(name.into()).spawn(body).map(drop)
    }
}

#[cfg(all(test, tokio_filelock_loom))]
mod real {
    use std::sync::PoisonError;
    use std::time::Duration;

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
    pub(crate) use loom::sync::{Arc, MutexGuard};
    pub(crate) use loom::thread::yield_now;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        #[inline]
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
        }

        /// loom has no time. Every wait with a limit runs out at once, after others had their
        /// chance: that is the interleaving in which limits hurt.
        pub(crate) fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            _limit: Duration,
            mutex: &'a Mutex<T>,
        ) -> (MutexGuard<'a, T>, bool) {
            drop(guard);
            loom::thread::yield_now();
            (mutex.lock(), true)
        }
    }

    /// There is no time: others have their chance.
    pub(crate) fn pause(_time: Duration) {
        yield_now();
    }

    pub(crate) fn spawn_thread(
        _name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        loom::thread::spawn(body);
        Ok(())
    }
}

pub(crate) use real::*;

/// The time. In a model of the crate's own it stands still: real time would make a model's executions differ.
pub(crate) fn now() -> std::time::Instant {
    #[cfg(all(test, tokio_filelock_loom))]
    {
        static START: std::sync::LazyLock<std::time::Instant> =
            std::sync::LazyLock::new(std::time::Instant::now);
        *START
    }
    #[cfg(not(all(test, tokio_filelock_loom)))]
    std::time::Instant::now()
}

/// Runs a model: a number of times as a plain test, in every interleaving under loom, or in every
/// one with at most so many preemptions. Says how many executions that were.
#[cfg(test)]
pub(crate) fn model(
    name: &str,
    preemptions: Option<usize>,
    body: impl Fn() + Send + Sync + 'static,
) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    let started = std::time::Instant::now();
    let executions = Arc::new(AtomicU64::new(0));
    let counted = {
        let executions = executions.clone();
        move || {
            executions.fetch_add(1, Ordering::Relaxed);
            body();
        }
    };
    #[cfg(tokio_filelock_loom)]
    let how = {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = preemptions;
        builder.max_branches = 10_000;
        builder.check(counted);
        match preemptions {
            None => "exhaustive".to_owned(),
            Some(bound) => format!("at most {bound} preemptions"),
        }
    };
    #[cfg(not(tokio_filelock_loom))]
    let how = {
        let _ = preemptions;
        (0..50).for_each(|_| counted());
        "on the real kernel"
    };
    println!(
        "model {name}: {} executions, {how}, {:.2} s",
        executions.load(Ordering::Relaxed),
        started.elapsed().as_secs_f64()
    );
}
