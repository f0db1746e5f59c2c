//! NFS servers that stop and start again, that are gone for good, and that trust no root.
//!
//! As with the tests of `network`, `.ci/netfs` has the server and runs these tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio_filelock::{ErrorKind, FileLock, Protocol};

use crate::support::locker::Locker;
use crate::support::place::Place;
use crate::support::{Mode, assert_names, each_protocol, in_time, open, returns};

/// A running server; started again when dropped.
struct Server {
    program: String,
}

impl Server {
    fn new() -> Self {
        Self { program: variable("TOKIO_FILELOCK_TEST_SERVER") }
    }

    fn stop(&self) {
        assert!(Command::new(&self.program).arg("stop").status().unwrap().success());
    }

    fn start(&self) {
        assert!(Command::new(&self.program).arg("start").status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Does nothing to a server that runs.
        let _ = Command::new(&self.program).arg("start").status();
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run .ci/netfs"))
}

fn mounts() -> [PathBuf; 2] {
    let mounts = variable("TOKIO_FILELOCK_TEST_MOUNTS");
    let (one, other) = mounts.split_once(':').expect("two directories, with a colon between");
    [one, other].map(PathBuf::from)
}

each_protocol!(
    #[test]
    #[ignore = "needs an NFS server: run .ci/netfs"]
    fn a_lock_outlives_a_restart_of_the_server
);
/// The clients claim their locks again before others get them.
fn a_lock_outlives_a_restart_of_the_server(protocol: Protocol) {
    let server = Server::new();
    let [one, other] = mounts().map(|mount| mount.join(format!("restart {protocol:?}.lock")));
    let mut holder = Locker::holding(&one, protocol, Mode::Exclusive);
    let mut waiter = Locker::open(&other, protocol);
    waiter.start_to_wait(Mode::Exclusive);
    server.stop();
    server.start();
    let mut third = Locker::open(&other, protocol);
    assert_eq!(third.try_lock(Mode::Shared), "would block", "{protocol:?}");
    holder.release();
    waiter.expect_held();
    assert_eq!(holder.try_lock(Mode::Shared), "would block", "{protocol:?}");
    waiter.release();
}

/// Neither workers, nor other locks, nor the end of a runtime.
#[test]
#[ignore = "needs an NFS server: run .ci/netfs"]
fn a_server_that_is_down_blocks_nobody_else() {
    let server = Server::new();
    let place = Place::new();
    let [one, _] = mounts();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let lock = runtime.block_on(async {
        let lock = open(one.join("down.lock"), Protocol::Flock).await;
        let held = open(one.join("held.lock"), Protocol::Flock).await;
        let local = open(place.lock_file(), Protocol::Flock).await;
        let guard = in_time(held.lock()).await.unwrap();
        server.stop();
        let limited = lock.lock().timeout(Duration::from_millis(500));
        let error = in_time(limited).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        drop(guard);
        in_time(local.lock()).await.unwrap().unlock().await.unwrap();
        lock
    });
    let waiting = lock.clone();
    runtime.spawn(async move { waiting.lock().await.map(drop) });
    runtime.block_on(tokio::task::yield_now());
    returns(|| drop(runtime));
    server.start();
    returns(move || lock.blocking_lock().map(drop)).unwrap();
}

#[tokio::test]
#[ignore = "needs an NFS server: run .ci/netfs"]
async fn on_a_soft_mount_a_server_that_is_gone_is_an_error() {
    let server = Server::new();
    let soft = PathBuf::from(variable("TOKIO_FILELOCK_TEST_SOFT"));
    let lock = open(soft.join("soft.lock"), Protocol::Flock).await;
    let held = open(soft.join("held on soft.lock"), Protocol::Flock).await;
    let guard = in_time(held.lock()).await.unwrap();
    server.stop();
    let error = in_time(lock.lock()).await.unwrap_err();
    println!("{error}");
    assert_names(&error, ErrorKind::Io, lock.path());
    // The client says that it has unlocked; the server finds out when the lease is over.
    println!("unlock: {:?}", in_time(guard.unlock()).await);
    server.start();
    in_time(lock.lock()).await.unwrap().unlock().await.unwrap();
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs an NFS server: run .ci/netfs"]
    async fn a_root_that_is_squashed_gets_the_shared_lock_only
);
/// Root is the user `nobody` there: it may read the file of the server's root and not write it.
async fn a_root_that_is_squashed_gets_the_shared_lock_only(protocol: Protocol) {
    let squashed = PathBuf::from(variable("TOKIO_FILELOCK_TEST_SQUASHED"));
    let lock = open(squashed.join(format!("root {protocol:?}.lock")), protocol).await;
    in_time(lock.lock_shared()).await.unwrap().unlock().await.unwrap();
    let error = in_time(lock.lock()).await.unwrap_err();
    println!("{error}");
    assert_names(&error, ErrorKind::WrongAccess, lock.path());
}

#[tokio::test]
#[ignore = "needs an NFS server: run .ci/netfs"]
async fn a_root_that_is_squashed_creates_nothing() {
    let squashed = PathBuf::from(variable("TOKIO_FILELOCK_TEST_SQUASHED"));
    let path = squashed.join("new.lock");
    let error = in_time(FileLock::open(&path)).await.unwrap_err();
    println!("{error}");
    assert_names(&error, ErrorKind::Io, Path::new(&path));
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::PermissionDenied);
}
