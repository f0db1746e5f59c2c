//! File systems whose locks exclude the programs of one machine only: opening says so.
//!
//! As with the tests of `network`, `.ci/netfs` mounts them and runs these tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tokio_filelock::{ErrorKind, FileLock};

use crate::support::{PROTOCOLS, assert_names, in_time, open, until};

/// A directory twice, as two machines would have it.
fn mounts() -> (TempDir, PathBuf) {
    let mounts = std::env::var("TOKIO_FILELOCK_TEST_MOUNTS").expect("run .ci/netfs");
    let (one, other) = mounts.split_once(':').expect("two directories, with a colon between");
    let directory = tempfile::tempdir_in(one).expect("a directory on the file system");
    let other = Path::new(other).join(directory.path().file_name().unwrap());
    until("the other mount has the directory", || other.is_dir());
    (directory, other)
}

#[tokio::test]
#[ignore = "needs mounts that pretend: run .ci/netfs"]
async fn opening_says_that_other_machines_are_not_excluded() {
    let (one, _) = mounts();
    let path = one.path().join("app.lock");
    for protocol in PROTOCOLS {
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
}

/// That it is so. 9p excludes, until this process starts another one: that one closes its copy of the
/// descriptor, and the server hears of an unlock.
#[tokio::test]
#[ignore = "needs mounts that pretend: run .ci/netfs"]
async fn two_mounts_hold_the_exclusive_lock_at_once() {
    let (one, other) = mounts();
    for protocol in PROTOCOLS {
        let name = format!("{protocol:?}.lock");
        let here = open(one.path().join(&name), protocol).await;
        let there = open(other.join(&name), protocol).await;
        let guard = in_time(here.lock()).await.unwrap();
        assert!(Command::new("true").status().unwrap().success());
        let another = there.try_lock().unwrap();
        drop((guard, another));
    }
}
