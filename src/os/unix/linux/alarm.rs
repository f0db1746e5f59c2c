//! Signals for a thread, now and again and again: a POSIX timer that the thread makes for itself
//! (`timer_create`, `SIGEV_THREAD_ID`).
//!
//! The kernel repeats the signal, so none is lost between the thread's look at its flag and its lock
//! call, and no thread has to be awake for it. Where there is no timer to be had (RLIMIT_SIGPENDING, which
//! all programs of the user have in common; a seccomp filter; an emulator), or none that can be armed, or no
//! real-time signal, threads send another one ([`ThreadAlarm`]).
#![allow(unsafe_code)]

use std::time::Duration;

use nix::libc;

use super::timer::Timer;
use crate::os::unix::signal::{self, Choice};
use crate::os::unix::thread_alarm::{Repeats, ThreadAlarm};

/// How often the signal is repeated until the thread has left the call.
const REPEAT: Duration = Duration::from_millis(2);

/// The signal that threads send. No real-time one: when RLIMIT_SIGPENDING is used up those cannot be
/// sent, and others can.
static OF_THREADS: Choice = Choice::new();

/// What signals the thread that made it. Never after it was dropped.
#[derive(Debug)]
pub(in crate::os::unix) enum Alarm {
    Timer(Timer),
    Thread(ThreadAlarm),
}

impl Alarm {
    /// `None` if no signal is to be had.
    pub(in crate::os::unix) fn new() -> Option<Self> {
        let timer = signal::number().and_then(|signal| Timer::new(signal).ok());
        if let Some(timer) = timer.filter(Timer::can_be_armed) {
            return Some(Self::Timer(timer));
        }
        if signal::was_told() {
            return None;
        }
        let signal = OF_THREADS.number([libc::SIGURG].into_iter())?;
        threads_can_signal().then(|| Self::Thread(ThreadAlarm::of_signal(signal)))
    }

    pub(in crate::os::unix) fn signal(&self) -> libc::c_int {
        match self {
            Self::Timer(timer) => timer.signal,
            Self::Thread(alarm) => alarm.signal(),
        }
    }

    /// Signals now, and again and again; if there are repeats, once those are started.
    pub(in crate::os::unix) fn ring(&mut self) -> Option<Repeats> {
        match self {
            Self::Timer(timer) if timer.arm(Duration::from_nanos(1), REPEAT) => None,
            _ => self.by_thread().ring(),
        }
    }

    /// Signals after this time, and again and again. `false` if that is not possible.
    pub(in crate::os::unix) fn ring_after(&mut self, time: Duration) -> bool {
        match self {
            // A time of nanoseconds must not be repeated as it is: the thread would handle signals and do nothing else.
            Self::Timer(timer) if timer.arm(time, time.max(REPEAT)) => true,
            _ => self.by_thread().ring_after(time),
        }
    }

    /// What sends the signal in place of a timer that cannot be armed any more.
    fn by_thread(&mut self) -> &mut ThreadAlarm {
        if let Self::Timer(timer) = self {
            *self = Self::Thread(ThreadAlarm::of(timer.thread, timer.signal));
        }
        match self {
            Self::Thread(alarm) => alarm,
            Self::Timer(_) => unreachable!("it was replaced"),
        }
    }
}

/// A sandbox may refuse it, and then no wait may rest on it.
fn threads_can_signal() -> bool {
    // SAFETY: pthread_self has no preconditions.
    let this = unsafe { libc::pthread_self() };
    // SAFETY: this thread lives; no signal is sent, it is only looked whether one could be.
    unsafe { libc::pthread_kill(this, 0) == 0 }
}
