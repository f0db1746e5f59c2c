//! Signals for a thread, now and again and again: `pthread_kill`, by the thread that asks first and then by
//! a thread that lives until the other one has left its call.
//!
//! A signal may come between the thread's look at its flag and its lock call, and is lost then. So it
//! is repeated, with pauses that double. Each is sent under the mutex that the waiting thread takes
//! before it leaves: a thread that is signalled is alive.
#![allow(unsafe_code)]

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::libc;

use super::signal;

/// The pauses between the signals.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// What signals a thread. Never after it was dropped.
#[derive(Debug)]
pub(in crate::os::unix) struct ThreadAlarm(Arc<Waiting>);

#[derive(Debug)]
struct Waiting {
    thread: Thread,
    signal: libc::c_int,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    has_left: bool,
    /// A thread repeats the signals already.
    is_repeated: bool,
}

#[derive(Debug)]
struct Thread(libc::pthread_t);

// SAFETY: a name of a thread, which is valid in every thread of the process.
unsafe impl Send for Thread {}
// SAFETY: as above.
unsafe impl Sync for Thread {}

impl ThreadAlarm {
    pub(in crate::os::unix) fn of_signal(signal: libc::c_int) -> Self {
        // SAFETY: pthread_self has no preconditions.
        Self::of(unsafe { libc::pthread_self() }, signal)
    }

    /// For a thread that drops this before it leaves.
    pub(in crate::os::unix) fn of(thread: libc::pthread_t, signal: libc::c_int) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Self(Arc::new(Waiting { thread: Thread(thread), signal, state, changed }))
    }

    pub(in crate::os::unix) fn signal(&self) -> libc::c_int {
        self.0.signal
    }

    /// Signals now; and again and again, once the repeats are started.
    pub(in crate::os::unix) fn ring(&mut self) -> Option<Repeats> {
        self.0.send(&self.0.lock());
        Some(Repeats(self.0.clone()))
    }

    /// Signals after this time, and again and again. `false` if that is not possible.
    pub(in crate::os::unix) fn ring_after(&mut self, time: Duration) -> bool {
        self.0.clone().repeat_after(time)
    }
}

impl Drop for ThreadAlarm {
    fn drop(&mut self) {
        self.0.lock().has_left = true;
        self.0.changed.notify_all();
    }
}

/// What is left to do for repeated signals, outside of mutexes.
pub(in crate::os::unix) struct Repeats(Arc<Waiting>);

impl Repeats {
    /// Without a thread there was one signal, and it may be lost: then the wait goes on until the lock
    /// arrives.
    pub(in crate::os::unix) fn start(self) {
        {
            let mut state = self.0.lock();
            if state.has_left || state.is_repeated {
                return;
            }
            state.is_repeated = true;
        }
        self.0.repeat_after(FIRST_PAUSE);
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, state: &State) {
        // Other code may have replaced the handler in the meantime, and would be called.
        if !state.has_left && signal::handler_is_ours(self.signal) {
            // Where it is refused from now on (a sandbox), the wait ends with the lock.
            // SAFETY: the thread has not left, and cannot before the state is unlocked.
            unsafe { libc::pthread_kill(self.thread.0, self.signal) };
        }
    }

    fn repeat_after(self: Arc<Self>, time: Duration) -> bool {
        let repeat = move || {
            let mut pause = time;
            let mut state = self.lock();
            loop {
                (state, _) = self
                    .changed
                    .wait_timeout_while(state, pause, |state| !state.has_left)
                    .unwrap_or_else(PoisonError::into_inner);
                if state.has_left {
                    return;
                }
                self.send(&state);
                pause = if pause > LONGEST_PAUSE { FIRST_PAUSE } else { pause * 2 };
                pause = pause.min(LONGEST_PAUSE);
            }
        };
        // The usual stack: the program's thread-local storage takes its room from it, however much that
        // is, and memory that is not touched costs nothing.
        thread::Builder::new().name("filelock-alarm".into()).spawn(repeat).is_ok()
    }
}
