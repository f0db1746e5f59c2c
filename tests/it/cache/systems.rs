//! Where the disk, the clock, the kernel or another version is not as expected.
#![allow(unsafe_code)]

use std::fs::{self, File, FileTimes, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

#[cfg(target_os = "linux")]
use nix::libc;
use sha2::{Digest, Sha256};
use tokio_filelock::cache::{FillError, SyncPolicy};
use tokio_filelock::{CacheDir, Error, ErrorKind};

use super::{directory, files, open, options, temporary_files};
use crate::child::Role;
use crate::support::assert_names;
use crate::support::locker::become_nobody;
use crate::support::needs::{Need, lacks, passed_in};
use crate::support::place::Place;
use crate::support::process::{Process, say};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Containers see the same volume, and each of them its own directory around it.
#[test]
fn a_mount_point_needs_lock_files_that_all_see() {
    if lacks(&[Need::Mounts]) || passed_in(&["--mount"]) {
        return;
    }
    let place = Place::new();
    let [volume, path] = ["volume", "cache"].map(|name| place.at(name));
    for directory in [&volume, &path] {
        fs::create_dir(directory).unwrap();
    }
    // Of the same device, and of another one.
    let mounts: [&[&str]; 2] = [&["--bind", volume.to_str().unwrap()], &["-t", "tmpfs", "none"]];
    // Linux tells mounts of one device apart, and other Unix systems do not.
    for mount in mounts.into_iter().skip(usize::from(cfg!(tokio_filelock_posix))) {
        run("mount", &[mount, &[path.to_str().unwrap()]].concat());
        block_on(async {
            let error = CacheDir::open(&path).await.unwrap_err();
            assert_names(&error, ErrorKind::InvalidInput, &path);
            assert!(error.to_string().contains("`lock_file`"), "{error}");
            assert_eq!(place.names(), ["cache", "volume"], "no lock file beside it");
            let elsewhere = options().lock_file(place.at("locks")).open(&path).await.unwrap();
            elsewhere.insert("key", &b"value"[..]).await.unwrap();
            let reader = options().read_only(true).open(&path).await.unwrap();
            assert_eq!(reader.read("key").await.unwrap().unwrap(), b"value");
            // Where all see the lock files, too.
            let below = options().open(path.join("below")).await.unwrap();
            below.insert("key", &b"value"[..]).await.unwrap();
            assert!(path.join("below.lock").exists());
        });
        for name in place.names().iter().filter(|name| name.starts_with("locks")) {
            fs::remove_file(place.at(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_lock_file_inside_is_an_error() {
    let place = Place::new();
    let path = directory(&place);
    fs::create_dir_all(path.join("below")).unwrap();
    for inside in ["lock", "below/lock", "below/../lock"] {
        let error = options().lock_file(path.join(inside)).open(&path).await.unwrap_err();
        assert_names(&error, ErrorKind::InvalidInput, &path);
        assert!(error.to_string().contains("`lock_file`"), "{error}");
    }
}

/// A subdirectory on a disk of its own, as unions of disks have them.
#[test]
fn a_rename_between_disks_is_a_copy() {
    if lacks(&[Need::Mounts]) || passed_in(&["--mount"]) {
        return;
    }
    let place = Place::new();
    let path = directory(&place);
    block_on(async {
        for (key, checksums) in [("short".to_owned(), true), ("k".repeat(200), false)] {
            let options = || options().checksums(checksums).sync(SyncPolicy::Inserts);
            let cache = options().open(&path).await.unwrap();
            let value = cache.insert(&key, &b"old"[..]).await.unwrap().path().to_owned();
            let shard = value.parent().unwrap();
            run("mount", &["-t", "tmpfs", "none", shard.to_str().unwrap()]);
            assert!(cache.get(&key).await.unwrap().is_none());
            let large = vec![1; 700_000];
            for value in [&large[..], b"small"] {
                let entry = cache.insert(&key, value).await.unwrap();
                assert!(entry.read().await.unwrap() == value);
                assert!(cache.read(&key).await.unwrap().unwrap() == value);
            }
            assert_eq!(temporary_files(&path), [""; 0]);
            let expected = 1 + usize::from(key.len() > 100) + usize::from(checksums);
            assert_eq!(fs::read_dir(shard).unwrap().count(), expected, "nothing is left behind");
            // But by one who was killed.
            fs::write(shard.join("0123456789abcdef-0123456789abcdef"), "").unwrap();
            cache.prune().await.unwrap();
            assert_eq!(fs::read_dir(shard).unwrap().count(), expected);
            run("umount", &[shard.to_str().unwrap()]);
        }
    });
}

/// A part of a container's image: to note the use would copy the value.
#[test]
fn a_hit_in_a_lower_layer_copies_nothing() {
    if lacks(&[Need::Overlay]) || passed_in(&["--mount"]) {
        return;
    }
    let place = Place::new();
    let home = place.directory().to_str().unwrap();
    run("mount", &["-t", "tmpfs", "none", home]);
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(place.at(name)).unwrap();
    }
    block_on(async {
        let cache = options().open(place.at("lower/cache")).await.unwrap();
        let entry = cache.insert("model", &[7; 100_000][..]).await.unwrap();
        let ago = SystemTime::now() - 2 * DAY;
        let times = FileTimes::new().set_accessed(ago).set_modified(ago);
        File::options().write(true).open(entry.path()).unwrap().set_times(times).unwrap();
    });
    let layers = format!("lowerdir={home}/lower,upperdir={home}/upper,workdir={home}/work");
    run("mount", &["-t", "overlay", "overlay", "-o", &layers, &format!("{home}/merged")]);
    block_on(async {
        let cache = options().open(place.at("merged/cache")).await.unwrap();
        assert_eq!(cache.get("model").await.unwrap().unwrap().len(), 100_000);
        assert_eq!(cache.read("model").await.unwrap().unwrap(), [7; 100_000]);
    });
    let copied = |path: &Path| files(path).into_iter().any(|name| name.ends_with("-model"));
    assert!(copied(&place.at("lower/cache")));
    assert!(!place.at("upper/cache").exists() || !copied(&place.at("upper/cache")));
}

#[tokio::test]
async fn a_value_from_the_future_is_too_old() {
    let place = Place::new();
    let cache = options().max_age(DAY).max_size(100).open(directory(&place)).await.unwrap();
    let set = |path: &Path, time: SystemTime| {
        let times = FileTimes::new().set_modified(time).set_accessed(time);
        File::options().write(true).open(path).unwrap().set_times(times).unwrap();
    };
    let path = cache.insert("ahead", &[1; 50][..]).await.unwrap().path().to_owned();
    // Clocks are not all the same.
    set(&path, SystemTime::now() + Duration::from_secs(10));
    assert!(cache.get("ahead").await.unwrap().is_some());
    set(&path, SystemTime::now() + 365 * DAY);
    assert!(cache.get("ahead").await.unwrap().is_none());
    assert!(cache.entries().next().await.unwrap().is_none());
    assert_eq!(cache.prune().await.unwrap().values, 1);
    // Without a greatest age: it goes first, unless it is used.
    let cache = options().max_size(100).open(directory(&place)).await.unwrap();
    for is_used in [false, true] {
        set(cache.insert("ahead", &[1; 40][..]).await.unwrap().path(), SystemTime::now() + DAY);
        let old = cache.insert("old", &[1; 40][..]).await.unwrap();
        set(old.path(), SystemTime::now() - DAY);
        if is_used {
            cache.get("ahead").await.unwrap().unwrap();
        }
        cache.insert("new", &[1; 40][..]).await.unwrap();
        assert_eq!(cache.get("ahead").await.unwrap().is_some(), is_used);
        assert_eq!(cache.get("old").await.unwrap().is_some(), !is_used);
        cache.clear().await.unwrap();
    }
}

/// What a user may not remove is in no other one's way: neither a value, nor what has its name.
#[test]
fn what_cannot_be_removed_stops_nothing() {
    let place = Place::new();
    fs::set_permissions(place.directory(), Permissions::from_mode(0o777)).unwrap();
    let path = directory(&place);
    let kept = block_on(async {
        let cache = options().mode(0o666).open(&path).await.unwrap();
        let kept = cache.insert("kept", &[1; 500][..]).await.unwrap().path().to_owned();
        let shard = kept.parent().unwrap();
        let digits = shard.file_name().unwrap().to_str().unwrap();
        let stray = shard.join(format!("{digits}{}.key", "0".repeat(38)));
        fs::create_dir_all(stray.join("full")).unwrap();
        fs::set_permissions(shard, Permissions::from_mode(0o555)).unwrap();
        kept
    });
    let arguments = [path.to_str().unwrap(), kept.to_str().unwrap()];
    let process = Process::in_role(Role::CannotRemoveAll, &arguments);
    process.expect("done");
    process.finish();
    fs::set_permissions(kept.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
}

/// The role `CannotRemoveAll`.
pub(crate) fn without_rights(arguments: &[String]) {
    let [path, kept] = arguments else { panic!("two arguments") };
    let kept = Path::new(kept);
    become_nobody();
    block_on(async {
        let cache = options().mode(0o666).max_size(1000).open(path).await.unwrap();
        let key_elsewhere = |n: u32| format!("n{n}");
        let mut others = 0;
        for n in 0..40 {
            match cache.insert(key_elsewhere(n), &[7; 300][..]).await {
                Ok(_) => others += 1,
                // The one subdirectory that is closed.
                Err(error) => assert_eq!(error.path().parent(), kept.parent(), "{error}"),
            }
        }
        assert!(others > 30, "{others} of 40");
        let stats = cache.stats().await.unwrap();
        assert!(stats.bytes <= 1000, "{stats:?}");
        assert_eq!(cache.read("kept").await.unwrap().unwrap(), [1; 500]);
        // Nothing that is small enough is kept out, and what is too large for the rest is given.
        let entry = cache.insert("n1", &[8; 600][..]).await.unwrap();
        assert_eq!(entry.read().await.unwrap(), [8; 600]);
        assert!(cache.get("n1").await.unwrap().is_none());
        assert!(cache.stats().await.unwrap().bytes <= 1000);
        cache.insert("n2", &[9; 300][..]).await.unwrap();
        let error = cache.clear().await.unwrap_err();
        assert_names(&error, ErrorKind::Io, kept);
        assert_eq!(cache.stats().await.unwrap().values, 1, "all others are removed");
        let smaller = options().mode(0o666).max_size(100).open(path).await.unwrap();
        let error = smaller.prune().await.unwrap_err();
        assert_names(&error, ErrorKind::Io, kept);
        smaller.insert("n2", &[9; 10][..]).await.unwrap();
    });
    say("done");
}

#[tokio::test]
async fn another_versions_directory_is_left_alone_until_it_is_cleared() {
    let place = Place::new();
    let cache = open(&place).await;
    cache.insert("key", &b"value"[..]).await.unwrap();
    let books = cache.path().join("books");
    let text = "format 5\nanything else\n";
    let check: String =
        Sha256::digest(text)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(&books, format!("{text}check {check}\n")).unwrap();
    // For who had it open before, as soon as it would change, list or count something, or finds nothing.
    let errors: [Error; 6] = [
        cache.get("other").await.unwrap_err(),
        cache.get_dir("other").await.unwrap_err(),
        cache.stats().await.unwrap_err(),
        cache.recount().await.unwrap_err(),
        cache.entries().next().await.unwrap_err(),
        cache.insert("key", &b"new"[..]).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
    // What dead writers of the other version have left is its own.
    let left = cache.path().join("tmp/0123456789abcdef-0123456789abcdef");
    fs::write(&left, "").unwrap();
    let newer = open(&place).await;
    assert!(left.exists());
    fs::remove_file(left).unwrap();
    let fill = || async { Ok::<_, io::Error>(&b"new"[..]) };
    let Err(FillError::Cache(filling)) = newer.get_or_insert_with("other", fill).await else {
        panic!("not refused")
    };
    let errors: [Error; 8] = [
        filling,
        newer.get("key").await.unwrap_err(),
        newer.read("key").await.unwrap_err(),
        newer.insert("key", &b"new"[..]).await.unwrap_err(),
        newer.remove("key").await.unwrap_err(),
        newer.prune().await.unwrap_err(),
        newer.stats().await.unwrap_err(),
        newer.entries().next().await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("`clear`"), "{error}");
        assert!(error.to_string().contains("format 5"), "{error}");
    }
    assert_eq!(newer.clear().await.unwrap().values, 1);
    for cache in [&cache, &newer] {
        cache.insert("key", &b"new"[..]).await.unwrap();
        assert_eq!(cache.read("key").await.unwrap().unwrap(), b"new");
    }
}

/// Wiped by being moved away, and made anew by another process: no task goes on in the old one.
#[tokio::test]
async fn a_directory_that_was_moved_away_is_left_behind() {
    let place = Place::new();
    let path = directory(&place);
    let cache = open(&place).await;
    cache.insert("key", &b"old"[..]).await.unwrap();
    fs::rename(&path, place.at("old")).unwrap();
    assert!(cache.get("key").await.unwrap().is_none());
    assert_eq!(cache.stats().await.unwrap().values, 0);
    let other = open(&place).await;
    other.insert("key", &b"new"[..]).await.unwrap();
    assert_eq!(cache.read("key").await.unwrap().unwrap(), b"new");
    cache.insert("another", &b"new"[..]).await.unwrap();
    assert_eq!(other.read("another").await.unwrap().unwrap(), b"new");
    assert_eq!(files(&place.at("old")).len(), 2, "the value and the books");
}

/// What some file systems cannot do, and some sandboxes do not allow.
#[cfg(target_os = "linux")]
#[test]
fn what_the_system_refuses_is_done_without() {
    let refused = [
        ("sync a directory", "fsync", libc::EINVAL),
        ("sync a directory", "fsync", libc::EOPNOTSUPP),
        ("sync a file", "fdatasync", libc::EINVAL),
        ("set permissions", "fchmod", libc::EPERM),
        ("set permissions", "fchmod", libc::EOPNOTSUPP),
        ("open below", "openat2", libc::ENOSYS),
        ("open below", "openat2", libc::EPERM),
    ];
    for (what, call, errno) in refused {
        let place = Place::new();
        let (path, errno) = (directory(&place), errno.to_string());
        let arguments = [path.to_str().unwrap(), call, &errno];
        println!("{what}: {call} fails with {errno}");
        let process = Process::in_role(Role::CacheWithoutACall, &arguments);
        process.expect("done");
        process.finish();
    }
}

/// The role `CacheWithoutACall`.
#[cfg(target_os = "linux")]
pub(crate) fn without_a_call(arguments: &[String]) {
    let [path, call, errno] = arguments else { panic!("three arguments") };
    let call = match call.as_str() {
        "fsync" => libc::SYS_fsync,
        "fdatasync" => libc::SYS_fdatasync,
        "fchmod" => libc::SYS_fchmod,
        "openat2" => libc::SYS_openat2,
        _ => panic!("no call: {call}"),
    };
    refuse(call, errno.parse().unwrap());
    block_on(async {
        for checksums in [false, true] {
            let options = options().sync(SyncPolicy::Inserts).mode(0o666).checksums(checksums);
            let cache = options.open(path).await.unwrap();
            for key in ["key", &"k".repeat(200)] {
                for value in [&b"old"[..], b"new"] {
                    cache.insert(key, value).await.unwrap();
                    assert_eq!(cache.read(key).await.unwrap().unwrap(), value);
                }
                let link = cache.get(key).await.unwrap().unwrap().path().to_owned();
                fs::remove_file(&link).unwrap();
                std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
                let error = cache.get(key).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotAFile, "{error}");
                cache.insert(key, &b"again"[..]).await.unwrap();
                assert!(cache.remove(key).await.unwrap());
            }
        }
    });
    say("done");
}

/// From now on this thread and those that it starts get this error from the call.
#[cfg(target_os = "linux")]
fn refuse(call: libc::c_long, errno: u32) {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K

    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(LOAD, 0, 0, 0), // the number of the call
        step(JUMP_IF_EQUAL, 0, 1, u32::try_from(call).unwrap()),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: the arguments are numbers.
    let prepared = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the program is valid for the call.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
    assert_eq!([prepared, set], [0, 0], "{}", io::Error::last_os_error());
}
