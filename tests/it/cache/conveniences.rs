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

#[tokio::test]
async fn values_are_given_in_any_form() {
    let place = Place::new();
    let cache = open(&place).await;
    let file = place.at("file");
    fs::write(&file, "content").unwrap();
    cache.insert("vector", vec![1, 2, 3]).await.unwrap();
    cache.insert("string", String::from("text")).await.unwrap();
    cache.insert("str", "text").await.unwrap();
    cache.insert("array", b"text").await.unwrap();
    cache.insert("slice", &[1, 2, 3][..]).await.unwrap();
    cache.insert("file", tokio::fs::File::open(&file).await.unwrap()).await.unwrap();
    let long = vec![7; 1_000_000];
    let given = long.clone();
    cache.get_or_insert_with("long", || async { Ok::<_, FillError<()>>(given) }).await.unwrap();
    let table: [(&str, &[u8]); 7] = [
        ("vector", &[1, 2, 3]),
        ("string", b"text"),
        ("str", b"text"),
        ("array", b"text"),
        ("slice", &[1, 2, 3]),
        ("file", b"content"),
        ("long", &long),
    ];
    for (key, value) in table {
        assert!(cache.read(key).await.unwrap().unwrap() == value, "{key}");
    }
}

/// With nothing there, over a file, and over a link, whose target stays as it is.
#[tokio::test]
async fn a_value_is_copied_out_whole_and_through_no_link() {
    let place = Place::new();
    let cache = open(&place).await;
    let value: Vec<u8> = (0..700_000_u32).map(|n| n as u8).collect();
    let entry = cache.insert("key", value.clone()).await.unwrap();
    let target = place.at("target");
    entry.copy_to(&target).await.unwrap();
    assert!(fs::read(&target).unwrap() == value);
    fs::write(&target, "before").unwrap();
    entry.copy_to(&target).await.unwrap();
    assert!(fs::read(&target).unwrap() == value);
    #[cfg(unix)]
    {
        let other = place.at("other");
        fs::write(&other, "other").unwrap();
        fs::remove_file(&target).unwrap();
        std::os::unix::fs::symlink(&other, &target).unwrap();
        entry.copy_to(&target).await.unwrap();
        assert!(fs::read(&target).unwrap() == value);
        assert!(fs::symlink_metadata(&target).unwrap().is_file());
        assert_eq!(fs::read(&other).unwrap(), b"other");
    }
    // The copy is a file of its own, and the entry reads on.
    fs::write(&target, "changed").unwrap();
    let (one, two) = (place.at("one"), place.at("two"));
    let (read, _, _) = tokio::join!(entry.read(), entry.copy_to(&one), entry.copy_to(&two));
    assert!(read.unwrap() == value);
    assert!(fs::read(one).unwrap() == value && fs::read(two).unwrap() == value);
    let file = entry.into_file();
    let mut file = tokio::fs::File::from_std(file);
    let mut read = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut file, &mut read).await.unwrap();
    assert!(read == value, "the file is at its start");
}

#[tokio::test]
async fn a_copy_that_fails_leaves_nothing_behind() {
    let place = Place::new();
    let cache = open(&place).await;
    let entry = cache.insert("key", "value").await.unwrap();
    let targets = place.at("targets");
    fs::create_dir_all(targets.join("directory/with something")).unwrap();
    for path in [targets.join("directory"), targets.join(".."), targets.join("no/such")] {
        let error = entry.copy_to(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(entry.blocking_copy_to(&path).is_err());
    }
    let left = fs::read_dir(&targets).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["directory"]);
}

#[tokio::test]
async fn a_read_only_cache_fills_and_keeps_nothing() {
    let place = Place::new();
    let cache = open(&place).await;
    cache.insert("there", "kept").await.unwrap();
    let before = cache.stats().await.unwrap();
    let reader = options().read_only(true).open(directory(&place)).await.unwrap();
    let fill = || async { Ok::<_, FillError<()>>("filled") };
    assert_eq!(
        reader.get_or_insert_with("there", fill).await.unwrap().read().await.unwrap(),
        b"kept"
    );
    let entry = reader.get_or_insert_with("absent", fill).await.unwrap();
    assert_eq!((entry.len(), entry.read().await.unwrap()), (6, b"filled".to_vec()));
    let long = vec![1; 600_000];
    let fill = || async { Ok::<_, FillError<()>>(&long[..]) };
    assert!(reader.get_or_insert_with("long", fill).await.unwrap().read().await.unwrap() == long);
    let failed = reader.get_or_insert_with("absent", || async { Err::<&str, _>("failed") }).await;
    assert!(matches!(failed, Err(FillError::Fill("failed"))));
    assert!(reader.get("absent").await.unwrap().is_none());
    let stats = reader.stats().await.unwrap();
    assert_eq!((stats.hits, stats.fills, stats.misses), (1, 2, 1));
    assert_eq!((stats.values, stats.bytes), (before.values, before.bytes));
    assert_eq!(reader.recount().await.unwrap(), stats);
}

/// The books of others who were killed, and wipes, are what they may be wrong about.
#[tokio::test]
async fn stats_are_those_of_the_books_and_a_recount_makes_them_right() {
    let place = Place::new();
    let cache = options().max_size(1000).open(directory(&place)).await.unwrap();
    for key in 0..5_u8 {
        cache.insert([key], "value").await.unwrap();
    }
    let sizes = |stats: tokio_filelock::cache::Stats| (stats.values, stats.bytes);
    assert_eq!(sizes(cache.stats().await.unwrap()), (5, 25));
    let wiped = cache.get([0]).await.unwrap().unwrap().path().to_owned();
    fs::remove_file(wiped).unwrap();
    assert_eq!(sizes(cache.stats().await.unwrap()), (5, 25));
    assert_eq!(sizes(cache.recount().await.unwrap()), (4, 20));
    assert_eq!(sizes(cache.stats().await.unwrap()), (4, 20));
    // Who has no limit keeps no books.
    let unlimited = open(&place).await;
    unlimited.insert("other", "value").await.unwrap();
    for handle in [&cache, &unlimited] {
        assert_eq!(sizes(handle.stats().await.unwrap()), (5, 25));
        assert_eq!(sizes(handle.recount().await.unwrap()), (5, 25));
    }
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
    let entry = cache.blocking_get("key").unwrap().unwrap();
    assert_eq!(entry.blocking_read().unwrap(), [1; 10]);
    entry.blocking_copy_to(place.at("copy")).unwrap();
    assert_eq!(fs::read(place.at("copy")).unwrap(), [1; 10]);
    drop(entry);
    let keys = cache.blocking_entries().map(|listed| listed.unwrap().key);
    assert_eq!(keys.collect::<Vec<_>>(), [b"key"]);
    assert_eq!(cache.blocking_stats().unwrap().values, 1);
    assert_eq!(cache.blocking_recount().unwrap().bytes, 10);
    assert_eq!(cache.blocking_prune().unwrap().values, 0);
    assert!(cache.blocking_remove("key").unwrap());
    cache.blocking_insert("other", "value").unwrap();
    assert_eq!(cache.blocking_clear().unwrap().bytes, 5);
    assert!(!cache.blocking_remove("key").unwrap());
}
