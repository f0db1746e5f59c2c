//! The signal that ends a wait, among programs that have signals of their own. Dispositions belong
//! to the whole process, so each case is a process.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::path::Path;
use std::pin::{Pin, pin};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::thread;

use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_filelock::interrupt::{SetSignalError, set_signal};
use tokio_filelock::{Acquire, ExclusiveGuard, FileLock, Protocol};

use crate::child::Role;
use crate::support::locker::{Locker, is_free};
use crate::support::place::Place;
use crate::support::process::{Process, commands, say};
use crate::support::{Mode, each_protocol, kernel, protocol, until};

// Elsewhere there is no second choice.
#[cfg(not(tokio_filelock_posix))]
#[test]
fn signals_that_are_taken_before_are_left_alone() {
    wait_that_is_interrupted("taken before");
}

#[test]
fn another_signal_can_be_chosen() {
    wait_that_is_interrupted("chosen");
}

#[test]
fn the_signal_is_there_for_one_thread_and_one_wait() {
    wait_that_is_interrupted("seen by no other thread");
}

#[test]
fn switched_off_a_wait_polls() {
    wait_that_polls(|path| in_case("off", path));
}

#[test]
fn with_the_handlers_replaced_a_wait_polls() {
    wait_that_polls(|path| in_case("replaced", path));
}

#[test]
fn with_the_handlers_replaced_by_some_that_restart_a_wait_polls() {
    wait_that_polls(|path| in_case("replaced by some that restart", path));
}

// Elsewhere there is no second choice.
#[cfg(not(tokio_filelock_posix))]
#[test]
fn with_one_handler_replaced_another_signal_takes_its_place() {
    wait_that_is_interrupted("one replaced");
}

/// As threads of libraries do that are to be left alone: that is no program that fetches signals.
#[cfg(not(tokio_filelock_posix))]
#[test]
fn a_thread_that_blocks_all_signals_does_not_keep_a_wait_from_being_interrupted() {
    wait_that_is_interrupted("all blocked in one thread");
}

// ---- a program that fetches signals, by sigwait(3) or signalfd(2): their dispositions are the default, and
// all threads block them

#[cfg(not(tokio_filelock_posix))]
#[test]
fn signals_that_the_program_fetches_are_left_to_it() {
    let blocked = ["env", "--block-signal=RTMAX", "--block-signal=RTMAX-1"];
    with_holder(|path| {
        let waiter = in_case_under(&blocked, "fetched", path);
        waiter.expect("the wait has ended");
        waiter.finish();
    });
}

#[cfg(not(tokio_filelock_posix))]
#[test]
fn a_signal_that_the_program_begins_to_fetch_is_left_to_it() {
    wait_that_is_interrupted("fetched from now on");
}

#[test]
fn a_program_that_may_fetch_all_signals_polls() {
    wait_that_polls(|path| in_case_under(&["env", "--block-signal"], "blocked", path));
}

#[test]
fn a_program_that_blocks_the_signal_may_choose_it_all_the_same() {
    with_holder(|path| {
        let waiter = in_case_under(&["env", "--block-signal"], "blocked and chosen", path);
        waiter.expect("the wait has ended");
        waiter.finish();
    });
}

// ---- without timers

/// All programs of the user have this limit in common: a profiler may use it up.
#[test]
fn without_timers_a_wait_ends_all_the_same() {
    wait_that_is_interrupted("no timers");
}

/// As a sandbox does that knows the one call and not the other.
#[cfg(all(target_os = "linux", not(tokio_filelock_posix)))]
#[test]
fn with_timers_that_cannot_be_armed_a_wait_ends_all_the_same() {
    wait_that_is_interrupted("timers that cannot be armed");
}

/// A sandbox that is set up in the middle of a wait.
#[cfg(all(target_os = "linux", not(tokio_filelock_posix)))]
#[test]
fn with_a_timer_that_cannot_be_armed_any_more_a_wait_ends_all_the_same() {
    wait_that_is_interrupted("timers that cannot be armed any more");
}

#[cfg(all(target_os = "linux", not(tokio_filelock_posix)))]
#[test]
fn where_no_signal_can_be_sent_a_wait_polls() {
    for calls in ["no timers and no signals", "timers that cannot be armed and no signals"] {
        wait_that_polls(|path| in_case(calls, path));
    }
}

each_protocol!(#[test] fn without_timers_a_stopped_process_that_is_next_is_passed);
/// The limit of a wait for the turnstile is a signal, too.
fn without_timers_a_stopped_process_that_is_next_is_passed(protocol: Protocol) {
    a_stopped_process_that_is_next_is_passed("passes", protocol);
}

#[cfg(all(target_os = "linux", not(tokio_filelock_posix)))]
each_protocol!(
    #[test]
    fn with_timers_that_cannot_be_armed_a_stopped_process_that_is_next_is_passed
);
#[cfg(all(target_os = "linux", not(tokio_filelock_posix)))]
fn with_timers_that_cannot_be_armed_a_stopped_process_that_is_next_is_passed(protocol: Protocol) {
    a_stopped_process_that_is_next_is_passed("passes where timers cannot be armed", protocol);
}

fn a_stopped_process_that_is_next_is_passed(case: &str, protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let mut holder = Locker::holding(&path, protocol, Mode::Exclusive);
    let mut next = Locker::open(&path, protocol);
    next.start_to_wait(Mode::Exclusive);
    kernel::await_waiting_calls(&path, 1);
    let pid = Pid::from_raw(next.pid().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    kernel::await_stop(next.pid());
    let name = format!("{protocol:?}");
    let other = Process::in_role(Role::Signals, &[case, path.to_str().unwrap(), &name]);
    // At the turnstile. The call of the one who is stopped is not listed.
    kernel::await_waiting_calls(&path, 1);
    holder.unlock();
    other.expect("held");
    other.finish();
    kill(pid, Signal::SIGCONT).unwrap();
    next.expect_held();
    next.finish();
    holder.finish();
}

/// The wait ends although the holder does not let go.
fn wait_that_is_interrupted(case: &str) {
    with_holder(|path| {
        let waiter = in_case(case, path);
        waiter.expect("the wait has ended");
        waiter.finish();
    });
}

fn with_holder(test: impl FnOnce(&Path)) {
    let place = Place::new();
    let holder = Locker::holding(&place.lock_file(), Protocol::Flock, Mode::Exclusive);
    test(&place.lock_file());
    holder.finish();
    assert!(is_free(&place.lock_file(), Protocol::Flock, Mode::Exclusive));
}

/// The wait ends although the holder does not let go, with no call in the kernel; the next one ends
/// with the lock.
fn wait_that_polls(start: impl FnOnce(&Path) -> Process) {
    let place = Place::new();
    let mut holder = Locker::holding(&place.lock_file(), Protocol::Flock, Mode::Exclusive);
    let mut waiter = start(&place.lock_file());
    waiter.expect("the wait has ended");
    holder.unlock();
    waiter.expect("held");
    assert_eq!(holder.try_lock(Mode::Exclusive), "would block");
    waiter.tell("unlock");
    waiter.expect("unlocked");
    assert_eq!(holder.try_lock(Mode::Exclusive), "held");
    waiter.finish();
    holder.finish();
    assert!(is_free(&place.lock_file(), Protocol::Flock, Mode::Exclusive));
}

fn in_case(case: &str, path: &Path) -> Process {
    in_case_under(&[], case, path)
}

fn in_case_under(program: &[&str], case: &str, path: &Path) -> Process {
    Process::in_role_under(program, Role::Signals, &[case, path.to_str().unwrap()])
}

// ---- in the child ----

/// The signal that is taken if the program chooses none.
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
    let [case, path, more @ ..] = arguments else { panic!("{arguments:?}") };
    let name = more.first().map_or("Flock", String::as_str);
    let options = FileLock::options().protocol(protocol(name));
    let lock = options.blocking_open(Path::new(path)).unwrap();
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
        "all blocked in one thread" => {
            let (blocked, is_blocked) = mpsc::channel();
            thread::spawn(move || {
                block_all();
                blocked.send(()).unwrap();
                loop {
                    thread::park();
                }
            });
            is_blocked.recv().unwrap();
            wait_and_give_up(&lock);
            say("the wait has ended");
        }
        "fetched" => {
            for signal in [libc::SIGRTMAX(), libc::SIGRTMAX() - 1] {
                let waiting = queued(&lock);
                assert_eq!(send_and_fetch(signal), SENT);
                drop(waiting);
                kernel::await_no_waiting_calls(lock.path());
                assert_eq!(handler(signal), libc::SIG_DFL);
            }
            say("the wait has ended");
        }
        "fetched from now on" => {
            wait_and_give_up(&lock);
            // One that exists already does not block it, either.
            kernel::await_no_wait_threads();
            block_in_first_thread(first_choice());
            block_all();
            let waiting = queued(&lock);
            assert_eq!(send_and_fetch(first_choice()), SENT);
            drop(waiting);
            kernel::await_no_waiting_calls(lock.path());
            say("the wait has ended");
        }
        "blocked" => poll(&lock),
        "blocked and chosen" => {
            set_signal(Some(first_choice())).unwrap();
            wait_and_give_up(&lock);
            say("the wait has ended");
        }
        "no timers" => {
            setrlimit(Resource::RLIMIT_SIGPENDING, 0, 0).unwrap();
            for _ in 0..10 {
                wait_and_give_up(&lock);
            }
            say("the wait has ended");
        }
        #[cfg(target_os = "linux")]
        "timers that cannot be armed" => {
            refuse(libc::SYS_timer_settime);
            for _ in 0..10 {
                wait_and_give_up(&lock);
            }
            say("the wait has ended");
        }
        #[cfg(target_os = "linux")]
        "timers that cannot be armed any more" => {
            wait_and_give_up(&lock);
            let waiting = queued(&lock);
            refuse(libc::SYS_timer_settime);
            drop(waiting);
            kernel::await_no_waiting_calls(lock.path());
            wait_and_give_up(&lock);
            say("the wait has ended");
        }
        #[cfg(target_os = "linux")]
        "no timers and no signals" => {
            [libc::SYS_timer_create, libc::SYS_tgkill].into_iter().for_each(refuse);
            poll(&lock);
        }
        #[cfg(target_os = "linux")]
        "timers that cannot be armed and no signals" => {
            [libc::SYS_timer_settime, libc::SYS_tgkill].into_iter().for_each(refuse);
            poll(&lock);
        }
        #[cfg(target_os = "linux")]
        "passes where timers cannot be armed" => {
            refuse(libc::SYS_timer_settime);
            drop(lock.blocking_lock().unwrap());
            say("held");
        }
        "passes" => {
            setrlimit(Resource::RLIMIT_SIGPENDING, 0, 0).unwrap();
            drop(lock.blocking_lock().unwrap());
            say("held");
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
        "seen by no other thread" => {
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
            poll(&lock);
            assert_eq!(handler(first_choice()), libc::SIG_DFL, "no signal is taken");
        }
        "replaced" => {
            wait_and_give_up(&lock);
            [first_choice(), libc::SIGURG].iter().for_each(|signal| handle(*signal, 0));
            poll(&lock);
        }
        "replaced by some that restart" => {
            wait_and_give_up(&lock);
            let taken = [first_choice(), libc::SIGURG];
            taken.iter().for_each(|signal| handle(*signal, libc::SA_RESTART));
            poll(&lock);
        }
        "one replaced" => {
            wait_and_give_up(&lock);
            handle(first_choice(), 0);
            wait_and_give_up(&lock);
            assert_eq!(handler(first_choice()), ours(), "it is ours");
            assert_eq!(HANDLED.load(Ordering::Relaxed), 0);
            say("the wait has ended");
        }
        _ => panic!("{case}"),
    }
}

#[cfg(target_os = "linux")]
fn refuse(call: libc::c_long) {
    crate::support::seccomp::refuse(call, &[], libc::EPERM);
}

/// A request that waits in the kernel.
fn queued(lock: &FileLock) -> Pin<Box<Acquire<ExclusiveGuard>>> {
    let acquire = requested(lock);
    kernel::await_waiting_calls(lock.path(), 1);
    acquire
}

/// A request that a thread has been started for.
fn polling(lock: &FileLock) -> Pin<Box<Acquire<ExclusiveGuard>>> {
    let acquire = requested(lock);
    let is_there =
        || kernel::threads(std::process::id()).iter().any(|name| name == "filelock-wait");
    until("a thread of the wait pool is there", is_there);
    acquire
}

fn requested(lock: &FileLock) -> Pin<Box<Acquire<ExclusiveGuard>>> {
    let mut acquire = Box::pin(lock.lock());
    let polled = pin!(&mut acquire).poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    acquire
}

fn wait_and_give_up(lock: &FileLock) {
    drop(queued(lock));
    kernel::await_no_waiting_calls(lock.path());
}

/// What happens where waits are not interrupted.
fn poll(lock: &FileLock) {
    drop(polling(lock));
    // A thread that waits for the holder would not end.
    kernel::await_no_wait_threads();
    say("the wait has ended");
    let guard = lock.blocking_lock().unwrap();
    say("held");
    assert_eq!(commands().next().as_deref(), Some("unlock"));
    drop(guard);
    say("unlocked");
    assert_eq!(commands().next(), None);
    assert_eq!(HANDLED.load(Ordering::Relaxed), 0, "a handler that is not ours is not called");
}

/// So many signals the process sends itself.
const SENT: usize = 200;

/// How many of them this thread fetches.
fn send_and_fetch(signal: libc::c_int) -> usize {
    let process = std::process::id().try_into().unwrap();
    for _ in 0..SENT {
        let value = libc::sigval { sival_ptr: ptr::null_mut() };
        // SAFETY: the value is a plain pointer that no code follows.
        let failed = unsafe { libc::sigqueue(process, signal, value) };
        assert_eq!(failed, 0);
    }
    let set = set_of(&[signal]);
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set and the time are valid for the call; no information is asked for.
    let fetch = || unsafe { libc::sigtimedwait(&set, ptr::null_mut(), &at_once) };
    std::iter::repeat_with(fetch).take_while(|fetched| *fetched == signal).count()
}

fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initializes the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialized on the line above.
    let mut set = unsafe { set.assume_init() };
    for signal in signals {
        // SAFETY: the set is initialized.
        unsafe { libc::sigaddset(&mut set, *signal) };
    }
    set
}

/// In this thread, and in those that it starts.
fn block_all() {
    let all: Vec<_> = (1..=libc::SIGRTMAX()).collect();
    // SAFETY: the set is initialized, and the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &set_of(&all), ptr::null_mut()) };
}

/// That thread is the harness's: it changes its mask when it returns from a signal's handler.
fn block_in_first_thread(signal: libc::c_int) {
    static SIGNAL: AtomicI32 = AtomicI32::new(0);
    extern "C" fn block(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let context = context.cast::<libc::ucontext_t>();
        // SAFETY: the kernel gives a context that is valid, and this thread's alone, until the handler
        // returns.
        let mask = unsafe { &mut (*context).uc_sigmask };
        // SAFETY: sigaddset is async-signal-safe, and the mask is initialized.
        unsafe { libc::sigaddset(mask, SIGNAL.load(Ordering::Relaxed)) };
    }
    SIGNAL.store(signal, Ordering::Relaxed);
    let block = block as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    set_handler(libc::SIGUSR1, block as libc::sighandler_t, libc::SA_SIGINFO);
    let first = std::process::id();
    // SAFETY: tgkill has no preconditions; the first thread has the number of the process.
    let failed = unsafe { libc::syscall(libc::SYS_tgkill, first, first, libc::SIGUSR1) };
    assert_eq!(failed, 0);
    let is_blocked = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
    };
    until("the first thread blocks the signal", is_blocked);
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
    set_handler(signal, ours(), flags);
}

fn set_handler(signal: libc::c_int, handler: libc::sighandler_t, flags: libc::c_int) {
    // SAFETY: sigaction is plain data for which all zeros is valid.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
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
