//! Ending a blocking lock call early, or after a time.
//!
//! A cancel has the waiting thread signalled ([`Alarm`]), now and again every few
//! milliseconds. The handler does nothing and is installed without `SA_RESTART`, so the lock call
//! returns EINTR (signal(7)), and the thread looks whether that was asked for. The signal is
//! repeated, so none is lost between the look and the call.
//!
//! Invariants:
//! 1. The alarm is in the state exactly while its thread is inside [`Interrupt::wait`]. It is
//!    taken out under the mutex before it is dropped, so no thread rings one that is gone.
//! 2. The signal is unblocked in the waiting thread and during the wait only; a signal that is
//!    still on its way when the alarm is dropped is delivered before the mask is restored.
//! 3. Exclusion never depends on a signal. Where none can be had, or it is no longer ours when a
//!    wait begins, nothing is called, and the caller polls. A handler that is replaced while a call is
//!    under way costs that call its early end and its limit.
//!
//! The mutex here is the one of the crate that is held across system calls: `sigaction` and
//! `timer_settime` or those that signal a thread, which do not wait for anything.
#![allow(unsafe_code)]

use std::io;
use std::ptr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::libc;

use super::errors::is_interrupted;
use super::kernel::alarm::Alarm;
use super::signal;
use crate::os::Waited;

pub use super::signal::{SetSignalError, set_signal};

/// A call that comes back interrupted so many times in a row, each sooner than this, is not interrupted by
/// signals: something says EINTR to every call (a sandbox, a server), and would for ever.
const TOO_OFTEN: u32 = 1_000;
const TOO_SOON: Duration = Duration::from_micros(100);

/// One wait, as seen by the thread that waits and by the threads that may end it.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    state: Mutex<State>,
    requested: Condvar,
}

#[derive(Debug, Default)]
struct State {
    requested: bool,
    alarm: Option<Alarm>,
}

impl Interrupt {
    /// Makes the wait return, if that is possible, or not begin.
    pub(crate) fn request(&self) {
        let mut state = self.lock();
        state.requested = true;
        // Other code may have replaced the handler since the wait began, and would be called.
        let alarm = state.alarm.as_mut().filter(|alarm| signal::handler_is_ours(alarm.signal()));
        let repeats = alarm.and_then(Alarm::ring);
        drop(state);
        self.requested.notify_one();
        if let Some(repeats) = repeats {
            repeats.start();
        }
    }

    /// Calls until there is an answer, or until the end is asked for.
    ///
    /// # Errors
    ///
    /// `Unsupported` if nothing could end the call: then nothing has been called.
    pub(in crate::os) fn wait(&self, call: impl FnMut() -> io::Result<()>) -> io::Result<Waited> {
        let _listening = Listening::begin(self, None).ok_or(io::ErrorKind::Unsupported)?;
        let waited = self.call_until(|| false, call)?;
        Ok(waited.expect("the time is never up"))
    }

    /// As `wait`, for no longer than this: `None` if the time is up.
    ///
    /// # Errors
    ///
    /// `Unsupported` if no limit can be set: then nothing has been called. The limit is a signal, so
    /// it fails to come if its handler is replaced in the meantime, and the call goes on.
    pub(in crate::os) fn wait_for(
        &self,
        limit: Duration,
        call: impl FnMut() -> io::Result<()>,
    ) -> io::Result<Option<Waited>> {
        let deadline = Instant::now() + limit;
        let _listening = Listening::begin(self, Some(limit)).ok_or(io::ErrorKind::Unsupported)?;
        self.call_until(|| Instant::now() >= deadline, call)
    }

    fn call_until(
        &self,
        mut time_is_up: impl FnMut() -> bool,
        mut call: impl FnMut() -> io::Result<()>,
    ) -> io::Result<Option<Waited>> {
        let mut interruptions = 0;
        loop {
            if self.lock().requested {
                return Ok(Some(Waited::Interrupted));
            }
            if time_is_up() {
                return Ok(None);
            }
            let called = Instant::now();
            match call() {
                Ok(()) => return Ok(Some(Waited::Acquired)),
                // Asked for, or time to look at the clock, or a signal of another sender.
                Err(error) if is_interrupted(&error) => {
                    interruptions = if called.elapsed() < TOO_SOON { interruptions + 1 } else { 0 };
                    if interruptions == TOO_OFTEN {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets this much time pass; returns early when the end of the wait is asked for.
    pub(crate) fn pause(&self, time: Duration) -> Option<Waited> {
        let state = self.lock();
        let (state, _) = self
            .requested
            .wait_timeout_while(state, time, |state| !state.requested)
            .unwrap_or_else(PoisonError::into_inner);
        state.requested.then_some(Waited::Interrupted)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time in which the calling thread can be interrupted.
struct Listening<'a> {
    interrupt: &'a Interrupt,
    mask: libc::sigset_t,
}

impl<'a> Listening<'a> {
    /// After the limit, if there is one, the thread is signalled as for an interrupt. `None` where
    /// that cannot be.
    fn begin(interrupt: &'a Interrupt, limit: Option<Duration>) -> Option<Self> {
        let mut alarm = Alarm::new()?;
        let listening = Self { interrupt, mask: signal::unblock(alarm.signal())? };
        let has_limit = limit.is_none_or(|limit| alarm.ring_after(limit));
        interrupt.lock().alarm = Some(alarm);
        has_limit.then_some(listening)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        // Dropped outside of the mutex, and before the mask is restored.
        let alarm = self.interrupt.lock().alarm.take();
        drop(alarm);
        // SAFETY: `mask` was filled in by pthread_sigmask, and the old mask is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.mask, ptr::null_mut()) };
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::mem::MaybeUninit;
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    /// A call that blocks until a signal comes.
    fn sleep_in_the_kernel() -> io::Result<()> {
        // SAFETY: no descriptors are given, so there is no pointer to be valid.
        let answer = unsafe { libc::poll(ptr::null_mut(), 0, -1) };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    #[test]
    fn a_request_before_the_wait_is_seen() {
        let interrupt = Interrupt::default();
        interrupt.request();
        let waited = interrupt.wait(|| unreachable!("not called any more"));
        assert_eq!(waited.unwrap(), Waited::Interrupted);
    }

    #[test]
    fn a_request_ends_a_call() {
        let interrupt = Arc::new(Interrupt::default());
        let (entered, entering) = mpsc::channel();
        let waiting = std::thread::spawn({
            let interrupt = interrupt.clone();
            move || {
                interrupt.wait(|| {
                    entered.send(()).unwrap();
                    sleep_in_the_kernel()
                })
            }
        });
        entering.recv().unwrap();
        interrupt.request();
        assert_eq!(waiting.join().unwrap().unwrap(), Waited::Interrupted);
    }

    #[test]
    fn a_wait_with_a_limit_ends_by_itself() {
        let interrupt = Interrupt::default();
        let waited = interrupt.wait_for(Duration::from_millis(1), sleep_in_the_kernel);
        assert_eq!(waited.unwrap(), None);
        let waited = interrupt.wait_for(Duration::from_secs(60), || Ok(()));
        assert_eq!(waited.unwrap(), Some(Waited::Acquired));
    }

    /// What is left of a limit may be next to nothing, and the signal is repeated until the wait is over.
    #[test]
    fn a_limit_of_a_nanosecond_ends_the_wait_and_nothing_else() {
        for _ in 0..100 {
            let interrupt = Interrupt::default();
            let waited = interrupt.wait_for(Duration::from_nanos(1), sleep_in_the_kernel);
            assert_eq!(waited.unwrap(), None);
        }
    }

    #[test]
    fn the_mask_is_as_before() {
        let blocked = || {
            let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
            // SAFETY: no new mask is given, and the pointer to the old one is valid.
            unsafe { libc::pthread_sigmask(0, ptr::null(), mask.as_mut_ptr()) };
            // SAFETY: pthread_sigmask has filled it in.
            let mask = unsafe { mask.assume_init() };
            // SAFETY: the set is initialized.
            (1..=libc::SIGRTMAX()).map(|n| unsafe { libc::sigismember(&mask, n) }).collect()
        };
        let all_blocked = std::thread::spawn(move || {
            let mut all = MaybeUninit::<libc::sigset_t>::uninit();
            // SAFETY: sigfillset initializes the set that it is given.
            unsafe { libc::sigfillset(all.as_mut_ptr()) };
            // SAFETY: the set is initialized, and the old mask is not asked for.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut()) };
            let before: Vec<_> = blocked();
            let mut during = Vec::new();
            let waited = Interrupt::default().wait(|| {
                during = blocked();
                Ok(())
            });
            assert_eq!(blocked(), before);
            if cfg!(any(tokio_filelock_posix, not(any(target_os = "linux", target_os = "android"))))
            {
                // A thread's own mask is all that tells there which signals the program may fetch.
                assert_eq!(waited.unwrap_err().kind(), io::ErrorKind::Unsupported);
                return;
            }
            assert_eq!(waited.unwrap(), Waited::Acquired);
            let opened = before.iter().zip(&during).filter(|(before, during)| before != during);
            assert_eq!(opened.count(), 1, "one signal is unblocked during the wait");
        });
        all_blocked.join().unwrap();
    }
}
