//! A request can be dropped at any point: nothing stays locked, and no other task loses a turn.

use std::fs;
use std::sync::mpsc;
use std::time::Duration;

use tokio::task::{JoinSet, yield_now};
use tokio_filelock::{Acquire, ErrorKind, ExclusiveGuard, FileLock, Protocol};
use tokio_test::task::{Spawn, spawn};

use crate::child::Role;
use crate::support::locker::{Locker, is_free};
use crate::support::place::Place;
use crate::support::process::{Process, commands, say};
use crate::support::{Mode, assert_would_block, each_protocol, in_time, kernel, open, protocol};

/// A request that waits.
fn queued(acquire: Acquire<ExclusiveGuard>) -> Spawn<Acquire<ExclusiveGuard>> {
    let mut acquire = spawn(acquire);
    assert!(acquire.poll().is_pending());
    acquire
}

#[cfg(unix)]
each_protocol!(#[tokio::test] async fn dropped_while_it_looks_who_kept_it_waiting);
/// A request whose time is up gives its place up before it looks for the holder, and may be dropped in
/// the middle of that.
#[cfg(unix)]
async fn dropped_while_it_looks_who_kept_it_waiting(protocol: Protocol) {
    let place = Place::new();
    let holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    let lock = open(place.lock_file(), protocol).await;
    // Now and then the look is over within the poll that begins it: then there is nothing to drop.
    for attempt in 1.. {
        assert!(attempt < 1000, "no look is ever under way");
        let mut acquire = queued(lock.lock().timeout(Duration::from_millis(1)));
        kernel::await_waiting_calls(&place.lock_file(), 1);
        while !acquire.is_woken() {
            yield_now().await;
        }
        let looks = acquire.poll().is_pending();
        kernel::await_no_waiting_calls(&place.lock_file());
        drop(acquire);
        if looks {
            break;
        }
    }
    holder.finish();
    drop(in_time(lock.lock()).await.unwrap());
}

each_protocol!(#[tokio::test] async fn dropped_before_the_first_poll);
async fn dropped_before_the_first_poll(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    drop(lock.lock());
    assert_eq!(lock.counters().tenures, 0, "nothing was asked for");
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(#[tokio::test] async fn dropped_in_the_queue);
async fn dropped_in_the_queue(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let guard = lock.lock().await.unwrap();
    let first = queued(lock.lock());
    let second = queued(lock.lock());
    let third = queued(lock.lock());
    drop(second);
    drop(guard);
    let guard = in_time(first).await.unwrap();
    assert!(!third.is_woken());
    drop(guard);
    assert!(third.is_woken());
    drop(in_time(third).await.unwrap());
    assert_eq!(lock.counters().acquisitions, 3);
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(#[tokio::test] async fn dropped_at_the_head_of_the_queue_lets_those_behind_share);
async fn dropped_at_the_head_of_the_queue_lets_those_behind_share(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let reader = lock.lock_shared().await.unwrap();
    let writer = queued(lock.lock());
    let mut behind = spawn(lock.lock_shared());
    assert!(behind.poll().is_pending(), "not past the writer");
    assert_would_block(lock.try_lock_shared());
    drop(writer);
    assert!(behind.is_woken());
    drop((reader, in_time(behind).await.unwrap()));
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(#[tokio::test] async fn dropped_after_the_grant_and_before_the_poll_hands_on);
async fn dropped_after_the_grant_and_before_the_poll_hands_on(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let guard = lock.lock().await.unwrap();
    let granted = queued(lock.lock());
    let next = queued(lock.lock());
    drop(guard);
    assert!(granted.is_woken());
    // As documented: it holds the lock, polled or not.
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared));
    assert!(!next.is_woken());
    drop(granted);
    assert!(next.is_woken());
    drop(in_time(next).await.unwrap());
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(#[tokio::test] async fn dropped_after_the_grant_with_nobody_behind_frees_the_lock);
async fn dropped_after_the_grant_with_nobody_behind_frees_the_lock(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let guard = lock.lock().await.unwrap();
    let granted = queued(lock.lock());
    drop(guard);
    assert!(granted.is_woken());
    drop(granted);
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(#[tokio::test] async fn dropped_after_the_kernel_granted_it_and_before_the_poll);
async fn dropped_after_the_kernel_granted_it_and_before_the_poll(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    let granted = queued(lock.lock());
    kernel::await_waiting_calls(&place.lock_file(), 1);
    holder.finish();
    in_time(async {
        while !granted.is_woken() {
            yield_now().await;
        }
    })
    .await;
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared));
    drop(granted);
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

/// The wait that is taken over wants more access than the one that was given up.
#[tokio::test]
async fn a_reader_without_write_access_gives_up_for_a_writer() {
    let (place, protocol) = (Place::new(), Protocol::Fcntl);
    let holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    let options = FileLock::options().protocol(protocol);
    let reading = options.clone().read_only(true).open(place.lock_file()).await.unwrap();
    let mut reader = spawn(reading.lock_shared());
    assert!(reader.poll().is_pending());
    kernel::await_waiting_calls(&place.lock_file(), 1);
    let writing = options.open(place.lock_file()).await.unwrap();
    let writer = queued(writing.lock());
    drop(reader);
    kernel::await_waiting_calls(&place.lock_file(), 1);
    holder.finish();
    drop(in_time(writer).await.unwrap());
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(#[tokio::test] async fn a_wait_that_was_given_up_serves_the_next_one);
/// The wait in the kernel belongs to the lock file and not to the one who caused it.
async fn a_wait_that_was_given_up_serves_the_next_one(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    for _ in 0..10 {
        drop(queued(lock.lock()));
    }
    let next = queued(lock.lock());
    kernel::await_waiting_calls(&place.lock_file(), 1);
    holder.finish();
    drop(in_time(next).await.unwrap());
    assert_eq!(lock.counters().acquisitions, 1);
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(#[tokio::test] async fn given_up_by_every_waiter_the_lock_goes_to_another_process);
async fn given_up_by_every_waiter_the_lock_goes_to_another_process(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    drop(queued(lock.lock()));
    let mut other = Locker::open(&place.lock_file(), protocol);
    other.start_to_wait(Mode::Exclusive);
    holder.finish();
    other.expect_held();
    assert_would_block(lock.try_lock());
    other.unlock();
    assert_eq!(lock.counters().acquisitions, 0);
}

each_protocol!(#[tokio::test] async fn given_up_in_a_select);
async fn given_up_in_a_select(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let guard = lock.lock().await.unwrap();
    tokio::select! {
        biased;
        _ = lock.lock() => panic!("it is held"),
        () = yield_now() => {}
    }
    drop(guard);
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(#[tokio::test] async fn given_up_with_the_task);
async fn given_up_with_the_task(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let guard = lock.lock().await.unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let lock = lock.clone();
        tasks.spawn(async move { drop(lock.lock().await.unwrap()) });
    }
    yield_now().await;
    tasks.shutdown().await;
    drop(guard);
    assert_eq!(lock.counters().acquisitions, 1);
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_storm_of_timeouts_against_a_foreign_holder
);
async fn a_storm_of_timeouts_against_a_foreign_holder(protocol: Protocol) {
    const STORM: u64 = 300;
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    let mut tasks = JoinSet::new();
    for task in 0..STORM {
        let lock = lock.clone();
        let limit = Duration::from_micros(task * 37 % 5_000);
        tasks.spawn(async move {
            if task % 3 == 0 {
                lock.lock_shared().timeout(limit).await.map(drop)
            } else {
                lock.lock().timeout(limit).await.map(drop)
            }
        });
    }
    for result in in_time(tasks.join_all()).await {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
    }
    assert_eq!(lock.counters().acquisitions, 0);
    holder.finish();
    // Takes over what is left of the storm in the kernel.
    drop(in_time(lock.lock()).await.unwrap());
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

const PROCESSES: usize = 3;
const TASKS: usize = 10;
const ROUNDS: usize = 20;

each_protocol!(#[test] fn no_increment_is_lost_among_those_who_give_up_and_try_again);
/// Tasks that give up early and try again, in several processes at once, and none loses an
/// increment. At first everybody must give up.
fn no_increment_is_lost_among_those_who_give_up_and_try_again(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.data_file(), "0").unwrap();
    let holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    let (name, lock_file, data_file) =
        (format!("{protocol:?}"), place.lock_file(), place.data_file());
    let arguments = [&name, lock_file.to_str().unwrap(), data_file.to_str().unwrap()];
    let processes: Vec<_> =
        (0..PROCESSES).map(|_| Process::in_role(Role::CountImpatiently, &arguments)).collect();
    for process in &processes {
        process.expect("all gave up");
    }
    holder.finish();
    let mut timeouts = 0;
    for process in processes {
        timeouts += process.event().parse::<usize>().unwrap();
        process.finish();
    }
    let increments = PROCESSES * TASKS * ROUNDS;
    println!("{protocol:?}: {PROCESSES} processes, {increments} acquisitions, {timeouts} timeouts");
    assert!(timeouts >= PROCESSES * TASKS);
    assert_eq!(fs::read_to_string(place.data_file()).unwrap(), increments.to_string());
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

/// The role `CountImpatiently`.
pub(crate) fn count_impatiently(arguments: &[String]) {
    let [name, lock_file, data_file] = arguments else { panic!("three arguments") };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let timeouts: u32 = runtime.block_on(async {
        let lock = open(lock_file, protocol(name)).await;
        let (gave_up, all_gave_up) = mpsc::channel();
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let (lock, data, gave_up) = (lock.clone(), data_file.clone(), gave_up.clone());
            tasks.spawn(async move {
                let (mut timeouts, mut counted) = (0, 0);
                while counted < ROUNDS {
                    // More patient after each disappointment.
                    let limit = Duration::from_micros(100) * (timeouts % 100);
                    let guard = match lock.lock().timeout(limit).await {
                        Ok(guard) => guard,
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
                            timeouts += 1;
                            // Only the first one is waited for.
                            let _ = gave_up.send(());
                            continue;
                        }
                    };
                    let count: usize = fs::read_to_string(&data).unwrap().parse().unwrap();
                    yield_now().await;
                    fs::write(&data, (count + 1).to_string()).unwrap();
                    drop(guard);
                    counted += 1;
                }
                timeouts
            });
        }
        tokio::task::block_in_place(|| {
            for _ in 0..TASKS {
                all_gave_up.recv().unwrap();
            }
        });
        say("all gave up");
        tasks.join_all().await.into_iter().sum()
    });
    say(&timeouts.to_string());
    commands().for_each(drop);
}
