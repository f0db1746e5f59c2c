//! What a task does: one operation after the other, as its lots fall.

use std::fs;
use std::future::{self, poll_fn};
use std::mem;
use std::panic;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::task::{spawn_blocking, yield_now};
use tokio_filelock::{
    Error, ErrorKind, ExclusiveGuard, FileLock, SharedGuard, TryLockError, lock_all,
    lock_all_shared,
};

use crate::arena::{Arena, Kind, Lock};
use crate::arguments::Broken;
use crate::fork::fork_for;
use crate::witness::{Claim, Holder, Testimony, Witness};
use crate::worker::{Book, finding};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Lock,
    LockShared,
    TryLock,
    TryLockShared,
    Timeout,
    Cancel,
    Downgrade,
    LockAll,
    LockAllShared,
    ReadOnly,
    Blocking,
    Remove,
    Replace,
    Reopen,
    Holders,
    Fork,
}

/// With how many lots each has.
pub(crate) const OPERATIONS: [(Operation, usize); 16] = [
    (Operation::Lock, 20),
    (Operation::LockShared, 20),
    (Operation::TryLock, 10),
    (Operation::TryLockShared, 10),
    (Operation::Timeout, 15),
    (Operation::Cancel, 15),
    (Operation::Downgrade, 8),
    (Operation::LockAll, 8),
    (Operation::LockAllShared, 4),
    (Operation::ReadOnly, 5),
    (Operation::Blocking, 4),
    (Operation::Remove, 3),
    (Operation::Replace, 3),
    (Operation::Reopen, 3),
    (Operation::Holders, 1),
    (Operation::Fork, 1),
];

enum Outcome {
    /// After so much waiting.
    Granted(Duration),
    Refused,
    TimedOut,
    Cancelled,
}

/// Whenever it is dropped, the testimony goes first.
struct Held {
    testimony: Testimony,
    _guard: SharedGuard,
}

/// One task of a worker. It ends with its runtime.
pub(crate) struct Task {
    pub(crate) arena: Arc<Arena>,
    pub(crate) witness: Arc<Witness>,
    pub(crate) book: Arc<Book>,
    pub(crate) holder: Holder,
    pub(crate) lots: Rng,
    pub(crate) breaks: Option<Broken>,
    /// Of each lock, once it was opened.
    pub(crate) handles: Vec<Option<FileLock>>,
}

impl Task {
    pub(crate) async fn run(mut self) {
        loop {
            let operation = self.draw();
            let lock = self.draw_lock(operation);
            self.book.begin(self.holder.task, operation, &lock);
            let outcome = self.perform(operation, &lock).await;
            if let Err(error) = &outcome {
                finding(format_args!("{operation:?} of {lock}: {:?}: {error}", error.kind()));
            }
            self.book.end(self.holder.task, operation, |count| match outcome {
                Ok(Outcome::Granted(waited)) => {
                    count.granted += 1;
                    count.longest = count.longest.max(waited);
                }
                Ok(Outcome::Refused) => count.refused += 1,
                Ok(Outcome::TimedOut) => count.timed_out += 1,
                Ok(Outcome::Cancelled) => count.cancelled += 1,
                Err(_) => {}
            });
            // Without it, a task that is always granted would never let its runtime be dropped.
            yield_now().await;
        }
    }

    fn draw(&mut self) -> Operation {
        let all: Vec<_> = OPERATIONS.iter().flat_map(|(this, lots)| vec![*this; *lots]).collect();
        all[self.lots.usize(..all.len())]
    }

    fn draw_lock(&mut self, operation: Operation) -> Lock {
        let fits = |lock: &&Lock| match operation {
            Operation::Remove | Operation::Replace => matches!(lock.kind, Kind::Removed(_)),
            Operation::ReadOnly => lock.is_readable(),
            _ => true,
        };
        let fitting: Vec<&Lock> = self.arena.locks().iter().filter(fits).collect();
        fitting[self.lots.usize(..fitting.len())].clone()
    }

    async fn perform(&mut self, operation: Operation, lock: &Lock) -> Result<Outcome, Error> {
        let handle = self.handle(lock).await?;
        let begun = Instant::now();
        match operation {
            Operation::Lock => {
                let guard = handle.lock().await?;
                let waited = begun.elapsed();
                if self.breaks == Some(Broken::Wait) {
                    mem::forget(guard);
                    return Ok(Outcome::Granted(waited));
                }
                self.hold_exclusively(lock, guard).await?;
                Ok(Outcome::Granted(waited))
            }
            Operation::LockShared => {
                let guard = handle.lock_shared().await?;
                let waited = begun.elapsed();
                self.hold_shared(lock, guard).await?;
                Ok(Outcome::Granted(waited))
            }
            Operation::TryLock => match handle.try_lock() {
                Ok(guard) => {
                    self.hold_exclusively(lock, guard).await?;
                    Ok(Outcome::Granted(Duration::ZERO))
                }
                Err(TryLockError::WouldBlock(_)) => Ok(Outcome::Refused),
                Err(TryLockError::Error(error)) => Err(error),
            },
            Operation::TryLockShared => match handle.try_lock_shared() {
                Ok(guard) => {
                    self.hold_shared(lock, guard).await?;
                    Ok(Outcome::Granted(Duration::ZERO))
                }
                Err(TryLockError::WouldBlock(_)) => Ok(Outcome::Refused),
                Err(TryLockError::Error(error)) => Err(error),
            },
            Operation::Timeout => {
                let limit = Duration::from_micros(self.lots.u64(..20_000));
                match handle.lock().timeout(limit).await {
                    Ok(guard) => {
                        let waited = begun.elapsed();
                        self.hold_exclusively(lock, guard).await?;
                        Ok(Outcome::Granted(waited))
                    }
                    Err(error) if error.kind() == ErrorKind::TimedOut => Ok(Outcome::TimedOut),
                    Err(error) => Err(error),
                }
            }
            Operation::Cancel => {
                if self.lots.bool() {
                    let acquire = pin!(handle.lock());
                    let Some(guard) = self.give_up(acquire).await else {
                        return Ok(Outcome::Cancelled);
                    };
                    let (guard, waited) = (guard?, begun.elapsed());
                    self.hold_exclusively(lock, guard).await?;
                    Ok(Outcome::Granted(waited))
                } else {
                    let acquire = pin!(handle.lock_shared());
                    let Some(guard) = self.give_up(acquire).await else {
                        return Ok(Outcome::Cancelled);
                    };
                    let (guard, waited) = (guard?, begun.elapsed());
                    self.hold_shared(lock, guard).await?;
                    Ok(Outcome::Granted(waited))
                }
            }
            Operation::Downgrade => {
                let guard = handle.lock().await?;
                let waited = begun.elapsed();
                let mut testimony = self.testify(lock, Claim::Exclusive);
                self.work().await;
                examine(&testimony);
                testimony.downgrade().expect("the witness can be written");
                let held = Held { testimony, _guard: guard.downgrade() };
                examine(&held.testimony);
                self.work().await;
                examine(&held.testimony);
                Ok(Outcome::Granted(waited))
            }
            Operation::LockAll => {
                let (locks, handles) = self.several().await?;
                let guards = lock_all(&handles).await?;
                let waited = begun.elapsed();
                let testimonies = locks.iter().map(|lock| self.testify(lock, Claim::Exclusive));
                let testimonies: Vec<_> = testimonies.collect();
                self.work().await;
                testimonies.iter().for_each(examine);
                drop(testimonies);
                drop(guards);
                Ok(Outcome::Granted(waited))
            }
            Operation::LockAllShared => {
                let (locks, handles) = self.several().await?;
                let guards = lock_all_shared(&handles).await?;
                let waited = begun.elapsed();
                let testimonies = locks.iter().map(|lock| self.testify(lock, Claim::Shared));
                let testimonies: Vec<_> = testimonies.collect();
                self.work().await;
                testimonies.iter().for_each(examine);
                drop(testimonies);
                drop(guards);
                Ok(Outcome::Granted(waited))
            }
            Operation::ReadOnly => {
                let guard = lock.open_to_read().await?.lock_shared().await?;
                let waited = begun.elapsed();
                self.hold_shared(lock, guard).await?;
                Ok(Outcome::Granted(waited))
            }
            Operation::Blocking => {
                let (witness, row, holder) = (self.witness.clone(), lock.row, self.holder);
                let held = on_a_thread(move || {
                    let guard = handle.blocking_lock()?;
                    let waited = begun.elapsed();
                    let testimony = witness.claim(row, holder, Claim::Exclusive);
                    let testimony = testimony.expect("the witness can be written");
                    examine(&testimony);
                    thread::yield_now();
                    examine(&testimony);
                    drop(testimony);
                    drop(guard);
                    Ok(Outcome::Granted(waited))
                });
                held.await
            }
            Operation::Remove | Operation::Replace => {
                let guard = handle.lock().await?;
                let waited = begun.elapsed();
                let testimony = self.testify(lock, Claim::Exclusive);
                self.work().await;
                examine(&testimony);
                // From that moment on another task may hold the next lock file.
                drop(testimony);
                let removed = if operation == Operation::Remove {
                    fs::remove_file(&lock.path)
                } else {
                    let Holder { process, task } = self.holder;
                    let new = self.arena.directory().join(format!("new-{process}-{task}"));
                    fs::write(&new, "").and_then(|()| fs::rename(&new, &lock.path))
                };
                if let Err(error) = removed {
                    finding(format_args!("{operation:?} of {lock} by its holder: {error}"));
                }
                drop(guard);
                Ok(Outcome::Granted(waited))
            }
            Operation::Reopen => {
                self.handles[lock.row] = None;
                drop(handle);
                match self.breaks {
                    Some(Broken::Descriptors) => mem::forget(fs::File::open(&lock.path)),
                    Some(Broken::Memory) => mem::forget(vec![0_u8; 10_000]),
                    _ => {}
                }
                self.handle(lock).await?;
                Ok(Outcome::Granted(begun.elapsed()))
            }
            Operation::Holders => {
                handle.holders().await?;
                Ok(Outcome::Granted(begun.elapsed()))
            }
            Operation::Fork => {
                let time = Duration::from_millis(self.lots.u64(..50));
                if let Err(error) = on_a_thread(move || fork_for(time)).await {
                    finding(format_args!("fork: {error}"));
                }
                Ok(Outcome::Granted(begun.elapsed()))
            }
        }
    }

    async fn handle(&mut self, lock: &Lock) -> Result<FileLock, Error> {
        if let Some(handle) = &self.handles[lock.row] {
            return Ok(handle.clone());
        }
        let handle = lock.open().await?;
        self.handles[lock.row] = Some(handle.clone());
        Ok(handle)
    }

    /// Two to four locks in any order.
    async fn several(&mut self) -> Result<(Vec<Lock>, Vec<FileLock>), Error> {
        let mut locks = self.arena.locks().to_vec();
        self.lots.shuffle(&mut locks);
        locks.truncate(self.lots.usize(2..=4));
        let mut handles = Vec::new();
        for lock in &locks {
            handles.push(self.handle(lock).await?);
        }
        Ok((locks, handles))
    }

    /// Polls a few times, or for a moment, and gives up: `None`.
    async fn give_up<F: Future>(&mut self, mut future: Pin<&mut F>) -> Option<F::Output> {
        if self.lots.bool() {
            let moment = Duration::from_micros(self.lots.u64(..5_000));
            return tokio::time::timeout(moment, future).await.ok();
        }
        for _ in 0..self.lots.u32(1..20) {
            let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
            if let Poll::Ready(output) = polled {
                return Some(output);
            }
            yield_now().await;
        }
        None
    }

    async fn hold_exclusively(&mut self, lock: &Lock, guard: ExclusiveGuard) -> Result<(), Error> {
        let testimony = self.testify(lock, Claim::Exclusive);
        if let Some(token) = guard.token() {
            let last = testimony.outdated(token).expect("the witness can be written");
            if let Some(last) = last {
                finding(format_args!("the token {token} of {lock} comes after {last}"));
            }
        }
        self.work().await;
        examine(&testimony);
        drop(testimony);
        match self.lots.u32(..10) {
            0 => guard.unlock().await?,
            1 => on_a_thread(move || drop(guard)).await,
            _ => drop(guard),
        }
        Ok(())
    }

    async fn hold_shared(&mut self, lock: &Lock, guard: SharedGuard) -> Result<(), Error> {
        let testimony = self.testify(lock, Claim::Shared);
        self.work().await;
        examine(&testimony);
        drop(testimony);
        match self.lots.u32(..10) {
            0 => guard.unlock().await?,
            1 => on_a_thread(move || drop(guard)).await,
            _ => drop(guard),
        }
        Ok(())
    }

    fn testify(&self, lock: &Lock, claim: Claim) -> Testimony {
        let testimony = self.witness.claim(lock.row, self.holder, claim);
        let testimony = testimony.expect("the witness can be written");
        examine(&testimony);
        testimony
    }

    /// What a holder does: mostly not much.
    async fn work(&mut self) {
        match self.lots.u32(..20) {
            0 => tokio::time::sleep(Duration::from_millis(self.lots.u64(1..4))).await,
            turns => {
                for _ in 0..turns % 4 {
                    yield_now().await;
                }
            }
        }
    }
}

/// Blocks a thread of the runtime's pool.
async fn on_a_thread<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(call).await {
        Ok(value) => value,
        Err(error) if error.is_panic() => panic::resume_unwind(error.into_panic()),
        // The runtime is being dropped, and this task with it.
        Err(_) => future::pending().await,
    }
}

fn examine(testimony: &Testimony) {
    if let Some(conflict) = testimony.conflict().expect("the witness can be read") {
        finding(format_args!("{conflict}"));
    }
}
