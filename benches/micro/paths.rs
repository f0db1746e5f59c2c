//! What is measured. The futures are polled by hand, so that no scheduler is part of it.

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio_filelock::{FileLock, LockSpace, OpenOptions, Protocol, Tenure};

pub(crate) struct Path {
    pub(crate) name: &'static str,
    /// Opens a lock and runs the path so many times.
    pub(crate) run: fn(u64),
}

pub(crate) const PATHS: &[Path] = &[
    Path { name: "lock", run: |times| lock(FileLock::options(), times) },
    Path {
        name: "lock_fcntl",
        run: |times| lock(FileLock::options().protocol(Protocol::Fcntl), times),
    },
    Path { name: "lock_shared", run: lock_shared },
    Path { name: "try_lock", run: try_lock },
    Path { name: "join_shared", run: join_shared },
    Path { name: "handover", run: handover },
    Path { name: "cancel", run: cancel },
    Path { name: "recorded", run: |times| lock(FileLock::options().record(true), times) },
    Path { name: "open", run: open },
    Path { name: "open_known", run: open_known },
    Path { name: "key", run: key },
    Path { name: "sha256", run: sha256 },
    Path { name: "tokio_handover", run: tokio_handover },
    Path { name: "tokio_join_shared", run: tokio_join_shared },
];

fn with(options: OpenOptions, path: impl FnOnce(FileLock)) {
    let directory = tempfile::tempdir().expect("a directory");
    path(options.blocking_open(directory.path().join("lock")).expect("it opens"));
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn at_once<F: Future>(future: F) -> F::Output {
    match poll(pin!(future)) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it waits"),
    }
}

fn ready<T, E: std::fmt::Debug>(future: impl Future<Output = Result<T, E>>) -> T {
    at_once(future).expect("lock")
}

/// A free lock: taken and given back.
fn lock(options: OpenOptions, times: u64) {
    with(options, |lock| {
        for _ in 0..times {
            drop(black_box(ready(lock.lock())));
        }
    });
}

fn lock_shared(times: u64) {
    with(FileLock::options(), |lock| {
        for _ in 0..times {
            drop(black_box(ready(lock.lock_shared())));
        }
    });
}

fn try_lock(times: u64) {
    with(FileLock::options(), |lock| {
        for _ in 0..times {
            drop(black_box(lock.try_lock().expect("it is free")));
        }
    });
}

/// A shared lock beside one that is held.
fn join_shared(times: u64) {
    with(FileLock::options(), |lock| {
        let _held = ready(lock.lock_shared());
        for _ in 0..times {
            drop(black_box(ready(lock.lock_shared())));
        }
    });
}

/// From the request of one that waits to its guard, by way of the release of the one before.
fn handover(times: u64) {
    // Handing over only: the tenure does not end.
    let endless = Tenure::default().handovers(u32::MAX).time(Duration::MAX);
    with(FileLock::options().tenure(endless), |lock| {
        let mut held = ready(lock.lock());
        for _ in 0..times {
            let mut next = pin!(lock.lock());
            assert!(poll(next.as_mut()).is_pending());
            drop(held);
            held = ready(next);
        }
    });
}

/// A request that waits, and is dropped.
fn cancel(times: u64) {
    with(FileLock::options(), |lock| {
        let _held = ready(lock.lock());
        for _ in 0..times {
            let mut waiting = Box::pin(lock.lock());
            assert!(poll(waiting.as_mut()).is_pending());
            drop(black_box(waiting));
        }
    });
}

/// A lock file that the process does not know, and that is there: opened and closed.
fn open(times: u64) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lock");
    for _ in 0..times {
        drop(black_box(FileLock::options().blocking_open(&path).expect("it opens")));
    }
}

/// The same, of a file that the process has open.
fn open_known(times: u64) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lock");
    let _known = FileLock::options().blocking_open(&path).expect("it opens");
    for _ in 0..times {
        drop(black_box(FileLock::options().blocking_open(&path).expect("it opens")));
    }
}

/// As long as names of keys are.
const NAME: &str = "https://example.org/a.tar.gz";

/// The lock of a name: found and forgotten.
fn key(times: u64) {
    let directory = tempfile::tempdir().expect("a directory");
    let space =
        LockSpace::options().blocking_open(directory.path().join("space")).expect("it opens");
    for _ in 0..times {
        drop(black_box(space.key(black_box(NAME))));
    }
}

/// The hash of that name: what a key cannot do without.
fn sha256(times: u64) {
    for _ in 0..times {
        black_box(Sha256::digest(black_box(NAME)));
    }
}

/// tokio's `Mutex` in the same way as `handover`: the limit within one process.
fn tokio_handover(times: u64) {
    let lock = tokio::sync::Mutex::new(());
    let mut held = at_once(lock.lock());
    for _ in 0..times {
        let mut next = pin!(lock.lock());
        assert!(poll(next.as_mut()).is_pending());
        drop(held);
        held = at_once(next);
    }
}

/// tokio's `RwLock` in the same way as `join_shared`.
fn tokio_join_shared(times: u64) {
    let lock = tokio::sync::RwLock::new(());
    let _held = at_once(lock.read());
    for _ in 0..times {
        drop(black_box(at_once(lock.read())));
    }
}
