//! A POSIX timer that signals one thread (timer_create(2), `SIGEV_THREAD_ID`).
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::libc;

/// A timer that signals the thread that made it. Deleted when dropped.
#[derive(Debug)]
pub(in crate::os::unix) struct Timer {
    id: libc::timer_t,
    pub(super) signal: libc::c_int,
    pub(super) thread: libc::pthread_t,
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
    pub(super) fn new(signal: libc::c_int) -> io::Result<Self> {
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

    pub(super) fn can_be_armed(&self) -> bool {
        CAN_BE_ARMED.load(Ordering::Relaxed)
            || self.arm(FAR_OFF, FAR_OFF) && self.arm(Duration::ZERO, Duration::ZERO)
    }

    /// A first time of zero disarms it. `false` if it is refused.
    pub(super) fn arm(&self, first: Duration, repeat: Duration) -> bool {
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
