//! Guards: they can be dropped anywhere, and dropping releases. That it did is seen by a process
//! that was just started.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;

use tokio::runtime::Runtime;
use tokio_filelock::{ExclusiveGuard, FileLock, Protocol, SharedGuard};

use crate::support::locker::{Locker, is_free};
use crate::support::place::Place;
use crate::support::{Mode, assert_would_block, each_protocol, in_time, open};

#[test]
fn guards_can_be_stored_and_sent() {
    fn storable<T: Send + Sync + 'static>() {}
    storable::<ExclusiveGuard>();
    storable::<SharedGuard>();
    storable::<FileLock>();
}

/// Takes the lock in either mode, sees that it excludes, has the guard dropped, and sees that
/// the lock is free.
async fn drop_each(protocol: Protocol, drop_it: impl AsyncFn(Box<dyn Send + Sync>)) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let guards: [Box<dyn Send + Sync>; 2] = [
        Box::new(lock.lock().await.unwrap().downgrade()),
        Box::new(lock.lock_shared().await.unwrap()),
    ];
    for guard in guards {
        assert!(!is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");
        drop_it(guard).await;
    }
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");

    let guard = lock.lock().await.unwrap();
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared), "{protocol:?}");
    drop_it(Box::new(guard)).await;
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");
}

each_protocol!(#[tokio::test] async fn dropped_in_place);
async fn dropped_in_place(protocol: Protocol) {
    drop_each(protocol, async |guard| drop(guard)).await;
}

each_protocol!(#[tokio::test] async fn dropped_in_another_task);
async fn dropped_in_another_task(protocol: Protocol) {
    drop_each(protocol, async |guard| tokio::spawn(async move { drop(guard) }).await.unwrap())
        .await;
}

each_protocol!(#[tokio::test] async fn dropped_in_another_thread_outside_any_runtime);
async fn dropped_in_another_thread_outside_any_runtime(protocol: Protocol) {
    drop_each(protocol, async |guard| {
        let dropped = thread::spawn(move || {
            assert!(tokio::runtime::Handle::try_current().is_err());
            drop(guard);
        });
        dropped.join().unwrap();
    })
    .await;
}

each_protocol!(#[tokio::test] async fn dropped_on_the_blocking_pool);
async fn dropped_on_the_blocking_pool(protocol: Protocol) {
    drop_each(protocol, async |guard| tokio::task::spawn_blocking(|| drop(guard)).await.unwrap())
        .await;
}

each_protocol!(#[tokio::test] async fn dropped_by_a_panicking_task);
async fn dropped_by_a_panicking_task(protocol: Protocol) {
    drop_each(protocol, async |guard| {
        let task = tokio::spawn(async move {
            let _guard = guard;
            panic!("on purpose, with the lock held");
        });
        assert!(task.await.unwrap_err().is_panic());
    })
    .await;
}

each_protocol!(#[tokio::test] async fn dropped_while_a_panic_unwinds_a_thread);
async fn dropped_while_a_panic_unwinds_a_thread(protocol: Protocol) {
    drop_each(protocol, async |guard| {
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let _guard = guard;
            panic!("on purpose, with the lock held");
        }));
        assert!(unwound.is_err());
    })
    .await;
}

each_protocol!(#[tokio::test] async fn dropped_with_an_aborted_task);
async fn dropped_with_an_aborted_task(protocol: Protocol) {
    drop_each(protocol, async |guard| {
        let task = tokio::spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    })
    .await;
}

each_protocol!(#[test] fn a_guard_outlives_the_runtime_it_was_awaited_on);
fn a_guard_outlives_the_runtime_it_was_awaited_on(protocol: Protocol) {
    let place = Place::new();
    let runtime = Runtime::new().unwrap();
    let guard =
        runtime.block_on(async { open(place.lock_file(), protocol).await.lock().await.unwrap() });
    drop(runtime);
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared));
    drop(guard);
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(#[tokio::test] async fn a_guard_outlives_every_handle);
async fn a_guard_outlives_every_handle(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let guard = lock.lock().await.unwrap();
    drop(lock);
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared));
    assert_eq!(guard.file_lock().path(), place.lock_file());
    assert_would_block(guard.file_lock().try_lock());
    drop(guard);
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(#[tokio::test] async fn awaiting_unlock_releases_and_says_so);
async fn awaiting_unlock_releases_and_says_so(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    lock.lock().await.unwrap().unlock().await.unwrap();
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
    lock.lock_shared().await.unwrap().unlock().await.unwrap();
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

#[tokio::test]
async fn dropping_the_future_of_unlock_releases() {
    let place = Place::new();
    let lock = open(place.lock_file(), Protocol::Flock).await;
    drop(lock.lock().await.unwrap().unlock());
    assert!(is_free(&place.lock_file(), Protocol::Flock, Mode::Exclusive));
}

each_protocol!(#[tokio::test] async fn a_release_in_another_thread_wakes_the_next_task);
async fn a_release_in_another_thread_wakes_the_next_task(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let guard = lock.lock().await.unwrap();
    let mut next = tokio_test::task::spawn(lock.lock());
    assert!(next.poll().is_pending());
    thread::spawn(move || drop(guard)).join().unwrap();
    assert!(next.is_woken());
    drop(in_time(next).await.unwrap());
}

each_protocol!(#[tokio::test] async fn after_a_downgrade_tasks_share_and_nobody_writes);
async fn after_a_downgrade_tasks_share_and_nobody_writes(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let writer = lock.lock().await.unwrap();
    let mut waiting_reader = tokio_test::task::spawn(lock.lock_shared());
    assert!(waiting_reader.poll().is_pending());
    let reader = writer.downgrade();
    assert!(waiting_reader.is_woken(), "shared requests at the head enter at once");
    let another = in_time(waiting_reader).await.unwrap();
    assert_would_block(lock.try_lock());
    assert!(!is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");
    drop((reader, another));
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");
}

#[tokio::test]
async fn after_a_downgrade_with_fcntl_processes_share_at_once() {
    let place = Place::new();
    let lock = open(place.lock_file(), Protocol::Fcntl).await;
    let writer = lock.lock().await.unwrap();
    let mut other = Locker::open(&place.lock_file(), Protocol::Fcntl);
    assert_eq!(other.try_lock(Mode::Shared), "would block");
    let reader = writer.downgrade();
    assert_eq!(other.try_lock(Mode::Shared), "held");
    other.unlock();
    assert_eq!(other.try_lock(Mode::Exclusive), "would block");
    drop(reader);
    assert_eq!(other.try_lock(Mode::Exclusive), "held");
}

/// flock(2) could let a writer in between, so the lock stays exclusive to the outside.
#[cfg(unix)] // Windows shares at once
#[tokio::test]
async fn after_a_downgrade_with_flock_processes_share_when_the_tenure_ends() {
    let place = Place::new();
    let lock = open(place.lock_file(), Protocol::Flock).await;
    let reader = lock.lock().await.unwrap().downgrade();
    let another = lock.lock_shared().await.unwrap();
    let mut other = Locker::open(&place.lock_file(), Protocol::Flock);
    assert_eq!(other.try_lock(Mode::Shared), "would block");
    drop(reader);
    assert_eq!(other.try_lock(Mode::Shared), "would block");
    drop(another);
    assert_eq!(other.try_lock(Mode::Shared), "held");
    let reader = lock.try_lock_shared().unwrap();
    assert_eq!(reader.file_lock().counters().tenures, 2);
}

each_protocol!(
    #[tokio::test]
    async fn a_reader_of_another_process_that_waits_gets_in_after_a_downgrade
);
/// What waits in the kernel while a guard is downgraded gets its turn.
async fn a_reader_of_another_process_that_waits_gets_in_after_a_downgrade(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let writer = lock.lock().await.unwrap();
    let mut other = waiting_reader(&place.lock_file(), protocol);
    let reader = writer.downgrade();
    if protocol == Protocol::Fcntl {
        other.expect_held();
        drop(reader);
    } else {
        drop(reader);
        other.expect_held();
    }
    other.unlock();
}

fn waiting_reader(path: &Path, protocol: Protocol) -> Locker {
    let mut reader = Locker::open(path, protocol);
    reader.start_to_wait(Mode::Shared);
    crate::support::kernel::await_waiting_calls(path, 1);
    reader
}
