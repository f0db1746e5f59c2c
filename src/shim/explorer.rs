//! What explores the interleavings of a user's program: loom, shuttle, or nothing.
//!
//! A user's model is about the order in which tasks and processes make their calls, not about what happens inside of a call: for
//! that the crate has models of its own. So a call on a simulated machine is one step, and the explorer chooses which thread takes
//! the next one. That keeps the models of users small: two tasks that lock and unlock once have some tens of executions.
//!
//! Both explorers run all threads of a model on one thread of the system, and change between them only inside of their own
//! primitives. So the std primitives of this crate are never contended in a model, as long as
//!
//! 1. no mutex of the crate is locked at a step, nor while a waker is called: a thread that holds one does not stop there;
//! 2. all that depends on another thread comes after a step: its own order on the machine, and what came before it in the threads
//!    that took the earlier ones, are known to the explorer from there.
//!
//! A thread that panics takes no steps: the execution is over, and its guards and machines are only dropped. So they can be dropped
//! anywhere, also after a deadlock, and a model that fails is a test that fails.

/// A user's model may be run by this build.
pub(crate) const IS_ON: bool =
    cfg!(all(not(test), any(tokio_filelock_loom, tokio_filelock_shuttle)));

#[cfg(all(not(test), tokio_filelock_loom))]
mod real {
    use std::sync::atomic::AtomicBool;
    use std::sync::{Arc, PoisonError};
    use std::task::{Context, Poll, Wake, Waker};

    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::sync::{Condvar, Mutex, MutexGuard};

    /// How many steps were taken: what orders them.
    #[derive(Debug)]
    pub(crate) struct Steps(AtomicUsize);

    impl Steps {
        pub(crate) fn new() -> Self {
            Self(AtomicUsize::new(0))
        }

        /// Each one comes after all that was done before the earlier ones.
        pub(crate) fn step(&self) {
            if !std::thread::panicking() {
                self.0.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// Wakes a thread of the model. loom's own `Notify` also wakes for no reason, once a thread, which here would be many executions
    /// that say nothing new. The explorer sees of a wake-up only that of a thread that waits: whether one comes before the
    /// thread looks, or after, makes no difference.
    #[derive(Default)]
    struct Wakes {
        is_woken: AtomicBool,
        is_waiting: AtomicBool,
        mutex: Mutex<()>,
        woken: Condvar,
    }

    impl Wakes {
        fn wait(&self) {
            if self.is_woken.swap(false, Ordering::Relaxed) {
                return;
            }
            self.is_waiting.store(true, Ordering::Relaxed);
            let mut waiting = lock(&self.mutex);
            while !self.is_woken.swap(false, Ordering::Relaxed) {
                waiting = self.woken.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            self.is_waiting.store(false, Ordering::Relaxed);
        }
    }

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.is_woken.store(true, Ordering::Relaxed);
            if self.is_waiting.load(Ordering::Relaxed) && !std::thread::panicking() {
                let _waiting = lock(&self.mutex);
                self.woken.notify_one();
            }
        }
    }

    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As `loom::future::block_on`, with a waker that can be dropped after a deadlock.
    pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
            wakes.wait();
        }
    }

    pub(crate) fn spawn(body: impl FnOnce() + Send + 'static) {
        loom::thread::spawn(body);
    }

    pub(crate) fn yield_now() {
        loom::thread::yield_now();
    }
}

#[cfg(all(not(test), tokio_filelock_shuttle, not(tokio_filelock_loom)))]
mod real {
    use std::time::Duration;

    pub(crate) use shuttle::future::block_on;
    pub(crate) use shuttle::thread::yield_now;

    #[derive(Debug)]
    pub(crate) struct Steps(());

    impl Steps {
        pub(crate) fn new() -> Self {
            Self(())
        }

        pub(crate) fn step(&self) {
            if !std::thread::panicking() {
                // A chance for others, and no time.
                shuttle::thread::sleep(Duration::ZERO);
            }
        }
    }

    pub(crate) fn spawn(body: impl FnOnce() + Send + 'static) {
        drop(shuttle::thread::spawn(body));
    }
}

#[cfg(all(
    any(test, feature = "test-util"),
    not(all(not(test), any(tokio_filelock_loom, tokio_filelock_shuttle)))
))]
mod real {
    /// Real threads need none.
    #[derive(Debug)]
    pub(crate) struct Steps(());

    impl Steps {
        pub(crate) fn new() -> Self {
            Self(())
        }

        pub(crate) fn step(&self) {}
    }
}

#[cfg(any(test, feature = "test-util"))]
pub(crate) use real::*;
