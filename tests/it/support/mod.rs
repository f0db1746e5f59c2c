//! What the tests share: processes and their events, lock files to play with, ways to look.

pub(crate) mod locker;
pub(crate) mod place;
pub(crate) mod process;
pub(crate) mod snapshot;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::path::Path;
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
pub(crate) use unix::{disk, seccomp};
#[cfg(unix)]
pub(crate) use unix::{foreign, fuse, kernel, needs, tracer};
#[cfg(windows)]
pub(crate) use windows::kernel;

use tokio_filelock::{Error, ErrorKind, FileLock, OpenOptions, Protocol, TryLockError};

/// How long a test waits for what must happen before it fails. It runs out only in a test that
/// would hang otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const PROTOCOLS: [Protocol; 2] = [Protocol::Flock, Protocol::Fcntl];

/// Makes one test for each protocol, `name::flock` and `name::fcntl`, of a function that takes the protocol. The
/// attributes are those of the tests.
///
/// ```ignore
/// each_protocol!(#[tokio::test] async fn a_free_lock_is_granted);
/// async fn a_free_lock_is_granted(protocol: Protocol) {
/// ```
macro_rules! each_protocol {
    ($(#[$attribute:meta])* fn $name:ident) => {
        mod $name {
            $(#[$attribute])*
            fn flock() {
                super::$name(::tokio_filelock::Protocol::Flock);
            }

            $(#[$attribute])*
            fn fcntl() {
                super::$name(::tokio_filelock::Protocol::Fcntl);
            }
        }
    };
    ($(#[$attribute:meta])* async fn $name:ident) => {
        mod $name {
            $(#[$attribute])*
            async fn flock() {
                super::$name(::tokio_filelock::Protocol::Flock).await;
            }

            $(#[$attribute])*
            async fn fcntl() {
                super::$name(::tokio_filelock::Protocol::Fcntl).await;
            }
        }
    };
}
pub(crate) use each_protocol;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Exclusive,
    Shared,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Exclusive => "exclusive",
            Mode::Shared => "shared",
        })
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "exclusive" => Ok(Mode::Exclusive),
            "shared" => Ok(Mode::Shared),
            _ => Err(format!("no mode: {name}")),
        }
    }
}

/// The protocol whose `Debug` name this is.
pub(crate) fn protocol(name: &str) -> Protocol {
    PROTOCOLS
        .into_iter()
        .find(|protocol| format!("{protocol:?}") == name)
        .unwrap_or_else(|| panic!("no protocol: {name}"))
}

/// Awaits what must happen; panics where it does not.
#[track_caller]
pub(crate) fn in_time<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    async move {
        let limited = tokio::time::timeout(PATIENCE, future).await;
        limited.unwrap_or_else(|_| panic!("nothing came of the await at {caller}"))
    }
}

/// Runs on a thread of its own what must return; panics where it does not.
#[track_caller]
pub(crate) fn returns<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (answer, answered) = mpsc::sync_channel(1);
    thread::spawn(move || drop(answer.send(call())));
    match answered.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the call hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("the call panicked"),
    }
}

/// Looks again and again until it is so, where nothing tells when it is; panics if it never is.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "still not so: {what}");
        thread::yield_now();
    }
}

pub(crate) async fn open(path: impl AsRef<Path>, protocol: Protocol) -> FileLock {
    options(protocol).open(path).await.expect("the lock file opens")
}

/// The default but for the protocol, unless the tests run where locks exclude one machine only.
pub(crate) fn options(protocol: Protocol) -> OpenOptions {
    let this_machine_only = std::env::var_os("TOKIO_FILELOCK_TEST_THIS_MACHINE_ONLY").is_some();
    FileLock::options().protocol(protocol).this_machine_only(this_machine_only)
}

#[track_caller]
pub(crate) fn assert_would_block<G: fmt::Debug>(tried: Result<G, TryLockError>) {
    assert!(matches!(tried, Err(TryLockError::WouldBlock(_))), "not refused: {tried:?}");
}

/// The error is of this kind and its message names the file.
#[track_caller]
pub(crate) fn assert_names(error: &Error, kind: ErrorKind, path: &Path) {
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.path(), path, "{error}");
    let shown = |letter: char| match letter.is_control() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    let path: String = path.display().to_string().chars().map(shown).collect();
    let name = format!("`{path}`");
    assert!(error.to_string().contains(&name), "the message does not say {name}: {error}");
}

/// What a caught panic said.
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .expect("panics carry text")
}
