//! A forked child has nothing of the parent's locks: it neither keeps nor drops them.
#![allow(unsafe_code)]

use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;

use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use tokio_filelock::{
    Counters, Error, ErrorKind, ExclusiveGuard, FileLock, LockSpace, Protocol, TryLockError,
    blocking_lock_all,
};

use crate::child::Role;
use crate::support::locker::is_free;
use crate::support::place::Place;
use crate::support::process::{Process, commands, say};
use crate::support::{Mode, each_protocol, protocol};

each_protocol!(#[test] fn a_forked_child_that_outlives_the_holder_does_not_keep_the_lock);
fn a_forked_child_that_outlives_the_holder_does_not_keep_the_lock(protocol: Protocol) {
    let place = Place::new();
    let parent = in_case("outlive", &place.lock_file(), protocol);
    parent.expect("forked");
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared));
    // The child lives for as long as this pipe is open.
    let child = parent.kill();
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");
    drop(child);
}

each_protocol!(#[test] fn a_guard_that_is_dropped_in_a_forked_child_stays_locked);
fn a_guard_that_is_dropped_in_a_forked_child_stays_locked(protocol: Protocol) {
    let place = Place::new();
    let parent = in_case("drop", &place.lock_file(), protocol);
    parent.expect("child content");
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared), "{protocol:?}");
    parent.finish();
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(#[test] fn what_is_used_in_a_forked_child_is_an_error_that_says_so);
fn what_is_used_in_a_forked_child_is_an_error_that_says_so(protocol: Protocol) {
    let place = Place::new();
    let parent = in_case("use", &place.lock_file(), protocol);
    parent.expect("child content");
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared), "{protocol:?}");
    parent.finish();
}

each_protocol!(#[test] fn a_forked_child_can_open_the_lock_file_for_itself);
fn a_forked_child_can_open_the_lock_file_for_itself(protocol: Protocol) {
    let place = Place::new();
    let parent = in_case("open", &place.lock_file(), protocol);
    parent.expect("child content");
    parent.finish();
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

#[test]
fn what_a_forked_child_asks_of_a_space_is_an_error_that_says_so() {
    let place = Place::new();
    let parent = in_case("space", &place.lock_file(), Protocol::Fcntl);
    parent.expect("child content");
    parent.finish();
}

#[cfg(target_os = "linux")]
#[cfg(not(tokio_filelock_posix))]
each_protocol!(#[test] fn a_child_that_was_made_past_the_handlers_has_nothing_of_the_locks_either);
#[cfg(target_os = "linux")]
#[cfg(not(tokio_filelock_posix))] // only a page that is wiped in children tells (MADV_WIPEONFORK), which is Linux's
fn a_child_that_was_made_past_the_handlers_has_nothing_of_the_locks_either(protocol: Protocol) {
    let place = Place::new();
    let parent = in_case("past the handlers", &place.lock_file(), protocol);
    parent.expect("done");
    parent.finish();
}

#[test]
fn no_child_keeps_a_lock_file_that_was_opened_at_the_same_time() {
    let place = Place::new();
    let parent = in_case("beside opens", &place.lock_file(), Protocol::Flock);
    parent.expect("done");
    parent.finish();
}

each_protocol!(#[test] fn a_handler_of_another_library_can_open_in_the_middle_of_a_fork);
fn a_handler_of_another_library_can_open_in_the_middle_of_a_fork(protocol: Protocol) {
    let place = Place::new();
    let parent = in_case("open in a handler", &place.lock_file(), protocol);
    parent.expect("done");
    parent.finish();
}

#[test]
fn a_child_that_is_forked_during_the_first_use_can_use_locks() {
    let place = Place::new();
    let parent = in_case("during the first use", &place.lock_file(), Protocol::Flock);
    parent.expect("done");
    parent.finish();
}

fn in_case(case: &str, path: &Path, protocol: Protocol) -> Process {
    Process::in_role(Role::Fork, &[case, path.to_str().unwrap(), &format!("{protocol:?}")])
}

// ---- in the parent of the forked child ----

pub(crate) fn in_child(arguments: &[String]) {
    let [case, path, name] = arguments else { panic!("{arguments:?}") };
    if case == "space" {
        return ask_inherited_space(path);
    }
    if case == "during the first use" {
        return during_the_first_use(Path::new(path));
    }
    if case == "open in a handler" {
        return open_in_a_handler(path, protocol(name));
    }
    let open = || FileLock::options().protocol(protocol(name)).blocking_open(path).unwrap();
    let lock = open();
    let guard = lock.try_lock().unwrap();
    match case.as_str() {
        "outlive" => {
            in_forked_child_that_stays(|| {
                let _ = std::io::stdin().read(&mut [0]);
            });
            say("forked");
            commands().for_each(drop);
        }
        "drop" => {
            let (dropped, lock) = ((guard, queued(&lock)), lock);
            in_forked_child(move || {
                drop(dropped);
                drop(lock);
            });
        }
        "use" => {
            let waiting = queued(&lock);
            in_forked_child(move || use_what_is_inherited(&lock, guard, waiting));
        }
        "past the handlers" => past_the_handlers(Path::new(path), protocol(name), lock, guard),
        "beside opens" => beside_opens(Path::new(path)),
        "open" => {
            let again = lock.clone();
            in_forked_child(move || {
                let own = open();
                assert!(matches!(own.try_lock(), Err(TryLockError::WouldBlock(_))), "the parent's");
                assert_eq!(own.counters().tenures, 0, "a queue of its own");
                drop(again);
            });
            drop(guard);
            in_forked_child(move || {
                let own = open();
                drop(own.blocking_lock().unwrap());
                drop(own.try_lock().unwrap());
            });
        }
        _ => panic!("{case}"),
    }
}

fn ask_inherited_space(path: &str) {
    let space = LockSpace::options().blocking_open(path).unwrap();
    let key = space.key("a");
    let guard = key.blocking_lock().unwrap();
    // A key registers when it is used first: not in the child, in the parent's registry.
    let unused = space.key("c");
    in_forked_child(move || {
        assert_eq!(unused.blocking_lock().unwrap_err().kind(), ErrorKind::Forked);
        assert_eq!(unused.blocking_holders().unwrap_err().kind(), ErrorKind::Forked);
        assert_eq!(unused.counters(), Counters::default());
        assert!(unused.with_label("label").is_err());
        drop(unused);
        let error = key.blocking_lock().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forked, "{error}");
        assert!(error.to_string().contains("key `a`"), "{error}");
        let new = space.key("b");
        assert_eq!(new.blocking_lock().unwrap_err().kind(), ErrorKind::Forked);
        assert_eq!(blocking_lock_all([&new, &key]).unwrap_err().kind(), ErrorKind::Forked);
        let own = LockSpace::options().blocking_open(path).unwrap();
        assert!(matches!(own.key("a").try_lock(), Err(TryLockError::WouldBlock(_))));
        assert!(own.key("b").try_lock().is_ok());
        drop(guard);
        assert!(matches!(own.key("a").try_lock(), Err(TryLockError::WouldBlock(_))));
    });
}

type Waiting = std::pin::Pin<Box<tokio_filelock::Acquire<ExclusiveGuard>>>;

fn queued(lock: &FileLock) -> Waiting {
    let mut waiting = Box::pin(lock.lock());
    assert!(poll(&mut waiting).is_pending());
    waiting
}

fn poll(waiting: &mut Waiting) -> Poll<Result<ExclusiveGuard, Error>> {
    pin!(waiting).poll(&mut Context::from_waker(Waker::noop()))
}

fn use_what_is_inherited(lock: &FileLock, guard: ExclusiveGuard, mut waiting: Waiting) {
    let forked = |error: &Error| {
        assert_eq!(error.kind(), ErrorKind::Forked, "{error}");
        assert!(error.to_string().contains("open the lock file again"), "{error}");
    };
    forked(&lock.blocking_lock().unwrap_err());
    forked(&lock.blocking_lock_shared().unwrap_err());
    match lock.try_lock() {
        Err(TryLockError::Error(error)) => forked(&error),
        other => panic!("{other:?}"),
    }
    match poll(&mut waiting) {
        Poll::Ready(Err(error)) => forked(&error),
        other => panic!("{other:?}"),
    }
    assert_eq!(lock.counters().acquisitions, 0);
    forked(&futures::executor::block_on(guard.downgrade().unlock()).unwrap_err());
}

/// Forks, runs this in the child, and says whether it went well. The guards that are moved into
/// the closure stay alive in the parent.
fn in_forked_child(body: impl FnOnce()) {
    // SAFETY: the other threads of this process wait; what the child does is what is tested.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends the process without its destructors, as a forked child should.
            unsafe { nix::libc::_exit(i32::from(outcome.is_err())) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            say("child content");
            commands().for_each(drop);
            drop(body);
        }
    }
}

fn in_forked_child_that_stays(body: impl FnOnce()) {
    // SAFETY: the other threads of this process wait; the child reads and ends.
    if let ForkResult::Child = unsafe { fork() }.unwrap() {
        body();
        // SAFETY: ends the process without its destructors, as a forked child should.
        unsafe { nix::libc::_exit(0) }
    }
}

// ---- children that no handler tells, and forks in the middle of an open ----

/// What a child that was made past the handlers finds in its memory.
static INHERITED: Mutex<Option<(FileLock, ExclusiveGuard)>> = Mutex::new(None);

#[cfg(target_os = "linux")]
fn past_the_handlers(path: &Path, protocol: Protocol, lock: FileLock, guard: ExclusiveGuard) {
    *INHERITED.lock().unwrap() = Some((lock, guard));
    for how in ["clone", "_Fork"] {
        in_child_past_the_handlers(how, || {
            let (lock, guard) = INHERITED.lock().unwrap().take().unwrap();
            let error = lock.blocking_lock().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Forked, "{error}");
            let own = FileLock::options().protocol(lock.protocol());
            let own = own.blocking_open(lock.path()).unwrap();
            drop(guard);
            assert!(matches!(own.try_lock(), Err(TryLockError::WouldBlock(_))), "the parent's");
            drop(lock);
            assert!(matches!(own.try_lock(), Err(TryLockError::WouldBlock(_))), "still");
        });
        assert!(!is_free(path, protocol, Mode::Shared), "{how}");
    }
    drop(INHERITED.lock().unwrap().take());
    assert!(is_free(path, protocol, Mode::Exclusive));
    say("done");
}

/// Runs this in a child of a bare system call, or of POSIX's `_Fork` where the C library has that.
#[cfg(target_os = "linux")]
fn in_child_past_the_handlers(how: &str, body: fn()) {
    let child = if how == "clone" {
        let no_stack_of_its_own = 0;
        // SAFETY: the other threads of this process wait; what the child does is what is tested.
        unsafe {
            libc::syscall(libc::SYS_clone, libc::SIGCHLD, no_stack_of_its_own, 0, 0, 0) as i32
        }
    } else {
        // SAFETY: the name is a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_Fork".as_ptr()) };
        if found.is_null() {
            println!("this C library has no _Fork");
            return;
        }
        // SAFETY: that is its type.
        let fork = unsafe {
            std::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn() -> libc::pid_t>(found)
        };
        // SAFETY: as above.
        unsafe { fork() }
    };
    if child == 0 {
        let outcome = std::panic::catch_unwind(body);
        // SAFETY: ends the process without its destructors, as a forked child should.
        unsafe { libc::_exit(i32::from(outcome.is_err())) }
    }
    let child = Pid::from_raw(child);
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0), "{how}");
}

/// How many lock files a thread opens while the other one forks.
const FILES: usize = 20;
const FORKS: usize = 60;

/// Every child waits until all files are open and locked; then it can lock those whose open files it
/// shares with the parent, and no others.
fn beside_opens(path: &Path) {
    for fork_number in 0..FORKS {
        let opened = AtomicUsize::new(0);
        let (all_open, tell) = nix::unistd::pipe().unwrap();
        let names: Vec<_> =
            (0..FILES).map(|file| path.with_file_name(format!("beside{file}"))).collect();
        thread::scope(|scope| {
            let opening = scope.spawn(|| {
                let open = |name| {
                    let lock = FileLock::options().blocking_open(name).unwrap();
                    let guard = lock.try_lock().unwrap();
                    opened.fetch_add(1, Ordering::Relaxed);
                    guard
                };
                names.iter().map(open).collect::<Vec<_>>()
            });
            // At all times of the series in turn.
            while opened.load(Ordering::Relaxed) < fork_number * FILES / FORKS {
                std::hint::spin_loop();
            }
            // SAFETY: the child makes system calls only.
            match unsafe { fork() }.unwrap() {
                ForkResult::Child => {
                    // SAFETY: closes the child's copy of what the parent writes to.
                    unsafe { libc::close(tell.as_raw_fd()) };
                    let mut byte = 0_u8;
                    // SAFETY: the buffer has one byte.
                    unsafe { libc::read(all_open.as_raw_fd(), (&raw mut byte).cast(), 1) };
                    // SAFETY: ends the process without its destructors, as a forked child should.
                    unsafe { libc::_exit(shared_lock_files()) }
                }
                ForkResult::Parent { child } => {
                    let guards = opening.join().unwrap();
                    nix::unistd::write(&tell, b"!").unwrap();
                    let ended = waitpid(child, None).unwrap();
                    assert_eq!(ended, WaitStatus::Exited(child, 0), "fork {fork_number}");
                    drop(guards);
                }
            }
        });
    }
    say("done");
}

/// How many processes use locks for the first time, and fork at that moment.
const FIRST_USES: u64 = 300;

/// Each time in a process in which locks were never used: one thread opens, the other one forks, and the child
/// opens.
fn during_the_first_use(path: &Path) {
    let open = |name: &str| {
        let lock = FileLock::options().blocking_open(path.with_file_name(name)).unwrap();
        drop(lock.try_lock().unwrap());
    };
    let in_child = |body: &dyn Fn()| {
        // SAFETY: what the child does with its parent's memory is what is tested.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                // SAFETY: ends the child if it hangs.
                unsafe { libc::alarm(20) };
                body();
                // SAFETY: ends the process without its destructors, as a forked child should.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            }
        }
    };
    for round in 0..FIRST_USES {
        in_child(&|| {
            let begins = AtomicUsize::new(0);
            thread::scope(|scope| {
                scope.spawn(|| {
                    begins.store(1, Ordering::Release);
                    open("of the parent");
                });
                while begins.load(Ordering::Acquire) == 0 {
                    std::hint::spin_loop();
                }
                // At all times of the first open in turn.
                (0..round % 100 * 40).for_each(|_| std::hint::spin_loop());
                in_child(&|| open("of the child"));
            });
        });
    }
    say("done");
}

/// How many of the locks are this process's. Allocates nothing.
fn shared_lock_files() -> i32 {
    let mut shared = 0;
    for number in 3..200 {
        // SAFETY: numbers that stand for nothing are an error.
        let locked = unsafe { libc::flock(number, libc::LOCK_SH | libc::LOCK_NB) } == 0;
        let mut status = std::mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: the pointer is valid for the call.
        let known = unsafe { libc::fstat(number, status.as_mut_ptr()) } == 0;
        // SAFETY: the call has filled it in.
        let is_file =
            known && unsafe { status.assume_init() }.st_mode & libc::S_IFMT == libc::S_IFREG;
        shared += i32::from(locked && is_file);
    }
    shared
}

static TO_OPEN_IN_A_HANDLER: Mutex<Option<(FileLock, String)>> = Mutex::new(None);

/// A handler that was set up before this crate's own runs in between: when the fork has begun, and before it
/// has ended.
fn open_in_a_handler(path: &str, protocol: Protocol) {
    extern "C" fn open() {
        if let Some((lock, path)) = &*TO_OPEN_IN_A_HANDLER.lock().unwrap() {
            let options = FileLock::options().protocol(lock.protocol());
            drop(options.blocking_open(path).unwrap().try_lock().unwrap());
            drop(lock.try_lock().unwrap());
        }
    }
    // SAFETY: in the child it does nothing.
    let failed = unsafe { libc::pthread_atfork(Some(open), Some(open), None) };
    assert_eq!(failed, 0);
    let lock = FileLock::options().protocol(protocol).blocking_open(path).unwrap();
    *TO_OPEN_IN_A_HANDLER.lock().unwrap() = Some((lock, format!("{path}.other")));
    // SAFETY: the child ends at once.
    match unsafe { fork() }.unwrap() {
        // SAFETY: ends the process without its destructors, as a forked child should.
        ForkResult::Child => unsafe { libc::_exit(0) },
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
    }
    say("done");
}
