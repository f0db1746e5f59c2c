//! Ending a blocking lock call early, or after a time.
//!
//! The waiting thread makes a POSIX timer that signals itself (`timer_create`, `SIGEV_THREAD_ID`).
//! Whoever cancels arms it, under the wait's mutex, to fire now and again every few milliseconds.
//! The handler does nothing and is installed without `SA_RESTART`, so the lock call returns EINTR
//! (signal(7)), and the thread looks whether that was asked for. The kernel repeats the signal,
//! so none is lost between the look and the call.
//!
//! Invariants:
//! 1. The timer is in the state exactly while its thread is inside [`Interrupt::wait`]. It is
//!    taken out under the mutex before it is deleted, so nobody arms a timer that is gone.
//! 2. The signal is unblocked in the waiting thread and during the wait only; a signal that is
//!    still on its way when the timer is deleted is delivered before the mask is restored.
//! 3. Exclusion never depends on a signal. Where it cannot be had, or the handler is no longer ours
//!    when a wait begins, waits have no early end and no limit, and nobody relies on either. A
//!    handler that is replaced while a call is under way costs that call its early end and its
//!    limit.
//!
//! The mutex here is the one of the crate that is held across system calls: `sigaction` and
//! `timer_settime`, which do not wait for anything.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::libc;

use super::is_interrupted;

/// How often the signal is repeated until the thread has left the call.
const REPEAT: Duration = Duration::from_millis(2);

/// Whether waits that begin now can be interrupted.
pub(super) fn is_available() -> bool {
    signal::number().is_some()
}

/// How a wait ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    Acquired,
    Interrupted,
}

/// One wait, as seen by the thread that waits and by those who may end it.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    state: Mutex<State>,
    requested: Condvar,
}

#[derive(Debug, Default)]
struct State {
    requested: bool,
    timer: Option<Timer>,
}

impl Interrupt {
    /// Makes the wait return, if that is possible, or not begin.
    pub(crate) fn request(&self) {
        let mut state = self.lock();
        state.requested = true;
        if let Some(timer) = &state.timer {
            // Somebody may have replaced the handler since the wait began, and would be called.
            if signal::handler_is_ours(timer.signal) {
                timer.arm(Duration::from_nanos(1), REPEAT);
            }
        }
        self.requested.notify_one();
    }

    /// Calls until there is an answer, or until the end is asked for.
    pub(super) fn wait(&self, call: impl FnMut() -> io::Result<()>) -> io::Result<Waited> {
        let _listening = Listening::begin(self, None);
        let waited = self.call_until(|| false, call)?;
        Ok(waited.expect("the time is never up"))
    }

    /// As `wait`, for no longer than this: `None` if the time is up.
    ///
    /// # Errors
    ///
    /// `Unsupported` if no limit can be set: then nothing has been called. The limit is a signal, so
    /// it fails to come if its handler is replaced in the meantime, and the call goes on.
    pub(super) fn wait_for(
        &self,
        limit: Duration,
        call: impl FnMut() -> io::Result<()>,
    ) -> io::Result<Option<Waited>> {
        let deadline = Instant::now() + limit;
        let listening = Listening::begin(self, Some(limit));
        if !listening.has_timer() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.call_until(|| Instant::now() >= deadline, call)
    }

    fn call_until(
        &self,
        mut time_is_up: impl FnMut() -> bool,
        mut call: impl FnMut() -> io::Result<()>,
    ) -> io::Result<Option<Waited>> {
        loop {
            if self.lock().requested {
                return Ok(Some(Waited::Interrupted));
            }
            if time_is_up() {
                return Ok(None);
            }
            match call() {
                Ok(()) => return Ok(Some(Waited::Acquired)),
                // Asked for, or time to look at the clock, or somebody else's signal.
                Err(error) if is_interrupted(&error) => {}
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
    mask: Option<libc::sigset_t>,
}

impl<'a> Listening<'a> {
    /// After the limit, if there is one, the thread is signalled as for an interrupt.
    fn begin(interrupt: &'a Interrupt, limit: Option<Duration>) -> Self {
        let mut listening = Self { interrupt, mask: None };
        if let Some(signal) = signal::number() {
            if let Some(timer) = Timer::new(signal) {
                listening.mask = unblock(signal);
                if let Some(limit) = limit {
                    timer.arm(limit, limit);
                }
                interrupt.lock().timer = Some(timer);
            }
        }
        listening
    }

    fn has_timer(&self) -> bool {
        self.mask.is_some()
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        // Deleted outside of the mutex, and before the mask is restored.
        let timer = self.interrupt.lock().timer.take();
        drop(timer);
        if let Some(mask) = &self.mask {
            // SAFETY: `mask` was filled in by pthread_sigmask, and the old mask is not asked for.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut()) };
        }
    }
}

/// Unblocks the signal in this thread; returns the mask that it had.
fn unblock(signal: libc::c_int) -> Option<libc::sigset_t> {
    let mut wanted = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initializes the set that it is given.
    unsafe { libc::sigemptyset(wanted.as_mut_ptr()) };
    // SAFETY: the set was initialized on the line above.
    unsafe { libc::sigaddset(wanted.as_mut_ptr(), signal) };
    // SAFETY: both pointers are valid for the call, and `wanted` is initialized.
    let failed =
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, wanted.as_ptr(), before.as_mut_ptr()) };
    // SAFETY: on success pthread_sigmask has filled in the old mask.
    (failed == 0).then(|| unsafe { before.assume_init() })
}

/// A timer that signals the thread that made it. Deleted when dropped.
#[derive(Debug)]
struct Timer {
    id: libc::timer_t,
    signal: libc::c_int,
}

// SAFETY: a timer belongs to the process; its id, a number in the guise of a pointer, is valid in
// every thread (timer_create(2)).
unsafe impl Send for Timer {}

impl Timer {
    /// `None` if the kernel has no timer to give (limits, seccomp).
    fn new(signal: libc::c_int) -> Option<Self> {
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
        (failed == 0).then(|| Self { id: unsafe { id.assume_init() }, signal })
    }

    /// Signals after the first time, which is not zero, and again and again.
    fn arm(&self, first: Duration, repeat: Duration) {
        let times = libc::itimerspec { it_value: timespec(first), it_interval: timespec(repeat) };
        // SAFETY: the timer exists until it is dropped; `times` is valid for the call, and the old
        // value is not asked for.
        let failed = unsafe { libc::timer_settime(self.id, 0, &times, ptr::null_mut()) };
        debug_assert_eq!(failed, 0, "a timer that exists, and a valid time");
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer exists, and this is its only deletion.
        unsafe { libc::timer_delete(self.id) };
    }
}

fn timespec(time: Duration) -> libc::timespec {
    // SAFETY: timespec is plain data for which all zeros is valid; some targets pad it.
    let mut spec: libc::timespec = unsafe { MaybeUninit::zeroed().assume_init() };
    spec.tv_sec = time.as_secs() as _;
    spec.tv_nsec = time.subsec_nanos() as _;
    spec
}

/// The one signal of the process that interrupts waits.
mod signal {
    use super::*;

    /// Not chosen yet.
    const UNDECIDED: libc::c_int = 0;
    /// Switched off, or none to be had.
    const NONE: libc::c_int = -1;

    static CHOSEN: AtomicI32 = AtomicI32::new(UNDECIDED);
    static CHOICE: Mutex<()> = Mutex::new(());

    /// The signal, if waits can be interrupted now. Chosen at the first call.
    pub(super) fn number() -> Option<libc::c_int> {
        match CHOSEN.load(Ordering::Acquire) {
            NONE => None,
            UNDECIDED => {
                let _choice = CHOICE.lock().unwrap_or_else(PoisonError::into_inner);
                if CHOSEN.load(Ordering::Acquire) == UNDECIDED {
                    // From the top: most programs count from SIGRTMIN.
                    let free = (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev().find(|n| claim(*n));
                    CHOSEN.store(free.unwrap_or(NONE), Ordering::Release);
                }
                number()
            }
            signal => handler_is_ours(signal).then_some(signal),
        }
    }

    /// Decides before the first wait does.
    pub(super) fn set(signal: Option<libc::c_int>) -> Result<(), super::SetSignalError> {
        use super::SetSignalError as E;
        let _choice = CHOICE.lock().unwrap_or_else(PoisonError::into_inner);
        if CHOSEN.load(Ordering::Acquire) != UNDECIDED {
            return Err(E::InUse);
        }
        let chosen = match signal {
            None => NONE,
            Some(n) if !(libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&n) => {
                return Err(E::NotRealTime);
            }
            Some(n) if !claim(n) => return Err(E::Taken),
            Some(n) => n,
        };
        CHOSEN.store(chosen, Ordering::Release);
        Ok(())
    }

    pub(super) fn handler_is_ours(signal: libc::c_int) -> bool {
        disposition(signal).is_some_and(|action| {
            action.sa_sigaction == handler() && action.sa_flags & libc::SA_RESTART == 0
        })
    }

    /// Installs our handler if the disposition is the default.
    fn claim(signal: libc::c_int) -> bool {
        if disposition(signal).is_none_or(|action| action.sa_sigaction != libc::SIG_DFL) {
            return false;
        }
        // SAFETY: sigaction is plain data for which all zeros is valid.
        let mut ours: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        ours.sa_sigaction = handler();
        // On the alternate stack where the thread has one, as runtimes with small stacks ask for.
        ours.sa_flags = libc::SA_ONSTACK;
        let mut before = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: the handler is async-signal-safe, for it does nothing; both pointers are valid.
        let failed = unsafe { libc::sigaction(signal, &ours, before.as_mut_ptr()) };
        if failed != 0 {
            return false;
        }
        // SAFETY: on success sigaction has filled in the old action.
        let before = unsafe { before.assume_init() };
        if before.sa_sigaction == libc::SIG_DFL {
            return true;
        }
        // Somebody took it since we looked. It is theirs.
        // SAFETY: `before` is what sigaction gave us.
        unsafe { libc::sigaction(signal, &before, ptr::null_mut()) };
        false
    }

    fn disposition(signal: libc::c_int) -> Option<libc::sigaction> {
        let mut action = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: no new action is given, and the pointer to the old one is valid.
        let failed = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
        // SAFETY: on success sigaction has filled in the action.
        (failed == 0).then(|| unsafe { action.assume_init() })
    }

    fn handler() -> libc::sighandler_t {
        extern "C" fn do_nothing(_signal: libc::c_int) {}
        do_nothing as extern "C" fn(libc::c_int) as libc::sighandler_t
    }
}

/// Why [`set_signal`] changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetSignalError {
    /// A wait has begun, or `set_signal` was called before: the choice is made.
    InUse,
    /// Not between `SIGRTMIN` and `SIGRTMAX`.
    NotRealTime,
    /// The program has another use for it: its disposition is not the default.
    Taken,
}

impl std::fmt::Display for SetSignalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::InUse => {
                "the signal that ends waits is chosen already: choose it before the first wait"
            }
            Self::NotRealTime => "the signal that ends waits must be one from SIGRTMIN to SIGRTMAX",
            Self::Taken => {
                "the signal has another disposition than the default: choose one that nobody uses"
            }
        })
    }
}

impl std::error::Error for SetSignalError {}

/// Chooses the signal that ends parked waits (`Some`, between `SIGRTMIN` and `SIGRTMAX`), or
/// switches interrupts off (`None`). Once in a process, before its first wait.
///
/// Without a call, the first wait that parks takes the highest real-time signal whose disposition
/// is the default.
///
/// # Errors
///
/// See [`SetSignalError`]; nothing is changed then.
///
/// # Examples
///
/// ```
/// // A program that handles all real-time signals itself.
/// tokio_filelock::interrupt::set_signal(None)?;
/// # Ok::<(), tokio_filelock::interrupt::SetSignalError>(())
/// ```
pub fn set_signal(signal: Option<i32>) -> Result<(), SetSignalError> {
    signal::set(signal)
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
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
            assert_eq!(waited.unwrap(), Waited::Acquired);
            let opened = before.iter().zip(&during).filter(|(before, during)| before != during);
            assert_eq!(opened.count(), 1, "one signal is unblocked during the wait");
            assert_eq!(blocked(), before);
        });
        all_blocked.join().unwrap();
    }
}
