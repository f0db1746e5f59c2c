//! What is Windows' own: one list of locks for both protocols, names, attributes, share modes.

use std::fs::{self, File};
use std::os::windows::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio_filelock::{CacheDir, ErrorKind, FileLock, LockSpace, Protocol, Source};

use crate::support::locker::{Locker, is_free};
use crate::support::place::Place;
use crate::support::{Mode, assert_names, assert_would_block, each_protocol, open, until};

each_protocol!(#[tokio::test] async fn the_standard_library_and_either_protocol_exclude_each_other);
#[allow(clippy::disallowed_methods, clippy::incompatible_msrv)] // a foreign program
async fn the_standard_library_and_either_protocol_exclude_each_other(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let foreign = File::options().read(true).write(true).open(place.lock_file()).unwrap();
    let guard = lock.lock().await.unwrap();
    assert!(foreign.try_lock().is_err(), "{protocol:?}");
    assert!(foreign.try_lock_shared().is_err(), "{protocol:?}");
    drop(guard);
    foreign.try_lock().unwrap();
    assert_would_block(lock.try_lock());
    assert_would_block(lock.try_lock_shared());
    drop(foreign);
    drop(lock.try_lock().unwrap());
}

/// Both are ranges of one list.
#[test]
fn the_two_protocols_exclude_each_other_between_processes() {
    for (one, other) in [(Protocol::Flock, Protocol::Fcntl), (Protocol::Fcntl, Protocol::Flock)] {
        let place = Place::new();
        let holder = Locker::holding(&place.lock_file(), one, Mode::Exclusive);
        assert!(!is_free(&place.lock_file(), other, Mode::Shared), "{other:?}");
        holder.finish();
        let holder = Locker::holding(&place.lock_file(), one, Mode::Shared);
        assert!(!is_free(&place.lock_file(), other, Mode::Exclusive), "{other:?}");
        assert!(is_free(&place.lock_file(), other, Mode::Shared), "{other:?}");
        holder.finish();
    }
}

each_protocol!(#[tokio::test] async fn after_a_downgrade_processes_share_at_once);
async fn after_a_downgrade_processes_share_at_once(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let guard = lock.lock().await.unwrap().downgrade();
    assert!(is_free(&place.lock_file(), protocol, Mode::Shared), "{protocol:?}");
    assert!(!is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");
    drop(guard);
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");
}

#[tokio::test]
async fn a_name_in_other_letters_is_one_lock() {
    let place = Place::new();
    let one = open(place.at("app.lock"), Protocol::Flock).await;
    let other = open(place.at("APP.Lock"), Protocol::Flock).await;
    let guard = one.lock().await.unwrap();
    assert_eq!(other.counters(), one.counters(), "one entry");
    assert_would_block(other.try_lock());
    drop(guard);
}

/// The system does not tell, so it takes a record to know; and only that of `Fcntl` can be read.
#[tokio::test]
async fn a_record_tells_who_holds_it_and_who_has_died() {
    let place = Place::new();
    let path = place.lock_file();
    let lock =
        FileLock::options().protocol(Protocol::Fcntl).record(true).open(&path).await.unwrap();
    let error = lock.holders().await.unwrap_err();
    assert_names(&error, ErrorKind::Unsupported, &path);

    let holder = Locker::holding_with_record(&path, Protocol::Fcntl, "rebuild");
    let holders = lock.holders().await.unwrap();
    assert_eq!(holders[0].pid(), Some(holder.pid()));
    assert_eq!(holders[0].source(), Source::Record);
    assert_eq!(holders[0].label(), Some("rebuild"));
    let pid = holder.pid();
    holder.kill();
    let guard = crate::support::in_time(lock.lock()).await.unwrap();
    let dead = guard.abandoned().expect("it did not let go");
    assert_eq!(dead.pid(), pid);
    assert!(guard.token().unwrap() > dead.token());
}

/// Under wine the wait is parked on the handle that the other keys of the file use.
#[tokio::test]
async fn a_wait_for_one_key_keeps_nobody_from_the_others() {
    let place = Place::new();
    let path = place.at("keys");
    let space = LockSpace::open(&path).await.unwrap();
    let mut holder = Locker::of_key(&path, "held");
    assert_eq!(holder.try_lock(Mode::Exclusive), "held");
    let waiting = space.key("held");
    assert_would_block(waiting.try_lock());
    let waiting = tokio::spawn(async move { waiting.lock().await.map(drop) });
    let others: Vec<_> = (0..64).map(|number| space.key(format!("other-{number}"))).collect();
    for key in &others {
        drop(crate::support::in_time(key.lock()).await.unwrap());
    }
    let guard = others[0].lock().await.unwrap();
    let mut other = Locker::of_key(&path, "other-0");
    assert_eq!(other.try_lock(Mode::Exclusive), "would block");
    drop(guard);
    assert_eq!(other.try_lock(Mode::Exclusive), "held");
    holder.unlock();
    crate::support::in_time(waiting).await.unwrap().unwrap();
}

/// The locked byte is beyond the data.
#[tokio::test]
async fn the_content_is_everybodys_with_fcntl() {
    let place = Place::new();
    fs::write(place.lock_file(), "before").unwrap();
    let lock = open(place.lock_file(), Protocol::Fcntl).await;
    let guard = lock.lock().await.unwrap();
    assert_eq!(fs::read(place.lock_file()).unwrap(), b"before");
    fs::write(place.lock_file(), "after").unwrap();
    drop(guard);
    assert_eq!(fs::read(place.lock_file()).unwrap(), b"after");
}

each_protocol!(#[tokio::test] async fn a_file_with_the_read_only_attribute_can_be_locked);
async fn a_file_with_the_read_only_attribute_can_be_locked(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.lock_file(), "kept").unwrap();
    let before = fs::metadata(place.lock_file()).unwrap().permissions();
    let mut read_only = before.clone();
    read_only.set_readonly(true);
    fs::set_permissions(place.lock_file(), read_only).unwrap();
    let lock = open(place.lock_file(), protocol).await;
    let guard = lock.lock().await.unwrap();
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared), "{protocol:?}");
    drop(guard);
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");
    drop(lock);
    fs::set_permissions(place.lock_file(), before).unwrap();
    assert_eq!(fs::read(place.lock_file()).unwrap(), b"kept");
}

#[tokio::test]
async fn what_is_no_file_is_refused() {
    let place = Place::new();
    fs::create_dir(place.lock_file()).unwrap();
    let error = FileLock::open(place.lock_file()).await.unwrap_err();
    assert_names(&error, ErrorKind::NotAFile, &place.lock_file());
    assert!(error.to_string().contains("it is a directory"), "{error}");
    let error = FileLock::open(Path::new("NUL")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAFile, "{error}");
    assert!(error.to_string().contains("it is a device"), "{error}");
}

#[tokio::test]
async fn paths_that_lead_nowhere_are_refused() {
    let place = Place::new();
    for path in [place.at("missing").join("app.lock"), place.at("a?b.lock"), place.at("a\0b")] {
        let error = FileLock::open(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    }
    assert_eq!(place.names(), [""; 0], "nothing was created");
}

/// A file that another program has to itself is an error, and works again when that program has closed it.
#[tokio::test]
async fn a_file_that_is_not_shared_is_an_error() {
    let place = Place::new();
    let mut options = File::options();
    options.read(true).write(true).create(true).share_mode(0);
    let to_himself = options.open(place.lock_file()).unwrap();
    let error = FileLock::open(place.lock_file()).await.unwrap_err();
    assert_names(&error, ErrorKind::Io, &place.lock_file());
    assert_eq!(
        error.os_error().unwrap().raw_os_error(),
        Some(32),
        "ERROR_SHARING_VIOLATION: {error}"
    );
    drop(to_himself);
    drop(open(place.lock_file(), Protocol::Flock).await.lock().await.unwrap());
}

/// Filled, found, pinned, replaced and removed.
#[tokio::test]
async fn a_cache_keeps_directories() {
    let place = Place::new();
    let cache = CacheDir::open(place.at("cache")).await.unwrap();
    let insert = |text: &'static str| {
        let fill = move |dir: PathBuf| async move {
            fs::create_dir(dir.join("below"))?;
            fs::write(dir.join("below/text"), text)
        };
        cache.insert_dir("key", fill)
    };
    let text_in = |dir: &Path| fs::read_to_string(dir.join("below/text")).unwrap();
    assert_eq!(text_in(insert("one").await.unwrap().path()), "one");
    let pin = cache.get_dir("key").await.unwrap().unwrap().pin().await.unwrap().unwrap();
    drop(insert("two").await.unwrap());
    let found = cache.get_dir("key").await.unwrap().unwrap();
    assert_eq!((text_in(pin.path()), text_in(found.path())), ("one".into(), "two".into()));
    assert_eq!((found.bytes(), cache.recount().await.unwrap().values), (3, 1));
    cache.prune().await.unwrap();
    assert_eq!(text_in(pin.path()), "one");
    let (pinned, found) = (pin.path().to_owned(), found.path().to_owned());
    drop(pin);
    assert!(cache.remove("key").await.unwrap());
    until("both are deleted", || !pinned.exists() && !found.exists());
    assert!(cache.get_dir("key").await.unwrap().is_none());
}
