//! What is not necessary and convenient: looks that are no use, values that are read again, streams, the
//! caller's own locks, and the blocking forms.

use std::fs::{self, File, FileTimes};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use tokio_filelock::cache::FillError;
use tokio_filelock::{ErrorKind, LockSpace};

use super::{directory, open, options};
use crate::support::place::Place;

#[tokio::test]
async fn a_peek_is_no_use() {
    let place = Place::new();
    let cache = open(&place).await;
    let path = cache.insert("key", &b"value"[..]).await.unwrap().path().to_owned();
    let ago = SystemTime::now() - Duration::from_secs(10_000);
    let times = FileTimes::new().set_accessed(ago).set_modified(ago);
    File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    // To open a file is no access, to the file system.
    assert_eq!(cache.peek("key").await.unwrap().unwrap().len(), 5);
    assert!(cache.peek("other").await.unwrap().is_none());
    let used = || fs::metadata(&path).unwrap().accessed().unwrap();
    assert!(used().elapsed().unwrap() > Duration::from_secs(9_000));
    let stats = cache.stats().await.unwrap();
    assert_eq!((stats.hits, stats.misses), (0, 0));
    cache.get("key").await.unwrap().unwrap();
    assert!(used().elapsed().unwrap() < Duration::from_secs(60));
}

#[tokio::test]
async fn an_entry_can_be_read_again_and_by_several_at_once() {
    let place = Place::new();
    let cache = open(&place).await;
    let value: Vec<u8> = (0..700_000_u32).map(|n| n as u8).collect();
    let entry = cache.insert("key", &value[..]).await.unwrap();
    let (one, two) = tokio::join!(entry.read(), entry.read());
    assert!(one.unwrap() == value && two.unwrap() == value);
    cache.remove("key").await.unwrap();
    assert!(entry.read().await.unwrap() == value);
    let mut file = tokio::fs::File::from_std(entry.into_file());
    let mut read = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut file, &mut read).await.unwrap();
    assert!(read == value, "the file is at its start");
}

#[tokio::test]
async fn entries_are_a_stream() {
    let place = Place::new();
    let cache = open(&place).await;
    for key in 0..50_u8 {
        cache.insert([key], &[key][..]).await.unwrap();
    }
    let keys = cache.entries().map(|listed| listed.unwrap().key[0]).collect::<Vec<_>>();
    let mut keys = keys.await;
    keys.sort_unstable();
    assert_eq!(keys, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn whoever_holds_a_key_in_the_callers_space_keeps_fills_out() {
    let place = Place::new();
    let space = LockSpace::open(place.at("locks")).await.unwrap();
    let cache = options().locks(space.clone()).open(directory(&place)).await.unwrap();
    let held = space.key("key").lock().await.unwrap();
    let hasty = cache.with_timeout(Duration::from_millis(10));
    let error = hasty.insert("key", &b"value"[..]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    hasty.insert("other", &b"value"[..]).await.unwrap();
    drop(held);
    cache.insert("key", &b"value"[..]).await.unwrap();
}

#[test]
fn all_can_be_done_outside_of_async() {
    let place = Place::new();
    let cache = options().blocking_open(directory(&place)).unwrap();
    assert!(cache.blocking_get("key").unwrap().is_none());
    let failed = cache.blocking_get_or_insert_with("key", || Err::<String, _>("failed"));
    assert!(matches!(failed, Err(FillError::Fill("failed"))));
    let fill = || Ok::<_, &str>(String::from("filled"));
    assert_eq!(cache.blocking_get_or_insert_with("key", fill).unwrap().len(), 6);
    assert_eq!(cache.blocking_read("key").unwrap().unwrap(), b"filled");
    cache.blocking_insert("key", vec![1; 10]).unwrap();
    assert_eq!(cache.blocking_get("key").unwrap().unwrap().len(), 10);
    assert!(cache.blocking_remove("key").unwrap());
    assert!(!cache.blocking_remove("key").unwrap());
}
