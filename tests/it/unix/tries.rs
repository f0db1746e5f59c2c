//! A refused try costs what the calls of the operating system cost, and names what it knows for nothing.

use std::path::Path;

use nix::libc;
use nix::unistd::gettid;
use tokio_filelock::{FileLock, LockSpace, Protocol, TryLockError};

use crate::child::Role;
use crate::support::locker::Locker;
use crate::support::needs::{Need, lacks};
use crate::support::place::Place;
use crate::support::process::{Process, commands, say};
use crate::support::tracer::{Traced, between_marks};
use crate::support::{Mode, each_protocol, protocol};

#[cfg(target_pointer_width = "64")]
const FCNTL: libc::c_long = libc::SYS_fcntl;
#[cfg(target_pointer_width = "32")]
const FCNTL: libc::c_long = libc::SYS_fcntl64;

/// A lock file, or the key of a space.
fn open(what: &str, path: &str) -> FileLock {
    match what {
        "key" => LockSpace::options().blocking_open(path).unwrap().key("name"),
        name => FileLock::options().protocol(protocol(name)).blocking_open(path).unwrap(),
    }
}

/// Tries in vain, between two marks.
pub(crate) fn try_in_vain(arguments: &[String]) {
    let [what, path, holder] = arguments else { panic!("what, path, holder") };
    let lock = open(what, path);
    let _guard = (holder == "itself").then(|| lock.try_lock().unwrap());
    // Memory is there from now on.
    let refused = lock.try_lock();
    say(&gettid().to_string());
    commands().next();
    let again = between_marks(|| lock.try_lock());
    for tried in [refused, again] {
        let Err(TryLockError::WouldBlock(error)) = tried else { panic!("not refused: {tried:?}") };
        say(&error.to_string());
    }
}

/// The system calls of a refused try, and what it says.
fn calls(what: &str, path: &Path, holder: &str) -> (Vec<libc::c_long>, String) {
    let mut process = Process::in_role(Role::TryInVain, &[what, path.to_str().unwrap(), holder]);
    let mut thread = Traced::seize(process.event().parse().unwrap());
    process.tell("go");
    let calls = thread.calls_between_marks();
    while thread.next_stop().is_some() {}
    let message = process.event();
    process.expect(&message);
    process.finish();
    (calls, message)
}

each_protocol!(#[test] fn of_a_lock_that_another_process_holds);
fn of_a_lock_that_another_process_holds(protocol: Protocol) {
    if lacks(&[Need::Ptrace]) {
        return;
    }
    let place = Place::new();
    let path = place.lock_file();
    let other = Locker::holding(&path, protocol, Mode::Exclusive);
    let (calls, message) = calls(&format!("{protocol:?}"), &path, "another process");
    // The turnstile, and the try; or both in one question, and the pid in the range.
    let expected = match protocol {
        Protocol::Flock => [FCNTL, libc::SYS_flock],
        _ => [FCNTL; 2],
    };
    assert_eq!(calls, expected, "{protocol:?}: {message}");
    other.finish();
}

#[test]
fn of_a_key_that_another_process_holds() {
    if lacks(&[Need::Ptrace]) {
        return;
    }
    let place = Place::new();
    let mut other = Locker::of_key(&place.lock_file(), "name");
    assert_eq!(other.try_lock(Mode::Exclusive), "held");
    let (calls, message) = calls("key", &place.lock_file(), "another process");
    assert_eq!(calls, [FCNTL; 2], "{message}");
    assert!(message.contains(&format!("held by a process (pid {}", other.pid())), "{message}");
}

#[test]
fn of_a_lock_that_this_process_holds() {
    if lacks(&[Need::Ptrace]) {
        return;
    }
    for what in ["Flock", "Fcntl", "key"] {
        let place = Place::new();
        let (calls, message) = calls(what, &place.lock_file(), "itself");
        assert!(calls.is_empty(), "{what}: {message}");
        assert!(message.contains("held by this process (pid "), "{message}");
    }
}
