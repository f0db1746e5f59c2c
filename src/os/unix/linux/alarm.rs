//! Signals for a thread, now and again and again: a POSIX timer that the thread makes for itself
//! (`timer_create`, `SIGEV_THREAD_ID`).
//!
//! The kernel repeats the signal, so none is lost between the thread's look at its flag and its lock
//! call, and no thread has to be awake for it. Where there is no timer to be had (RLIMIT_SIGPENDING, which
//! all programs of the user have in common; a seccomp filter; an emulator), or none that can be armed, or no
//! real-time signal, threads send another one ([`ThreadAlarm`]).
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::libc;

use crate::os::unix::signal::{self, Choice};
use crate::os::unix::thread_alarm::{Repeats, ThreadAlarm};

/// How often the signal is repeated until the thread has left the call.
const REPEAT: Duration = Duration::from_millis(2);

pub(in crate::os::unix) const SUITABLE: &str =
    "the signal that ends waits must be one from SIGRTMIN to SIGRTMAX that a timer can send";

/// From the top: most programs count from SIGRTMIN.
pub(in crate::os::unix) fn preferred_signals() -> impl Iterator<Item = libc::c_int> + Clone {
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev().filter(|signal| is_suitable(*signal))
}

/// Emulators do not have all of them (qemu 7.2 lacks the two highest). A timer tells; that there is none
/// to be had tells nothing.
pub(in crate::os::unix) fn is_suitable(signal: libc::c_int) -> bool {
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal)
        && !matches!(Timer::new(signal), Err(error) if error.raw_os_error() == Some(libc::EINVAL))
}

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

/// A timer that signals the thread that made it. Deleted when dropped.
#[derive(Debug)]
pub(in crate::os::unix) struct Timer {
    id: libc::timer_t,
    signal: libc::c_int,
    thread: libc::pthread_t,
}

/// Whether the last timer that was armed could be. It is tried with the first one: a sandbox may
/// allow it to be made and not to be armed, and then a wait could not be ended.
static CAN_BE_ARMED: AtomicBool = AtomicBool::new(false);

/// Longer than the timer is armed for a try.
const FAR_OFF: Duration = Duration::from_secs(3600);

// SAFETY: a timer belongs to the process; its id, a number in the guise of a pointer, is valid in
// every thread (timer_create(2)).
unsafe impl Send for Timer {}

impl Timer {
    fn new(signal: libc::c_int) -> io::Result<Self> {
        // SAFETY: sigevent is plain data for which all zeros is valid.
        let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        // SAFETY: gettid has no preconditions.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut id = MaybeUninit::<libc::timer_t>::uninit();
        // SAFETY: both pointers are valid for the call.
        let failed =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, id.as_mut_ptr()) };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: on success timer_create has filled in the id.
        let id = unsafe { id.assume_init() };
        // SAFETY: pthread_self has no preconditions.
        Ok(Self { id, signal, thread: unsafe { libc::pthread_self() } })
    }

    fn can_be_armed(&self) -> bool {
        CAN_BE_ARMED.load(Ordering::Relaxed)
            || self.arm(FAR_OFF, FAR_OFF) && self.arm(Duration::ZERO, Duration::ZERO)
    }

    /// A first time of zero disarms it. `false` if it is refused.
    fn arm(&self, first: Duration, repeat: Duration) -> bool {
        let times = libc::itimerspec { it_value: timespec(first), it_interval: timespec(repeat) };
        // SAFETY: the timer exists until it is dropped; `times` is valid for the call, and the old
        // value is not asked for.
        let failed = unsafe { libc::timer_settime(self.id, 0, &times, ptr::null_mut()) };
        CAN_BE_ARMED.store(failed == 0, Ordering::Relaxed);
        failed == 0
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer exists, and this is its only deletion.
        if unsafe { libc::timer_delete(self.id) } != 0 {
            // Refused. It must not signal the thread in its later calls.
            self.arm(Duration::ZERO, Duration::ZERO);
        }
    }
}

fn timespec(time: Duration) -> libc::timespec {
    // SAFETY: timespec is plain data for which all zeros is valid; some targets pad it.
    let mut spec: libc::timespec = unsafe { MaybeUninit::zeroed().assume_init() };
    spec.tv_sec = time.as_secs() as _;
    spec.tv_nsec = time.subsec_nanos() as _;
    spec
}
