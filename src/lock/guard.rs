//! The guards: owned, `Send + Sync + 'static`, released by dropping.

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use self::marker::GuardMode;
use super::FileLock;
use crate::driver::RawGuard;
use crate::engine::TenureInfo;
use crate::error::{Error, ErrorKind, Operation};
use crate::holder::Record;
use crate::mode::Mode;
use crate::os::{self, Kept};
use crate::trace;
use crate::wait::timer;

/// What both guards have, [`ExclusiveGuard`] and [`SharedGuard`], for code that takes either. Sealed; [`AnyGuard`] keeps either.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tokio_filelock::{Error, FileLock, Guard};
///
/// async fn work_under(guard: impl Guard) -> Result<(), Error> {
///     assert!(!guard.contended());
///     guard.unlock().await
/// }
///
/// # let directory = tempfile::tempdir()?;
/// let lock = FileLock::open(directory.path().join("app.lock")).await?;
/// work_under(lock.lock().await?).await?;
/// work_under(lock.lock_shared().await?).await?;
/// # Ok(())
/// # }
/// ```
pub trait Guard: sealed::Guard {
    /// The handle that the guard came from.
    #[must_use]
    fn file_lock(&self) -> &FileLock;

    /// How the lock is held.
    #[must_use]
    fn mode(&self) -> Mode;

    /// See [`FileGuard::contended`].
    #[must_use]
    fn contended(&self) -> bool;

    /// See [`FileGuard::until_contended`].
    fn until_contended(&self) -> impl Future<Output = ()> + Send;

    /// See [`FileGuard::unlock`].
    ///
    /// # Errors
    ///
    /// As [`FileGuard::unlock`].
    fn unlock(self) -> impl Future<Output = Result<(), Error>> + Send;
}

pub(super) mod sealed {
    use super::{FileLock, Mode, RawGuard};

    pub trait Guard: Sized + Send + Sync + 'static {
        #[doc(hidden)]
        const MODE: Mode;

        #[doc(hidden)]
        #[allow(private_interfaces)]
        fn new(lock: FileLock, raw: RawGuard) -> Self;
    }

    pub trait GuardMode: Send + Sync + 'static {
        const MODE: Mode;
        const NAME: &'static str;
    }
}

/// The mode of a guard, as a type.
pub mod marker {
    use super::sealed;

    /// A mode: [`Exclusive`] or [`Shared`]. Sealed.
    pub trait GuardMode: sealed::GuardMode {}

    impl GuardMode for Exclusive {}
    impl GuardMode for Shared {}

    /// Of [`ExclusiveGuard`](super::ExclusiveGuard).
    #[derive(Debug)]
    pub enum Exclusive {}

    /// Of [`SharedGuard`](super::SharedGuard).
    #[derive(Debug)]
    pub enum Shared {}
}

impl sealed::GuardMode for marker::Exclusive {
    const MODE: Mode = Mode::Exclusive;
    const NAME: &'static str = "ExclusiveGuard";
}

impl sealed::GuardMode for marker::Shared {
    const MODE: Mode = Mode::Shared;
    const NAME: &'static str = "SharedGuard";
}

/// A lock, held: exclusively or shared, as `M` says. Dropping the guard releases it.
///
/// Dropping works anywhere: in another task or thread, without a runtime, during a panic. It never
/// panics and never waits for another holder. On a local file system it makes the unlock call
/// itself, a microsecond; elsewhere it hands the call to a blocking pool.
#[must_use = "the lock is released when the guard is dropped"]
pub struct FileGuard<M> {
    raw: RawGuard,
    lock: FileLock,
    tenure: Option<Box<TenureInfo>>,
    _traced: trace::Held,
    mode: PhantomData<fn() -> M>,
}

/// The exclusive lock, held.
pub type ExclusiveGuard = FileGuard<marker::Exclusive>;

/// The shared lock, held.
pub type SharedGuard = FileGuard<marker::Shared>;

impl<M: GuardMode> FileGuard<M> {
    /// The handle that the guard came from.
    #[must_use]
    pub fn file_lock(&self) -> &FileLock {
        &self.lock
    }

    /// Whether a task or a process waits for the lock: another task of this process, or a process that uses
    /// this crate. Makes a system call (half a microsecond), on a local file system only: elsewhere
    /// other processes are not seen. Programs that know nothing of turns (flock(1)) never are.
    ///
    /// A long job can ask between two steps, and offer to let go. Requests for a shared lock
    /// beside a shared one do not wait for this guard, but count if they stand behind a request that
    /// does.
    #[must_use]
    pub fn contended(&self) -> bool {
        self.raw.is_contended()
    }

    /// Waits until [`contended`](Self::contended), which is asked every 10 ms.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time.
    ///
    /// # Panics
    ///
    /// Without a tokio runtime with its timer enabled, contended or not.
    pub async fn until_contended(&self) {
        // Before the first question, so that a missing timer is found in the first test.
        let mut pause = timer::pause(ASK_EVERY);
        while !self.raw.is_contended() {
            pause.await;
            pause = timer::pause(ASK_EVERY);
        }
    }

    /// Releases the lock and says whether the operating system agreed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future releases all the same; only the answer is lost.
    ///
    /// # Errors
    ///
    /// The error of the unlock call, which local file systems do not give, or of the call that marks
    /// the record as released. The next request of this process gets the lock in any case.
    pub async fn unlock(self) -> Result<(), Error> {
        let Self { raw, lock, .. } = self;
        lock.check_owner(Operation::Unlock)?;
        raw.unlock().await.map_err(|error| {
            let kind = os::lock_error_kind(&error);
            lock.named(Error::os(kind, Operation::Unlock, lock.path(), error))
        })
    }
}

/// How often [`FileGuard::until_contended`] asks.
const ASK_EVERY: Duration = Duration::from_millis(10);

impl FileGuard<marker::Exclusive> {
    /// A number that grows by one with every exclusive tenure of any process that leaves
    /// [records](crate::OpenOptions::record) in this lock file, across restarts. Guards that were handed the
    /// lock inside one tenure have the same one. `None` if the tenure began without records, or its record could not be
    /// written and was not [required](crate::OpenOptions::require_record).
    ///
    /// For fencing: a storage that remembers the highest token it has seen can refuse a writer that
    /// was stopped for so long that others have had the lock since. And two equal tokens say that no
    /// other process had the lock in between.
    ///
    /// The number is kept in the lock file. It begins anew at 1 when the file is removed or its
    /// content is replaced by something else, and may go back when the machine crashes before the
    /// file was written to disk.
    #[must_use]
    pub fn token(&self) -> Option<u64> {
        self.tenure.as_ref().and_then(|tenure| tenure.token)
    }

    /// What the previous exclusive holder left, if it died while it held the lock: its work may be
    /// half done. Told to the first exclusive guard of the tenure, and to no other one. Only with
    /// [records](crate::OpenOptions::record).
    ///
    /// A process has died with the lock if it ended in any way before it let go, also by an orderly
    /// exit with a guard alive or forgotten. So a guard in a `static`, which Rust never drops, is to be
    /// taken out and dropped before the end of a program that has done its work. A guard that is dropped during a panic has let go. So
    /// has, with [`Protocol::Fcntl`](crate::Protocol::Fcntl), one that was
    /// [downgraded](Self::downgrade); with `Flock` the process holds exclusively until its shared
    /// guards are gone, and counts as one that died while it held.
    #[must_use]
    pub fn abandoned(&self) -> Option<&Record> {
        self.tenure.as_ref()?.abandoned.as_ref()
    }

    /// Removes the lock file, and releases the lock.
    ///
    /// Lock files do no harm where they are; remove one when there would be too many of them. The name goes
    /// while the lock is held, and only if it leads to this file, which has no other name and nothing in it. All
    /// other waiters, in this process and in others, look for the file after they have the lock, and
    /// go on to a new one.
    ///
    /// This is safe only if *every* program that locks the file looks, after it has the lock, whether the file
    /// still has a name or the path still leads to it, as this crate does. flock(1), `std::fs::File::lock`
    /// and cargo do not: one of them can hold the lock of the old file while another program holds that of the new one.
    ///
    /// # Cancel safety
    ///
    /// On a local file system the file is removed at the first poll. Elsewhere it is removed in any case once the
    /// future was polled; dropping it then loses the answer.
    ///
    /// # Errors
    ///
    /// The lock is released in any case. [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a
    /// key of a [`LockSpace`](crate::LockSpace), and for a file in which keys are locked or waited for;
    /// [`ErrorKind::NotEmpty`](crate::ErrorKind::NotEmpty) if a [record](crate::OpenOptions::record)
    /// or anything else was written into it; [`ErrorKind::Linked`](crate::ErrorKind::Linked) if it has another
    /// hard link; [`ErrorKind::Replaced`](crate::ErrorKind::Replaced) if its path leads elsewhere;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) on other systems than Unix;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the directory may not be written.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("job-17.lock");
    /// let lock = tokio_filelock::FileLock::open(&path).await?;
    /// let guard = lock.lock().await?;
    /// // The job is done, and none of its name comes again.
    /// # #[cfg(unix)]
    /// guard.remove_file().await?;
    /// # #[cfg(unix)]
    /// assert!(!path.exists());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn remove_file(self) -> Result<(), Error> {
        let Self { raw, lock, .. } = self;
        lock.check_owner(Operation::RemoveFile)?;
        if lock.key().is_some() {
            let detail = "it is one of several locks in its file";
            let kind = ErrorKind::InvalidInput;
            return Err(lock.named(Error::found(kind, Operation::RemoveFile, lock.path(), detail)));
        }
        let found = |kind, kept: &Kept| {
            Error::found(kind, Operation::RemoveFile, lock.path(), kept.to_string())
        };
        match raw.remove(lock.handle().clone()).await? {
            None => Ok(()),
            Some(Kept::Failed(error)) => {
                let kind = match error.kind() {
                    io::ErrorKind::Unsupported => ErrorKind::Unsupported,
                    _ => ErrorKind::Io,
                };
                Err(Error::os(kind, Operation::RemoveFile, lock.path(), error))
            }
            Some(Kept::Locked) => {
                let detail = "keys of a `LockSpace` lie in it, which are in use";
                Err(Error::found(
                    ErrorKind::InvalidInput,
                    Operation::RemoveFile,
                    lock.path(),
                    detail,
                ))
            }
            Some(kept @ Kept::NotEmpty) => Err(found(ErrorKind::NotEmpty, &kept)),
            Some(kept @ Kept::Linked) => Err(found(ErrorKind::Linked, &kept)),
            Some(kept) => Err(found(ErrorKind::Replaced, &kept)),
        }
    }

    /// Turns the exclusive lock into a shared one, without a moment in between in which another task
    /// or process could take it. Shared requests at the head of the queue enter at once, unless the
    /// tenure is over.
    ///
    /// Other processes can share the lock at once with [`Protocol::Fcntl`](crate::Protocol), which
    /// converts atomically, on local file systems; with `Flock`, which does not (flock(2)), when
    /// the last guard that was given out under the exclusive lock is gone.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let lock = tokio_filelock::FileLock::open(directory.path().join("app.lock")).await?;
    /// let writer = lock.lock().await?;
    /// let reader = writer.downgrade();
    /// let another = lock.lock_shared().await?;
    /// # drop((reader, another));
    /// # Ok(())
    /// # }
    /// ```
    pub fn downgrade(self) -> SharedGuard {
        self.raw.downgrade();
        sealed::Guard::new(self.lock, self.raw)
    }
}

#[allow(private_interfaces)]
impl<M: GuardMode> sealed::Guard for FileGuard<M> {
    const MODE: Mode = M::MODE;

    #[inline]
    fn new(lock: FileLock, raw: RawGuard) -> Self {
        let tenure = match M::MODE {
            Mode::Exclusive => raw.tenure_info().map(Box::new),
            Mode::Shared => None,
        };
        let token = tenure.as_ref().and_then(|tenure| tenure.token);
        let abandoned = tenure.as_ref().and_then(|tenure| tenure.abandoned.as_ref());
        let _traced = trace::Held::begin(|| lock.path(), M::MODE, token, abandoned);
        Self { raw, lock, tenure, _traced, mode: PhantomData }
    }
}

impl<M: GuardMode> Guard for FileGuard<M> {
    fn file_lock(&self) -> &FileLock {
        &self.lock
    }

    fn mode(&self) -> Mode {
        M::MODE
    }

    fn contended(&self) -> bool {
        self.raw.is_contended()
    }

    async fn until_contended(&self) {
        Self::until_contended(self).await;
    }

    async fn unlock(self) -> Result<(), Error> {
        Self::unlock(self).await
    }
}

/// A guard of either mode, for code that keeps both in one place.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tokio_filelock::{AnyGuard, FileLock};
///
/// # let directory = tempfile::tempdir()?;
/// let read = FileLock::open(directory.path().join("read.lock")).await?;
/// let write = FileLock::open(directory.path().join("write.lock")).await?;
/// let guards: [AnyGuard; 2] = [read.lock_shared().await?.into(), write.lock().await?.into()];
/// for guard in guards {
///     guard.unlock().await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the lock is released when the guard is dropped"]
pub enum AnyGuard {
    /// The lock is held exclusively.
    Exclusive(ExclusiveGuard),
    /// The lock is held shared.
    Shared(SharedGuard),
}

impl From<ExclusiveGuard> for AnyGuard {
    fn from(guard: ExclusiveGuard) -> Self {
        Self::Exclusive(guard)
    }
}

impl From<SharedGuard> for AnyGuard {
    fn from(guard: SharedGuard) -> Self {
        Self::Shared(guard)
    }
}

impl AnyGuard {
    /// The handle that the guard came from.
    #[must_use]
    pub fn file_lock(&self) -> &FileLock {
        match self {
            Self::Exclusive(guard) => guard.file_lock(),
            Self::Shared(guard) => guard.file_lock(),
        }
    }

    /// How the lock is held.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self {
            Self::Exclusive(_) => Mode::Exclusive,
            Self::Shared(_) => Mode::Shared,
        }
    }

    /// See [`FileGuard::contended`].
    #[must_use]
    pub fn contended(&self) -> bool {
        match self {
            Self::Exclusive(guard) => guard.contended(),
            Self::Shared(guard) => guard.contended(),
        }
    }

    /// See [`FileGuard::until_contended`].
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time.
    ///
    /// # Panics
    ///
    /// As [`FileGuard::until_contended`].
    pub async fn until_contended(&self) {
        match self {
            Self::Exclusive(guard) => guard.until_contended().await,
            Self::Shared(guard) => guard.until_contended().await,
        }
    }

    /// See [`FileGuard::unlock`].
    ///
    /// # Cancel safety
    ///
    /// As [`FileGuard::unlock`].
    ///
    /// # Errors
    ///
    /// As [`FileGuard::unlock`].
    pub async fn unlock(self) -> Result<(), Error> {
        match self {
            Self::Exclusive(guard) => guard.unlock().await,
            Self::Shared(guard) => guard.unlock().await,
        }
    }
}

impl<M: GuardMode> fmt::Debug for FileGuard<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(M::NAME).field("lock", &self.lock).finish_non_exhaustive()
    }
}
