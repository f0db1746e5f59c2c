//! A forked child has nothing of the parent's locks: it neither keeps nor drops them.
#![allow(unsafe_code)]

use std::io::Read;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use tokio_filelock::{
    Error, ErrorKind, ExclusiveGuard, FileLock, LockSpace, Protocol, TryLockError,
    blocking_lock_all,
};

use crate::support::locker::is_free;
use crate::support::place::Place;
use crate::support::process::{Process, commands, say};
use crate::support::{Mode, PROTOCOLS, protocol};

#[test]
fn a_forked_child_that_outlives_the_holder_does_not_keep_the_lock() {
    for protocol in PROTOCOLS {
        let place = Place::new();
        let parent = in_case("outlive", &place.lock_file(), protocol);
        parent.expect("forked");
        assert!(!is_free(&place.lock_file(), protocol, Mode::Shared));
        // The child lives for as long as this pipe is open.
        let child = parent.kill();
        assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");
        drop(child);
    }
}

#[test]
fn a_guard_that_is_dropped_in_a_forked_child_stays_locked() {
    for protocol in PROTOCOLS {
        let place = Place::new();
        let parent = in_case("drop", &place.lock_file(), protocol);
        parent.expect("child content");
        assert!(!is_free(&place.lock_file(), protocol, Mode::Shared), "{protocol:?}");
        parent.finish();
        assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
    }
}

#[test]
fn what_is_used_in_a_forked_child_is_an_error_that_says_so() {
    for protocol in PROTOCOLS {
        let place = Place::new();
        let parent = in_case("use", &place.lock_file(), protocol);
        parent.expect("child content");
        assert!(!is_free(&place.lock_file(), protocol, Mode::Shared), "{protocol:?}");
        parent.finish();
    }
}

#[test]
fn a_forked_child_can_open_the_lock_file_for_itself() {
    for protocol in PROTOCOLS {
        let place = Place::new();
        let parent = in_case("open", &place.lock_file(), protocol);
        parent.expect("child content");
        parent.finish();
        assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
    }
}

#[test]
fn what_a_forked_child_asks_of_a_space_is_an_error_that_says_so() {
    let place = Place::new();
    let parent = in_case("space", &place.lock_file(), Protocol::Fcntl);
    parent.expect("child content");
    parent.finish();
}

fn in_case(case: &str, path: &Path, protocol: Protocol) -> Process {
    Process::in_role("fork", &[case, path.to_str().unwrap(), &format!("{protocol:?}")])
}

// ---- in the parent of the forked child ----

pub(crate) fn in_child(arguments: &[String]) {
    let [case, path, name] = arguments else { panic!("{arguments:?}") };
    if case == "space" {
        return ask_inherited_space(path);
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
    in_forked_child(move || {
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
