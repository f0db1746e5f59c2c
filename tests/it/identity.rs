//! The lock belongs to the file, whatever path leads to it.

use std::fs;
use std::path::Path;
#[cfg(unix)]
use std::path::{Component, PathBuf};

use tokio_filelock::{ErrorKind, FileLock, Protocol};

use crate::support::locker::{Locker, is_free};
use crate::support::place::Place;
use crate::support::{Mode, assert_names, assert_would_block, each_protocol, open};

/// The two paths are one lock: among tasks, among processes, and in what is counted.
async fn assert_one_lock(one: &Path, other: &Path, protocol: Protocol) {
    let (one, other) = (open(one, protocol).await, open(other, protocol).await);
    assert_ne!(one.path(), other.path(), "two spellings");

    let guard = one.lock().await.unwrap();
    assert_would_block(other.try_lock());
    assert!(!is_free(other.path(), protocol, Mode::Exclusive));
    let mut waiting = tokio_test::task::spawn(other.lock());
    assert!(waiting.poll().is_pending());
    drop(guard);
    assert!(waiting.is_woken(), "the lock is handed to the other spelling");
    let guard = waiting.await.unwrap();
    assert_would_block(one.try_lock());
    drop(guard);

    assert_eq!(one.counters(), other.counters());
    assert_eq!(one.counters().acquisitions, 2);
    assert_eq!((one.counters().tenures, one.counters().handovers), (1, 1));
}

#[cfg(unix)]
each_protocol!(#[tokio::test] async fn dots_in_the_path);
#[cfg(unix)] // on Windows the standard library takes them out
async fn dots_in_the_path(protocol: Protocol) {
    let place = Place::new();
    fs::create_dir(place.at("below")).unwrap();
    assert_one_lock(&place.lock_file(), &place.at("below/.././below/../app.lock"), protocol).await;
}

#[cfg(unix)]
each_protocol!(#[tokio::test] async fn a_relative_path);
#[cfg(unix)] // on Windows none leads to another drive
async fn a_relative_path(protocol: Protocol) {
    let place = Place::new();
    let current = std::env::current_dir().unwrap();
    let up = current.components().filter(|part| matches!(part, Component::Normal(_)));
    let mut relative: PathBuf = up.map(|_| "..").collect();
    relative.push(place.lock_file().strip_prefix("/").unwrap());
    assert!(relative.is_relative());
    assert_one_lock(&place.lock_file(), &relative, protocol).await;
}

each_protocol!(#[tokio::test] async fn a_hard_link);
async fn a_hard_link(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.lock_file(), "").unwrap();
    fs::create_dir(place.at("elsewhere")).unwrap();
    fs::hard_link(place.lock_file(), place.at("elsewhere/link")).unwrap();
    assert_one_lock(&place.lock_file(), &place.at("elsewhere/link"), protocol).await;
}

#[cfg(unix)]
each_protocol!(#[tokio::test] async fn a_symlinked_parent_directory);
#[cfg(unix)]
async fn a_symlinked_parent_directory(protocol: Protocol) {
    let place = Place::new();
    fs::create_dir(place.at("real")).unwrap();
    std::os::unix::fs::symlink(place.at("real"), place.at("alias")).unwrap();
    assert_one_lock(&place.at("real/app.lock"), &place.at("alias/app.lock"), protocol).await;
}

each_protocol!(#[tokio::test] async fn a_copy_is_another_lock);
async fn a_copy_is_another_lock(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    fs::copy(place.lock_file(), place.at("copy")).unwrap();
    let _guard = lock.lock().await.unwrap();
    assert!(open(place.at("copy"), protocol).await.try_lock().is_ok());
}

#[tokio::test]
async fn clones_are_one_lock() {
    let place = Place::new();
    let lock = open(place.lock_file(), Protocol::Flock).await;
    let clone = lock.clone();
    let _guard = lock.lock().await.unwrap();
    assert_would_block(clone.try_lock());
    assert_eq!(clone.counters(), lock.counters());
}

#[tokio::test]
async fn beside_adds_to_the_name() {
    let place = Place::new();
    let lock = FileLock::beside(place.at("index.json")).await.unwrap();
    assert_eq!(lock.path(), place.at("index.json.lock"));
    assert_eq!(place.names(), ["index.json.lock"], "the data file is left to its owner");
}

#[cfg(unix)] // on Windows wine cannot have such names
#[tokio::test]
async fn the_path_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;

    let place = Place::new();
    let path = place.directory().join(std::ffi::OsStr::from_bytes(b"\xff\xfe.lock"));
    let lock = open(&path, Protocol::Flock).await;
    assert_eq!(lock.path(), path);
    drop(lock.lock().await.unwrap());
}

/// The last handle closes the file, and the next one starts anew.
#[tokio::test]
async fn nothing_is_remembered_when_the_last_handle_is_gone() {
    let place = Place::new();
    let lock = open(place.lock_file(), Protocol::Flock).await;
    drop(lock.lock().await.unwrap());
    assert_eq!(lock.counters().acquisitions, 1);
    #[cfg(unix)]
    assert_eq!(descriptors_of(&place.lock_file()), 1);
    let second = open(place.lock_file(), Protocol::Flock).await;
    #[cfg(unix)]
    assert_eq!(descriptors_of(&place.lock_file()), 1, "one open file for all handles");
    drop((lock, second));
    #[cfg(unix)]
    assert_eq!(descriptors_of(&place.lock_file()), 0);
    // So another protocol is as good as the first.
    let lock = open(place.lock_file(), Protocol::Fcntl).await;
    assert_eq!(lock.counters().acquisitions, 0);
}

#[cfg(unix)]
fn descriptors_of(path: &Path) -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    // Another test may close one while we look.
    descriptors
        .filter(|entry| {
            fs::read_link(entry.as_ref().unwrap().path()).is_ok_and(|target| target == path)
        })
        .count()
}

#[tokio::test]
async fn one_file_with_two_protocols_is_an_error_in_one_process() {
    for (first, second) in [(Protocol::Flock, Protocol::Fcntl), (Protocol::Fcntl, Protocol::Flock)]
    {
        let place = Place::new();
        let lock = open(place.lock_file(), first).await;
        fs::hard_link(place.lock_file(), place.at("link")).unwrap();
        for path in [place.lock_file(), place.at("link")] {
            let error = FileLock::options().protocol(second).open(&path).await.unwrap_err();
            assert_names(&error, ErrorKind::ProtocolMismatch, &path);
            for protocol in [first, second] {
                assert!(error.to_string().contains(&format!("{protocol:?}")), "{error}");
            }
        }
        assert_eq!(lock.protocol(), first);
        assert!(lock.try_lock().is_ok(), "the first one is as good as before");
        drop(lock);
        assert!(open(place.lock_file(), second).await.try_lock().is_ok());
    }
}

each_protocol!(
    #[tokio::test]
    async fn a_writable_handle_serves_a_file_that_was_first_opened_read_only
);
/// fcntl(2) wants a writable descriptor for the exclusive lock, and the first handle's is not.
async fn a_writable_handle_serves_a_file_that_was_first_opened_read_only(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.lock_file(), "").unwrap();
    let reading = FileLock::options().protocol(protocol).read_only(true);
    let reader = reading.open(place.lock_file()).await.unwrap();
    let shared = reader.lock_shared().await.unwrap();

    let writer = open(place.lock_file(), protocol).await;
    let also_shared = writer.lock_shared().await.unwrap();
    assert_would_block(writer.try_lock());
    assert!(!is_free(&place.lock_file(), protocol, Mode::Exclusive));
    drop((shared, also_shared));
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");

    let exclusive = writer.lock().await.unwrap();
    assert_would_block(reader.try_lock_shared());
    let mut other = Locker::open(&place.lock_file(), protocol);
    assert_eq!(other.try_lock(Mode::Shared), "would block");
    drop(exclusive);
    assert_eq!(other.try_lock(Mode::Exclusive), "held");
    assert_would_block(reader.try_lock_shared());
    assert_would_block(writer.try_lock_shared());
}
