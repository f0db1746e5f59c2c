//! A disk that is full, files that may not grow, no descriptor left, nothing that may be written:
//! clear errors, nothing lost, nothing left behind.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio_filelock::cache::FillError;
use tokio_filelock::{CacheDir, Error, ErrorKind};

use super::{directory, files, options, temporary_files};
use crate::child::Role;
use crate::support::assert_names;
use crate::support::needs::{Need, lacks, unshare};
use crate::support::place::Place;
use crate::support::process::{Process, say};

const MOUNT: &str = r#"mount -t tmpfs -o size=2m tmpfs "$1" && shift && exec "$@""#;

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn source(error: &Error) -> io::ErrorKind {
    error.os_error().unwrap().kind()
}

/// In a mount namespace of its own, which goes with the process.
#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    if lacks(&[Need::Mounts]) {
        return;
    }
    let place = Place::new();
    let path = place.directory().to_str().unwrap();
    let starter = unshare(&["--mount", "sh", "-c", MOUNT, "sh", path]);
    let process = Process::in_role_under(&starter, Role::FillASmallDisk, &[path]);
    process.expect("done");
    process.finish();
    assert_eq!(place.names(), [""; 0], "the disk was another one");
}

/// The role `FillASmallDisk`.
pub(crate) fn on_a_small_disk(arguments: &[String]) {
    let [mount] = arguments else { panic!("one argument") };
    let directory = Path::new(mount).join("cache");
    block_on(async {
        let cache = options().open(&directory).await.unwrap();
        let old = cache.insert("kept", &[1; 1000][..]).await.unwrap();
        let assert_full = |error: Error, path: &Path| {
            assert_names(&error, ErrorKind::Io, path);
            assert_eq!(source(&error), io::ErrorKind::StorageFull, "{error}");
            assert!(error.to_string().contains("the value before it is unchanged"), "{error}");
            assert_eq!(temporary_files(&directory), [""; 0]);
        };
        let large = vec![2; 4 << 20];
        assert_full(cache.insert("kept", &large[..]).await.unwrap_err(), old.path());
        let fill = || async { Ok::<_, io::Error>(&large[..]) };
        let Err(FillError::Cache(error)) = cache.get_or_insert_with("new", fill).await else {
            panic!("it is not the fill that fails");
        };
        assert_full(error, &cache_path(&cache, "new").await);
        assert_eq!(cache.read("kept").await.unwrap().unwrap(), [1; 1000]);
        assert!(cache.get("new").await.unwrap().is_none());
        assert_eq!(cache.stats().await.unwrap().values, 1);

        // Not one byte is left, but what a removal gives back.
        cache.insert("spare", &[0; 100_000][..]).await.unwrap();
        let mut hog = File::create(Path::new(mount).join("hog")).unwrap();
        while hog.write_all(&[0; 4096]).is_ok() {}
        assert_full(cache.insert("kept", &[3; 1][..]).await.unwrap_err(), old.path());
        assert_eq!(cache.read("kept").await.unwrap().unwrap(), [1; 1000]);
        assert!(cache.remove("spare").await.unwrap());
        cache.insert("kept", &[4; 1][..]).await.unwrap();
        cache.clear().await.unwrap();
        fs::remove_file(Path::new(mount).join("hog")).unwrap();
        drop(hog);
        cache.insert("kept", &[5; 1000][..]).await.unwrap();
        // What is open and gone would keep the mount writable.
        drop((cache, old));

        // And the same disk, to be read only. `bind`: an ordinary user may do that to a mount only.
        let read_only = ["-o", "remount,bind,ro", mount];
        assert!(Command::new("mount").args(read_only).status().unwrap().success());
        let cache = options().open(&directory).await.unwrap();
        assert_eq!(cache.read("kept").await.unwrap().unwrap(), [5; 1000]);
        assert_refused(&cache, ErrorKind::WrongAccess).await;
    });
    say("done");
}

/// Where the value of a key would be.
async fn cache_path(cache: &CacheDir, key: &str) -> std::path::PathBuf {
    let value = cache.insert(key, &[][..]).await.unwrap().path().to_owned();
    assert!(cache.remove(key).await.unwrap());
    value
}

/// Hits work, and whatever would change something is refused.
async fn assert_refused(cache: &CacheDir, kind: ErrorKind) {
    let before = files(cache.path());
    assert_eq!(cache.read("kept").await.unwrap().unwrap(), [5; 1000]);
    let never = || async { panic!("it is there") as Result<&[u8], io::Error> };
    let entry = cache.get_or_insert_with("kept", never).await.unwrap();
    assert_eq!(entry.len(), 1000);
    assert!(cache.get("new").await.unwrap().is_none());
    let errors = [
        cache.insert("new", &b"new"[..]).await.unwrap_err(),
        cache.remove("kept").await.unwrap_err(),
        cache.clear().await.unwrap_err(),
        cache.prune().await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), kind, "{error}");
    }
    let fill = || async { Ok::<_, io::Error>("new") };
    match cache.get_or_insert_with("new", fill).await {
        // Who asked for no more gets a value that is not kept.
        Ok(entry) => assert_eq!((kind, entry.len()), (ErrorKind::Io, 3)),
        Err(error) => {
            let FillError::Cache(error) = error else { panic!("{error}") };
            assert_eq!([kind, error.kind()], [ErrorKind::WrongAccess; 2], "{error}");
        }
    }
    assert_eq!(cache.stats().await.unwrap().values, 1);
    assert_eq!(cache.entries().next().await.unwrap().unwrap().key, b"kept");
    assert_eq!(files(cache.path()), before);
}

#[tokio::test]
async fn a_cache_that_is_only_read_changes_nothing() {
    let place = Place::new();
    let cache = options().open(directory(&place)).await.unwrap();
    cache.insert("kept", &[5; 1000][..]).await.unwrap();
    fs::write(cache.path().join("tmp/0000000000000000-dead"), "").unwrap();
    drop(cache);
    for name in place.names() {
        if name.starts_with("cache.lock") {
            fs::remove_file(place.at(&name)).unwrap();
        }
    }
    let cache = options().read_only(true).open(directory(&place)).await.unwrap();
    assert_refused(&cache, ErrorKind::Io).await;
    assert_eq!(place.names(), ["cache"]);
}

#[test]
fn a_value_that_grows_too_long_leaves_nothing() {
    let place = Place::new();
    let path = directory(&place);
    // The signal of the limit ends a process that does not ignore it.
    let starter = ["sh", "-c", r#"trap "" XFSZ; exec "$@""#, "sh"];
    let process =
        Process::in_role_under(&starter, Role::WriteShortFiles, &[path.to_str().unwrap()]);
    process.expect("done");
    process.finish();
}

/// The role `WriteShortFiles`.
pub(crate) fn with_short_files(arguments: &[String]) {
    let [path] = arguments else { panic!("one argument") };
    let (_, most) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    block_on(async {
        let cache = options().open(path).await.unwrap();
        let old = cache.insert("key", &[1; 1000][..]).await.unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, 300_000, most).unwrap();
        let error = cache.insert("key", &[2; 300_001][..]).await.unwrap_err();
        assert_names(&error, ErrorKind::Io, old.path());
        assert_eq!(source(&error), io::ErrorKind::FileTooLarge, "{error}");
        assert_eq!(temporary_files(cache.path()), [""; 0]);
        assert_eq!(cache.read("key").await.unwrap().unwrap(), [1; 1000]);
        cache.insert("key", &[3; 300_000][..]).await.unwrap();
    });
    say("done");
}

#[test]
fn without_descriptors_there_are_errors_and_no_misses() {
    let place = Place::new();
    let path = directory(&place);
    let process = Process::in_role(Role::CacheWithoutDescriptors, &[path.to_str().unwrap()]);
    process.expect("done");
    process.finish();
}

/// The role `CacheWithoutDescriptors`.
pub(crate) fn without_descriptors(arguments: &[String]) {
    let [path] = arguments else { panic!("one argument") };
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, most).unwrap();
    block_on(async {
        let cache = options().open(path).await.unwrap();
        let long = "k".repeat(1000);
        for key in ["key", &long] {
            cache.insert(key, &b"value"[..]).await.unwrap();
        }
        let mut hoard: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        assert!(!hoard.is_empty());
        let never = || async { panic!("it is there") as Result<&[u8], io::Error> };
        // Each time one more than before: none for the value, none for what is beside it, and so on.
        let mut errors = 0;
        for left in 0..8 {
            for key in ["key", &long] {
                let path = match cache.get(key).await {
                    Ok(entry) => entry.expect("no miss").path().to_owned(),
                    Err(error) => {
                        errors += 1;
                        assert!(error.to_string().contains("os error 24"), "{error}");
                        error.path().to_owned()
                    }
                };
                match cache.get_or_insert_with(key, never).await {
                    Ok(entry) => assert_eq!(entry.path(), path),
                    Err(FillError::Cache(error)) => assert_names(&error, ErrorKind::Io, &path),
                    Err(error) => panic!("{error}"),
                }
                match cache.insert(key, &b"value"[..]).await {
                    Ok(_) => {}
                    Err(error) => {
                        errors += 1;
                        assert!(error.to_string().contains("os error 24"), "{left}: {error}");
                    }
                }
                assert_eq!(temporary_files_with(&mut hoard, cache.path()), [""; 0], "{left}");
            }
            hoard.pop();
        }
        assert!(errors > 4, "{errors} errors");
        drop(hoard);
        for key in ["key", &long] {
            assert_eq!(cache.read(key).await.unwrap().unwrap(), b"value");
        }
    });
    say("done");
}

/// Listing takes a descriptor, too.
fn temporary_files_with(hoard: &mut Vec<File>, cache: &Path) -> Vec<String> {
    drop(hoard.pop());
    let files = temporary_files(cache);
    hoard.push(File::open("/dev/null").unwrap());
    files
}
