//! Any executor, or none; limits and the timer they need.

use std::fs;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use futures::executor::{LocalPool, block_on};
use futures::future::FusedFuture;
use tokio::runtime::{Builder, Handle};
use tokio::time::Instant;
use tokio_filelock::{ErrorKind, FileLock, Protocol};

use crate::support::locker::{Locker, is_free};
use crate::support::place::Place;
#[cfg(unix)]
use crate::support::until;
use crate::support::{
    Mode, assert_names, assert_would_block, each_protocol, in_time, kernel, message, open, returns,
};

each_protocol!(#[test] fn without_tokio_and_without_contention);
fn without_tokio_and_without_contention(protocol: Protocol) {
    assert!(Handle::try_current().is_err());
    let place = Place::new();
    block_on(async {
        let lock = open(place.lock_file(), protocol).await;
        let guard = lock.lock().await.unwrap();
        assert!(!is_free(&place.lock_file(), protocol, Mode::Shared));
        guard.unlock().await.unwrap();
        drop(lock.lock_shared().await.unwrap());
        // Opened anew on the crate's own threads.
        fs::remove_file(place.lock_file()).unwrap();
        drop(lock.lock().await.unwrap());
        assert!(place.lock_file().exists());
    });
}

each_protocol!(#[test] fn without_tokio_against_another_process);
fn without_tokio_against_another_process(protocol: Protocol) {
    let place = Place::new();
    let (path, holder) = (place.lock_file(), holder(&place.lock_file(), protocol));
    let locked = thread::spawn(move || {
        assert!(Handle::try_current().is_err());
        block_on(async { open(path, protocol).await.lock().await.unwrap() })
    });
    kernel::await_waiting_calls(&place.lock_file(), 1);
    holder.finish();
    let guard = returns(|| locked.join().unwrap());
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared));
    drop(guard);
}

#[test]
fn without_tokio_among_tasks_of_one_thread() {
    use futures::task::LocalSpawnExt;

    let place = Place::new();
    let lock = block_on(open(place.lock_file(), Protocol::Flock));
    let guard = lock.try_lock().unwrap();
    let mut pool = LocalPool::new();
    let (entered, order) = mpsc::channel();
    for task in 0..10 {
        let (lock, entered) = (lock.clone(), entered.clone());
        let waiting = async move {
            let guard = lock.lock().await.unwrap();
            entered.send(task).unwrap();
            drop(guard);
        };
        pool.spawner().spawn_local(waiting).unwrap();
    }
    pool.run_until_stalled();
    assert!(order.try_recv().is_err(), "the guard holds the lock");
    drop(guard);
    pool.run();
    drop(entered);
    assert!(order.into_iter().eq(0..10), "first come, first served");
}

fn holder(path: &Path, protocol: Protocol) -> Locker {
    Locker::holding(path, protocol, Mode::Exclusive)
}

each_protocol!(#[test] fn blocking_lock_in_a_plain_thread);
fn blocking_lock_in_a_plain_thread(protocol: Protocol) {
    let place = Place::new();
    let holder = holder(&place.lock_file(), protocol);
    let lock = FileLock::options().protocol(protocol).blocking_open(place.lock_file()).unwrap();
    let locking = thread::spawn(move || lock.blocking_lock().unwrap());
    kernel::await_waiting_calls(&place.lock_file(), 1);
    holder.finish();
    let guard = returns(|| locking.join().unwrap());
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared));
    let lock = guard.file_lock().clone();
    drop(guard);
    drop(lock.blocking_lock_shared().unwrap());
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(#[tokio::test] async fn blocking_lock_in_spawn_blocking);
async fn blocking_lock_in_spawn_blocking(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let held = lock.lock().await.unwrap();
    let waiting = lock.clone();
    let locking = tokio::task::spawn_blocking(move || {
        drop(waiting.blocking_lock_shared().unwrap());
        waiting.blocking_lock().unwrap()
    });
    tokio::task::yield_now().await;
    drop(held);
    let guard = in_time(locking).await.unwrap();
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared));
    drop(guard);
}

#[tokio::test]
async fn blocking_lock_in_a_task_panics_and_locks_nothing() {
    let place = Place::new();
    let lock = open(place.lock_file(), Protocol::Flock).await;
    assert_panics(|| lock.blocking_lock(), "from within a runtime");
    assert_panics(|| lock.blocking_lock_shared(), "from within a runtime");
    assert!(is_free(&place.lock_file(), Protocol::Flock, Mode::Exclusive));
    drop(lock.lock().await.unwrap());
}

#[test]
fn blocking_lock_in_another_executor_panics_and_locks_nothing() {
    let place = Place::new();
    block_on(async {
        let lock = open(place.lock_file(), Protocol::Flock).await;
        assert_panics(|| lock.blocking_lock(), "from within another executor");
        assert!(is_free(&place.lock_file(), Protocol::Flock, Mode::Exclusive));
        drop(lock.lock().await.unwrap());
    });
}

#[track_caller]
fn assert_panics<T>(call: impl FnOnce() -> T, says: &str) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(call)) else { panic!("it did not panic") };
    let said = message(&*panic);
    assert!(said.contains(says), "{said}");
}

#[test]
fn a_limit_without_a_timer_panics_at_the_first_poll_and_locks_nothing() {
    let place = Place::new();
    let lock = FileLock::options().blocking_open(place.lock_file()).unwrap();
    let limited: [fn(&FileLock); 4] = [
        |lock| drop(block_on(lock.lock().timeout(Duration::from_secs(1)))),
        |lock| drop(block_on(lock.lock_shared().deadline(Instant::now()))),
        |lock| drop(block_on(lock.lock().on_wait(Duration::from_secs(1), |_| ()))),
        |lock| {
            let guard = block_on(lock.lock()).unwrap();
            // Contended, so it has nothing to wait for.
            let mut next = Box::pin(lock.lock());
            let mut context = Context::from_waker(Waker::noop());
            assert!(next.as_mut().poll(&mut context).is_pending());
            block_on(guard.until_contended());
        },
    ];
    for limited in limited {
        assert_panics(|| limited(&lock), "no reactor running");
        let runtime = Builder::new_current_thread().build().unwrap();
        assert_panics(|| runtime.block_on(async { limited(&lock) }), "timers are disabled");
        assert!(is_free(&place.lock_file(), Protocol::Flock, Mode::Exclusive));
    }
    // Never polled, nothing missed.
    drop(lock.lock().timeout(Duration::from_secs(1)));
    drop(block_on(lock.lock()).unwrap());
}

each_protocol!(#[tokio::test] async fn a_timeout_names_the_file_and_the_time);
async fn a_timeout_names_the_file_and_the_time(protocol: Protocol) {
    let place = Place::new();
    let holder = holder(&place.lock_file(), protocol);
    let lock = open(place.lock_file(), protocol).await;
    let limit = Duration::from_millis(20);
    for shared in [false, true] {
        let error = match shared {
            false => lock.lock().timeout(limit).await.map(drop),
            true => lock.lock_shared().timeout(limit).await.map(drop),
        };
        let error = error.unwrap_err();
        assert_names(&error, ErrorKind::TimedOut, &place.lock_file());
        assert!(error.to_string().contains(" within "), "{error}");
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::TimedOut);
    }
    holder.finish();
    drop(in_time(lock.lock()).await.unwrap());
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(
    #[tokio::test]
    async fn limits_that_are_over_take_a_free_lock_and_wait_for_no_held_one
);
async fn limits_that_are_over_take_a_free_lock_and_wait_for_no_held_one(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let past = Instant::now() - Duration::from_secs(1);
    drop(lock.lock().timeout(Duration::ZERO).await.unwrap());
    drop(lock.lock().deadline(past).await.unwrap());
    drop(lock.lock_shared().deadline(past).await.unwrap());

    let guard = lock.lock().await.unwrap();
    for limited in [lock.lock().timeout(Duration::ZERO), lock.lock().deadline(past)] {
        let error = in_time(limited).await.unwrap_err();
        assert_names(&error, ErrorKind::TimedOut, &place.lock_file());
    }
    drop(guard);
    assert!(lock.try_lock().is_ok());
}

#[tokio::test]
async fn the_last_limit_counts() {
    let place = Place::new();
    let lock = open(place.lock_file(), Protocol::Flock).await;
    let guard = lock.lock().await.unwrap();
    let hour = Duration::from_secs(3600);
    let limited = lock.lock().timeout(hour).timeout(Duration::ZERO);
    assert_eq!(in_time(limited).await.unwrap_err().kind(), ErrorKind::TimedOut);
    let limited = lock.lock().timeout(Duration::ZERO).deadline(Instant::now() + hour);
    let mut limited = tokio_test::task::spawn(limited);
    assert!(limited.poll().is_pending());
    drop(guard);
    drop(in_time(limited).await.unwrap());
}

each_protocol!(
    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_reaches_the_limit_at_once
);
/// tokio moves a paused clock on when nothing else is to be done. The kernel's clock goes on as
/// ever, and so does the holder.
async fn a_paused_clock_reaches_the_limit_at_once(protocol: Protocol) {
    let place = Place::new();
    let holder = holder(&place.lock_file(), protocol);
    let lock = open(place.lock_file(), protocol).await;
    let error = lock.lock().timeout(Duration::from_secs(3600)).await.unwrap_err();
    assert_names(&error, ErrorKind::TimedOut, &place.lock_file());
    assert!(error.to_string().contains("within 3600 s: held by "), "{error}");
    let deadline = Instant::now() + Duration::from_secs(7200);
    let error = lock.lock_shared().deadline(deadline).await.unwrap_err();
    assert!(error.to_string().contains("within 7200 s: held by "), "{error}");

    let mut waiting = tokio_test::task::spawn(lock.lock());
    assert!(waiting.poll().is_pending());
    holder.finish();
    drop(waiting.await.unwrap());
}

#[tokio::test]
async fn a_future_that_was_ready_is_terminated_and_panics_when_it_is_polled_again() {
    let place = Place::new();
    let lock = open(place.lock_file(), Protocol::Flock).await;
    let mut acquire = tokio_test::task::spawn(Box::pin(lock.lock()));
    assert!(!acquire.is_terminated());
    let polled = acquire.poll();
    assert!(polled.is_ready());
    assert!(acquire.is_terminated());
    assert_panics(|| acquire.poll(), "polled after completion");
    assert_would_block(lock.try_lock());
    drop(polled);
    assert!(lock.try_lock().is_ok());
}

each_protocol!(#[test] fn a_full_blocking_pool_keeps_no_task_from_its_lock);
/// A runtime whose blocking pool is full, which others fill with their own `spawn_blocking`.
fn a_full_blocking_pool_keeps_no_task_from_its_lock(protocol: Protocol) {
    let place = Place::new();
    let holder = holder(&place.lock_file(), protocol);
    let runtime =
        Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
    let lock = runtime.block_on(open(place.lock_file(), protocol));
    let (unblock, blocked) = mpsc::channel::<()>();
    let filling = runtime.spawn_blocking(move || blocked.recv());
    let waiting = runtime.spawn(in_time(async move { lock.lock().await.map(drop) }));
    runtime.block_on(tokio::task::yield_now());
    kernel::await_waiting_calls(&place.lock_file(), 1);
    holder.finish();
    runtime.block_on(waiting).unwrap().unwrap();
    drop(unblock);
    assert!(runtime.block_on(filling).unwrap().is_err());
}

#[cfg(unix)]
each_protocol!(#[test] fn waiting_tasks_take_one_thread_and_leave_the_blocking_pool_alone);
/// And the other way round: tasks that wait for a lock take no thread of the pool.
#[cfg(unix)] // the threads are counted in /proc
fn waiting_tasks_take_one_thread_and_leave_the_blocking_pool_alone(protocol: Protocol) {
    const CROWD: usize = 200;
    let place = Place::new();
    let holder = holder(&place.lock_file(), protocol);
    let mut crowded = Locker::open(&place.lock_file(), protocol);
    crowded.crowd(CROWD);
    kernel::await_waiting_calls(&place.lock_file(), 1);
    // The one that opened the file is idle for some seconds, unless it is the one that waits.
    until("one thread waits", || {
        let threads = kernel::threads(crowded.pid());
        assert!(threads.len() < 10, "{threads:?}");
        threads.iter().filter(|name| *name == "filelock-wait").count() == 1
    });
    holder.finish();
    crowded.disperse();
    crowded.finish();
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

#[test]
fn the_future_moves_from_one_executor_to_another() {
    let place = Place::new();
    let holder = holder(&place.lock_file(), Protocol::Flock);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let lock = runtime.block_on(open(place.lock_file(), Protocol::Flock));
    let mut acquire = Box::pin(lock.lock());
    runtime.block_on(async {
        std::future::poll_fn(|cx| {
            assert!(acquire.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    });
    drop(runtime);
    holder.finish();
    let guard = returns(move || block_on(acquire).unwrap());
    assert!(!is_free(&place.lock_file(), Protocol::Flock, Mode::Shared));
    drop(guard);
}
