//! Real files under tokio's paused clock: nothing runs out of time that no other process blocks. And what another process blocks is
//! a matter for a simulated machine, where an hour takes no time.

#![cfg(not(any(tokio_filelock_loom, tokio_filelock_shuttle)))]

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_filelock::sim::Machine;
use tokio_filelock::{CacheDir, ErrorKind, FileLock, LockSpace};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_cache() {
    let (directory, began) = (tempfile::tempdir().unwrap(), Instant::now());
    let cache = timeout(LIMIT, CacheDir::open(directory.path())).await.unwrap().unwrap();
    for number in 0..100_u32 {
        let (key, value) = (number.to_string(), number.to_string().into_bytes());
        timeout(LIMIT, cache.insert(&key, value.as_slice())).await.unwrap().unwrap();
        let read = timeout(LIMIT, cache.read(&key)).await.unwrap().unwrap();
        assert_eq!(read.as_deref(), Some(&*value));
    }
    assert_eq!(began.elapsed(), Duration::ZERO, "the clock ran on");
}

#[tokio::test(start_paused = true)]
async fn keys() {
    let (directory, began) = (tempfile::tempdir().unwrap(), Instant::now());
    let path = directory.path().join("jobs.lock");
    let jobs = timeout(LIMIT, LockSpace::open(path)).await.unwrap().unwrap();
    for number in 0..100_u32 {
        let key = jobs.key(number.to_string());
        let guard = key.lock().timeout(LIMIT).await.unwrap();
        let waits = tokio::spawn(async move { key.lock().timeout(LIMIT).await.map(drop) });
        tokio::task::yield_now().await;
        drop(guard);
        waits.await.unwrap().unwrap();
    }
    assert_eq!(began.elapsed(), Duration::ZERO, "the clock ran on");
}

#[tokio::test(start_paused = true)]
async fn a_timeout() {
    let directory = tempfile::tempdir().unwrap();
    let lock = FileLock::open(directory.path().join("app.lock")).await.unwrap();
    let began = Instant::now();
    let held = lock.lock().timeout(LIMIT).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "the clock ran on");
    let error = lock.lock().timeout(LIMIT).await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed() >= LIMIT), (ErrorKind::TimedOut, true));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_while_another_process_has_the_lock() {
    let machine = Machine::new();
    let held = machine.process("other").open("/app.lock").unwrap().lock().await.unwrap();
    let (lock, began) = (machine.process("this").open("/app.lock").unwrap(), Instant::now());
    let error = lock.lock().timeout(Duration::from_secs(3600)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(began.elapsed() >= Duration::from_secs(3600));
    assert_eq!(error.holders()[0].program(), Some("other"));
    drop(held);
}
