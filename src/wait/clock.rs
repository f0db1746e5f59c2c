//! tokio's clock, where a test has paused it (`tokio::time::pause`, `start_paused`).
//!
//! A paused clock runs on to the next limit as soon as no task of its runtime has anything to do. It does not see that a
//! thread of ours works for a task: then every limit would be up at once. It stands still while the runtime's blocking pool
//! has something to do (`BlockingSchedule` in tokio's source, for a current-thread runtime, the only kind whose clock can be
//! paused). So each job gets a companion there, which does nothing until the job has run.

use std::convert::Infallible;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use tokio::runtime::Handle;

use super::threads_can_be_had;

/// While it lives, the clock of this thread's runtime does not run on by itself if it is paused.
pub(super) struct Hold {
    /// Its end is the end of the companion.
    _companion: Option<Sender<Infallible>>,
}

/// For a job that ends by itself. Where the clock is not paused this takes the time of reading it.
pub(super) fn hold() -> Hold {
    if !is_paused() {
        return Hold { _companion: None };
    }
    let runtime = Handle::try_current().ok().filter(|_| threads_can_be_had());
    let companion = runtime.map(|runtime| {
        let (companion, ended) = channel();
        drop(runtime.spawn_blocking(move || {
            // No message comes, but the end.
            let _ = ended.recv();
        }));
        companion
    });
    Hold { _companion: companion }
}

/// A clock that runs is that of the system.
fn is_paused() -> bool {
    let before = Instant::now();
    let now = tokio::time::Instant::now().into_std();
    !(before..=Instant::now()).contains(&now)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
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
        assert!((0..1000).all(|_| !is_paused() && hold()._companion.is_none()));
    }

    #[test]
    fn without_a_runtime_there_is_no_clock_to_hold() {
        assert!(!is_paused() && hold()._companion.is_none());
    }
}
