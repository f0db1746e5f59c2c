//! One process: what goes in comes out, under any key, and nothing else does.

use std::collections::HashSet;
use std::fs::{self, File, FileTimes};
use std::io::{self, Read};
use std::ops::Range;
#[cfg(unix)]
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use tokio::io::AsyncReadExt;
use tokio_filelock::cache::{FillError, SyncPolicy};
use tokio_filelock::{CacheDir, ErrorKind, FileLock, Protocol};

use super::{directory, files, open, options, temporary_files};
#[cfg(target_os = "linux")]
use crate::support::kernel;
use crate::support::place::Place;
use crate::support::{assert_names, in_time};

const SECOND: Duration = Duration::from_secs(1);

fn keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = (0..200).map(|length| vec![b'a'; length]).collect();
    keys.extend((0..=u8::MAX).map(|byte| vec![byte]));
    for text in ["..", ".", "/", "a/b", "a\\b", "con", "A", "a ", "caf\u{e9}", "%61", "x.key", "x"]
    {
        keys.push(text.into());
    }
    keys.push(vec![0; 100_000]);
    keys
}

#[tokio::test]
async fn any_key_has_its_own_value() {
    let place = Place::new();
    let cache = open(&place).await;
    let mut keys = keys();
    keys.sort();
    keys.dedup();
    for key in &keys {
        assert!(cache.get(key).await.unwrap().is_none());
        let entry = cache.insert(key, &key[..]).await.unwrap();
        assert_eq!((entry.len(), entry.read().await.unwrap()), (key.len() as u64, key.clone()));
    }
    let mut found = Vec::new();
    let mut entries = cache.entries();
    while let Some(listed) = entries.next().await.unwrap() {
        assert_eq!(fs::read(&listed.path).unwrap(), listed.key, "a file is its value");
        assert_eq!(listed.bytes, listed.key.len() as u64);
        found.push(listed.key);
    }
    found.sort();
    assert_eq!(found, keys);
    for key in &keys {
        assert_eq!(cache.read(key).await.unwrap().as_ref(), Some(key));
        assert!(cache.remove(key).await.unwrap());
        assert!(!cache.remove(key).await.unwrap());
        assert!(cache.get(key).await.unwrap().is_none());
    }
    assert_eq!(files(cache.path()), ["books"], "nothing is left behind");
    let stats = cache.stats().await.unwrap();
    assert_eq!((stats.values, stats.bytes, stats.fills), (0, 0, 0));
    assert_eq!((stats.hits, stats.misses), (keys.len() as u64, 2 * keys.len() as u64));
}

/// What stands beside a value says which key it has to those who list keys, and to no others.
#[tokio::test]
async fn a_long_key_is_found_by_the_name_of_its_value_alone() {
    let place = Place::new();
    let cache = open(&place).await;
    let keys = ["one", "two"].map(|end| format!("{}{end}", "k".repeat(200)));
    let mut beside = Vec::new();
    for key in &keys {
        let entry = cache.insert(key, &key[..]).await.unwrap();
        let name = entry.path().file_name().unwrap().to_str().unwrap();
        beside.push(entry.path().with_file_name(format!("{}.key", &name[..40])));
    }
    // As if the first 160 bits of the two hashes were the same.
    fs::write(&beside[0], &keys[1]).unwrap();
    fs::remove_file(&beside[1]).unwrap();
    for key in &keys {
        assert_eq!(cache.read(key).await.unwrap().unwrap(), key.as_bytes());
    }
    assert!(cache.entries().next().await.unwrap().is_none());
    for key in &keys {
        cache.insert(key, "new").await.unwrap();
    }
    let mut entries = cache.entries();
    let mut listed = Vec::new();
    while let Some(entry) = entries.next().await.unwrap() {
        listed.push(String::from_utf8(entry.key).unwrap());
    }
    listed.sort();
    assert_eq!(listed, keys);
}

/// The name said the beginning of a longer key, and 160 bits of its hash.
#[tokio::test]
async fn values_of_the_format_before_that_have_other_names_go() {
    for limit in [None, Some(100)] {
        let place = Place::new();
        let options = limit.map_or(options(), |limit| options().max_size(limit));
        let cache = options.open(directory(&place)).await.unwrap();
        let key = "k".repeat(200);
        let path = cache.insert(&key, "value").await.unwrap().path().to_owned();
        let name = path.file_name().unwrap().to_str().unwrap();
        let before = format!("{}-{}", &name[..40], "k".repeat(96));
        fs::rename(&path, path.with_file_name(before)).unwrap();
        fs::write(cache.path().join("books"), "of no format that is known").unwrap();
        assert!(cache.get(&key).await.unwrap().is_none());
        cache.insert("other", &[1; 100][..4]).await.unwrap();
        assert_eq!(cache.recount().await.unwrap().values, 2);
        match limit {
            // It goes before all others.
            Some(limit) => drop(cache.insert("new", vec![1; limit as usize - 4]).await.unwrap()),
            None => assert_eq!(cache.prune().await.unwrap().values, 1),
        }
        let values = if limit.is_some() { 2 } else { 1 };
        assert_eq!(cache.recount().await.unwrap().values, values);
        assert_eq!(cache.read("other").await.unwrap().unwrap(), [1; 4]);
    }
}

/// Both have one name for the key and one for the checksum.
#[tokio::test]
async fn a_value_of_the_format_before_leaves_what_stands_beside_the_next_one() {
    for limit in [None, Some(100)] {
        let place = Place::new();
        let options = limit.map_or(options(), |limit| options().max_size(limit));
        let cache = options.checksums(true).open(directory(&place)).await.unwrap();
        let key = "k".repeat(200);
        let path = cache.insert(&key, "value").await.unwrap().path().to_owned();
        let name = path.file_name().unwrap().to_str().unwrap();
        let before = path.with_file_name(format!("{}-{}", &name[..40], "k".repeat(96)));
        fs::rename(&path, &before).unwrap();
        fs::write(cache.path().join("books"), "of no format that is known").unwrap();
        cache.insert(&key, "again").await.unwrap();
        match limit {
            // It goes before all others.
            Some(limit) => drop(cache.insert("new", vec![1; limit as usize - 5]).await.unwrap()),
            None => assert_eq!(cache.prune().await.unwrap().values, 1),
        }
        assert!(!before.exists());
        assert_eq!(cache.read(&key).await.unwrap().unwrap(), b"again");
        let mut entries = cache.entries();
        let mut listed = Vec::new();
        while let Some(entry) = entries.next().await.unwrap() {
            listed.push(entry.key);
        }
        assert!(listed.contains(&key.as_bytes().to_vec()));
        // Alone it takes with it what stands beside it.
        fs::rename(&path, &before).unwrap();
        assert_eq!(cache.prune().await.unwrap().values, 1);
        let hash = &name[..40];
        assert!(!files(cache.path()).iter().any(|name| name.contains(hash)));
    }
}

#[tokio::test]
async fn large_values_stream_in_and_out() {
    let place = Place::new();
    let cache = open(&place).await;
    for length in [0, 1, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 3 << 20] {
        let value = tokio::io::repeat(7).take(length);
        let entry = cache.insert("large", value).await.unwrap();
        assert_eq!(entry.len(), length);
        let mut file =
            tokio::fs::File::from_std(cache.get("large").await.unwrap().unwrap().into_file());
        let mut read = Vec::new();
        file.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len() as u64, length);
        assert!(read.iter().all(|byte| *byte == 7));
    }
}

/// Not every version of Windows, nor wine, replaces a file that is open.
#[tokio::test]
async fn an_open_value_is_replaced_or_the_insert_says_why_not() {
    let place = Place::new();
    let cache = open(&place).await;
    let entry = cache.insert("key", "old").await.unwrap();
    match cache.insert("key", "new").await {
        Ok(_) => assert_eq!(cache.read("key").await.unwrap().unwrap(), b"new"),
        Err(error) if !cfg!(windows) => panic!("{error}"),
        Err(error) => {
            assert_names(&error, ErrorKind::Io, entry.path());
            assert!(error.to_string().contains("has the value open that is there"), "{error}");
            assert_eq!(cache.read("key").await.unwrap().unwrap(), b"old");
        }
    }
    assert_eq!(entry.read().await.unwrap(), b"old");
    drop(entry);
    cache.insert("key", "newer").await.unwrap();
    assert_eq!(cache.read("key").await.unwrap().unwrap(), b"newer");
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_open_stays_as_it_was() {
    let place = Place::new();
    let cache = open(&place).await;
    cache.insert("key", &b"old"[..]).await.unwrap();
    let opened: Vec<_> = [(); 4].map(|()| cache.get("key")).into_iter().collect();
    let mut entries = Vec::new();
    for get in opened {
        entries.push(get.await.unwrap().unwrap());
    }
    cache.insert("key", &b"newer"[..]).await.unwrap();
    assert_eq!(entries.pop().unwrap().read().await.unwrap(), b"old");
    cache.remove("key").await.unwrap();
    assert_eq!(entries.pop().unwrap().read().await.unwrap(), b"old");
    cache.clear().await.unwrap();
    assert_eq!(entries.pop().unwrap().read().await.unwrap(), b"old");
    fs::remove_dir_all(directory(&place)).unwrap();
    assert_eq!(entries.pop().unwrap().read().await.unwrap(), b"old");
}

/// Others may put anything in the place of a value.
#[cfg(unix)]
#[tokio::test]
async fn what_is_not_a_value_is_an_error_or_absent() {
    let place = Place::new();
    let cache = open(&place).await;
    let path = cache.insert("key", &b"value"[..]).await.unwrap().path().to_owned();
    let target = place.at("target");
    fs::write(&target, "secret").unwrap();
    let replace: [fn(&std::path::Path, &std::path::Path); 3] = [
        |path, target| symlink(target, path).unwrap(),
        |path, _| fs::create_dir(path).unwrap(),
        |path, _| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
    ];
    for replace in replace {
        fs::remove_file(&path).unwrap();
        replace(&path, &target);
        let error = in_time(cache.get("key")).await.unwrap_err();
        assert_names(&error, ErrorKind::NotAFile, &path);
        if path.is_dir() {
            fs::write(path.join("file"), "").unwrap();
            let error = cache.insert("key", &b"value"[..]).await.unwrap_err();
            assert_names(&error, ErrorKind::NotAFile, &path);
            fs::remove_file(path.join("file")).unwrap();
        }
        cache.insert("key", &b"value"[..]).await.unwrap();
        assert_eq!(cache.read("key").await.unwrap().unwrap(), b"value");
    }
    assert_eq!(fs::read_to_string(target).unwrap(), "secret");
    assert_eq!(temporary_files(cache.path()), [""; 0]);
}

/// The name of a long value says all of its key's hash. What stands beside it says the key to those who list, and what says
/// another one, or is damaged, is no key of this one.
#[tokio::test]
async fn a_value_without_its_key_is_a_hit_and_not_listed() {
    let place = Place::new();
    let cache = open(&place).await;
    let key = "k".repeat(1000);
    let path = cache.insert(&key, &b"value"[..]).await.unwrap().path().to_owned();
    let beside = path
        .parent()
        .unwrap()
        .join(format!("{}.key", &path.file_name().unwrap().to_str().unwrap()[..40]));
    assert_eq!(fs::read_to_string(&beside).unwrap(), key);
    for stored in [None, Some("j".repeat(1000)), Some("k".repeat(999)), Some(String::new())] {
        match stored {
            Some(other) => fs::write(&beside, other).unwrap(),
            None => fs::remove_file(&beside).unwrap(),
        }
        assert_eq!(cache.read(&key).await.unwrap().unwrap(), b"value");
        assert!(cache.get("k".repeat(999)).await.unwrap().is_none());
        assert!(cache.get("j".repeat(1000)).await.unwrap().is_none());
        assert!(cache.entries().next().await.unwrap().is_none());
        let entry = cache.insert(&key, &b"value"[..]).await.unwrap();
        assert_eq!(entry.read().await.unwrap(), b"value");
        assert_eq!(fs::read_to_string(&beside).unwrap(), key);
        assert_eq!(cache.entries().next().await.unwrap().unwrap().key, key.as_bytes());
    }
}

#[tokio::test]
async fn checksums_notice_what_was_done_to_a_value() {
    let place = Place::new();
    let checked = options().checksums(true).open(directory(&place)).await.unwrap();
    let path = checked.insert("key", &b"value"[..]).await.unwrap().path().to_owned();
    assert_eq!(checked.read("key").await.unwrap().unwrap(), b"value");
    // One that replaces it, and one that is read between the checksum and the value.
    checked.insert("key", &b"other"[..]).await.unwrap();
    assert_eq!(checked.read("key").await.unwrap().unwrap(), b"other");
    fs::write(&path, "value").unwrap();
    assert_eq!(checked.read("key").await.unwrap().unwrap(), b"value");
    for damage in ["valve", "valu", "", "value\n"] {
        fs::write(&path, damage).unwrap();
        assert_eq!(checked.read("key").await.unwrap(), None, "{damage}");
    }
    let fill = || async { Ok::<_, io::Error>(&b"again"[..]) };
    checked.get_or_insert_with("key", fill).await.unwrap();
    assert_eq!(checked.read("key").await.unwrap().unwrap(), b"again");
    // Inserted by a handle that keeps none.
    open(&place).await.insert("key", &b"bare"[..]).await.unwrap();
    assert_eq!(checked.read("key").await.unwrap(), None);
}

#[tokio::test]
async fn an_error_of_the_fill_is_the_callers_and_changes_nothing() {
    let place = Place::new();
    let cache = open(&place).await;
    let failed = cache.get_or_insert_with("key", || async { Err::<&[u8], _>("no network") }).await;
    assert!(matches!(failed, Err(FillError::Fill("no network"))));
    // A reader that fails when a part of the value has been written.
    let lost = io::Error::other("connection lost");
    let reader = tokio_test::io::Builder::new().read(&[0; 300_000]).read_error(lost).build();
    let error = cache.insert("key", reader).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("connection lost"), "{error}");
    assert!(cache.get("key").await.unwrap().is_none());
    assert_eq!(temporary_files(cache.path()), [""; 0]);
}

#[tokio::test]
async fn old_values_are_absent_and_are_pruned() {
    let place = Place::new();
    let cache = options().max_age(60 * SECOND).open(directory(&place)).await.unwrap();
    for key in ["old", "new"] {
        cache.insert(key, key.as_bytes()).await.unwrap();
    }
    let path = cache.get("old").await.unwrap().unwrap().path().to_owned();
    let long_ago = SystemTime::now() - 61 * SECOND;
    File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    assert!(cache.get("old").await.unwrap().is_none());
    let listed = cache.entries().next().await.unwrap().unwrap();
    assert_eq!(listed.key, b"new");
    let removed = cache.prune().await.unwrap();
    assert_eq!((removed.values, removed.bytes), (1, 3));
    assert!(!path.exists());
    assert_eq!(cache.read("new").await.unwrap().unwrap(), b"new");
}

#[tokio::test]
async fn what_was_used_last_stays() {
    let place = Place::new();
    let cache = options().max_size(1000).open(directory(&place)).await.unwrap();
    for key in 0..10_u8 {
        let entry = cache.insert([key], &[key; 100][..]).await.unwrap();
        let ago = SystemTime::now() - (100 - u32::from(key)) * 120 * SECOND;
        let times = FileTimes::new().set_accessed(ago).set_modified(ago);
        File::options().write(true).open(entry.path()).unwrap().set_times(times).unwrap();
    }
    // The use of the oldest is noted without a change to the value's own time.
    let used = cache.get([0]).await.unwrap().unwrap();
    assert!(used.modified().elapsed().unwrap() > 100 * 120 * SECOND);
    assert!(
        fs::metadata(used.path()).unwrap().accessed().unwrap().elapsed().unwrap() < 60 * SECOND
    );
    cache.insert("another", &[0; 100][..]).await.unwrap();
    // Room for one, and a tenth more.
    for (key, is_there) in
        (0..10).zip([true, false, false, true, true, true, true, true, true, true])
    {
        assert_eq!(cache.get([key]).await.unwrap().is_some(), is_there, "{key}");
    }
    assert_eq!(cache.stats().await.unwrap().bytes, 900);
}

/// Who walks leaves what goes next to all others, and what was used or replaced since stays.
#[tokio::test]
async fn what_goes_next_is_remembered_and_not_believed() {
    const VALUES: u32 = 1500;
    const AT_ONCE: u32 = 64;
    let place = Place::new();
    let limited = || options().max_size(VALUES.into());
    let cache = limited().open(directory(&place)).await.unwrap();
    for key in 0..VALUES {
        let entry = cache.insert(key.to_string(), &[0; 1]).await.unwrap();
        let ago = SystemTime::now() - (2 * VALUES - key) * 120 * SECOND;
        let times = FileTimes::new().set_accessed(ago).set_modified(ago);
        File::options().write(true).open(entry.path()).unwrap().set_times(times).unwrap();
    }
    cache.insert("another", &[0; 1]).await.unwrap();
    for (key, is_there) in [(0, false), (AT_ONCE - 1, false), (AT_ONCE, true), (65, true)] {
        assert_eq!(cache.peek(key.to_string()).await.unwrap().is_some(), is_there, "{key}");
    }
    let list = cache.path().join("oldest");
    let before = fs::read(&list).unwrap();
    cache.get("64").await.unwrap().unwrap();
    cache.insert("65", &[1; 1]).await.unwrap();
    // Another handle has no part in what the first one knows.
    let other = limited().open(directory(&place)).await.unwrap();
    let mut inserted = 0..;
    while first_left(&cache, 66..VALUES).await == 66 {
        other.insert(format!("new {}", inserted.next().unwrap()), &[0; 1]).await.unwrap();
    }
    assert_eq!(first_left(&cache, 66..VALUES).await, 66 + AT_ONCE);
    for key in ["64", "65"] {
        assert!(cache.peek(key).await.unwrap().is_some(), "{key}");
    }
    let after = fs::read(&list).unwrap();
    assert!(after.len() < before.len() && before.starts_with(&after), "no walk was made");
    cache.clear().await.unwrap();
    assert!(!list.exists());
}

/// Where no list can be kept each walk has to be worth it.
#[tokio::test]
async fn a_walk_that_leaves_no_list_removes_more_at_once() {
    const VALUES: u32 = 1500;
    let place = Place::new();
    let cache = options().max_size(VALUES.into()).open(directory(&place)).await.unwrap();
    for key in 0..VALUES {
        let entry = cache.insert(key.to_string(), &[0; 1]).await.unwrap();
        let ago = SystemTime::now() - (2 * VALUES - key) * 120 * SECOND;
        let times = FileTimes::new().set_accessed(ago).set_modified(ago);
        File::options().write(true).open(entry.path()).unwrap().set_times(times).unwrap();
    }
    fs::create_dir_all(cache.path().join("oldest/x")).unwrap();
    cache.insert("another", &[0; 1]).await.unwrap();
    // Room for one, and a tenth more.
    assert!(first_left(&cache, 0..VALUES).await >= VALUES / 10);
}

/// What is too old for the process that has walked may be in use by another one.
#[tokio::test]
async fn what_is_too_old_for_one_and_used_by_another_stays() {
    const VALUES: u32 = 300;
    const OLD: u32 = 100;
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let place = Place::new();
    let limited = || options().max_size(VALUES.into());
    let with_age = limited().max_age(DAY).open(directory(&place)).await.unwrap();
    for key in 0..VALUES {
        let entry = with_age.insert(key.to_string(), &[0; 1]).await.unwrap();
        if key < OLD {
            let ago = SystemTime::now() - 10 * DAY;
            let times = FileTimes::new().set_accessed(ago).set_modified(ago);
            File::options().write(true).open(entry.path()).unwrap().set_times(times).unwrap();
        }
    }
    // It walks, and leaves the list.
    with_age.insert("another", &[0; 1]).await.unwrap();
    let without = limited().open(directory(&place)).await.unwrap();
    let used = first_left(&without, 0..OLD).await;
    without.get(used.to_string()).await.unwrap().unwrap();
    let left = || async {
        let mut left = 0;
        for key in (0..OLD).filter(|key| *key != used) {
            left += u32::from(without.peek(key.to_string()).await.unwrap().is_some());
        }
        left
    };
    let mut inserted = 0..;
    while left().await > 0 {
        without.insert(format!("new {}", inserted.next().unwrap()), &[0; 1]).await.unwrap();
    }
    assert!(without.peek(used.to_string()).await.unwrap().is_some());
}

async fn first_left(cache: &CacheDir, keys: Range<u32>) -> u32 {
    for key in keys {
        if cache.peek(key.to_string()).await.unwrap().is_some() {
            return key;
        }
    }
    panic!("none is left");
}

/// Who has a limit counts what others have inserted who have none.
#[tokio::test]
async fn a_limit_is_kept_beside_those_who_have_none() {
    let place = Place::new();
    let limited = options().max_size(500).open(directory(&place)).await.unwrap();
    let unlimited = open(&place).await;
    for round in 0..3_u8 {
        for key in 0..10_u8 {
            unlimited.insert([round, key], &[key; 100][..]).await.unwrap();
        }
        assert!(unlimited.stats().await.unwrap().bytes >= 1000);
        limited.insert("key", &[round; 200][..]).await.unwrap();
        assert!(limited.stats().await.unwrap().bytes <= 500);
        limited.insert("another", &[round; 200][..]).await.unwrap();
        let stats = limited.stats().await.unwrap();
        assert!(stats.bytes <= 500 && stats.bytes >= 400, "{stats:?}");
        assert!(unlimited.remove("another").await.unwrap());
    }
}

/// The room of a value that is replaced is not given out again while the books say more than the limit.
#[tokio::test]
async fn a_limit_is_kept_when_a_value_of_a_full_cache_is_replaced() {
    const MOST: usize = 100_000;
    for large in [12_000, 6_000, 1_000] {
        let place = Place::new();
        let cache = options().max_size(MOST as u64).open(directory(&place)).await.unwrap();
        cache.insert("large", &vec![1; large][..]).await.unwrap();
        let others = MOST - large;
        for key in 0..10_u8 {
            let length = others / 10 + if key == 9 { others % 10 } else { 0 };
            cache.insert([key], &vec![2; length][..]).await.unwrap();
        }
        for round in 0..3 {
            cache.insert("large", &vec![3; large][..]).await.unwrap();
            cache.insert(format!("new {round}"), &vec![4; large][..]).await.unwrap();
            let mut bytes = 0;
            let mut entries = cache.entries();
            while let Some(entry) = entries.next().await.unwrap() {
                bytes += entry.bytes;
            }
            assert!(bytes <= MOST as u64, "{bytes} bytes, values of {large}");
        }
    }
}

/// An insert without a limit goes on while another one is at it; a walk waits for both.
#[tokio::test]
async fn inserts_without_a_limit_do_not_wait_for_each_other() {
    let place = Place::new();
    let cache = open(&place).await;
    let directory_lock = FileLock::options().protocol(Protocol::Fcntl).open(place.at("cache.lock"));
    let directory_lock = directory_lock.await.unwrap();
    // As an insert that is in the middle of it.
    let held = directory_lock.lock_shared().await.unwrap();
    in_time(cache.insert("key", &b"value"[..])).await.unwrap();
    assert!(in_time(cache.remove("key")).await.unwrap());
    let mut pruning = tokio_test::task::spawn(cache.prune());
    assert!(pruning.poll().is_pending());
    let limited = options().max_size(500).open(directory(&place)).await.unwrap();
    let limited = limited.with_timeout(Duration::from_millis(10));
    let error = limited.insert("key", &b"value"[..]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    drop(held);
    in_time(pruning).await.unwrap();
}

/// Also where more of them wait for the lock of the directory than may change values at once.
#[tokio::test]
async fn a_limit_counts_while_many_inserts_wait_for_the_directory() {
    const PATIENT: usize = 64;

    let place = Place::new();
    let cache = open(&place).await;
    let directory_lock = FileLock::options().protocol(Protocol::Fcntl).open(place.at("cache.lock"));
    let directory_lock = directory_lock.await.unwrap();
    // As a walk.
    let held = directory_lock.lock().await.unwrap();
    let (told, mut telling) = tokio::sync::mpsc::unbounded_channel();
    let mut patient = tokio::task::JoinSet::new();
    for key in 0..PATIENT {
        let told = told.clone();
        let telling = cache.with_on_wait(Duration::from_millis(1), move |_| {
            let _ = told.send(key);
        });
        patient.spawn(async move { telling.insert(format!("{key}"), "value").await.map(drop) });
    }
    let mut waiting = HashSet::new();
    while waiting.len() < PATIENT {
        waiting.insert(in_time(telling.recv()).await.unwrap());
    }
    let hasty = cache.with_timeout(Duration::from_millis(10));
    let error = in_time(hasty.insert("key", "value")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let error = in_time(hasty.remove("key")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let fill = |_| async { Ok::<_, io::Error>(()) };
    match in_time(hasty.insert_dir("key", fill)).await {
        Err(FillError::Cache(error)) => assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}"),
        other => panic!("{other:?}"),
    }
    drop(held);
    while let Some(inserted) = in_time(patient.join_next()).await {
        inserted.unwrap().unwrap();
    }
    assert_eq!(cache.recount().await.unwrap().values, PATIENT as u64);
}

/// Neither to fetch room in the books nor to make some; but a count wants the directory alone.
#[tokio::test]
async fn inserts_with_a_limit_do_not_wait_for_each_other() {
    let place = Place::new();
    let cache = options().max_size(1000).open(directory(&place)).await.unwrap();
    let hasty = cache.with_timeout(Duration::from_millis(10));
    let directory_lock = FileLock::options().protocol(Protocol::Fcntl).open(place.at("cache.lock"));
    let directory_lock = directory_lock.await.unwrap();
    cache.insert("first", &[0; 100][..]).await.unwrap();
    // As an insert that is in the middle of it.
    let held = directory_lock.lock_shared().await.unwrap();
    for key in 0..30_u8 {
        cache.insert([key], &[key; 100][..]).await.unwrap();
        let stats = cache.stats().await.unwrap();
        assert!(stats.bytes <= 1000, "{stats:?}");
        assert_eq!(cache.read([key]).await.unwrap().unwrap(), [key; 100]);
    }
    assert!(cache.get("first").await.unwrap().is_none(), "it was used before all others");
    let counted = cache.stats().await.unwrap();
    let reader = options().read_only(true).open(directory(&place)).await.unwrap();
    assert_eq!(reader.recount().await.unwrap().bytes, counted.bytes, "the books are right");
    fs::remove_file(cache.path().join("books")).unwrap();
    let error = hasty.insert("key", &[1; 100][..]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    drop(held);
    hasty.insert("key", &[1; 100][..]).await.unwrap();
}

/// Who is told of waits, or has a limit, waits for the lock of the books and for what another task fetches at the same
/// time; beside those who want the directory alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inserts_that_tell_of_their_waits_go_on_beside_walks() {
    // A call takes wine some hundred times as long.
    const ROUNDS: u8 = if cfg!(windows) { 5 } else { 20 };

    let place = Place::new();
    let cache = options().max_size(2000).open(directory(&place)).await.unwrap();
    let telling = cache.with_on_wait(Duration::from_millis(1), |_| {});
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..20_u8 {
        let (cache, telling) = (cache.clone(), telling.clone());
        tasks.spawn(async move {
            for round in 0..ROUNDS {
                if task % 10 == 0 {
                    cache.prune().await.unwrap();
                } else {
                    telling.insert([task, round], &[task; 100][..]).await.unwrap();
                }
            }
        });
    }
    while let Some(done) = in_time(tasks.join_next()).await {
        done.unwrap();
    }
    assert!(cache.recount().await.unwrap().bytes <= 2000);
}

/// What is held is not removed to make room, and what is used is removed last.
#[tokio::test]
async fn room_is_made_of_what_is_not_used_and_not_held() {
    let place = Place::new();
    let cache = options().max_size(1000).open(directory(&place)).await.unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    for key in 0..10_u8 {
        let entry = cache.insert([key], &[key; 100][..]).await.unwrap();
        let times = FileTimes::new()
            .set_modified(long_ago + SECOND * u32::from(key))
            .set_accessed(long_ago + SECOND * u32::from(key));
        File::options().write(true).open(entry.path()).unwrap().set_times(times).unwrap();
    }
    cache.get([1]).await.unwrap().expect("there");
    let locks = tokio_filelock::LockSpace::open(place.at("cache.lock")).await.unwrap();
    // As a fill of that key that is under way.
    let held = locks.key([2]).lock().await.unwrap();
    cache.insert("new", &[1; 100][..]).await.unwrap();
    drop(held);
    let mut there = Vec::new();
    for key in 0..10_u8 {
        if cache.peek([key]).await.unwrap().is_some() {
            there.push(key);
        }
    }
    assert_eq!(there, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let counted = cache.stats().await.unwrap();
    assert_eq!(cache.recount().await.unwrap().bytes, counted.bytes);
}

/// Who has the lock of the books makes others wait only if they have no room in them; a count takes that away.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn inserts_with_a_limit_need_no_books_while_there_is_room() {
    use nix::libc;

    let place = Place::new();
    let limited = || options().max_size(1 << 20).open(directory(&place));
    let (cache, other) = (limited().await.unwrap(), limited().await.unwrap());
    let hasty = cache.with_timeout(Duration::from_millis(10));
    for key in 0..10_u8 {
        cache.insert([key], &[key; 100][..]).await.unwrap();
    }
    let lock_file = File::options().read(true).write(true).open(place.at("cache.lock")).unwrap();
    let lock = |kind: i32| set_books_lock(&lock_file, kind);
    lock(libc::F_WRLCK);
    let mut beside_others = 0;
    let error = loop {
        match hasty.insert([100 + beside_others], &[1; 100][..]).await {
            Ok(_) => beside_others += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    // After the first one for 4, after the sixth for 24, of which three are used.
    assert_eq!(beside_others, 21);
    // What it says of others is what they have put down.
    let values = 10 + u64::from(beside_others);
    assert_eq!(cache.stats().await.unwrap().values, values);
    assert!(other.stats().await.unwrap().values >= values);
    lock(libc::F_UNLCK);
    hasty.insert("key", &[1; 100][..]).await.unwrap();
    assert_eq!(other.recount().await.unwrap().values, values + 1);
    assert_eq!(other.stats().await.unwrap().values, values + 1);
    lock(libc::F_WRLCK);
    let error = hasty.insert("key", &[1; 100][..]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
}

/// By the next insert of the handle: others need it.
#[tokio::test]
async fn room_of_a_large_value_that_was_replaced_is_given_back() {
    let place = Place::new();
    let limited = || options().max_size(100_000).open(directory(&place));
    let (cache, other) = (limited().await.unwrap(), limited().await.unwrap());
    cache.insert("key", &[1; 50_000][..]).await.unwrap();
    cache.insert("key", &[2; 10][..]).await.unwrap();
    cache.insert("next", &[3; 10][..]).await.unwrap();
    let stats = other.stats().await.unwrap();
    assert!(stats.bytes < 1000, "{stats:?}");
}

/// Room that was lost by a count is fetched anew by one task for all, and a task with a limit does not wait for that one longer.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_counts_while_another_task_fetches_room() {
    use nix::libc;

    let place = Place::new();
    let limited = || options().max_size(10_000_000).open(directory(&place));
    let (cache, other) = (limited().await.unwrap(), limited().await.unwrap());
    for key in 0..12_u8 {
        cache.insert([key], &[key; 100][..]).await.unwrap();
    }
    other.recount().await.unwrap();
    let lock_file = File::options().read(true).write(true).open(place.at("cache.lock")).unwrap();
    set_books_lock(&lock_file, libc::F_WRLCK);
    let patient = cache.clone();
    let waits = tokio::spawn(async move { patient.insert("one", &[1; 100][..]).await.map(drop) });
    let path = place.at("cache.lock");
    let waiting = tokio::task::spawn_blocking(move || kernel::await_waiting_calls(&path, 1));
    in_time(waiting).await.unwrap();
    let hasty = cache.with_timeout(Duration::from_millis(10));
    let error = in_time(hasty.insert("two", &[1; 100][..])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    set_books_lock(&lock_file, libc::F_UNLCK);
    in_time(waits).await.unwrap().unwrap();
}

#[cfg(target_os = "linux")]
#[allow(clippy::disallowed_methods)] // a program that knows nothing of this crate
#[allow(clippy::useless_conversion)] // offsets have 32 bits on some systems
fn set_books_lock(file: &File, kind: i32) {
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    let start: i64 = 1 << 58;
    let lock = libc::flock {
        l_type: kind.try_into().unwrap(),
        l_whence: libc::SEEK_SET.try_into().unwrap(),
        // Of 32 bits where offsets are.
        l_start: start.try_into().unwrap(),
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).expect("no process has it");
}

#[tokio::test]
async fn a_value_that_is_too_large_is_given_and_not_kept() {
    let place = Place::new();
    let cache = options().max_size(10).open(directory(&place)).await.unwrap();
    cache.insert("key", &[1; 10][..]).await.unwrap();
    let entry = cache.insert("key", &[2; 11][..]).await.unwrap();
    assert_eq!(entry.read().await.unwrap(), [2; 11]);
    drop(entry);
    assert!(cache.get("key").await.unwrap().is_none(), "the value before it is out of date");
    let fill = || async { Ok::<_, io::Error>(&[3; 12][..]) };
    let entry = cache.get_or_insert_with("key", fill).await.unwrap();
    assert_eq!(entry.read().await.unwrap(), [3; 12]);
    // On Windows a file has its name for as long as it is open.
    drop(entry);
    assert_eq!(files(cache.path()), ["books"]);
}

#[tokio::test]
async fn clear_and_prune_leave_alone_what_is_not_of_the_cache() {
    let place = Place::new();
    let cache = options().max_size(0).open(directory(&place)).await.unwrap();
    let unlimited = open(&place).await;
    let foreign =
        ["README", "00/README", "00/0123456789012345678901234567890123456789", "zz/x", "tmp/x"];
    for name in foreign {
        let path = cache.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "foreign").unwrap();
    }
    let mut expected: Vec<_> = foreign.map(str::to_owned).to_vec();
    expected.push("books".into());
    expected.sort();
    for step in ["prune", "clear"] {
        unlimited.insert("key", &b"value"[..]).await.unwrap();
        unlimited.insert("k".repeat(1000), &b"value"[..]).await.unwrap();
        let removed = match step {
            "prune" => cache.prune().await.unwrap(),
            _ => cache.clear().await.unwrap(),
        };
        assert_eq!((removed.values, removed.bytes), (2, 10));
        let left = files(cache.path());
        assert_eq!(left, expected, "{step}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn all_spellings_share_the_locks() {
    let place = Place::new();
    fs::create_dir(place.at("real")).unwrap();
    symlink(place.at("real"), place.at("link")).unwrap();
    let real = options().open(place.at("real")).await.unwrap();
    let link = options().open(place.at("link/../link/")).await.unwrap();
    assert_eq!(real.path(), link.path());
    real.insert("key", &b"value"[..]).await.unwrap();
    assert_eq!(link.read("key").await.unwrap().unwrap(), b"value");
    assert!(place.at("real.lock").exists());
    assert!(!place.at("link.lock").exists());
}

#[tokio::test]
async fn lock_files_can_be_elsewhere() {
    let place = Place::new();
    fs::create_dir(place.at("locks")).unwrap();
    let cache = options().lock_file(place.at("locks/cache")).open(directory(&place)).await.unwrap();
    cache.insert("key", &b"value"[..]).await.unwrap();
    assert_eq!(place.names(), ["cache", "locks"]);
    assert!(place.at("locks/cache").exists());
}

#[tokio::test]
async fn every_sync_policy_stores() {
    for policy in [SyncPolicy::Never, SyncPolicy::Values, SyncPolicy::Inserts] {
        let place = Place::new();
        let cache = CacheDir::options().sync(policy).open(directory(&place)).await.unwrap();
        cache.insert("key", &b"value"[..]).await.unwrap();
        let mut content = String::new();
        let mut file = cache.get("key").await.unwrap().unwrap().into_file();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "value");
    }
}

#[tokio::test]
async fn what_cannot_be_a_cache_directory_is_an_error() {
    let place = Place::new();
    fs::write(place.at("file"), "").unwrap();
    let error = options().open(place.at("file")).await.unwrap_err();
    assert_names(&error, ErrorKind::Io, &place.at("file"));
    let error = options().read_only(true).open(place.at("missing")).await.unwrap_err();
    assert_names(&error, ErrorKind::Io, &place.at("missing"));
    assert_eq!(place.names(), ["file"]);
}

/// No runtime is needed: the crate's own threads make the calls.
#[test]
fn it_works_on_any_executor() {
    let place = Place::new();
    futures::executor::block_on(async {
        let cache = open(&place).await;
        let fill = || async { Ok::<_, io::Error>(&b"value"[..]) };
        let entry = cache.get_or_insert_with("key", fill).await.unwrap();
        assert_eq!(entry.read().await.unwrap(), b"value");
        assert_eq!(cache.read("key").await.unwrap().unwrap(), b"value");
    });
}
