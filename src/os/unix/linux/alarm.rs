//! Signals for a thread, now and again and again: a POSIX timer that the thread makes for itself
//! (`timer_create`, `SIGEV_THREAD_ID`).
//!
//! The kernel repeats the signal, so none is lost between the thread's look at its flag and its lock
//! call, and nobody has to be awake for it.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use nix::libc;

/// How often the signal is repeated until the thread has left the call.
const REPEAT: Duration = Duration::from_millis(2);

pub(in crate::os::unix) const SUITABLE: &str =
    "the signal that ends waits must be one from SIGRTMIN to SIGRTMAX";

/// From the top: most programs count from SIGRTMIN.
pub(in crate::os::unix) fn preferred_signals() -> impl Iterator<Item = libc::c_int> {
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev()
}

pub(in crate::os::unix) fn is_suitable(signal: libc::c_int) -> bool {
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal)
}

/// A timer that signals the thread that made it. Deleted when dropped.
#[derive(Debug)]
pub(in crate::os::unix) struct Alarm {
    timer: libc::timer_t,
    signal: libc::c_int,
}

/// What is left to do for repeated signals, outside of mutexes: nothing.
pub(in crate::os::unix) struct Repeats;

impl Repeats {
    pub(in crate::os::unix) fn start(self) {}
}

// SAFETY: a timer belongs to the process; its id, a number in the guise of a pointer, is valid in
// every thread (timer_create(2)).
unsafe impl Send for Alarm {}

impl Alarm {
    /// `None` if the kernel has no timer to give (limits, seccomp).
    pub(in crate::os::unix) fn new(signal: libc::c_int) -> Option<Self> {
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
        // SAFETY: on success timer_create has filled in the id.
        (failed == 0).then(|| Self { timer: unsafe { id.assume_init() }, signal })
    }

    pub(in crate::os::unix) fn signal(&self) -> libc::c_int {
        self.signal
    }

    /// Signals now, and again and again.
    pub(in crate::os::unix) fn ring(&self) -> Repeats {
        self.arm(Duration::from_nanos(1), REPEAT);
        Repeats
    }

    /// Signals after this time, and again after as much. `false` if that is not possible.
    pub(in crate::os::unix) fn ring_after(&self, time: Duration) -> bool {
        self.arm(time, time);
        true
    }

    /// The first time is not zero.
    fn arm(&self, first: Duration, repeat: Duration) {
        let times = libc::itimerspec { it_value: timespec(first), it_interval: timespec(repeat) };
        // SAFETY: the timer exists until it is dropped; `times` is valid for the call, and the old
        // value is not asked for.
        let failed = unsafe { libc::timer_settime(self.timer, 0, &times, ptr::null_mut()) };
        debug_assert_eq!(failed, 0, "a timer that exists, and a valid time");
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer exists, and this is its only deletion.
        unsafe { libc::timer_delete(self.timer) };
    }
}

fn timespec(time: Duration) -> libc::timespec {
    // SAFETY: timespec is plain data for which all zeros is valid; some targets pad it.
    let mut spec: libc::timespec = unsafe { MaybeUninit::zeroed().assume_init() };
    spec.tv_sec = time.as_secs() as _;
    spec.tv_nsec = time.subsec_nanos() as _;
    spec
}
