//! Users who share a directory, or who may only read it. The second one is `nobody` where the tests may
//! change users, and the same one where not; then permissions are all that is tested.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::stat::{Mode, umask};
use tokio_filelock::cache::{CacheOptions, FillError};
use tokio_filelock::{CacheDir, ErrorKind};

use super::{directory, files, options};
use crate::support::locker::become_nobody;
use crate::support::place::Place;
use crate::support::process::{Process, say};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Under a umask that gives others nothing, and with a mode that gives them all.
#[tokio::test]
async fn users_share_a_directory() {
    let place = Place::new();
    // Lock files of others would have to be made in here.
    fs::set_permissions(place.directory(), Permissions::from_mode(0o777)).unwrap();
    let path = directory(&place);
    let process = Process::in_role("visit a cache", &["share", path.to_str().unwrap()]);
    process.expect("begun");
    for (name, expected) in [("cache", 0o777), ("cache.lock", 0o666), ("cache.lock.7", 0o666)] {
        assert_eq!(mode(&place.at(name)), expected, "{name}");
    }
    for name in files(&path) {
        assert_eq!(mode(&path.join(&name)), 0o666, "{name}");
        assert_eq!(mode(path.join(&name).parent().unwrap()), 0o777, "{name}");
    }
    let visitor = Process::in_role("visit a cache", &["share as nobody", path.to_str().unwrap()]);
    visitor.expect("done");
    visitor.finish();
    process.finish();
    // And back: what the other one made can be used, replaced and removed.
    let cache = shared().open(&path).await.unwrap();
    assert_eq!(cache.read("theirs").await.unwrap().unwrap(), b"theirs");
    for key in ["ours", "theirs", "new"] {
        cache.insert(key, &b"ours"[..]).await.unwrap();
        assert!(cache.remove(key).await.unwrap());
    }
    assert_eq!(cache.clear().await.unwrap().values, 1);
}

/// Who may not write has hits, and clear errors for the rest.
#[test]
fn who_may_only_read_has_hits() {
    let place = Place::new();
    let path = directory(&place);
    let process = Process::in_role("visit a cache", &["own", path.to_str().unwrap()]);
    process.expect("begun");
    let visitor = Process::in_role("visit a cache", &["read as nobody", path.to_str().unwrap()]);
    visitor.expect("done");
    visitor.finish();
    process.finish();
}

/// The lock files of a directory whose parent may not be written to.
#[test]
fn lock_files_that_cannot_be_made_are_named() {
    let place = Place::new();
    let path = place.at("parent/cache");
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(place.at("parent"), Permissions::from_mode(0o555)).unwrap();
    let process = Process::in_role("visit a cache", &["no locks", path.to_str().unwrap()]);
    process.expect("done");
    process.finish();
}

fn shared() -> CacheOptions {
    options().mode(0o666)
}

/// The role `visit a cache`.
pub(crate) fn visit(arguments: &[String]) {
    let [what, path] = arguments else { panic!("two arguments") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match what.as_str() {
            "share" => {
                umask(Mode::from_bits_truncate(0o077));
                let cache = shared().open(path).await.unwrap();
                for key in ["ours", "remove", &"k".repeat(1000)] {
                    cache.insert(key, &b"ours"[..]).await.unwrap();
                }
                finish(&cache, "begun");
            }
            "share as nobody" => {
                become_nobody();
                let cache = shared().open(path).await.unwrap();
                assert_eq!(cache.read("ours").await.unwrap().unwrap(), b"ours");
                cache.insert("ours", &b"theirs"[..]).await.unwrap();
                assert!(cache.remove("remove").await.unwrap());
                let fill = || async { Ok::<_, io::Error>(&b"theirs"[..]) };
                cache.get_or_insert_with("theirs", fill).await.unwrap();
                assert_eq!(cache.prune().await.unwrap().values, 0);
                say("done");
            }
            "own" => {
                umask(Mode::from_bits_truncate(0o022));
                let cache = options().open(path).await.unwrap();
                for key in ["kept", &"k".repeat(1000)] {
                    cache.insert(key, &b"ours"[..]).await.unwrap();
                }
                finish(&cache, "begun");
                let count = cache.stats().await.unwrap().values;
                assert_eq!(count, 2, "nothing was changed");
            }
            "read as nobody" => {
                become_nobody();
                let cache = options().open(path).await.unwrap();
                for key in ["kept", &"k".repeat(1000)] {
                    assert_eq!(cache.read(key).await.unwrap().unwrap(), b"ours");
                }
                assert!(cache.get("new").await.unwrap().is_none());
                if fs::File::options().append(true).open(Path::new(path).join("books")).is_err() {
                    let fill = || async { Ok::<_, io::Error>(&b"new"[..]) };
                    let error = match cache.get_or_insert_with("new", fill).await {
                        Err(FillError::Cache(error)) => error,
                        other => panic!("not refused: {other:?}"),
                    };
                    assert_eq!(error.kind(), ErrorKind::WrongAccess, "{error}");
                    assert!(error.path().ends_with("cache.lock"), "{error}");
                    let error = cache.remove("kept").await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::WrongAccess, "{error}");
                    cache.clear().await.unwrap_err();
                }
                say("done");
            }
            "no locks" => {
                become_nobody();
                let cache = options().open(path).await.unwrap();
                assert!(cache.get("key").await.unwrap().is_none());
                let inserted = cache.insert("key", &b"value"[..]).await;
                let error = inserted.expect_err("the parent is nobody's to write to");
                assert!(error.path().ends_with("cache.lock"), "{error}");
                assert!(error.to_string().contains("Permission denied"), "{error}");
                say("done");
            }
            _ => panic!("no such visit: {what}"),
        }
    });
}

/// Says so, and keeps the cache open until the parent has seen enough.
fn finish(cache: &CacheDir, event: &str) {
    say(event);
    crate::support::process::commands().for_each(drop);
    assert!(cache.path().exists());
}
