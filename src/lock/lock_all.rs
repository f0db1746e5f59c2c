//! Several locks at once, without a deadlock between the tasks that take them so.
//!
//! Every process takes its locks one after the other in one order, that of the files' numbers and
//! of the regions in them. Two files may have one number: those are taken without waiting for one while another
//! one is held. Each waiter holds only locks ordered before the one it waits for, so no cycle can form. The order
//! is of what is locked, not of names or paths: two paths of one file, and two keys that share a slot, are one lock,
//! and taken once.
//!
//! A lock file that is replaced gets another place in the order. So no request here follows it with
//! locks in hand: they are given back, and all begins anew in the new order.

use std::borrow::Borrow;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::FusedFuture;
use tokio::time::Instant;

use super::moves::Moves;
use super::{Acquire, ExclusiveGuard, FileLock, Guard, SharedGuard, operation};
use crate::driver::{Outcome, Registration, try_lock};
use crate::error::{Error, ErrorKind};
use crate::mode::Mode;
use crate::os::Sameness;
use crate::shim::Arc;
use crate::wait;

/// Locks all of these exclusively: files, keys of [`LockSpace`](crate::LockSpace)s, of one protocol
/// or several.
///
/// Tasks and processes that take several locks by this function, or [`lock_all_shared`], never wait
/// for each other in a circle, in whatever order they name them. Names of one lock count once. No
/// locks at all are had at once.
///
/// The promise is for tasks that hold no other lock while they wait. One that holds a lock and calls this
/// function takes part in circles again; one that holds one of these very locks waits for itself.
/// It is also for one machine: two machines may number the files of the network file systems that
/// they share differently. And on overlayfs a hard link gets another number when it is copied up. Give sets of such
/// files a [`timeout`](AcquireAll::timeout).
///
/// # Cancel safety
///
/// The future can be dropped at any time. What it held is released, and you lose your places in the
/// queues, nothing else.
///
/// It holds some locks while it waits for the next, as it must; so one that was polled once, and is
/// neither polled further nor dropped, keeps others out.
///
/// # Errors
///
/// As [`FileLock::lock`], for the first lock that cannot be had. None is held then.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tokio_filelock::{FileLock, LockSpace, lock_all};
///
/// # let directory = tempfile::tempdir()?;
/// # let at = |name| directory.path().join(name);
/// let accounts = LockSpace::open(at("accounts.lock")).await?;
/// let journal = FileLock::open(at("journal.lock")).await?;
/// let guards = lock_all([accounts.key("anna"), accounts.key("bert"), journal]).await?;
/// // Anna pays Bert, and no task that holds two of the three waits for the third.
/// for guard in guards {
///     guard.unlock().await?; // dropping them would do, too
/// }
/// # Ok(())
/// # }
/// ```
pub fn lock_all(
    locks: impl IntoIterator<Item = impl Borrow<FileLock>>,
) -> AcquireAll<ExclusiveGuard> {
    AcquireAll::new(locks)
}

/// Locks all of these shared; otherwise as [`lock_all`].
///
/// # Cancel safety
///
/// As [`lock_all`].
///
/// # Errors
///
/// As [`lock_all`].
pub fn lock_all_shared(
    locks: impl IntoIterator<Item = impl Borrow<FileLock>>,
) -> AcquireAll<SharedGuard> {
    AcquireAll::new(locks)
}

/// [`lock_all`] for code outside of async: blocks the calling thread.
///
/// # Errors
///
/// As [`lock_all`].
///
/// # Panics
///
/// In a task or another async context, where it would block every other task.
#[track_caller]
pub fn blocking_lock_all(
    locks: impl IntoIterator<Item = impl Borrow<FileLock>>,
) -> Result<Guards<ExclusiveGuard>, Error> {
    wait::block_on(lock_all(locks))
}

/// [`lock_all_shared`] for code outside of async: blocks the calling thread.
///
/// # Errors
///
/// As [`lock_all`].
///
/// # Panics
///
/// In a task or another async context, where it would block every other task.
#[track_caller]
pub fn blocking_lock_all_shared(
    locks: impl IntoIterator<Item = impl Borrow<FileLock>>,
) -> Result<Guards<SharedGuard>, Error> {
    wait::block_on(lock_all_shared(locks))
}

/// Several locks on their way: the future of [`lock_all`] and [`lock_all_shared`].
///
/// # Cancel safety
///
/// Can be dropped at any time; see [`lock_all`].
///
/// # Panics
///
/// When polled after it was ready, as futures do;
/// [`is_terminated`](FusedFuture::is_terminated) tells.
#[must_use = "futures do nothing unless you `.await` or poll them"]
pub struct AcquireAll<G> {
    state: State<G>,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
}

enum State<G> {
    Start(Vec<FileLock>),
    Acquiring(Pin<Box<dyn Future<Output = Result<Guards<G>, Error>> + Send + Sync>>),
    Done,
}

impl<G> AcquireAll<G> {
    fn new(locks: impl IntoIterator<Item = impl Borrow<FileLock>>) -> Self {
        let locks = locks.into_iter().map(|lock| lock.borrow().clone()).collect();
        Self { state: State::Start(locks), timeout: None, deadline: None }
    }

    /// Gives up if not all of the locks are there after this time, counted from the first poll;
    /// otherwise as [`Acquire::timeout`]. The error names the lock that was waited for last, and
    /// for how long. The others are released when it comes.
    ///
    /// # Panics
    ///
    /// As [`Acquire::timeout`].
    pub fn timeout(mut self, after: Duration) -> Self {
        (self.timeout, self.deadline) = (Some(after), None);
        self
    }

    /// Gives up at this instant; otherwise as [`timeout`](AcquireAll::timeout).
    ///
    /// # Panics
    ///
    /// As [`Acquire::timeout`].
    pub fn deadline(mut self, at: Instant) -> Self {
        (self.timeout, self.deadline) = (None, Some(at));
        self
    }

    fn deadline_from_now(&self) -> Option<Instant> {
        // A timeout that is too long for the clock is none.
        self.deadline.or_else(|| Instant::now().checked_add(self.timeout?))
    }
}

impl<G: Guard> Future for AcquireAll<G> {
    type Output = Result<Guards<G>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let State::Start(locks) = &mut this.state {
            let locks = std::mem::take(locks);
            let acquiring = Box::pin(acquire_all(locks, this.deadline_from_now()));
            this.state = State::Acquiring(acquiring);
        }
        let State::Acquiring(acquiring) = &mut this.state else {
            panic!("`AcquireAll` polled after completion");
        };
        let answer = ready!(acquiring.as_mut().poll(cx));
        this.state = State::Done;
        Poll::Ready(answer)
    }
}

impl<G: Guard> FusedFuture for AcquireAll<G> {
    fn is_terminated(&self) -> bool {
        matches!(self.state, State::Done)
    }
}

/// A lock, and where its handle leads now.
type Target = (FileLock, Arc<Registration>);

async fn acquire_all<G: Guard>(
    locks: Vec<FileLock>,
    deadline: Option<Instant>,
) -> Result<Guards<G>, Error> {
    let mut moves = Moves::default();
    'anew: loop {
        let mut guards = Vec::with_capacity(locks.len());
        for alike in in_order(&locks, G::MODE)? {
            let alike = if alike.len() > 1 { tell_apart(alike, G::MODE).await? } else { alike };
            match acquire_alike(&alike, deadline).await? {
                Some(more) => guards.extend(more),
                None if !moves.go_on_all(&locks, alike.iter().map(|(_, at)| &**at)) => {
                    return Err(alike[0].0.replaced(G::MODE));
                }
                None => {
                    continue 'anew;
                }
            }
        }
        locks.iter().for_each(|lock| lock.handle.count_guard());
        return Ok(Guards(guards));
    }
}

/// The locks as they are to be taken, each once. Several at a time only where several files have one number.
fn in_order(locks: &[FileLock], mode: Mode) -> Result<Vec<Vec<Target>>, Error> {
    let mut places = Vec::with_capacity(locks.len());
    for lock in locks {
        lock.check_owner(operation(mode))?;
        places.push((lock.clone(), lock.registration()));
    }
    // Of two handles the one that looks at the path for each guard comes first, and stays.
    places.sort_by_key(|(lock, at)| (at.engine().id(), !lock.handle.origin().always_confirms()));
    let mut ordered: Vec<Vec<Target>> = Vec::with_capacity(locks.len());
    for (lock, at) in places {
        let id = at.engine().id();
        match ordered.last_mut().filter(|alike| alike[0].1.engine().id() == id) {
            Some(alike) if alike.iter().any(|(_, other)| other.is_same_lock(&at)) => {}
            Some(alike) => alike.push((lock, at)),
            None => ordered.push(vec![(lock, at)]),
        }
    }
    Ok(ordered)
}

/// Leaves one of those that turn out to be in one file, which was in doubt when it was opened.
async fn tell_apart(alike: Vec<Target>, mode: Mode) -> Result<Vec<Target>, Error> {
    let first = alike[0].1.clone();
    let ask = move || {
        let mut apart: Vec<Target> = Vec::with_capacity(alike.len());
        'next: for (lock, at) in alike {
            for (_, other) in &apart {
                match lock.handle.origin().is_same_lock(&at, other) {
                    Sameness::Same => continue 'next,
                    Sameness::Other => {}
                    Sameness::Doubt => {
                        let detail = "it may be the same file as another one that is to be locked with \
                                      it, and this file system does not tell: lock one of them only";
                        let (kind, path) = (ErrorKind::Unsupported, lock.path());
                        return Err(Error::found(kind, operation(mode), path, detail));
                    }
                }
            }
            apart.push((lock, at));
        }
        Ok(apart)
    };
    first.run(ask).await
}

/// Locks of files that have one number, and so no order that all processes know: none of them is waited for
/// while another one is held. `None` if one of the files was replaced.
async fn acquire_alike<G: Guard>(
    alike: &[Target],
    deadline: Option<Instant>,
) -> Result<Option<Vec<G>>, Error> {
    let mut awaited = 0;
    'again: loop {
        let Some(guard) = acquire_one(&alike[awaited], deadline).await? else { return Ok(None) };
        let mut guards = vec![guard];
        for (at, place) in alike.iter().enumerate().filter(|(at, _)| *at != awaited) {
            match try_one(place).await? {
                Tried::Locked(guard) => guards.push(guard),
                Tried::Moved => return Ok(None),
                Tried::Busy => {
                    awaited = at;
                    continue 'again;
                }
            }
        }
        return Ok(Some(guards));
    }
}

/// `None` if the lock file was replaced.
async fn acquire_one<G: Guard>(
    (lock, at): &Target,
    deadline: Option<Instant>,
) -> Result<Option<G>, Error> {
    let mut acquire = Acquire::of_registration(lock.clone(), at.clone());
    if let Some(deadline) = deadline {
        acquire = acquire.deadline(deadline);
    }
    match acquire.await {
        Ok(guard) => Ok(Some(guard)),
        Err(error) if error.kind() == ErrorKind::Replaced && lock.handle.has_moved_on(at) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

enum Tried<G> {
    Locked(G),
    Busy,
    Moved,
}

async fn try_one<G: Guard>((lock, at): &Target) -> Result<Tried<G>, Error> {
    let (trying, from) = (lock.clone(), at.clone());
    let tried = move || {
        match try_lock(&from, G::MODE) {
            Outcome::Granted(guard) if trying.handle.confirm(&guard)? => {
                return Ok(Tried::Locked(guard));
            }
            Outcome::Granted(guard) => drop(guard),
            Outcome::Moved(_) => {}
            Outcome::Refused | Outcome::Busy => return Ok(Tried::Busy),
            Outcome::Failed(error) => return Err(trying.lock_error(G::MODE, error)),
        }
        trying.handle.move_on(&from, operation(G::MODE), true).map(|()| Tried::Moved)
    };
    match at.run(tried).await {
        Ok(Tried::Locked(guard)) => Ok(Tried::Locked(G::new(lock.clone(), guard))),
        Ok(Tried::Busy) => Ok(Tried::Busy),
        Ok(Tried::Moved) => Ok(Tried::Moved),
        Err(error) => Err(lock.named(error)),
    }
}

/// Several locks, held: what [`lock_all`] and [`lock_all_shared`] give. Dropping it releases all of
/// them.
///
/// A slice of guards, one for each lock, in the order in which they were taken; as an iterator it
/// gives the guards away one by one. [`ExclusiveGuard::file_lock`] tells them apart.
#[must_use = "the locks are released when the guards are dropped"]
pub struct Guards<G>(Vec<G>);

impl<G> Deref for Guards<G> {
    type Target = [G];

    fn deref(&self) -> &[G] {
        &self.0
    }
}

impl<G> IntoIterator for Guards<G> {
    type Item = G;
    type IntoIter = std::vec::IntoIter<G>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<G: fmt::Debug> fmt::Debug for Guards<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

impl<G> fmt::Debug for AcquireAll<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("AcquireAll");
        if let State::Start(locks) = &self.state {
            debug.field("locks", locks);
        }
        debug.finish_non_exhaustive()
    }
}
