//! The signal that ends a wait, among programs that have signals of their own. Dispositions belong
//! to the whole process, so each case is a process.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::path::Path;
use std::pin::pin;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use nix::libc;
use tokio_filelock::interrupt::{SetSignalError, set_signal};
use tokio_filelock::{Acquire, ExclusiveGuard, FileLock, Protocol};

use crate::support::locker::{Locker, is_free};
use crate::support::place::Place;
use crate::support::process::{Process, say};
use crate::support::{Mode, kernel};

// Elsewhere there is no second choice.
#[cfg(not(tokio_filelock_posix))]
#[test]
fn signals_that_are_taken_before_are_left_alone() {
    wait_that_is_interrupted("taken before");
}

#[test]
fn a_wait_ends_although_the_parent_thread_has_blocked_all_signals() {
    wait_that_is_interrupted("all blocked");
}

#[test]
fn another_signal_can_be_chosen() {
    wait_that_is_interrupted("chosen");
}

#[test]
fn the_signal_is_there_for_one_thread_and_one_wait() {
    wait_that_is_interrupted("seen by nobody else");
}

#[test]
fn switched_off_a_wait_ends_with_the_lock() {
    wait_that_stays("off");
}

#[test]
fn with_its_handler_replaced_a_wait_ends_with_the_lock() {
    wait_that_stays("replaced");
}

#[test]
fn with_its_handler_replaced_by_one_that_restarts_a_wait_ends_with_the_lock() {
    wait_that_stays("replaced by one that restarts");
}

/// The wait ends although the holder does not let go.
fn wait_that_is_interrupted(case: &str) {
    let place = Place::new();
    let holder = Locker::holding(&place.lock_file(), Protocol::Flock, Mode::Exclusive);
    let waiter = in_case(case, &place.lock_file());
    waiter.expect("the wait has ended");
    waiter.finish();
    holder.finish();
    assert!(is_free(&place.lock_file(), Protocol::Flock, Mode::Exclusive));
}

/// The wait stays parked, is taken over by the next task, and gives the lock back when nobody
/// wants it: exclusion and cancel safety are as always.
fn wait_that_stays(case: &str) {
    let place = Place::new();
    let mut holder = Locker::holding(&place.lock_file(), Protocol::Flock, Mode::Exclusive);
    let waiter = in_case(case, &place.lock_file());
    waiter.expect("the wait has been taken over");
    holder.unlock();
    waiter.expect("held");
    assert_eq!(holder.try_lock(Mode::Exclusive), "would block");
    let mut waiter = waiter;
    waiter.tell("unlock");
    waiter.expect("unlocked");
    assert_eq!(holder.try_lock(Mode::Exclusive), "held");
    waiter.tell("wait");
    waiter.expect("given up");
    holder.unlock();
    kernel::await_no_waiting_calls(&place.lock_file());
    waiter.finish();
    assert!(is_free(&place.lock_file(), Protocol::Flock, Mode::Exclusive));
    holder.finish();
}

fn in_case(case: &str, path: &Path) -> Process {
    Process::in_role("signals", &[case, path.to_str().unwrap()])
}

// ---- in the child ----

/// The signal that is taken if nobody chooses.
fn first_choice() -> libc::c_int {
    if cfg!(tokio_filelock_posix) { libc::SIGURG } else { libc::SIGRTMAX() }
}

/// Two that may be chosen, and one that may not.
fn choices() -> ([libc::c_int; 2], libc::c_int) {
    if cfg!(tokio_filelock_posix) {
        ([libc::SIGUSR1, libc::SIGUSR2], libc::SIGRTMAX())
    } else {
        ([libc::SIGRTMIN() + 3, libc::SIGRTMIN() + 4], libc::SIGUSR1)
    }
}

pub(crate) fn in_child(arguments: &[String]) {
    let [case, path] = arguments else { panic!("{arguments:?}") };
    let path = Path::new(path);
    let lock = FileLock::options().blocking_open(path).unwrap();
    match case.as_str() {
        "taken before" => {
            let taken = (libc::SIGRTMAX() - 4)..=libc::SIGRTMAX();
            taken.clone().for_each(|signal| handle(signal, 0));
            wait_and_give_up(&lock);
            say("the wait has ended");
            assert!(taken.clone().all(|signal| handler(signal) == ours()), "they are ours");
            let chosen = libc::SIGRTMAX() - 5;
            assert_ne!(handler(chosen), libc::SIG_DFL, "the next one is taken instead");
            assert_eq!(HANDLED.load(Ordering::Relaxed), 0, "no signal but the chosen one");
        }
        "all blocked" => {
            let mut all = MaybeUninit::<libc::sigset_t>::uninit();
            // SAFETY: sigfillset initializes the set that it is given.
            unsafe { libc::sigfillset(all.as_mut_ptr()) };
            // SAFETY: the set is initialized, and the old mask is not asked for.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut()) };
            wait_and_give_up(&lock);
            say("the wait has ended");
        }
        "chosen" => {
            let ([free, taken], unsuitable) = choices();
            handle(taken, 0);
            assert_eq!(set_signal(Some(unsuitable)), Err(SetSignalError::Unsuitable));
            assert_eq!(set_signal(Some(taken)), Err(SetSignalError::Taken));
            set_signal(Some(free)).unwrap();
            assert_eq!(set_signal(None), Err(SetSignalError::InUse));
            wait_and_give_up(&lock);
            say("the wait has ended");
            assert_ne!(handler(free), libc::SIG_DFL);
            assert_eq!(handler(first_choice()), libc::SIG_DFL, "none but the chosen one is taken");
        }
        "seen by nobody else" => {
            for _ in 0..100 {
                wait_and_give_up(&lock);
            }
            // Every other call that a signal would interrupt: this thread had none.
            // SAFETY: no descriptors are given, so there is no pointer to be valid.
            let answer = unsafe { libc::poll(ptr::null_mut(), 0, 0) };
            assert_eq!(answer, 0);
            assert_eq!(set_signal(None), Err(SetSignalError::InUse));
            say("the wait has ended");
        }
        "off" => {
            set_signal(None).unwrap();
            be_taken_over(&lock);
            assert_eq!(handler(first_choice()), libc::SIG_DFL, "no signal is taken");
        }
        "replaced" => {
            wait_and_give_up(&lock);
            handle(first_choice(), 0);
            be_taken_over(&lock);
        }
        "replaced by one that restarts" => {
            wait_and_give_up(&lock);
            handle(first_choice(), libc::SA_RESTART);
            be_taken_over(&lock);
        }
        _ => panic!("{case}"),
    }
}

/// A request that waits.
fn queued(lock: &FileLock) -> std::pin::Pin<Box<Acquire<ExclusiveGuard>>> {
    let mut acquire = Box::pin(lock.lock());
    let polled = pin!(&mut acquire).poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    kernel::await_waiting_calls(lock.path(), 1);
    acquire
}

fn wait_and_give_up(lock: &FileLock) {
    drop(queued(lock));
    kernel::await_no_waiting_calls(lock.path());
}

/// What happens where waits are not interrupted.
fn be_taken_over(lock: &FileLock) {
    let mut commands = crate::support::process::commands();
    drop(queued(lock));
    kernel::await_waiting_calls(lock.path(), 1);
    let next = queued(lock);
    say("the wait has been taken over");
    let guard = futures::executor::block_on(next).unwrap();
    say("held");
    assert_eq!(commands.next().as_deref(), Some("unlock"));
    drop(guard);
    say("unlocked");
    assert_eq!(commands.next().as_deref(), Some("wait"));
    drop(queued(lock));
    say("given up");
    assert_eq!(commands.next(), None);
    assert_eq!(HANDLED.load(Ordering::Relaxed), 0, "a handler that is not ours is not called");
}

static HANDLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_signal: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

fn ours() -> libc::sighandler_t {
    count as extern "C" fn(libc::c_int) as libc::sighandler_t
}

/// Installs a handler of the program's own.
fn handle(signal: libc::c_int, flags: libc::c_int) {
    // SAFETY: sigaction is plain data for which all zeros is valid.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = ours();
    action.sa_flags = flags;
    // SAFETY: the handler is async-signal-safe; the old action is not asked for.
    let failed = unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
    assert_eq!(failed, 0);
}

fn handler(signal: libc::c_int) -> libc::sighandler_t {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: no new action is given, and the pointer to the old one is valid.
    let failed = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    assert_eq!(failed, 0);
    // SAFETY: sigaction has filled in the action.
    unsafe { action.assume_init() }.sa_sigaction
}
