//! File systems that are not known to be local: every call goes to another thread, and waits are
//! not left to the kernel.
//!
//! procfs is one: the kernel locks its files as any others, and the crate does not know it. Each
//! test has a file of its own.

use std::path::Path;
use std::time::Duration;

use futures::executor::block_on;
use tokio::runtime::Builder;
use tokio_filelock::{ErrorKind, FileLock, Protocol};
use tokio_test::task::spawn;

use crate::support::locker::{Locker, is_free};
use crate::support::{Mode, assert_would_block, in_time, kernel, returns};

const FLOCK: Protocol = Protocol::Flock;

async fn open(path: &str) -> FileLock {
    FileLock::options().read_only(true).open(path).await.unwrap()
}

#[tokio::test]
async fn tasks_and_processes_exclude_each_other() {
    let path = "/proc/version";
    let lock = open(path).await;
    let guard = in_time(lock.lock()).await.unwrap();
    assert!(!is_free(Path::new(path), FLOCK, Mode::Shared));
    assert_would_block(lock.try_lock_shared());
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.lock().await.map(drop) }
    });
    in_time(guard.unlock()).await.unwrap();
    in_time(waiting).await.unwrap().unwrap();
    let readers = (in_time(lock.lock_shared()).await, in_time(lock.lock_shared()).await);
    assert!(is_free(Path::new(path), FLOCK, Mode::Shared));
    assert!(!is_free(Path::new(path), FLOCK, Mode::Exclusive));
    drop(readers);
    // An unlock is under way on another thread; what is asked for now comes after it.
    in_time(in_time(lock.lock()).await.unwrap().unlock()).await.unwrap();
    assert!(is_free(Path::new(path), FLOCK, Mode::Exclusive));
}

#[tokio::test]
async fn a_wait_polls_and_ends_with_the_lock() {
    let path = "/proc/cmdline";
    let mut holder = Locker::holding(Path::new(path), FLOCK, Mode::Exclusive);
    let lock = open(path).await;
    let error = lock.lock().timeout(Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let waiting = tokio::spawn(async move { lock.lock().await.map(drop) });
    holder.unlock();
    in_time(waiting).await.unwrap().unwrap();
    holder.finish();
}

#[test]
fn dropping_the_runtime_ends_the_wait() {
    let path = Path::new("/proc/uptime");
    let holder = Locker::holding(path, FLOCK, Mode::Exclusive);
    let lock = block_on(open("/proc/uptime"));
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let waiting = lock.clone();
    runtime.spawn(async move { waiting.lock().await.map(drop) });
    runtime.block_on(tokio::task::yield_now());
    returns(|| drop(runtime));
    holder.finish();
    let mut other = Locker::open(path, FLOCK);
    other.lock(Mode::Exclusive);
    other.finish();
    assert_eq!(lock.counters().acquisitions, 0);
}

#[tokio::test]
async fn a_grant_that_is_dropped_frees_the_lock() {
    let path = "/proc/loadavg";
    let lock = open(path).await;
    let guard = in_time(lock.lock()).await.unwrap();
    let mut granted = spawn(lock.lock());
    assert!(granted.poll().is_pending());
    drop(guard);
    assert!(granted.is_woken());
    drop(granted);
    drop(in_time(lock.lock()).await.unwrap());
}

#[tokio::test]
async fn the_path_is_looked_at_on_another_thread() {
    let path = "/proc/meminfo";
    let options = FileLock::options().read_only(true).verify_path(true);
    let lock = options.open(path).await.unwrap();
    for _ in 0..10 {
        in_time(in_time(lock.lock()).await.unwrap().unlock()).await.unwrap();
    }
    drop(lock.try_lock().unwrap());
    assert_eq!(lock.counters().acquisitions, 11);
}

#[test]
fn it_works_without_a_runtime() {
    let path = "/proc/stat";
    let holder = Locker::holding(Path::new(path), FLOCK, Mode::Exclusive);
    let lock = block_on(open(path));
    assert_would_block(lock.try_lock());
    let waiting = std::thread::spawn({
        let lock = lock.clone();
        move || lock.blocking_lock().map(drop)
    });
    holder.finish();
    returns(move || waiting.join().unwrap()).unwrap();
    let guard = block_on(lock.lock()).unwrap();
    block_on(guard.unlock()).unwrap();
    assert!(is_free(Path::new(path), FLOCK, Mode::Exclusive));
    let names = kernel::threads(std::process::id());
    assert!(names.iter().any(|name| name == "filelock-wait"), "{names:?}");
}
