//! File systems that answer lock calls with an error, or not at all: FUSE, with a server that does
//! as it is told.
//!
//! Each test runs in a process and a mount namespace of its own: nothing stays mounted, and its
//! threads can be counted.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::libc;
use tokio::runtime::Builder;
use tokio_filelock::{Error, ErrorKind, FileLock, Protocol, Tenure, TryLockError, lock_all};
use tokio_test::task::spawn;

use crate::support::fuse::{Answer, FuseServer};
use crate::support::locker::Locker;
use crate::support::needs::{Need, lacks, passed_in};
use crate::support::place::Place;
use crate::support::{
    Mode, assert_names, assert_would_block, each_protocol, in_time, kernel, open, options, returns,
    until,
};

/// Time enough to ask a server on this machine, and short enough to run out in a test.
const MOMENT: Duration = Duration::from_millis(500);

each_protocol!(#[tokio::test] async fn what_the_server_refuses_is_an_error_that_says_so);
async fn what_the_server_refuses_is_an_error_that_says_so(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let table = [
        (libc::ENOSYS, ErrorKind::Unsupported, "does not support this kind of lock"),
        (libc::EOPNOTSUPP, ErrorKind::Unsupported, "does not support this kind of lock"),
        (libc::EINVAL, ErrorKind::Unsupported, "does not support this kind of lock"),
        (libc::ENOLCK, ErrorKind::LockServiceUnavailable, "check the lock service"),
        (libc::EBADF, ErrorKind::WrongAccess, "open for writing"),
        (libc::EDEADLK, ErrorKind::Deadlock, "could not lock"),
        (libc::EIO, ErrorKind::Io, "could not lock"),
        (libc::EPERM, ErrorKind::PermissionDenied, "a security module"),
        (libc::EACCES, ErrorKind::PermissionDenied, "a security module"),
    ];
    let mut server = FuseServer::new();
    let lock = open(server.lock_file(protocol), protocol).await;
    for (errno, kind, says) in table {
        server.answer_locks(Answer::Refuse(errno));
        let asked = in_time(lock.lock()).await.map(drop).unwrap_err();
        let Err(TryLockError::Error(tried)) = lock.try_lock_shared() else {
            panic!("{errno} is no answer")
        };
        for error in [asked, tried] {
            println!("{errno}: {error}");
            assert_names(&error, kind, lock.path());
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(raw_os_error(&error), Some(errno), "{error}");
        }
        // Only those who asked get the error.
        server.answer_locks(Answer::Grant);
        in_time(lock.lock()).await.unwrap().unlock().await.unwrap();
    }
}

each_protocol!(#[tokio::test] async fn an_answer_does_not_wait_for_the_call_of_the_next_in_line);
/// A task whose request is answered is told, while the call of the next one in line hangs.
async fn an_answer_does_not_wait_for_the_call_of_the_next_in_line(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    let options = options(protocol).tenure(Tenure::single());
    let lock = options.open(server.lock_file(protocol)).await.unwrap();
    let before = server.calls().len();
    server.answer_locks(Answer::Hang);
    let mut line: Vec<_> = (0..4).map(|_| spawn(lock.lock())).collect();
    for request in &mut line {
        assert!(request.poll().is_pending());
    }
    for (number, request) in line.into_iter().enumerate() {
        until("the next call hangs", || server.calls().len() == before + number + 1);
        server.answer_the_hanging(libc::EIO);
        let error = in_time(request).await.unwrap_err();
        assert_eq!(raw_os_error(&error), Some(libc::EIO), "{error}");
    }
    // An unlock has its answer, and so has a try.
    server.answer_locks(Answer::Grant);
    let guard = in_time(lock.lock()).await.unwrap();
    let mut next = spawn(lock.lock());
    assert!(next.poll().is_pending());
    server.answer_locks(Answer::Hang);
    let calls = server.calls().len();
    in_time(guard.unlock()).await.unwrap();
    until("the next call hangs", || server.calls().len() == calls + 2);
    server.answer_the_hanging(libc::EIO);
    in_time(next).await.unwrap_err();
    let calls = server.calls().len();
    let trying = lock.clone();
    let tried = tokio::task::spawn_blocking(move || trying.try_lock().map(drop));
    until("the try hangs", || server.calls().len() == calls + 1);
    let mut next = spawn(lock.lock());
    assert!(next.poll().is_pending());
    server.answer_the_hanging(libc::EIO);
    assert!(matches!(in_time(tried).await.unwrap(), Err(TryLockError::Error(_))));
    until("the next call hangs", || server.calls().len() == calls + 2);
    server.answer_the_hanging(libc::EIO);
    in_time(next).await.unwrap_err();
    server.answer_locks(Answer::Grant);
}

fn raw_os_error(error: &Error) -> Option<i32> {
    error.os_error()?.raw_os_error()
}

each_protocol!(#[tokio::test] async fn contention_is_waited_for);
async fn contention_is_waited_for(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    let lock = open(server.lock_file(protocol), protocol).await;
    server.answer_locks(Answer::Refuse(libc::EAGAIN));
    assert_would_block(lock.try_lock());
    let error = in_time(lock.lock().timeout(MOMENT)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let mut waiting = spawn(lock.lock());
    assert!(waiting.poll().is_pending());
    server.answer_locks(Answer::RefuseTimes(libc::EAGAIN, 3));
    in_time(waiting).await.unwrap().unlock().await.unwrap();
}

each_protocol!(#[tokio::test] async fn an_interrupted_call_is_made_again);
/// The kernel gives the server's EINTR to the program under a number of its own, 512.
async fn an_interrupted_call_is_made_again(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    let lock = open(server.lock_file(protocol), protocol).await;
    server.answer_locks(Answer::RefuseTimes(libc::EINTR, 5));
    server.answer_unlocks(Answer::RefuseTimes(libc::EINTR, 5));
    in_time(lock.lock()).await.unwrap().unlock().await.unwrap();
    server.answer_locks(Answer::RefuseTimes(libc::EINTR, 5));
    drop(lock.try_lock().unwrap());
    // But not for ever.
    server.answer_locks(Answer::Refuse(libc::EINTR));
    let error = in_time(lock.lock()).await.unwrap_err();
    assert_names(&error, ErrorKind::Io, lock.path());
    server.answer_locks(Answer::Grant);
}

each_protocol!(#[tokio::test] async fn a_file_that_the_server_has_forgotten_is_opened_anew);
/// The path still leads there, but to a file that the server does not know.
async fn a_file_that_the_server_has_forgotten_is_opened_anew(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    let shared_memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let other = open(shared_memory.path().join("other.lock"), protocol).await;
    let lock = open(server.lock_file(protocol), protocol).await;
    server.answer_locks(Answer::RefuseTimes(libc::ESTALE, 3));
    in_time(lock.lock()).await.unwrap().unlock().await.unwrap();
    server.answer_locks(Answer::RefuseTimes(libc::ESTALE, 3));
    drop(lock.try_lock().unwrap());
    server.answer_locks(Answer::Refuse(libc::ESTALE));
    // The other one comes first in the order, and is had each time.
    let error = in_time(lock_all([&other, &lock])).await.unwrap_err();
    assert_names(&error, ErrorKind::Replaced, lock.path());
    let error = in_time(lock.lock()).await.unwrap_err();
    assert_names(&error, ErrorKind::Replaced, lock.path());
    server.answer_locks(Answer::Grant);
}

each_protocol!(#[tokio::test] async fn a_refused_unlock_is_told_and_holds_up_nobody);
async fn a_refused_unlock_is_told_and_holds_up_nobody(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    let lock = open(server.lock_file(protocol), protocol).await;
    server.answer_unlocks(Answer::Refuse(libc::EIO));
    let guard = in_time(lock.lock()).await.unwrap();
    let error = in_time(guard.unlock()).await.unwrap_err();
    println!("{error}");
    assert_names(&error, ErrorKind::Io, lock.path());
    assert!(error.to_string().starts_with("could not unlock"), "{error}");
    drop(in_time(lock.lock()).await.unwrap());
    drop(in_time(lock.lock()).await.unwrap());
    server.answer_unlocks(Answer::Grant);
}

/// Whole file or the region's range, never the byte of the turnstile, and no questions.
/// How many descriptors of the file this process has.
fn descriptors(path: &Path) -> usize {
    let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
    all.filter(|entry| fs::read_link(entry.path()).is_ok_and(|leads| leads == path)).count()
}

#[cfg(not(tokio_filelock_posix))]
each_protocol!(#[tokio::test] async fn a_file_whose_number_changes_stays_what_it_is);
/// A server may show another number at each look, and the file is the same.
#[cfg(not(tokio_filelock_posix))] // the handle of a file tells, which is Linux's
async fn a_file_whose_number_changes_stays_what_it_is(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    server.change_numbers();
    let path = server.lock_file(protocol);
    for record in [false, true] {
        let options = options(protocol).record(record);
        let lock = options.open(&path).await.unwrap();
        for _ in 0..5 {
            let guard = in_time(lock.lock()).await.unwrap();
            let before = fs::metadata(&path).unwrap().ino();
            assert_ne!(fs::metadata(&path).unwrap().ino(), before, "else this is no test");
            lock.holders().await.unwrap();
            in_time(guard.unlock()).await.unwrap();
            let last = server.calls().pop().unwrap();
            assert!(last.ends_with("unlock"), "{protocol:?}, {record}: {last}");
        }
        drop(lock);
        until("the file is closed", || descriptors(&path) == 0);
    }
}

each_protocol!(
    #[tokio::test]
    async fn a_server_that_says_that_a_descriptor_is_none_is_not_believed
);
/// An errno of a server is not the kernel's word on a descriptor.
async fn a_server_that_says_that_a_descriptor_is_none_is_not_believed(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    let path = server.lock_file(protocol);
    let lock = open(&path, protocol).await;
    server.answer_looks(Answer::Refuse(libc::EBADF));
    let error = in_time(lock.lock()).await.map(drop).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::ForeignDescriptor, "{error}");
    server.answer_looks(Answer::Grant);
    in_time(lock.lock()).await.unwrap().unlock().await.unwrap();
    drop(lock);
    until("the file is closed", || descriptors(&path) == 0);
}

each_protocol!(#[tokio::test] async fn there_is_no_turnstile);
async fn there_is_no_turnstile(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    let lock = open(server.lock_file(protocol), protocol).await;
    server.answer_locks(Answer::RefuseTimes(libc::EAGAIN, 4));
    let guard = in_time(lock.lock()).await.unwrap();
    assert!(!guard.contended());
    guard.unlock().await.unwrap();
    let calls = server.calls();
    println!("{calls:#?}");
    // The kernel says of an unlock by flock(2) that it would wait.
    let (end, unlock) = match protocol {
        Protocol::Flock => (i64::MAX, "wait"),
        _ => (std::process::id().into(), "set"),
    };
    let mut expected = vec![format!("set 0..{end} exclusive"); 5];
    expected.push(format!("{unlock} 0..{end} unlock"));
    assert_eq!(calls, expected);
}

each_protocol!(#[test] fn a_server_that_grants_what_it_does_not_keep_is_believed);
/// What cannot be noticed.
fn a_server_that_grants_what_it_does_not_keep_is_believed(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let server = FuseServer::new();
    let one = Locker::holding(&server.lock_file(protocol), protocol, Mode::Exclusive);
    let other = Locker::holding(&server.lock_file(protocol), protocol, Mode::Exclusive);
    one.finish();
    other.finish();
}

each_protocol!(#[test] fn a_server_that_never_answers_blocks_nobody_else);
/// Neither workers, nor `tokio::fs`, nor other locks, on this file system or another one.
fn a_server_that_never_answers_blocks_nobody_else(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    let place = Place::new();
    let runtime =
        Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
    let lock = runtime.block_on(async {
        let lock = open(server.lock_file(protocol), protocol).await;
        let neighbour = open(server.at("c.lock"), protocol).await;
        let local = open(place.lock_file(), protocol).await;
        let before = wait_threads();
        server.answer_locks(Answer::Hang);
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let lock = lock.clone();
                tokio::spawn(async move { lock.lock().timeout(MOMENT).await.map(drop) })
            })
            .collect();
        for task in waiting {
            let error = in_time(task).await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        }
        // One for the call that hangs, one that looked for those who hold the lock, and one for
        // those who asked when that one was not idle again yet.
        assert!(wait_threads() <= before + 3, "{} threads more", wait_threads() - before);
        // The first call hangs still, and its thread with it.
        server.answer_locks(Answer::Grant);
        let error = in_time(lock.lock().timeout(MOMENT)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        in_time(neighbour.lock()).await.unwrap().unlock().await.unwrap();
        in_time(local.lock()).await.unwrap().unlock().await.unwrap();
        in_time(tokio::fs::write(place.data_file(), "x")).await.unwrap();
        lock
    });
    let waiting = lock.clone();
    runtime.spawn(async move { waiting.lock().await.map(drop) });
    runtime.block_on(tokio::task::yield_now());
    returns(|| drop(runtime));
    drop(lock);
    server.kill();
    kernel::await_no_wait_threads();
}

each_protocol!(#[tokio::test] async fn an_unlock_that_is_never_answered_holds_up_its_own_lock_only);
async fn an_unlock_that_is_never_answered_holds_up_its_own_lock_only(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    let lock = open(server.lock_file(protocol), protocol).await;
    let neighbour = open(server.at("c.lock"), protocol).await;
    let guard = in_time(lock.lock()).await.unwrap();
    server.answer_unlocks(Answer::Hang);
    drop(guard);
    let error = in_time(lock.lock().timeout(MOMENT)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    drop(in_time(neighbour.lock()).await.unwrap());
    // The death of the server is an answer.
    let mut waiting = spawn(lock.lock());
    assert!(waiting.poll().is_pending());
    server.kill();
    let error = in_time(waiting).await.unwrap_err();
    println!("{error}");
    assert_names(&error, ErrorKind::Io, lock.path());
}

#[tokio::test]
async fn a_lookup_that_is_never_answered_holds_up_its_own_file_only() {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    let place = Place::new();
    let held = open(server.at("c.lock"), Protocol::Flock).await;
    server.answer_lookups(Answer::Hang);
    let opening = tokio::spawn(FileLock::open(server.lock_file(Protocol::Flock)));
    // The path is looked at before a guard is given out, with the lock held.
    let mut looking = spawn(held.lock());
    assert!(looking.poll().is_pending());
    let local = in_time(FileLock::open(place.lock_file())).await.unwrap();
    in_time(local.lock()).await.unwrap().unlock().await.unwrap();
    in_time(async { fs::write(place.data_file(), "x") }).await.unwrap();
    drop(looking);
    server.kill();
    let error = in_time(opening).await.unwrap().unwrap_err();
    println!("{error}");
    assert_names(&error, ErrorKind::Io, &server.lock_file(Protocol::Flock));
}

/// Opening anew is an errand, and one that hangs is the only one of its file.
#[tokio::test]
async fn many_who_give_up_leave_one_thread() {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    let lock = open(server.lock_file(Protocol::Flock), Protocol::Flock).await;
    server.answer_locks(Answer::Refuse(libc::ESTALE));
    server.answer_lookups(Answer::Hang);
    let before = wait_threads();
    for _ in 0..20 {
        let limited = lock.lock().timeout(Duration::from_millis(20));
        let error = in_time(limited).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
    assert!(wait_threads() <= before + 3, "{} threads more", wait_threads() - before);
}

each_protocol!(#[tokio::test] async fn a_server_that_dies_leaves_errors);
async fn a_server_that_dies_leaves_errors(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    let lock = open(server.lock_file(protocol), protocol).await;
    let guard = in_time(lock.lock()).await.unwrap();
    server.kill();
    let error = in_time(guard.unlock()).await.unwrap_err();
    assert_names(&error, ErrorKind::Io, lock.path());
    let error = in_time(lock.lock()).await.unwrap_err();
    println!("{error}");
    assert_names(&error, ErrorKind::Io, lock.path());
    let error = in_time(FileLock::open(server.lock_file(protocol))).await.unwrap_err();
    assert_names(&error, ErrorKind::Io, &server.lock_file(protocol));
}

fn wait_threads() -> usize {
    let names = kernel::threads(std::process::id());
    names.iter().filter(|name| *name == "filelock-wait").count()
}
