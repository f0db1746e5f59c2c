//! The signals of the process that interrupt waits: their choice, their handler, which threads may get them.
//!
//! A disposition that is the default does not make a signal free: a program fetches signals with
//! sigwait(3) or signalfd(2) without one. It blocks them in all threads for that. So a signal that a
//! thread blocks is chosen last, and one that the first thread blocks is not used at all, unless the
//! program itself has chosen it.
//!
//! A forked child inherits the choice in whatever state it was, and must not wait for a thread that was making
//! it. So there is no mutex: threads that choose at one time may choose differently, and the first one counts.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::libc;

use super::kernel::{masks, suitable};

static CHOSEN: Choice = Choice::new();

/// The signal, if it can be used now. Chosen at the first call.
pub(super) fn number() -> Option<libc::c_int> {
    CHOSEN.number(suitable::preferred_signals())
}

/// No signal but that of [`number`] may be taken: the program has chosen, which knows what it does with its
/// signals.
#[cfg_attr(
    any(tokio_filelock_posix, not(any(target_os = "linux", target_os = "android"))),
    allow(dead_code)
)] // there is no other signal that might be taken
pub(super) fn was_told() -> bool {
    CHOSEN.load() & TOLD != 0
}

/// Decides before the first wait does.
fn set(signal: Option<libc::c_int>) -> Result<(), SetSignalError> {
    use SetSignalError as E;
    if CHOSEN.load() != UNDECIDED {
        return Err(E::InUse);
    }
    let chosen = match signal {
        None => NONE,
        Some(n) if !suitable::is_suitable(n) => return Err(E::Unsuitable),
        Some(n) if !claim(n) => return Err(E::Taken),
        Some(n) => n,
    };
    CHOSEN.decide(chosen | TOLD).map_err(|_| E::InUse)
}

/// A signal that is chosen once in a process: one of these, or its number; and [`TOLD`].
pub(super) struct Choice(AtomicI32);

/// Not chosen yet.
const UNDECIDED: libc::c_int = 0;
/// Switched off, or none to be had. Higher than all signals.
const NONE: libc::c_int = 1 << 8;
/// By the program.
const TOLD: libc::c_int = 1 << 9;

impl Choice {
    pub(super) const fn new() -> Self {
        Self(AtomicI32::new(UNDECIDED))
    }

    fn load(&self) -> libc::c_int {
        self.0.load(Ordering::Acquire)
    }

    /// The signal, if it can be used now: the first candidate that was free at the first call.
    pub(super) fn number(
        &self,
        candidates: impl Iterator<Item = libc::c_int> + Clone,
    ) -> Option<libc::c_int> {
        let chosen = match self.load() {
            UNDECIDED => {
                let chosen = choose(candidates).unwrap_or(NONE);
                self.decide(chosen).map_or_else(|others| others, |()| chosen)
            }
            chosen => chosen,
        };
        let signal = Some(chosen & !TOLD).filter(|signal| *signal != NONE)?;
        let is_free = chosen & TOLD != 0 || !masks::may_be_fetched(signal);
        (is_free && handler_is_ours(signal)).then_some(signal)
    }

    /// Chooses what was claimed, unless another thread was faster: then its choice counts.
    fn decide(&self, chosen: libc::c_int) -> Result<(), libc::c_int> {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.0.compare_exchange(UNDECIDED, chosen, success, failure).map(drop).inspect_err(
            |others| {
                let [claimed, counts] = [chosen, *others].map(|choice| choice & !TOLD);
                if claimed != counts && claimed != NONE {
                    release(claimed);
                }
            },
        )
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

/// Installs our handler if the disposition is the default. That it is there already is as good: another thread
/// is about to choose it, or was when this process was forked.
fn claim(signal: libc::c_int) -> bool {
    match disposition(signal) {
        Some(action) if action.sa_sigaction == handler() => return true,
        Some(action) if action.sa_sigaction == libc::SIG_DFL => {}
        _ => return false,
    }
    // On the alternate stack where the thread has one, as runtimes with small stacks ask for.
    let Some(before) = replace(signal, &action(handler(), libc::SA_ONSTACK)) else { return false };
    if [libc::SIG_DFL, handler()].contains(&before.sa_sigaction) {
        return true;
    }
    // Other code took it since we looked.
    replace(signal, &before);
    false
}

/// Gives a signal back that was claimed, and not chosen.
fn release(signal: libc::c_int) {
    if handler_is_ours(signal) {
        replace(signal, &action(libc::SIG_DFL, 0));
    }
}

fn action(handler: libc::sighandler_t, flags: libc::c_int) -> libc::sigaction {
    // SAFETY: sigaction is plain data for which all zeros is valid.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    (action.sa_sigaction, action.sa_flags) = (handler, flags);
    action
}

/// The action that it had.
fn replace(signal: libc::c_int, by: &libc::sigaction) -> Option<libc::sigaction> {
    let mut before = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a handler of ours is async-signal-safe, for it does nothing, and any other one was there before;
    // both pointers are valid.
    let failed = unsafe { libc::sigaction(signal, by, before.as_mut_ptr()) };
    // SAFETY: on success sigaction has filled in the old action.
    (failed == 0).then(|| unsafe { before.assume_init() })
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
            Self::Unsuitable => suitable::SUITABLE,
            Self::Taken => {
                "the signal has another disposition than the default: choose one that the program does not use"
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

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    /// A candidate that forks while it is looked at: the child chooses for itself.
    #[test]
    fn a_child_that_is_forked_in_the_middle_of_the_choice_makes_its_own() {
        let fork_first = || {
            std::iter::once_with(|| {
                // SAFETY: the child makes the choice, as any forked child may, and ends.
                let child = unsafe { libc::fork() };
                assert!(child >= 0);
                if child == 0 {
                    // SAFETY: ends the child if it hangs.
                    unsafe { libc::alarm(20) };
                    let chosen = Choice::new().number(std::iter::once(libc::SIGWINCH));
                    // SAFETY: ends the process without its destructors, as a forked child should.
                    unsafe { libc::_exit(i32::from(chosen != Some(libc::SIGWINCH))) };
                }
                let mut status = 0;
                // SAFETY: the pointer is valid for the call.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0, "it hung, or has no signal");
                libc::SIGWINCH
            })
        };
        let candidates = std::iter::once(()).flat_map(|()| fork_first());
        assert_eq!(Choice::new().number(candidates), Some(libc::SIGWINCH));
    }

    #[test]
    fn the_first_choice_counts_and_what_the_others_claimed_is_given_back() {
        let choice = Choice::new();
        // The candidates are gone through twice where a thread blocks the signal, as those of an emulator do.
        let slower = std::iter::once(()).map(|()| {
            assert!(matches!(choice.decide(libc::SIGIO), Ok(()) | Err(libc::SIGIO)));
            libc::SIGVTALRM
        });
        assert!(claim(libc::SIGIO));
        assert_eq!(choice.number(slower), Some(libc::SIGIO));
        assert!(!handler_is_ours(libc::SIGVTALRM));
        assert_eq!(choice.decide(libc::SIGIO | TOLD), Err(libc::SIGIO));
        assert!(handler_is_ours(libc::SIGIO));
    }
}
