//! tokio's timer; in a model of a user, one that may go off at any point.
//!
//! A model has no clock. What waits there for a time gets a thread of the model, and the explorer chooses when that thread runs:
//! before everything else, after everything else, or in between. So a limit runs out at each moment at which it can hurt.

use std::future::Future;
use std::time::Duration;

#[cfg(not(all(not(test), any(tokio_filelock_loom, tokio_filelock_shuttle))))]
mod real {
    use super::{Duration, Future};

    pub(crate) use tokio::time::{Sleep, sleep, sleep_until};

    /// For what asks again and again, and knows no end of its own.
    pub(crate) fn pause(time: Duration) -> Sleep {
        sleep(time)
    }

    /// Between one message and the next.
    pub(crate) fn sleep_again(time: Duration) -> Sleep {
        sleep(time)
    }

    /// `None` if the time is up first.
    pub(crate) async fn timeout<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
        tokio::time::timeout(limit, future).await.ok()
    }
}

#[cfg(all(not(test), any(tokio_filelock_loom, tokio_filelock_shuttle)))]
mod real {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use tokio::time::Instant;

    use super::{Duration, Future};
    use crate::foreign;
    use crate::shim::Mutex;
    use crate::shim::explorer::{self, Steps};

    /// As tokio's.
    #[derive(Debug)]
    pub(crate) enum Sleep {
        Until(Arc<Alarm>),
        /// Until the others have had a chance.
        Pause,
        Never,
    }

    /// What ends a sleep.
    #[derive(Debug)]
    pub(crate) struct Alarm {
        steps: Steps,
        state: Mutex<State>,
    }

    #[derive(Debug, Default)]
    struct State {
        has_gone_off: bool,
        waker: Option<Waker>,
    }

    impl Alarm {
        /// On a thread of its own.
        fn go_off(&self) {
            self.steps.step();
            let waker = {
                let mut state = self.state.lock();
                state.has_gone_off = true;
                state.waker.take()
            };
            if let Some(waker) = waker {
                foreign::contained(|| waker.wake());
            }
        }

        fn poll(&self, cx: &Context<'_>) -> Poll<()> {
            self.steps.step();
            // Cloning is foreign code, so it comes before the mutex.
            let waker = cx.waker().clone();
            let (poll, discard) = {
                let mut state = self.state.lock();
                match state.has_gone_off {
                    true => (Poll::Ready(()), Some(waker)),
                    false => (Poll::Pending, state.waker.replace(waker)),
                }
            };
            foreign::let_go(discard);
            poll
        }
    }

    /// However long it is.
    pub(crate) fn sleep(_time: Duration) -> Sleep {
        let alarm = Arc::new(Alarm { steps: Steps::new(), state: Mutex::default() });
        let thread = alarm.clone();
        explorer::spawn(move || thread.go_off());
        Sleep::Until(alarm)
    }

    pub(crate) fn sleep_until(_at: Instant) -> Sleep {
        sleep(Duration::ZERO)
    }

    /// For what asks again and again, and knows no end of its own: others have their chance before the next question.
    pub(crate) fn pause(_time: Duration) -> Sleep {
        Sleep::Pause
    }

    /// Between one message and the next. A model has one message: more of them would be more executions, without an end.
    pub(crate) fn sleep_again(_time: Duration) -> Sleep {
        Sleep::Never
    }

    /// No server is asked in a model, so the future ends by itself.
    pub(crate) async fn timeout<F: Future>(_limit: Duration, future: F) -> Option<F::Output> {
        Some(future.await)
    }

    impl Future for Sleep {
        type Output = ();

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            match &*self {
                Self::Until(alarm) => alarm.poll(cx),
                Self::Pause => {
                    explorer::yield_now();
                    Poll::Ready(())
                }
                Self::Never => Poll::Pending,
            }
        }
    }

    impl Drop for Sleep {
        fn drop(&mut self) {
            if let Self::Until(alarm) = self {
                let waker = alarm.state.lock().waker.take();
                foreign::let_go(waker);
            }
        }
    }
}

pub(crate) use real::*;
