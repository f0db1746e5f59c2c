//! Those who lock and unlock in a loop let others run: each loop ends only because another task,
//! or another process, had its turn.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_filelock::{FileLock, Protocol};

use crate::support::locker::Locker;
use crate::support::place::Place;
use crate::support::{Mode, each_protocol, in_time, open};

/// More than any budget of a task.
const BOUND: usize = 10_000;

/// Loops on a runtime with one thread; fails if another task does not run within [`BOUND`] rounds.
async fn assert_lets_others_run<F>(
    round: impl Fn(FileLock) -> F + Copy + Send + 'static,
    protocol: Protocol,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let looping = tokio::spawn(async move {
        let ran = Arc::new(AtomicBool::new(false));
        let other = ran.clone();
        // Has its turn when this task lets go of the thread, and not before.
        tokio::spawn(async move { other.store(true, Ordering::Relaxed) });
        for _ in 0..BOUND {
            round(lock.clone()).await;
            if ran.load(Ordering::Relaxed) {
                return;
            }
        }
        panic!("{protocol:?}: no other task ran within {BOUND} rounds");
    });
    looping.await.unwrap();
}

each_protocol!(#[tokio::test] async fn locking_and_dropping_in_a_loop);
async fn locking_and_dropping_in_a_loop(protocol: Protocol) {
    assert_lets_others_run(|lock| async move { drop(lock.lock().await.unwrap()) }, protocol).await;
}

each_protocol!(#[tokio::test] async fn locking_and_unlocking_in_a_loop);
async fn locking_and_unlocking_in_a_loop(protocol: Protocol) {
    assert_lets_others_run(
        |lock| async move { lock.lock().await.unwrap().unlock().await.unwrap() },
        protocol,
    )
    .await;
}

each_protocol!(#[tokio::test] async fn sharing_in_a_loop);
async fn sharing_in_a_loop(protocol: Protocol) {
    assert_lets_others_run(|lock| async move { drop(lock.lock_shared().await.unwrap()) }, protocol)
        .await;
}

each_protocol!(#[tokio::test] async fn locking_with_a_limit_in_a_loop);
async fn locking_with_a_limit_in_a_loop(protocol: Protocol) {
    let limit = Duration::from_secs(60);
    assert_lets_others_run(
        move |lock| async move {
            drop(lock.lock().timeout(limit).await.unwrap());
        },
        protocol,
    )
    .await;
}

each_protocol!(#[tokio::test] async fn handing_over_in_a_loop);
/// Two that hand the lock to each other do not keep a third from running either.
async fn handing_over_in_a_loop(protocol: Protocol) {
    assert_lets_others_run(
        |lock| async move {
            let guard = lock.lock().await.unwrap();
            let next = lock.lock();
            let release = async { drop(guard) };
            let (next, ()) = tokio::join!(next, release);
            drop(next.unwrap());
        },
        protocol,
    )
    .await;
}

each_protocol!(#[tokio::test] async fn a_lock_that_is_only_short_of_budget_does_not_time_out);
/// A task whose budget is used up keeps its place: a lock it was granted is not late.
async fn a_lock_that_is_only_short_of_budget_does_not_time_out(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let looping = tokio::spawn(async move {
        for _ in 0..BOUND {
            drop(lock.lock().timeout(Duration::ZERO).await.unwrap());
        }
    });
    looping.await.unwrap();
}

each_protocol!(
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_process_whose_tasks_never_stop_lets_another_process_in
);
/// Tasks that hand the lock to each other without a pause let another process in.
async fn a_process_whose_tasks_never_stop_lets_another_process_in(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let entered = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (lock, entered) = (lock.clone(), entered.clone());
        tasks.spawn(async move {
            while !entered.load(Ordering::Relaxed) {
                drop(lock.lock().await.unwrap());
            }
        });
    }
    let mut other = Locker::open(&place.lock_file(), protocol);
    other.lock(Mode::Exclusive);
    entered.store(true, Ordering::Relaxed);
    other.unlock();
    in_time(tasks.join_all()).await;
    println!("{protocol:?}: {:?} until another process got in", lock.counters());
}
