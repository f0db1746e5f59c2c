//! File systems whose locks exclude the programs of one machine only: opening says so.
//!
//! As with the tests of `network`, `.ci/netfs` mounts them and runs the tests that are ignored.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc;
use nix::mount::{MsFlags, mount};
use tempfile::TempDir;
use tokio_filelock::{Error, ErrorKind, FileLock, Protocol};

use crate::support::needs::{Need, lacks, passed_in};
use crate::support::{PROTOCOLS, assert_names, each_protocol, in_time, open, returns, until};

/// A file system that passes on what it is asked, under the name of another kind.
fn bindfs(of: &Path, at: &Path, options: &str) {
    let status = Command::new("bindfs").args(["-o", options]).args([of, at]).status().unwrap();
    assert!(status.success());
}

fn tmpfs(at: &Path) {
    mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

#[track_caller]
fn assert_refused(path: &Path, says: &str) {
    for protocol in PROTOCOLS {
        let error = open_here(path, protocol).expect_err(&format!("{protocol:?} is refused"));
        assert_names(&error, ErrorKind::Unsupported, path);
        let message = format!("{protocol:?}: {error}");
        assert!(message.contains(says) && message.contains("this_machine_only"), "{message}");
        let options = FileLock::options().protocol(protocol).this_machine_only(true);
        options.blocking_open(path).unwrap_or_else(|error| panic!("{protocol:?}: {error}"));
    }
}

/// On this thread.
fn open_here(path: &Path, protocol: tokio_filelock::Protocol) -> Result<FileLock, Error> {
    FileLock::options().protocol(protocol).blocking_open(path)
}

/// Names in the table of mounts need not be text, threads need not share it, and it may be out of sight.
#[test]
#[cfg(not(tokio_filelock_posix))] // other Unix systems have no table of mounts to look at
fn a_mount_that_can_not_be_looked_up_is_not_taken_for_a_good_one() {
    let needs = [Need::Root, Need::Mounts, Need::Fuse, Need::Program("bindfs")];
    if lacks(&needs) || passed_in(&["--mount"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // All that is mounted there goes with the namespace.
    tmpfs(directory.path());
    let at = |name: &[u8]| {
        let path = directory.path().join(OsStr::from_bytes(name));
        fs::create_dir(&path).unwrap();
        path
    };
    let (files, pretends, plain, own) = (at(b"files"), at(b"pretends"), at(b"plain"), at(b"own"));
    bindfs(&files, &pretends, "subtype=sshfs");
    bindfs(&files, &plain, "subtype=plain");
    let opens = |path: &Path| {
        for protocol in PROTOCOLS {
            open_here(path, protocol).unwrap_or_else(|error| panic!("{protocol:?}: {error}"));
        }
    };
    let (local, plain) = (files.join("local.lock"), plain.join("plain.lock"));
    opens(&plain);
    assert_refused(&pretends.join("before.lock"), "sshfs");

    tmpfs(&at(b"Stick-\xdfe"));
    assert_refused(&pretends.join("after.lock"), "sshfs");
    opens(&plain);

    returns(move || {
        // SAFETY: takes a number only; this thread has no files of others open.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES | libc::CLONE_NEWNS) }, 0);
        bindfs(&files, &own, "subtype=sshfs");
        assert_refused(&own.join("own.lock"), "sshfs");
    });

    tmpfs(Path::new("/proc"));
    assert_refused(&plain, "cannot be found out");
    opens(&local);
}

/// A directory twice, as two machines would have it.
fn mounts() -> (TempDir, PathBuf) {
    let mounts = std::env::var("TOKIO_FILELOCK_TEST_MOUNTS").expect("run .ci/netfs");
    let (one, other) = mounts.split_once(':').expect("two directories, with a colon between");
    let directory = tempfile::tempdir_in(one).expect("a directory on the file system");
    let other = Path::new(other).join(directory.path().file_name().unwrap());
    until("the other mount has the directory", || other.is_dir());
    (directory, other)
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs mounts that pretend: run .ci/netfs"]
    async fn opening_says_that_other_machines_are_not_excluded
);
async fn opening_says_that_other_machines_are_not_excluded(protocol: Protocol) {
    let (one, _) = mounts();
    let path = one.path().join("app.lock");
    let error = FileLock::options().protocol(protocol).open(&path).await.unwrap_err();
    println!("{error}");
    assert_names(&error, ErrorKind::Unsupported, &path);
    assert!(error.to_string().contains("this_machine_only"), "{error}");
    // Who accepts it does not decide for others.
    let options = FileLock::options().protocol(protocol);
    let accepted = options.clone().this_machine_only(true).open(&path).await.unwrap();
    let error = options.open(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    in_time(accepted.lock()).await.unwrap().unlock().await.unwrap();
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs mounts that pretend: run .ci/netfs"]
    async fn two_mounts_hold_the_exclusive_lock_at_once
);
/// That it is so. 9p excludes, until this process starts another one: that one closes its copy of the
/// descriptor, and the server hears of an unlock.
async fn two_mounts_hold_the_exclusive_lock_at_once(protocol: Protocol) {
    let (one, other) = mounts();
    let name = format!("{protocol:?}.lock");
    let here = open(one.path().join(&name), protocol).await;
    let there = open(other.join(&name), protocol).await;
    let guard = in_time(here.lock()).await.unwrap();
    assert!(Command::new("true").status().unwrap().success());
    let another = there.try_lock().unwrap();
    drop((guard, another));
}
