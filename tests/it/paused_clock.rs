//! tokio's clock, paused by a test: nothing that no other process blocks runs out of time. A paused clock runs on to the
//! next limit when no task has anything to do, and so it says whether a task was left alone with its limit.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_filelock::{CacheDir, FileLock, LockSpace, Protocol, lock_all};

use crate::support::each_protocol;
use crate::support::place::Place;

/// Of each operation. A call takes wine some hundred times as long.
const TIMES: usize = if cfg!(windows) { 20 } else { 1000 };

/// In no time.
#[track_caller]
fn at_once<T>(operation: impl Future<Output = T>) -> impl Future<Output = T> {
    let (caller, began) = (std::panic::Location::caller(), Instant::now());
    async move {
        let done = timeout(Duration::from_secs(60), operation).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "the clock ran on at {caller}");
        done.unwrap()
    }
}

each_protocol!(#[tokio::test(start_paused = true)] async fn locks);
async fn locks(protocol: Protocol) {
    let place = Place::new();
    let options = FileLock::options().protocol(protocol).record(true);
    for _ in 0..TIMES {
        let lock = at_once(options.clone().open(place.lock_file())).await.unwrap();
        let other = lock.clone();
        let guard = at_once(lock.lock()).await.unwrap();
        let waits =
            tokio::spawn(async move { other.lock().timeout(Duration::from_secs(60)).await });
        tokio::task::yield_now().await;
        assert_eq!(at_once(lock.holders()).await.unwrap().len(), 1);
        at_once(guard.unlock()).await.unwrap();
        drop(at_once(waits).await.unwrap().unwrap().downgrade());
        drop(at_once(lock_all([&lock])).await.unwrap());
    }
}

#[cfg(unix)]
each_protocol!(#[tokio::test(start_paused = true)] async fn a_lock_file_that_was_removed);
#[cfg(unix)]
async fn a_lock_file_that_was_removed(protocol: Protocol) {
    // POSIX record locks leave no way to remove the file of a guard.
    if cfg!(tokio_filelock_posix) && protocol == Protocol::Fcntl {
        return;
    }
    let place = Place::new();
    let options = FileLock::options().protocol(protocol).verify_path(true);
    let lock = at_once(options.open(place.lock_file())).await.unwrap();
    for _ in 0..TIMES {
        at_once(at_once(lock.lock()).await.unwrap().remove_file()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn keys() {
    let place = Place::new();
    for round in 0..TIMES {
        let space = at_once(LockSpace::open(place.lock_file())).await.unwrap();
        let [one, other] = [round, round + 1].map(|key| space.key(key.to_string()));
        let guards = at_once(lock_all([&one, &other])).await.unwrap();
        assert!(!at_once(one.holders()).await.unwrap().is_empty());
        drop(guards);
    }
}

#[tokio::test(start_paused = true)]
async fn caches() {
    let place = Place::new();
    let fill = || async { Ok::<_, io::Error>("value") };
    for round in 0..TIMES {
        let key = (round % 10).to_string();
        let options = CacheDir::options().max_size(20);
        let cache = at_once(options.open(place.at("cache"))).await.unwrap();
        at_once(cache.insert(&key, "value")).await.unwrap();
        let filling =
            (cache.get_or_insert_with("filled", fill), cache.get_or_insert_with("filled", fill));
        let (one, other) = at_once(futures::future::join(filling.0, filling.1)).await;
        assert_eq!(
            at_once(one.unwrap().read()).await.unwrap(),
            at_once(other.unwrap().read()).await.unwrap()
        );
        at_once(cache.remove(&key)).await.unwrap();
        at_once(cache.prune()).await.unwrap();
    }
}
