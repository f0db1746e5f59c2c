//! What users hold: the handle, its options, the future, the guards.

mod acquire;
mod guard;
mod holders;
mod lock_all;
mod moves;
mod on_wait;
mod open_options;
mod unused;

use std::fmt;
use std::path::{Path, PathBuf};

pub use acquire::Acquire;
pub use guard::{AnyGuard, ExclusiveGuard, FileGuard, Guard, SharedGuard, marker};
pub use lock_all::{
    AcquireAll, Guards, blocking_lock_all, blocking_lock_all_shared, lock_all, lock_all_shared,
};
pub use on_wait::Waiting;
pub use open_options::OpenOptions;
pub use unused::{Removed, UnusedFiles};

use moves::MOST_IN_VAIN;
use open_options::UNFIT_LABEL;

use crate::driver::{Handle, Key, Outcome, RawGuard, Registration, try_lock};
use crate::error::{Error, ErrorKind, Operation, TryLockError};
use crate::holder::{Holders, Label, is_fit_for_a_record};
use crate::mode::Mode;
use crate::os::{self, Protocol, Region};
use crate::shim::Arc;
use crate::wait::{self, NoThread};

/// A lock on a file, which tasks, threads and processes await.
///
/// The file is a *lock file*: it carries the lock and nothing else. Use one beside the data
/// ([`FileLock::beside`]), not the data itself. It is never truncated, written or deleted by
/// locking it (unless you ask for a [`record`](OpenOptions::record)), and an empty one that stays
/// behind is harmless: the lock is the kernel's, and ends with the process that holds it.
///
/// All handles of one process that lead to one file, by whatever path, share one fair queue: tasks
/// wait for each other there, first come, first served, and at most one thread waits in the kernel
/// on behalf of all of them. Cloning is cheap.
///
/// # Which lock to use
///
/// - For tasks of one process only, [`tokio::sync::Mutex`] is faster.
/// - To share with programs that call flock(2) (cargo, `std::fs::File::lock`, flock(1), Python's
///   `filelock`), use [`Protocol::Flock`], the default.
/// - To share with programs that call `lockf` or `fcntl(F_SETLK)`, use [`Protocol::Fcntl`].
/// - [`lock_shared`](FileLock::lock_shared) lets any number of readers in together; a writer that
///   waits in this process is not overtaken by new readers of this process.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tokio_filelock::FileLock;
///
/// # let directory = tempfile::tempdir()?;
/// # let index = directory.path().join("index.json");
/// let lock = FileLock::beside(&index).await?;
/// let guard = lock.lock().await?;
/// tokio::fs::write(&index, "{}").await?; // no other task or process is in here
/// guard.unlock().await?; // dropping the guard would do, too
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FileLock {
    handle: Arc<Handle>,
}

/// How often a lock file has been locked by this process; see [`FileLock::counters`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Guards given out, exclusive and shared.
    pub acquisitions: u64,
    /// Times the process acquired the lock of the operating system.
    pub tenures: u64,
    /// Times the lock went from one task to the next without a call on the operating system.
    pub handovers: u64,
}

impl FileLock {
    /// Opens the lock file at this path, and creates it if there is none, with the default
    /// [`options`](FileLock::options).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future opens nothing, although a lock file may be created all the same.
    ///
    /// # Errors
    ///
    /// See [`OpenOptions::open`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("app.lock");
    /// let lock = tokio_filelock::FileLock::open(&path).await?;
    /// let reader = lock.lock_shared().await?;
    /// let another = lock.lock_shared().await?;
    /// # drop((reader, another));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::options().open(path).await
    }

    /// Opens the lock file that belongs to a data file: `<data_path>.lock`.
    ///
    /// The data file need not exist.
    ///
    /// # Errors
    ///
    /// See [`OpenOptions::open`].
    pub async fn beside(data_path: impl AsRef<Path>) -> Result<Self, Error> {
        let mut path = data_path.as_ref().as_os_str().to_owned();
        path.push(".lock");
        Self::open(PathBuf::from(path)).await
    }

    /// The options that [`open`](FileLock::open) uses, to change them.
    pub fn options() -> OpenOptions {
        OpenOptions::new()
    }

    /// A handle of the same lock whose acquisitions carry this label: for tries and for locks that are taken
    /// by [`lock_all`](crate::lock_all); see [`Acquire::label`]. Makes no system call.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if it is not one line of 1 to 200 bytes, or has characters that control, are
    /// invisible or change the direction of text.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("app.lock");
    /// use tokio_filelock::FileLock;
    ///
    /// let lock = FileLock::options().blocking_open(&path)?;
    /// let guard = lock.with_label("import 17")?.try_lock()?;
    /// assert!(lock.try_lock().unwrap_err().to_string().contains("\"import 17\""));
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_label(&self, label: impl Into<String>) -> Result<Self, Error> {
        let label = Label::from(label.into());
        self.check_owner(Operation::LockExclusive)?;
        self.check_label(&label, Operation::LockExclusive)?;
        Ok(Self { handle: Arc::new(self.handle.labelled(label)) })
    }

    /// The lock of a region of this file, under this name. Makes no system call.
    pub(crate) fn of_key(&self, name: &[u8], region: Region) -> Self {
        if self.handle.is_inherited() {
            // The parent's mutexes are out of bounds. A task that tries to lock is told so.
            return self.clone();
        }
        Self { handle: Arc::new(Handle::of_key(&self.handle, name, region)) }
    }

    fn check_label(&self, label: &str, operation: Operation) -> Result<(), Error> {
        if is_fit_for_a_record(label) {
            return Ok(());
        }
        let kind = ErrorKind::InvalidInput;
        Err(self.named(Error::found(kind, operation, self.path(), UNFIT_LABEL)))
    }

    /// The path of the lock file, made absolute when it was opened. As it was given if the current
    /// directory had no path (unmounted, removed).
    #[must_use]
    pub fn path(&self) -> &Path {
        self.handle.origin().path()
    }

    /// The name of the lock in its file, if it is a key of a [`LockSpace`](crate::LockSpace).
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.handle.origin().key().map(Key::name)
    }

    /// Which lock of the operating system is taken.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.handle.origin().protocol()
    }

    /// Whether both are proved to be one lock, whatever they are called: files of one number may be several.
    pub(crate) fn is_same_lock(&self, other: &FileLock) -> bool {
        self.registration().is_same_lock(&other.registration())
    }

    /// What has happened on this lock file in this process since the first of its handles that
    /// are open now was opened; of a key, was used. Starts anew when the file is replaced.
    #[must_use]
    pub fn counters(&self) -> Counters {
        if self.check_owner(Operation::Open).is_err() {
            return Counters::default();
        }
        let counts = self.registration().driver().counts();
        Counters {
            acquisitions: counts.granted,
            tenures: counts.tenures,
            handovers: counts.handovers,
        }
    }

    /// Locks exclusively: no other guard of this lock, exclusive or shared, in any task, thread
    /// or process, exists together with the one this returns.
    ///
    /// The place in the queue is taken at the first poll. The lock is not reentrant: a task that
    /// asks again while it holds a guard waits for itself.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped at any time. You lose your place in the queue, and nothing else:
    /// a lock that was granted already goes to the next in line.
    ///
    /// A future that was polled once and is neither polled further nor dropped keeps its place;
    /// granted the lock, it keeps all others out. Do not hold one across other awaits; see
    /// `tokio::select!` on a `&mut` future.
    ///
    /// # Errors
    ///
    /// The future gives [`ErrorKind::Unsupported`], [`ErrorKind::LockServiceUnavailable`],
    /// [`ErrorKind::PermissionDenied`], [`ErrorKind::WrongAccess`], [`ErrorKind::Deadlock`] or
    /// [`ErrorKind::Io`] if the operating system refuses for another reason than contention;
    /// [`ErrorKind::NoThread`] if another process has the lock, and there is no thread to wait on; [`ErrorKind::Replaced`] if the lock file
    /// was removed and could not be opened again; [`ErrorKind::Forked`] in a forked child.
    pub fn lock(&self) -> Acquire<ExclusiveGuard> {
        Acquire::new(self.clone())
    }

    /// Locks shared: together with other shared guards, and with no exclusive one.
    ///
    /// A request does not overtake an exclusive one that waits, in this process or, as far as it can
    /// be seen, in another one. So a task that waits for another reader while it holds a shared guard
    /// can wait for ever, as with any fair lock.
    ///
    /// # Cancel safety
    ///
    /// As [`lock`](FileLock::lock).
    ///
    /// # Errors
    ///
    /// As [`lock`](FileLock::lock).
    pub fn lock_shared(&self) -> Acquire<SharedGuard> {
        Acquire::new(self.clone())
    }

    /// Locks exclusively if that is possible at once.
    ///
    /// A process that is next in turn comes first, for as long as it may be awake: the lock is free, and
    /// tries are refused for 50 ms, and one more try. That last try may block for up to 20 ms
    /// (docs/FAIRNESS.md). On a local file system no other one blocks.
    ///
    /// On a file system that is not known to be local this blocks the thread for the answer of a
    /// server; in a task, use `lock().timeout(..)` there. A guard that was dropped there a moment
    /// ago may still be on its way back to the server, and counts as held; await its `unlock`.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`] if a task holds the lock or waits for it, in this process or
    /// another one, or while a lock call of this process is under way whose outcome is not known
    /// yet. It costs what the calls on the lock cost, and names what they tell: this process, if it
    /// holds the lock, or with [`Protocol::Fcntl`] one of the others; [`holders`](FileLock::holders)
    /// tells the rest. [`TryLockError::Error`] as [`lock`](FileLock::lock).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let lock = tokio_filelock::FileLock::open(directory.path().join("app.lock")).await?;
    /// use tokio_filelock::TryLockError;
    ///
    /// let guard = lock.try_lock()?;
    /// assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock(_))));
    /// drop(guard);
    /// assert!(lock.try_lock().is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_lock(&self) -> Result<ExclusiveGuard, TryLockError> {
        self.try_guard()
    }

    /// Locks shared if that is possible at once.
    ///
    /// # Errors
    ///
    /// As [`try_lock`](FileLock::try_lock).
    pub fn try_lock_shared(&self) -> Result<SharedGuard, TryLockError> {
        self.try_guard()
    }

    /// [`lock`](FileLock::lock) for code outside of async: blocks the calling thread.
    ///
    /// # Errors
    ///
    /// As [`lock`](FileLock::lock).
    ///
    /// # Panics
    ///
    /// In a task or another async context, where it would block every other task.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("app.lock");
    /// let lock = tokio_filelock::FileLock::options().blocking_open(&path)?;
    /// let guard = lock.blocking_lock()?;
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn blocking_lock(&self) -> Result<ExclusiveGuard, Error> {
        wait::block_on(self.lock())
    }

    /// [`lock_shared`](FileLock::lock_shared) for code outside of async: blocks the calling
    /// thread.
    ///
    /// # Errors
    ///
    /// As [`lock`](FileLock::lock).
    ///
    /// # Panics
    ///
    /// In a task or another async context, where it would block every other task.
    #[track_caller]
    pub fn blocking_lock_shared(&self) -> Result<SharedGuard, Error> {
        wait::block_on(self.lock_shared())
    }

    fn try_guard<G: Guard>(&self) -> Result<G, TryLockError> {
        self.check_owner(operation(G::MODE))?;
        self.handle.step();
        let registration = self.registration();
        let tried = if registration.answers_at_once() {
            self.try_raw(registration, G::MODE)
        } else {
            let (lock, at) = (self.clone(), registration.clone());
            registration.run_blocking(move || lock.try_raw(at, G::MODE))
        };
        match tried {
            Ok(guard) => {
                self.handle.count_guard();
                Ok(G::new(self.clone(), guard))
            }
            Err(TryLockError::Error(error)) => Err(self.named(error).into()),
            Err(TryLockError::WouldBlock(error)) => {
                Err(TryLockError::WouldBlock(self.named(error)))
            }
        }
    }

    /// Blocks for the time of some lock and file-system calls.
    fn try_raw(&self, mut at: Arc<Registration>, mode: Mode) -> Result<RawGuard, TryLockError> {
        for _ in 0..MOST_IN_VAIN {
            match try_lock(&at, mode) {
                Outcome::Granted(guard) => {
                    if self.handle.confirm(&guard)? {
                        return Ok(guard);
                    }
                    guard.send_others_on();
                    drop(guard);
                }
                Outcome::Refused => {
                    let own = at.own_holders();
                    // It may be waiting for another process.
                    let holders = if own.is_empty() { others(&at) } else { own.into() };
                    return Err(self.would_block(mode, holders));
                }
                Outcome::Busy => return Err(self.would_block(mode, others(&at))),
                Outcome::Failed(error) => return Err(self.lock_error(mode, error).into()),
                Outcome::Moved(_) => {}
            }
            let moved = self.handle.move_on(&at, operation(mode), false);
            moved.map_err(|error| match error.is_for_a_lease() {
                true => self.would_block(mode, Holders::default()),
                false => TryLockError::Error(error),
            })?;
            at = self.registration();
        }
        Err(self.replaced(mode).into())
    }

    fn would_block(&self, mode: Mode, holders: Holders) -> TryLockError {
        let path = self.handle.origin().shared_path();
        TryLockError::WouldBlock(Error::would_block(operation(mode), path, holders))
    }

    /// In a forked child everything of the parent is out of bounds, its mutexes first of all.
    #[inline]
    fn check_owner(&self, operation: Operation) -> Result<(), Error> {
        if self.handle.is_inherited() { Err(self.inherited(operation)) } else { Ok(()) }
    }

    #[cold]
    fn inherited(&self, operation: Operation) -> Error {
        let detail = "it was opened before this process was forked, and belongs to the parent";
        self.named(Error::found(ErrorKind::Forked, operation, self.path(), detail))
    }

    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    #[inline]
    fn registration(&self) -> Arc<Registration> {
        self.handle.registration()
    }

    /// Says which lock of the file the error is about, where that is not plain.
    fn named(&self, error: Error) -> Error {
        match self.handle.origin().key() {
            Some(key) => error.of_key(key.text()),
            None => error,
        }
    }

    fn lock_error(&self, mode: Mode, error: std::io::Error) -> Error {
        let kind = if NoThread::is_said_by(&error) {
            ErrorKind::NoThread
        } else {
            os::lock_error_kind(&error)
        };
        Error::os(kind, operation(mode), self.path(), error)
    }

    fn replaced(&self, mode: Mode) -> Error {
        let detail =
            format!("the lock file was removed or replaced {MOST_IN_VAIN} times in a row or more");
        Error::found(ErrorKind::Replaced, operation(mode), self.path(), detail)
    }
}

/// One of the holders that keep this process from the lock, if one system call tells.
fn others(at: &Registration) -> Holders {
    at.engine().blocker().map_or_else(Holders::default, |holder| Holders::from([holder]))
}

fn operation(mode: Mode) -> Operation {
    match mode {
        Mode::Exclusive => Operation::LockExclusive,
        Mode::Shared => Operation::LockShared,
    }
}

impl fmt::Debug for FileLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("FileLock");
        debug.field("path", &self.path());
        if let Some(key) = self.handle.origin().key() {
            debug.field("key", &key.text());
        }
        debug.field("protocol", &self.protocol()).finish_non_exhaustive()
    }
}
