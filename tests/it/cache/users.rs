//! Users who share a directory, or who may only read it. The second one is `nobody` where the tests may
//! change users, and the same one where not; then permissions are all that is tested.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use sha2::{Digest, Sha256};
use tokio_filelock::cache::{CacheOptions, FillError};
use tokio_filelock::{CacheDir, ErrorKind};

use super::{directory, files, options, tree};
use crate::child::Role;
use crate::support::assert_names;
use crate::support::locker::become_nobody;
use crate::support::needs::{Need, lacks};
use crate::support::place::Place;
use crate::support::process::{Process, say};
use crate::support::until;

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
    let process = Process::in_role(Role::VisitACache, &["share", path.to_str().unwrap()]);
    process.expect("begun");
    for (name, expected) in [("cache", 0o777), ("cache.lock", 0o666), ("cache.lock.7", 0o666)] {
        assert_eq!(mode(&place.at(name)), expected, "{name}");
    }
    let is_file = |name: &String| !name.starts_with("dirs/");
    for name in files(&path).into_iter().filter(is_file) {
        assert_eq!(mode(&path.join(&name)), 0o666, "{name}");
        assert_eq!(mode(path.join(&name).parent().unwrap()), 0o777, "{name}");
    }
    let [of_directory] = &tree::complete(&path)[..] else { panic!("one directory") };
    let of_directory = path.join("dirs").join(of_directory);
    for (name, expected) in [("", 0o777), ("below", 0o777), ("value", 0o644), ("run", 0o755)] {
        assert_eq!(mode(&of_directory.join(name)), expected, "{name}");
    }
    let visitor = Process::in_role(Role::VisitACache, &["share as nobody", path.to_str().unwrap()]);
    visitor.expect("done");
    visitor.finish();
    process.finish();
    // And back: what the other one made can be used, replaced and removed.
    let cache = shared().open(&path).await.unwrap();
    assert_eq!(cache.read("theirs").await.unwrap().unwrap(), b"theirs");
    let dir = cache.get_dir("dir").await.unwrap().unwrap();
    assert_eq!(tree::number("dir", dir.pin().await.unwrap().unwrap().path()), 2);
    for key in ["ours", "theirs", "new", "dir"] {
        cache.insert(key, &b"ours"[..]).await.unwrap();
        assert!(cache.remove(key).await.unwrap());
    }
    until("the directory is deleted", || tree::all(&path).is_empty());
    assert_eq!(cache.clear().await.unwrap().values, 1);
}

/// Who may not write has hits, and clear errors for the rest.
#[test]
fn who_may_only_read_has_hits() {
    let place = Place::new();
    let path = directory(&place);
    let process = Process::in_role(Role::VisitACache, &["own", path.to_str().unwrap()]);
    process.expect("begun");
    let visitor = Process::in_role(Role::VisitACache, &["read as nobody", path.to_str().unwrap()]);
    visitor.expect("done");
    visitor.finish();
    process.finish();
}

/// A user who may not write pins, and its process dies: no process waits, and what was pinned goes with the next walk, or when the
/// directory is opened next.
#[test]
fn who_may_only_read_pins() {
    let place = Place::new();
    let path = directory(&place);
    let cache = options().blocking_open(&path).unwrap();
    for (key, number) in [("opened", 1), ("pruned", 2)] {
        let pin = ["pin as nobody", "pin, read only"][usize::from(number == 2)];
        drop(cache.blocking_insert_dir(key, |dir| tree::fill(dir, key, number)).unwrap());
        let visitor = Process::in_role(Role::VisitACache, &[pin, path.to_str().unwrap(), key]);
        visitor.expect("pinned");
        drop(cache.blocking_insert_dir(key, |dir| tree::fill(dir, key, 7)).unwrap());
        assert!(cache.blocking_remove(key).unwrap());
        cache.blocking_prune().unwrap();
        let [pinned] = &tree::complete(&path)[..] else { panic!("what is pinned, and no more") };
        assert_eq!(tree::number(key, &path.join("dirs").join(pinned)), number);
        visitor.kill();
        if key == "opened" {
            options().blocking_open(&path).unwrap();
        } else {
            cache.blocking_prune().unwrap();
        }
        assert_eq!(tree::all(&path), [""; 0], "{key}");
    }
}

/// The lock files of a directory whose parent may not be written to.
#[test]
fn lock_files_that_cannot_be_made_are_named() {
    let place = Place::new();
    let path = place.at("parent/cache");
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(place.at("parent"), Permissions::from_mode(0o555)).unwrap();
    let process = Process::in_role(Role::VisitACache, &["no locks", path.to_str().unwrap()]);
    process.expect("done");
    process.finish();
}

fn shared() -> CacheOptions {
    options().mode(0o666)
}

/// The role `VisitACache`.
pub(crate) fn visit(arguments: &[String]) {
    let [what, path, rest @ ..] = arguments else { panic!("two arguments, or more") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match what.as_str() {
            "share" => {
                umask(Mode::from_bits_truncate(0o077));
                let cache = shared().open(path).await.unwrap();
                for key in ["ours", "remove", &"k".repeat(1000)] {
                    cache.insert(key, &b"ours"[..]).await.unwrap();
                }
                let fill = |dir: PathBuf| async move {
                    fs::write(dir.join("run"), "#!/bin/sh")?;
                    fs::set_permissions(dir.join("run"), Permissions::from_mode(0o700))?;
                    tree::fill(&dir, "dir", 1)
                };
                cache.insert_dir("dir", fill).await.unwrap();
                finish(&cache, "begun");
            }
            "share as nobody" => {
                become_nobody();
                let cache = shared().open(path).await.unwrap();
                assert_eq!(cache.read("ours").await.unwrap().unwrap(), b"ours");
                cache.insert("ours", &b"theirs"[..]).await.unwrap();
                assert!(cache.remove("remove").await.unwrap());
                let dir = cache.get_dir("dir").await.unwrap().unwrap();
                assert_eq!(tree::number("dir", dir.pin().await.unwrap().unwrap().path()), 1);
                let fill = |dir: PathBuf| async move { tree::fill(&dir, "dir", 2) };
                drop(cache.insert_dir("dir", fill).await.unwrap());
                until("what was replaced is deleted", || tree::all(Path::new(path)).len() == 1);
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
            "pin as nobody" | "pin, read only" => {
                let [key] = rest else { panic!("a key") };
                if what == "pin as nobody" {
                    become_nobody();
                }
                let cache = options().read_only(what == "pin, read only").open(path).await.unwrap();
                let dir = cache.get_dir(key).await.unwrap().unwrap();
                let _pin = dir.pin().await.unwrap().unwrap();
                finish(&cache, "pinned");
            }
            "no locks" => {
                become_nobody();
                let cache = options().open(path).await.unwrap();
                assert!(cache.get("key").await.unwrap().is_none());
                let inserted = cache.insert("key", &b"value"[..]).await;
                let error = inserted.expect_err("no user but root may write to the parent");
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

/// By a process that was killed before what it made had its mode.
#[tokio::test]
async fn what_was_to_become_the_directory_is_removed() {
    let place = Place::new();
    let path = directory(&place);
    let digest = Sha256::digest("cache");
    let name: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let left = place.at(&format!(".tokio-filelock-{name}"));
    let names = ["cache", "cache.lock"];
    // Where there is no cache yet, and where there is one.
    for _ in 0..2 {
        fs::create_dir(&left).unwrap();
        fs::set_permissions(&left, Permissions::from_mode(0o700)).unwrap();
        let cache = options().mode(0o666).open(&path).await.unwrap();
        assert_eq!(mode(&path), 0o777);
        cache.insert("key", "value").await.unwrap();
        assert_eq!(place.names()[..2], names, "and its others");
    }
    // It is not of the cache if there is something in it.
    fs::create_dir(&left).unwrap();
    fs::write(left.join("file"), "").unwrap();
    options().mode(0o666).open(&path).await.unwrap();
    assert!(left.join("file").exists());
}

/// A link of another user in a directory such as `/tmp` leads nowhere; one's own does.
#[tokio::test]
async fn a_link_of_another_user_is_not_the_directory() {
    if lacks(&[Need::Root]) {
        return;
    }
    let place = Place::new();
    let (shared_place, elsewhere) = (place.at("shared"), place.at("elsewhere"));
    for path in [&shared_place, &elsewhere] {
        fs::create_dir(path).unwrap();
    }
    fs::set_permissions(&shared_place, Permissions::from_mode(0o1777)).unwrap();
    let link = shared_place.join("cache");
    symlink(&elsewhere, &link).unwrap();
    const NOBODY: u32 = 65534;
    lchown(&link, Some(NOBODY), None).unwrap();
    let error = options().open(&link).await.unwrap_err();
    assert_names(&error, ErrorKind::Io, &link);
    assert!(error.to_string().contains("a symbolic link of another user"), "{error}");
    assert_eq!(files(&elsewhere), [""; 0]);
    lchown(&link, Some(0), None).unwrap();
    options().open(&link).await.unwrap().insert("key", "value").await.unwrap();
    // Where others may make no links, their links were not made for this.
    fs::set_permissions(&shared_place, Permissions::from_mode(0o755)).unwrap();
    lchown(&link, Some(NOBODY), None).unwrap();
    let cache = options().open(&link).await.unwrap();
    assert_eq!(cache.read("key").await.unwrap().unwrap(), b"value");
}

/// A link that leads to nothing stays what it is, and nothing is made where it leads.
#[tokio::test]
async fn no_directory_is_made_through_a_link() {
    let place = Place::new();
    let (link, target) = (place.at("link"), place.at("target"));
    symlink(&target, &link).unwrap();
    let error = options().open(&link).await.unwrap_err();
    assert_names(&error, ErrorKind::Io, &link);
    assert!(!target.exists());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[tokio::test]
async fn a_directory_whose_name_is_no_text_gets_the_mode_as_well() {
    let place = Place::new();
    let path = place.directory().join(OsStr::from_bytes(b"caf\xe9"));
    let cache = match shared().open(&path).await {
        Ok(cache) => cache,
        // Some file systems have only names that are text.
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            return;
        }
    };
    cache.insert("key", "value").await.unwrap();
    assert_eq!(mode(&path), 0o777);
    assert_eq!(cache.read("key").await.unwrap().unwrap(), b"value");
}
