//! tokio's clock, where a test has paused it (`tokio::time::pause`, `start_paused`).
//!
//! A paused clock runs on to the next limit as soon as no task of its runtime has anything to do. It does not see that a
//! thread of ours works for a task: then every limit would be up at once. It stands still while the runtime's blocking pool
//! has something to do (`BlockingSchedule` in tokio's source, for a current-thread runtime, the only kind whose clock can be
//! paused). So each job gets a companion there, which does nothing until the job has run.

use std::convert::Infallible;
use std::sync::mpsc;
use std::time::Instant;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

use super::threads_can_be_had;

/// While it lives, the clock of this thread's runtime does not run on by itself if it is paused.
pub(super) struct Hold {
    _done: Option<oneshot::Sender<Infallible>>,
}

/// For a job that ends by itself.
pub(super) fn hold() -> Hold {
    let Some(runtime) = runtime().filter(|_| is_paused() && threads_can_be_had()) else {
        return Hold { _done: None };
    };
    let (done, is_done) = oneshot::channel();
    let (companion, ended) = mpsc::channel::<Infallible>();
    drop(runtime.spawn_blocking(move || {
        // No message comes, but the end.
        let _ = ended.recv();
    }));
    // A runtime that is dropped drops its tasks first, and does not wait for the job.
    drop(runtime.spawn(async move {
        let _companion = companion;
        let _ = is_done.await;
    }));
    Hold { _done: Some(done) }
}

/// The runtime of this thread if its clock may be paused. `None` also where a thread ends, and tokio's clock is not to be had
/// any more.
fn runtime() -> Option<Handle> {
    let runtime = Handle::try_current().ok()?;
    (runtime.runtime_flavor() == RuntimeFlavor::CurrentThread).then_some(runtime)
}

/// A paused clock stands still while that of the system runs. One that has run again since is behind it, and is not paused.
fn is_paused() -> bool {
    let (now, began) = (tokio::time::Instant::now(), Instant::now());
    while Instant::now() == began {}
    tokio::time::Instant::now() == now
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_stands_still_while_it_is_held() {
        assert!(is_paused());
        let began = tokio::time::Instant::now();
        let hold = hold();
        let (slept, sleeps) = mpsc::channel();
        // The thread lets go when the task has had its chances to be woken by a clock that runs on.
        let thread = std::thread::spawn(move || {
            let in_vain = sleeps.recv_timeout(Duration::from_millis(50));
            drop(hold);
            in_vain
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        let _ = slept.send(());
        assert!(thread.join().unwrap().is_err(), "the clock ran on");
        assert!(began.elapsed() >= Duration::from_secs(60));
    }

    #[tokio::test]
    async fn a_clock_that_runs_is_not_held() {
        let is_held = || hold()._done.is_some();
        assert!((0..1000).all(|_| !is_held()));
        tokio::time::pause();
        assert!(is_held());
        tokio::time::resume();
        assert!((0..1000).all(|_| !is_held()), "it has run again");
    }

    #[test]
    fn without_a_runtime_there_is_no_clock_to_hold() {
        assert!(hold()._done.is_none());
    }

    #[test]
    fn a_runtime_that_is_dropped_waits_for_no_job() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        let hold = runtime.block_on(async { hold() });
        assert!(hold._done.is_some());
        drop(runtime);
        drop(hold);
    }

    /// tokio's own thread-local values may be gone by then.
    #[test]
    fn the_end_of_a_thread_holds_nothing() {
        struct HoldsWhenDropped;
        impl Drop for HoldsWhenDropped {
            fn drop(&mut self) {
                assert!(hold()._done.is_none());
            }
        }
        thread_local!(static DROPPED: RefCell<Option<HoldsWhenDropped>> = const { RefCell::new(None) });

        let thread = std::thread::spawn(|| {
            DROPPED.set(Some(HoldsWhenDropped));
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async { assert!(hold()._done.is_some()) });
        });
        thread.join().unwrap();
    }
}
