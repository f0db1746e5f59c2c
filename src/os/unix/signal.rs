//! The signals of the process that interrupt waits: their choice, their handler, who may get them.
//!
//! A disposition that is the default does not make a signal free: a program fetches signals with
//! sigwait(3) or signalfd(2) without one. It blocks them in all threads for that. So a signal that a
//! thread blocks is chosen last, and one that the first thread blocks is not used at all, unless the
//! program itself has chosen it.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::libc;

use super::kernel::{alarm, masks};

/// Not chosen yet.
const UNDECIDED: libc::c_int = 0;
/// Switched off, or none to be had.
const NONE: libc::c_int = -1;

static CHOSEN: Choice = Choice::new();
/// By the program, which knows what it does with its signals, and wants no other one taken.
static TOLD: AtomicBool = AtomicBool::new(false);
/// Held while a choice is made.
static CHOOSING: Mutex<()> = Mutex::new(());

/// The signal, if it can be used now. Chosen at the first call.
pub(super) fn number() -> Option<libc::c_int> {
    CHOSEN.number(alarm::preferred_signals())
}

/// No signal but that of [`number`] may be taken.
pub(super) fn was_told() -> bool {
    TOLD.load(Ordering::Acquire)
}

/// Decides before the first wait does.
fn set(signal: Option<libc::c_int>) -> Result<(), SetSignalError> {
    use SetSignalError as E;
    let _choosing = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
    if CHOSEN.0.load(Ordering::Acquire) != UNDECIDED {
        return Err(E::InUse);
    }
    let chosen = match signal {
        None => NONE,
        Some(n) if !alarm::is_suitable(n) => return Err(E::Unsuitable),
        Some(n) if !claim(n) => return Err(E::Taken),
        Some(n) => n,
    };
    TOLD.store(true, Ordering::Release);
    CHOSEN.0.store(chosen, Ordering::Release);
    Ok(())
}

/// A signal that is chosen once in a process.
pub(super) struct Choice(AtomicI32);

impl Choice {
    pub(super) const fn new() -> Self {
        Self(AtomicI32::new(UNDECIDED))
    }

    /// The signal, if it can be used now: the first candidate that was free at the first call.
    pub(super) fn number(
        &self,
        candidates: impl Iterator<Item = libc::c_int> + Clone,
    ) -> Option<libc::c_int> {
        if self.0.load(Ordering::Acquire) == UNDECIDED {
            let _choosing = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
            if self.0.load(Ordering::Acquire) == UNDECIDED {
                self.0.store(choose(candidates).unwrap_or(NONE), Ordering::Release);
            }
        }
        match self.0.load(Ordering::Acquire) {
            NONE => None,
            signal => {
                let is_free = was_told() || !masks::may_be_fetched(signal);
                (is_free && handler_is_ours(signal)).then_some(signal)
            }
        }
    }
}

fn choose(candidates: impl Iterator<Item = libc::c_int> + Clone) -> Option<libc::c_int> {
    let free = candidates.clone().find(|n| !masks::is_blocked_in_any(*n) && claim(*n));
    free.or_else(|| candidates.clone().find(|n| !masks::may_be_fetched(*n) && claim(*n)))
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

/// Unblocks the signal in this thread; returns the mask that it had.
pub(super) fn unblock(signal: libc::c_int) -> Option<libc::sigset_t> {
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

/// Why [`set_signal`] changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetSignalError {
    /// A wait has begun, or `set_signal` was called before: the choice is made.
    InUse,
    /// Not one that may serve: on Linux those from `SIGRTMIN` to `SIGRTMAX` for which timers can be
    /// made (an emulator may lack some), elsewhere `SIGURG`, `SIGIO`, `SIGUSR1`, `SIGUSR2` and `SIGWINCH`.
    Unsuitable,
    /// The program has another use for it: its disposition is not the default.
    Taken,
}

impl std::fmt::Display for SetSignalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::InUse => {
                "the signal that ends waits is chosen already: choose it before the first wait"
            }
            Self::Unsuitable => alarm::SUITABLE,
            Self::Taken => {
                "the signal has another disposition than the default: choose one that nobody uses"
            }
        })
    }
}

impl std::error::Error for SetSignalError {}

/// Chooses the signal that ends parked waits (`Some`; on Linux from `SIGRTMIN` to `SIGRTMAX`,
/// elsewhere `SIGURG`, `SIGIO`, `SIGUSR1`, `SIGUSR2` or `SIGWINCH`), or switches interrupts off
/// (`None`): waits are polls then. Once in a process, before its first wait.
///
/// No other signal is taken then, and whether threads block the chosen one is not looked at.
///
/// Without a call, the first wait that parks takes one that is free
/// ([`interrupt`](crate::interrupt)).
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
    set(signal)
}
