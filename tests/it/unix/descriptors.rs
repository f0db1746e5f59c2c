//! Descriptors are numbers: other code of the process closes them, or gives them to other files.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use tokio_filelock::{Error, ErrorKind, FileLock, LockSpace, Protocol, TryLockError};

use crate::child::Role;
use crate::support::locker::{Locker, is_free};
use crate::support::place::Place;
use crate::support::process::{Process, say};
use crate::support::{Mode, PROTOCOLS, assert_names, each_protocol, protocol};

type Case = fn(&Path, Protocol);

const CASES: &[(&str, Case)] = &[
    ("closed by a daemonizing library", closed_by_a_daemonizing_library),
    ("closed", closed),
    ("replaced under a record", replaced_under_a_record),
    ("replaced by a file that others hold", replaced_by_a_file_that_others_hold),
    ("replaced under a guard", replaced_under_a_guard),
    ("replaced by a lock file", replaced_by_a_lock_file),
    ("replaced under keys", replaced_under_keys),
    ("replaced before a fork", replaced_before_a_fork),
    ("the directory is replaced", the_directory_is_replaced),
    ("the directory is closed", the_directory_is_closed),
    ("no standard streams", no_standard_streams),
];

/// Each in a process of its own: they close what belongs to the test harness as well.
fn run(name: &str, protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let arguments = [name, path.to_str().unwrap(), &format!("{protocol:?}")];
    let process = Process::in_role(Role::LoseDescriptors, &arguments);
    process.expect("done");
    process.finish();
}

/// The role `LoseDescriptors`.
pub(crate) fn in_child(arguments: &[String]) {
    let [name, path, of] = arguments else { panic!("{arguments:?}") };
    let (_, case) = CASES.iter().find(|(known, _)| known == name).expect("a known case");
    case(Path::new(path), protocol(of));
    say("done");
}

each_protocol!(#[test] fn a_descriptor_that_a_daemonizing_library_closed_is_an_error_once);
fn a_descriptor_that_a_daemonizing_library_closed_is_an_error_once(protocol: Protocol) {
    run("closed by a daemonizing library", protocol);
}

each_protocol!(#[test] fn a_descriptor_that_is_closed_and_nothing_else_is_an_error_once);
fn a_descriptor_that_is_closed_and_nothing_else_is_an_error_once(protocol: Protocol) {
    run("closed", protocol);
}

each_protocol!(#[test] fn no_record_is_written_into_a_file_that_has_got_the_number);
fn no_record_is_written_into_a_file_that_has_got_the_number(protocol: Protocol) {
    run("replaced under a record", protocol);
}

each_protocol!(#[test] fn nobody_waits_for_the_lock_of_a_file_that_has_got_the_number);
fn nobody_waits_for_the_lock_of_a_file_that_has_got_the_number(protocol: Protocol) {
    run("replaced by a file that others hold", protocol);
}

each_protocol!(#[test] fn a_guard_that_lost_its_lock_goes_without_harm);
fn a_guard_that_lost_its_lock_goes_without_harm(protocol: Protocol) {
    run("replaced under a guard", protocol);
}

each_protocol!(
    #[test]
    fn a_guard_that_lost_its_lock_does_not_unlock_the_lock_file_that_has_got_the_number
);
fn a_guard_that_lost_its_lock_does_not_unlock_the_lock_file_that_has_got_the_number(
    protocol: Protocol,
) {
    run("replaced by a lock file", protocol);
}

each_protocol!(#[test] fn keys_whose_file_lost_its_descriptor_go_on_in_one_that_is_opened_anew);
fn keys_whose_file_lost_its_descriptor_go_on_in_one_that_is_opened_anew(protocol: Protocol) {
    run("replaced under keys", protocol);
}

each_protocol!(#[test] fn a_forked_child_keeps_the_file_that_has_got_the_number);
fn a_forked_child_keeps_the_file_that_has_got_the_number(protocol: Protocol) {
    run("replaced before a fork", protocol);
}

each_protocol!(#[test] fn a_directory_that_has_got_the_number_is_not_taken_for_the_other_one);
fn a_directory_that_has_got_the_number_is_not_taken_for_the_other_one(protocol: Protocol) {
    run("the directory is replaced", protocol);
}

each_protocol!(#[test] fn a_relative_path_is_found_again_where_its_directory_was_closed);
fn a_relative_path_is_found_again_where_its_directory_was_closed(protocol: Protocol) {
    run("the directory is closed", protocol);
}

each_protocol!(#[test] fn no_lock_file_takes_the_place_of_a_standard_stream);
fn no_lock_file_takes_the_place_of_a_standard_stream(protocol: Protocol) {
    run("no standard streams", protocol);
}

// ---- in the child ----

fn opened(path: &Path, protocol: Protocol) -> FileLock {
    FileLock::options().protocol(protocol).blocking_open(path).unwrap()
}

fn descriptor_of(path: &Path) -> RawFd {
    let found = fs::read_dir("/proc/self/fd").unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        let leads_there = fs::read_link(entry.path()).is_ok_and(|target| target == path);
        leads_there.then(|| entry.file_name().to_str().unwrap().parse().unwrap())
    });
    found.unwrap_or_else(|| panic!("{} is not open", path.display()))
}

/// Another file of this process, which something is written to.
fn unrelated(path: &Path) -> (PathBuf, File) {
    let path = path.with_file_name("unrelated.log");
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).create(true).open(&path).unwrap();
    file.write_all(b"begun\n").unwrap();
    (path, file)
}

/// Gives the number of the lock file's descriptor to another file. Returns that file and the number.
fn replace(path: &Path) -> (PathBuf, RawFd) {
    let (other, file) = unrelated(path);
    let number = descriptor_of(path);
    // SAFETY: this is what is tested: code that takes a number which is not its own.
    assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), number) }, number);
    (other, number)
}

#[track_caller]
fn assert_foreign(error: &Error, path: &Path) {
    assert_names(error, ErrorKind::ForeignDescriptor, path);
    for word in ["close_range", "anew"] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

/// The number stands for that file, which has what was written to it and nothing else.
#[track_caller]
fn assert_untouched(number: RawFd, other: &Path) {
    let link = format!("/proc/self/fd/{number}");
    assert_eq!(fs::metadata(link).unwrap().ino(), fs::metadata(other).unwrap().ino());
    assert_eq!(fs::read_to_string(other).unwrap(), "begun\n");
    for protocol in PROTOCOLS {
        assert!(is_free(other, protocol, Mode::Exclusive), "{protocol:?}");
    }
}

/// One lock tells of it, and the next one excludes as ever.
#[track_caller]
fn assert_told_once(lock: &FileLock, protocol: Protocol) {
    match lock.try_lock() {
        Err(TryLockError::Error(error)) => assert_foreign(&error, lock.path()),
        tried => panic!("{tried:?}"),
    }
    let guard = lock.blocking_lock().unwrap();
    assert!(!is_free(lock.path(), protocol, Mode::Shared));
    drop(guard);
    assert!(is_free(lock.path(), protocol, Mode::Exclusive));
}

fn closed_by_a_daemonizing_library(path: &Path, protocol: Protocol) {
    let lock = opened(path, protocol);
    let clone = lock.clone();
    let second = opened(path, protocol);
    drop(lock.try_lock().unwrap());
    // SAFETY: this is what is tested: code that takes numbers which are not its own.
    assert_eq!(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) }, 0);
    let logs: Vec<_> = (0..8).map(|_| unrelated(path)).collect();
    let error = lock.blocking_lock().unwrap_err();
    assert_foreign(&error, path);
    for protocol in PROTOCOLS {
        assert!(is_free(&logs[0].0, protocol, Mode::Exclusive), "{protocol:?}");
    }
    // No handle of the file has to be opened again.
    for lock in [lock, clone, second] {
        let guard = lock.blocking_lock_shared().unwrap();
        assert!(!is_free(path, protocol, Mode::Exclusive));
        drop(guard);
    }
    for (_, mut log) in logs {
        log.rewind().unwrap();
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("begun\n"), "still open, and as it was");
    }
}

/// The standard library aborts where it closes what is not open.
fn closed(path: &Path, protocol: Protocol) {
    for again in [false, true] {
        let lock = opened(path, protocol);
        let number = descriptor_of(path);
        // SAFETY: this is what is tested.
        assert_eq!(unsafe { libc::close(number) }, 0);
        if again {
            assert_told_once(&lock, protocol);
        }
        drop(lock);
    }
}

fn replaced_under_a_record(path: &Path, protocol: Protocol) {
    let options = FileLock::options().protocol(protocol).record(true);
    let lock = options.blocking_open(path).unwrap();
    let guard = lock.try_lock().unwrap();
    let (other, number) = replace(path);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(guard.unlock()).unwrap_err();
    assert_foreign(&error, path);
    assert_untouched(number, &other);
    assert_told_once(&lock, protocol);
    // The dead record was never marked as released: no process could do that.
    assert!(lock.try_lock().unwrap().token().is_some_and(|token| token > 1));
    drop(lock);
    assert_untouched(number, &other);
}

fn replaced_by_a_file_that_others_hold(path: &Path, protocol: Protocol) {
    let lock = opened(path, protocol);
    let (other, number) = replace(path);
    let holder = Locker::holding(&other, protocol, Mode::Exclusive);
    assert_foreign(&lock.blocking_lock().unwrap_err(), path);
    drop(lock.blocking_lock().unwrap());
    holder.finish();
    assert_untouched(number, &other);
}

fn replaced_under_a_guard(path: &Path, protocol: Protocol) {
    let lock = opened(path, protocol);
    let guard = lock.try_lock().unwrap();
    let (other, number) = replace(path);
    assert_eq!(lock.blocking_holders().unwrap_err().kind(), ErrorKind::ForeignDescriptor);
    let guard = guard.downgrade();
    drop(guard);
    assert_untouched(number, &other);
    assert_told_once(&lock, protocol);
    drop(lock);
    assert_untouched(number, &other);
}

fn replaced_by_a_lock_file(path: &Path, protocol: Protocol) {
    let lock = opened(path, protocol);
    let guard = lock.try_lock().unwrap();
    let number = descriptor_of(path);
    // SAFETY: this is what is tested.
    assert_eq!(unsafe { libc::close(number) }, 0);
    let other_path = path.with_file_name("other.lock");
    let other = opened(&other_path, protocol);
    let others = other.try_lock().unwrap();
    assert_eq!(descriptor_of(&other_path), number, "else this is no test");
    drop(guard);
    assert!(!is_free(&other_path, protocol, Mode::Shared), "its guard lives");
    assert_told_once(&lock, protocol);
    drop(lock);
    assert!(!is_free(&other_path, protocol, Mode::Shared));
    drop(others);
    assert!(is_free(&other_path, protocol, Mode::Exclusive));
}

fn replaced_under_keys(path: &Path, _: Protocol) {
    let space = LockSpace::options().blocking_open(path).unwrap();
    let in_first_file = |key: &FileLock| key.path() == path;
    let mut keys = (0..).map(|number| space.key(format!("{number}"))).filter(in_first_file);
    let (one, other) = (keys.next().unwrap(), keys.next().unwrap());
    let guard = one.try_lock().unwrap();
    let (file, number) = replace(path);
    match other.try_lock() {
        Err(TryLockError::Error(error)) => assert_foreign(&error, path),
        tried => panic!("{tried:?}"),
    }
    // It has lost its lock, and does not take one from the other file.
    drop(guard);
    for key in [&one, &other] {
        let guard = key.blocking_lock().unwrap();
        let name = std::str::from_utf8(key.key().unwrap()).unwrap();
        let mut locker = Locker::of_key(path, name);
        assert_eq!(locker.try_lock(Mode::Exclusive), "would block");
        locker.finish();
        drop(guard);
    }
    drop((one, other, space));
    assert_untouched(number, &file);
}

fn replaced_before_a_fork(path: &Path, protocol: Protocol) {
    let lock = opened(path, protocol);
    let (other, number) = replace(path);
    // SAFETY: the child makes some system calls and ends.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let link = format!("/proc/self/fd/{number}");
            let is_there = fs::read_link(link).is_ok_and(|target| target == other);
            drop(lock);
            // SAFETY: ends the process without its destructors, as a forked child should.
            unsafe { libc::_exit(i32::from(!is_there)) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
    }
    assert_told_once(&lock, protocol);
    assert_untouched(number, &other);
}

/// A relative path is resolved from a directory that is held open.
fn the_directory_is_replaced(path: &Path, protocol: Protocol) {
    let (directory, name) = (path.parent().unwrap(), path.file_name().unwrap());
    let elsewhere = directory.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    std::env::set_current_dir(directory).unwrap();
    let options = FileLock::options().protocol(protocol).verify_path(true);
    let lock = options.blocking_open(name).unwrap();
    drop(lock.try_lock().unwrap());
    let number = descriptor_of(directory);
    let other = File::open(&elsewhere).unwrap();
    // SAFETY: this is what is tested.
    assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), number) }, number);
    let moved = directory.with_extension("moved");
    fs::rename(directory, &moved).unwrap();
    assert_eq!(lock.blocking_lock().unwrap_err().kind(), ErrorKind::ForeignDescriptor);
    fs::create_dir(directory).unwrap();
    assert_eq!(lock.blocking_lock().unwrap_err().kind(), ErrorKind::ForeignDescriptor);
    fs::remove_dir(directory).unwrap();
    fs::rename(&moved, directory).unwrap();
    drop(lock.blocking_lock().unwrap());
    drop(lock);
    assert!(!elsewhere.join(name).exists());
    assert_eq!(fs::read_link(format!("/proc/self/fd/{number}")).unwrap(), elsewhere);
    // SAFETY: it is this test's.
    assert_eq!(unsafe { libc::close(number) }, 0);
}

fn the_directory_is_closed(path: &Path, protocol: Protocol) {
    let (directory, name) = (path.parent().unwrap(), path.file_name().unwrap());
    std::env::set_current_dir(directory).unwrap();
    let lock = opened(Path::new(name), protocol);
    std::env::set_current_dir("/").unwrap();
    for _ in 0..2 {
        for lost in [path, directory] {
            // SAFETY: this is what is tested.
            assert_eq!(unsafe { libc::close(descriptor_of(lost)) }, 0);
        }
        assert_told_once(&lock, protocol);
        let guard = lock.blocking_lock().unwrap();
        assert!(!is_free(path, protocol, Mode::Shared));
        drop(guard);
    }
}

fn no_standard_streams(path: &Path, protocol: Protocol) {
    std::env::set_current_dir(path.parent().unwrap()).unwrap();
    for number in [libc::STDIN_FILENO, libc::STDERR_FILENO] {
        // SAFETY: nothing here reads or reports.
        assert_eq!(unsafe { libc::close(number) }, 0);
    }
    let lock = opened(Path::new("app.lock"), protocol);
    let space = LockSpace::options().blocking_open("space.lock").unwrap();
    let is_vacant = |number: RawFd| fs::read_link(format!("/proc/self/fd/{number}")).is_err();
    assert!(is_vacant(libc::STDIN_FILENO), "before the streams are used again");
    assert!(is_vacant(libc::STDERR_FILENO));
    drop(lock.try_lock().unwrap());
    drop((lock, space));
}
