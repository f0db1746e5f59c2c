//! Values that cannot be removed, and subdirectories that cannot be looked at, stop nothing but themselves.
#![allow(unsafe_code)]

use std::fs::{self, File, Permissions};
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio_filelock::{CacheDir, ErrorKind};

use super::{directory, options};
use crate::child::Role;
use crate::support::assert_names;
use crate::support::locker::become_nobody;
#[cfg(target_os = "linux")]
use crate::support::needs::{Need, lacks, unshare};
use crate::support::place::Place;
use crate::support::process::{Process, say};

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The bytes of all values, counted.
async fn bytes(cache: &CacheDir) -> u64 {
    cache.recount().await.unwrap().bytes
}

/// What may not be removed is in the way, and what was to be replaced goes to make room.
#[test]
fn no_limit_is_passed_where_a_value_cannot_be_removed() {
    let place = Place::new();
    fs::set_permissions(place.directory(), Permissions::from_mode(0o777)).unwrap();
    let path = directory(&place);
    let shard = block_on(async {
        let cache = options().mode(0o666).open(&path).await.unwrap();
        let stuck = cache.insert("stuck", &[1; 50][..]).await.unwrap().path().to_owned();
        fs::set_permissions(stuck.parent().unwrap(), Permissions::from_mode(0o555)).unwrap();
        stuck.parent().unwrap().to_owned()
    });
    let arguments = [text(&path), "values beside it"];
    let process = Process::in_role(Role::ReplaceBesideWhatIsStuck, &arguments);
    process.expect("done");
    process.finish();
    fs::set_permissions(shard, Permissions::from_mode(0o755)).unwrap();
}

/// A directory takes its place, and the file that was the value stays: both count.
#[cfg(target_os = "linux")]
#[test]
fn no_limit_is_passed_where_a_directory_cannot_replace_a_file() {
    if lacks(&[Need::Root]) {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.directory(), Permissions::from_mode(0o777)).unwrap();
    let path = directory(&place);
    block_on(async {
        let cache = options().mode(0o666).open(&path).await.unwrap();
        let stuck = cache.insert("stuck", &[1; 50][..]).await.unwrap().path().to_owned();
        // Another user may put files in there, and remove none of this one.
        let others_may_add = Permissions::from_mode(0o1777);
        fs::set_permissions(stuck.parent().unwrap(), others_may_add).unwrap();
    });
    let arguments = [text(&path), "a file by a directory"];
    let process = Process::in_role(Role::ReplaceBesideWhatIsStuck, &arguments);
    process.expect("done");
    process.finish();
}

/// The role `ReplaceBesideWhatIsStuck`.
pub(crate) fn replace(arguments: &[String]) {
    let [path, what] = arguments else { panic!("two arguments") };
    become_nobody();
    match &what[..] {
        "values beside it" => replace_values(path),
        _ => replace_by_a_directory(path),
    }
    say("done");
}

fn replace_by_a_directory(path: &str) {
    block_on(async {
        let cache = options().mode(0o666).max_size(100).open(path).await.unwrap();
        let fill = |dir: PathBuf| async move { fs::write(dir.join("file"), [2; 40]) };
        cache.insert_dir("stuck", fill).await.unwrap_err();
        assert!(cache.get_dir("stuck").await.unwrap().is_some());
        assert_eq!(cache.read("stuck").await.unwrap().unwrap(), [1; 50]);
        cache.insert("other", &[3; 50][..]).await.unwrap();
        let bytes = bytes(&cache).await;
        assert!(bytes <= 100, "{bytes} bytes");
    });
}

fn replace_values(path: &str) {
    block_on(async {
        let cache = options().mode(0o666).max_size(100).open(path).await.unwrap();
        for length in [50, 60, 50, 60, 40] {
            let entry = cache.insert("replaced", &vec![2; length][..]).await.unwrap();
            assert_eq!(entry.len(), length as u64);
            let kept = cache.get("replaced").await.unwrap().map(|entry| entry.len());
            assert_eq!(kept, (length <= 50).then_some(length as u64));
            assert!(bytes(&cache).await <= 100, "with {length}");
        }
        assert_eq!(cache.read("stuck").await.unwrap().unwrap(), [1; 50]);
    });
}

/// So many that a walk for each of them would not end in time.
#[test]
fn many_values_that_cannot_be_removed_take_a_few_walks() {
    const STUCK: u64 = 4000;

    let place = Place::new();
    fs::set_permissions(place.directory(), Permissions::from_mode(0o777)).unwrap();
    let path = directory(&place);
    block_on(async { options().mode(0o666).open(&path).await.unwrap() });
    let shard = path.join("00");
    fs::create_dir(&shard).unwrap();
    for number in 0..STUCK {
        fs::write(shard.join(format!("{number:040x}-x")), "x").unwrap();
    }
    fs::set_permissions(&shard, Permissions::from_mode(0o555)).unwrap();
    let process = Process::in_role(Role::PruneWhatIsStuck, &[text(&path), &STUCK.to_string()]);
    process.expect("done");
    process.finish();
    fs::set_permissions(shard, Permissions::from_mode(0o755)).unwrap();
}

/// The role `PruneWhatIsStuck`.
pub(crate) fn prune(arguments: &[String]) {
    let [path, stuck] = arguments else { panic!("two arguments") };
    let stuck: u64 = stuck.parse().unwrap();
    become_nobody();
    block_on(async {
        let cache = options().mode(0o666).max_size(stuck - 1).open(path).await.unwrap();
        let error = cache.prune().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert_eq!(cache.stats().await.unwrap().values, stuck);
        // One that can be removed goes, however many are before it.
        let cache = options().mode(0o666).max_size(stuck).open(path).await.unwrap();
        let roomy = options().mode(0o666).max_size(stuck + 1).open(path).await.unwrap();
        roomy.insert("goes", "x").await.unwrap();
        cache.prune().await.unwrap_err();
        assert!(cache.get("goes").await.unwrap().is_none());
    });
    say("done");
}

/// The mount of a FUSE server that has ended, for one: everything in there fails with `ENOTCONN`.
#[cfg(target_os = "linux")]
#[test]
fn a_subdirectory_that_cannot_be_looked_at_stops_nothing() {
    if lacks(&[Need::Fuse]) {
        return;
    }
    let place = Place::new();
    let path = directory(&place);
    let starter = unshare(&["--mount"]);
    let process = Process::in_role_under(&starter, Role::ADeadMountInACache, &[text(&path)]);
    process.expect("done");
    process.finish();
}

/// Mounts a file system of a server that is gone.
#[cfg(target_os = "linux")]
fn mount_dead(at: &Path) {
    let server = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0\0", server.as_raw_fd());
    let at = std::ffi::CString::new(text(at)).unwrap();
    // SAFETY: all of them are strings that end with a zero.
    let mounted = unsafe {
        nix::libc::mount(
            c"dead".as_ptr(),
            at.as_ptr(),
            c"fuse".as_ptr(),
            0,
            options.as_ptr().cast(),
        )
    };
    assert_eq!(mounted, 0, "{}", io::Error::last_os_error());
}

/// The role `ADeadMountInACache`.
#[cfg(target_os = "linux")]
pub(crate) fn dead_mount(arguments: &[String]) {
    const VALUES: u32 = 300;

    let [path] = arguments else { panic!("one argument") };
    block_on(async {
        let cache = options().max_size(2000).open(path).await.unwrap();
        for number in 0..VALUES {
            cache.insert(format!("key-{number}"), "value").await.unwrap();
        }
        let dead = cache.get("key-0").await.unwrap().unwrap().path().parent().unwrap().to_owned();
        let in_dead = fs::read_dir(&dead).unwrap().count() as u64;
        mount_dead(&dead);
        fs::read_dir(&dead).unwrap_err();
        // Counted anew, as far as that goes, and an insert elsewhere has its room.
        fs::remove_file(cache.path().join("books")).unwrap();
        let elsewhere = (0..).map(|n| format!("n{n}"));
        let mut inserted = 0;
        for key in elsewhere.take(20) {
            match cache.insert(&key, "value").await {
                Ok(entry) => {
                    inserted += 1;
                    assert_eq!(entry.read().await.unwrap(), b"value");
                }
                Err(error) => assert_eq!(error.path().parent(), Some(&*dead), "{error}"),
            }
        }
        assert!(inserted > 10, "{inserted}");
        assert_names(&cache.stats().await.unwrap_err(), ErrorKind::Io, &dead);
        let mut entries = cache.entries();
        let (mut listed, mut errors) = (0, Vec::new());
        loop {
            match entries.next().await {
                Ok(None) => break,
                Ok(Some(_)) => listed += 1,
                Err(error) => errors.push(error),
            }
        }
        assert_eq!(listed, u64::from(VALUES) - in_dead + inserted);
        assert_names(&errors.pop().unwrap(), ErrorKind::Io, &dead);
        assert!(errors.is_empty(), "{errors:?}");
        let small = options().max_size(100).open(path).await.unwrap();
        assert_names(&small.prune().await.unwrap_err(), ErrorKind::Io, &dead);
        assert!(small.get("key-0").await.is_err());
        let left = files_outside(cache.path(), &dead);
        assert_eq!(left, 20, "as many as the limit allows");
        assert_names(&cache.clear().await.unwrap_err(), ErrorKind::Io, &dead);
        assert_eq!(files_outside(cache.path(), &dead), 0);
        // When it is back, what is in there counts again.
        let status = std::process::Command::new("umount").arg("-l").arg(&dead).status().unwrap();
        assert!(status.success());
        assert_eq!(cache.stats().await.unwrap().values, in_dead);
        assert_eq!(cache.read("key-0").await.unwrap().unwrap(), b"value");
    });
    say("done");
}

#[cfg(target_os = "linux")]
fn files_outside(cache: &Path, dead: &Path) -> usize {
    let shards = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    let shards = shards.filter(|path| path.is_dir() && path != dead && !path.ends_with("tmp"));
    shards.map(|shard| fs::read_dir(shard).unwrap().count()).sum()
}

/// A key file that another user has closed takes its own value out of the listing.
#[test]
fn a_key_that_cannot_be_read_hides_no_other() {
    let place = Place::new();
    fs::set_permissions(place.directory(), Permissions::from_mode(0o777)).unwrap();
    let path = directory(&place);
    block_on(async {
        let cache = options().mode(0o666).open(&path).await.unwrap();
        let long = "k".repeat(300);
        let value = cache.insert(&long, "value").await.unwrap().path().to_owned();
        let shard = value.parent().unwrap();
        let digits = shard.file_name().unwrap().to_str().unwrap();
        // Values of the same subdirectory, which are listed whatever their hashes.
        let beside = (0..).map(|n| format!("n{n}"));
        let mut beside_it = 0;
        for key in beside.take(2000) {
            let path = cache.insert(&key, "value").await.unwrap().path().to_owned();
            if path.parent().unwrap().ends_with(digits) {
                beside_it += 1;
            }
        }
        assert!(beside_it > 0);
        let name = value.file_name().unwrap().to_str().unwrap();
        let key = shard.join(format!("{}.key", &name[..40]));
        fs::set_permissions(key, Permissions::from_mode(0o0)).unwrap();
    });
    let process = Process::in_role(Role::ListWhatIsClosed, &[text(&path)]);
    process.expect("listed 2000");
    process.finish();
}

/// The role `ListWhatIsClosed`.
pub(crate) fn list(arguments: &[String]) {
    let [path] = arguments else { panic!("one argument") };
    become_nobody();
    let cache = options().read_only(true).blocking_open(path).unwrap();
    let listed = cache.blocking_entries().map(Result::unwrap).count();
    say(&format!("listed {listed}"));
}
