//! Runtimes that go while a task waits: they never wait for a foreign holder, and no task of
//! another runtime loses its turn. Each drop returns before the holder lets go.

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc;
use std::thread;

use futures::executor::block_on;
use tokio::runtime::{Builder, Runtime};
use tokio_filelock::{ErrorKind, FileLock, Protocol};

use crate::support::locker::{Locker, is_free};
use crate::support::place::Place;
use crate::support::{Mode, each_protocol, in_time, kernel, open, returns};

fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
        Builder::new_current_thread().enable_all().build().unwrap(),
    ]
}

/// Starts tasks that wait for the lock, and returns when each has its place in the queue.
fn start_waiting(runtime: &Runtime, lock: &FileLock, tasks: usize) -> mpsc::Receiver<()> {
    let (entered, enters) = mpsc::channel();
    for _ in 0..tasks {
        let (lock, entered) = (lock.clone(), entered.clone());
        let (queued, in_queue) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let mut acquire = pin!(lock.lock());
            let mut queued = Some(queued);
            let guard = std::future::poll_fn(|cx| {
                let polled = acquire.as_mut().poll(cx);
                if let Some(queued) = queued.take() {
                    queued.send(()).unwrap();
                }
                polled
            })
            .await;
            // The test that started the task may have lost interest.
            let _ = entered.send(());
            drop(guard.unwrap());
        });
        runtime.block_on(in_queue).unwrap();
    }
    enters
}

each_protocol!(#[test] fn dropping_a_runtime_does_not_wait_for_a_foreign_holder);
fn dropping_a_runtime_does_not_wait_for_a_foreign_holder(protocol: Protocol) {
    for runtime in runtimes() {
        let place = Place::new();
        let holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
        let lock = runtime.block_on(open(place.lock_file(), protocol));
        let enters = start_waiting(&runtime, &lock, 20);
        kernel::await_waiting_calls(&place.lock_file(), 1);
        returns(|| drop(runtime));
        assert!(enters.recv().is_err(), "the tasks went with the runtime");
        holder.finish();
        // Behind whatever is left of the wait in the kernel.
        let mut other = Locker::open(&place.lock_file(), protocol);
        other.lock(Mode::Exclusive);
        other.unlock();
        assert_eq!(lock.counters().acquisitions, 0);
    }
}

each_protocol!(#[test] fn the_wait_of_a_dropped_runtime_serves_the_tasks_of_another_one);
/// The waiting task of the first runtime is the one for whom a thread waits in the kernel.
fn the_wait_of_a_dropped_runtime_serves_the_tasks_of_another_one(protocol: Protocol) {
    for first in runtimes() {
        let place = Place::new();
        let holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
        let lock = first.block_on(open(place.lock_file(), protocol));
        let second = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _gone = start_waiting(&first, &lock, 3);
        let enters = start_waiting(&second, &lock, 3);
        kernel::await_waiting_calls(&place.lock_file(), 1);
        returns(|| drop(first));
        assert!(enters.try_recv().is_err(), "the holder still holds");
        holder.finish();
        returns(move || (0..3).for_each(|_| enters.recv().unwrap()));
        assert_eq!(lock.counters().acquisitions, 3);
        returns(|| drop(second));
        assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
    }
}

each_protocol!(#[test] fn a_guard_in_a_task_goes_with_its_runtime);
fn a_guard_in_a_task_goes_with_its_runtime(protocol: Protocol) {
    for runtime in runtimes() {
        let place = Place::new();
        let lock = runtime.block_on(open(place.lock_file(), protocol));
        let guard = runtime.block_on(lock.lock()).unwrap();
        runtime.spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        let other = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let enters = start_waiting(&other, &lock, 1);
        assert!(enters.try_recv().is_err());
        returns(|| drop(runtime));
        returns(move || enters.recv().unwrap());
        drop(other);
        assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
    }
}

/// The handle is none of the runtime's.
#[test]
fn a_handle_outlives_the_runtime_it_was_opened_on() {
    let place = Place::new();
    let [first, second] = runtimes();
    let lock = first.block_on(open(place.lock_file(), Protocol::Flock));
    drop(first);
    drop(lock.blocking_lock().unwrap());
    drop(second.block_on(async { in_time(lock.lock()).await.unwrap() }));
}

/// Polls on a thread that belongs to a runtime which was dropped: its blocking pool drops what it
/// is given.
async fn on_a_dropped_runtime<F: Future>(future: F) -> F::Output {
    let [runtime, _] = runtimes();
    let handle = runtime.handle().clone();
    runtime.shutdown_background();
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        let _inside = handle.enter();
        future.as_mut().poll(cx)
    })
    .await
}

#[test]
fn opening_works_on_a_runtime_that_shut_down() {
    let place = Place::new();
    let opening = FileLock::open(place.lock_file());
    let lock = block_on(on_a_dropped_runtime(opening)).unwrap();
    drop(lock.try_lock().unwrap());
    let holders = block_on(on_a_dropped_runtime(lock.holders()));
    if cfg!(windows) {
        assert_eq!(holders.unwrap_err().kind(), ErrorKind::Unsupported, "Windows does not tell");
    } else {
        assert!(holders.unwrap().is_empty());
    }
}

each_protocol!(#[test] fn moving_to_a_new_lock_file_works_on_a_runtime_that_shut_down);
/// What others may wait for does not depend on a runtime.
fn moving_to_a_new_lock_file_works_on_a_runtime_that_shut_down(protocol: Protocol) {
    let place = Place::new();
    let lock = block_on(open(place.lock_file(), protocol));
    drop(block_on(on_a_dropped_runtime(lock.lock())).unwrap());
    std::fs::remove_file(place.lock_file()).unwrap();
    let guard = block_on(on_a_dropped_runtime(lock.lock())).unwrap();
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared));
    drop(guard);
}

each_protocol!(#[test] fn waiting_on_a_runtime_that_shut_down_ends_with_the_lock);
/// A wait in the kernel needs no runtime.
fn waiting_on_a_runtime_that_shut_down_ends_with_the_lock(protocol: Protocol) {
    let place = Place::new();
    let holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    let lock = block_on(open(place.lock_file(), protocol));
    let waiting = thread::spawn(move || block_on(on_a_dropped_runtime(lock.lock())).map(drop));
    kernel::await_waiting_calls(&place.lock_file(), 1);
    holder.finish();
    returns(|| waiting.join().unwrap()).unwrap();
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}
