//! A process that dies by any means frees its locks and its places in the queues, and leaves
//! nothing behind that a human must remove.

use std::fs;

use tokio_filelock::Protocol;

use crate::child::Role;
use crate::exclusion::COUNTED;
use crate::support::locker::{Locker, holder_and_waiters, is_free};
use crate::support::place::Place;
use crate::support::process::{Process, gather};
use crate::support::{Mode, each_protocol, in_time, kernel, open, until};

each_protocol!(#[test] fn a_waiter_gets_the_lock_of_a_killed_holder);
fn a_waiter_gets_the_lock_of_a_killed_holder(protocol: Protocol) {
    let place = Place::new();
    let (holder, waiters) = holder_and_waiters(&place.lock_file(), protocol, 1);
    holder.kill();
    for mut waiter in waiters {
        waiter.expect_held();
        waiter.unlock();
    }
    assert_nothing_left(&place, protocol);
}

each_protocol!(#[tokio::test] async fn a_task_gets_the_lock_of_a_killed_holder);
async fn a_task_gets_the_lock_of_a_killed_holder(protocol: Protocol) {
    let place = Place::new();
    let holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    let lock = open(place.lock_file(), protocol).await;
    let mut acquire = tokio_test::task::spawn(lock.lock());
    assert!(acquire.poll().is_pending());
    kernel::await_waiting_calls(&place.lock_file(), 1);
    holder.kill();
    let guard = in_time(acquire).await.unwrap();
    assert!(!is_free(&place.lock_file(), protocol, Mode::Exclusive));
    drop(guard);
    assert_nothing_left(&place, protocol);
}

each_protocol!(#[test] fn a_killed_waiter_stands_in_nobodys_way);
fn a_killed_waiter_stands_in_nobodys_way(protocol: Protocol) {
    let place = Place::new();
    let (mut holder, mut waiters) = holder_and_waiters(&place.lock_file(), protocol, 2);
    let mut last = waiters.pop().unwrap();
    waiters.pop().unwrap().kill();
    holder.unlock();
    last.expect_held();
    last.unlock();
    assert_nothing_left(&place, protocol);
}

each_protocol!(#[test] fn a_process_killed_with_a_guard_and_a_queue_frees_the_lock);
fn a_process_killed_with_a_guard_and_a_queue_frees_the_lock(protocol: Protocol) {
    let place = Place::new();
    let mut crowded = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    crowded.crowd(50);
    let mut waiter = Locker::open(&place.lock_file(), protocol);
    waiter.start_to_wait(Mode::Exclusive);
    crowded.kill();
    waiter.expect_held();
    waiter.unlock();
    assert_nothing_left(&place, protocol);
}

each_protocol!(#[test] fn a_killed_reader_lets_the_writer_in);
fn a_killed_reader_lets_the_writer_in(protocol: Protocol) {
    let place = Place::new();
    let reader = Locker::holding(&place.lock_file(), protocol, Mode::Shared);
    let survivor = Locker::holding(&place.lock_file(), protocol, Mode::Shared);
    let mut writer = Locker::open(&place.lock_file(), protocol);
    writer.start_to_wait(Mode::Exclusive);
    reader.kill();
    assert!(!is_free(&place.lock_file(), protocol, Mode::Exclusive));
    survivor.finish();
    writer.expect_held();
    writer.unlock();
    assert_nothing_left(&place, protocol);
}

#[cfg(unix)]
each_protocol!(#[test] fn a_child_that_outlives_the_holder_does_not_keep_the_lock);
/// The descriptor is closed on exec.
#[cfg(unix)]
fn a_child_that_outlives_the_holder_does_not_keep_the_lock(protocol: Protocol) {
    let place = Place::new();
    let mut parent = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    let orphan = parent.start_child();
    let mut waiter = Locker::open(&place.lock_file(), protocol);
    waiter.start_to_wait(Mode::Exclusive);
    let pipe = parent.kill();
    waiter.expect_held();
    assert!(std::path::Path::new(&format!("/proc/{orphan}")).exists(), "the child lives");
    drop(pipe);
    waiter.unlock();
    assert_nothing_left(&place, protocol);
}

each_protocol!(#[test] fn victims_killed_at_any_step_lose_nobody_elses_increments);
/// Processes that are killed while they lock and unlock as fast as they can do not disturb those
/// that go on.
fn victims_killed_at_any_step_lose_nobody_elses_increments(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.data_file(), "0").unwrap();
    let (lock_file, data_file) = (place.lock_file(), place.data_file());
    let arguments =
        [&format!("{protocol:?}"), lock_file.to_str().unwrap(), data_file.to_str().unwrap()];
    let mut survivors = [Process::in_role(Role::Count, &arguments)];
    let mut victims: Vec<_> = (0..4)
        .map(|victim| {
            // Of their own, as a victim may leave it in the middle of a write.
            let data = place.at(&format!("victim {victim}"));
            fs::write(&data, "0").unwrap();
            let arguments = [arguments[0], arguments[1], data.to_str().unwrap()];
            Process::in_role(Role::Count, &arguments)
        })
        .collect();
    gather(&mut victims);
    gather(&mut survivors);
    for (victim, process) in victims.into_iter().enumerate() {
        // As soon as it is seen at work.
        let data = place.at(&format!("victim {victim}"));
        until("the victim counts", || fs::read(&data).unwrap() != b"0");
        drop(process);
    }
    let [survivor] = survivors;
    assert!(survivor.event().starts_with(&format!("{COUNTED} ")));
    survivor.finish();
    assert_eq!(fs::read_to_string(place.data_file()).unwrap(), COUNTED.to_string());
    assert_nothing_left_but(&place, protocol, 5);
}

fn assert_nothing_left(place: &Place, protocol: Protocol) {
    assert_nothing_left_but(place, protocol, 0);
}

/// The next process finds the lock free, and no other file than the lock file and the data.
#[track_caller]
fn assert_nothing_left_but(place: &Place, protocol: Protocol, data_files: usize) {
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");
    assert_eq!(fs::read(place.lock_file()).unwrap(), b"");
    assert_eq!(place.names().len(), 1 + data_files, "{:?}", place.names());
}
