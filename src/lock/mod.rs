//! What users hold: the handle, its options, the future, the guards.

mod acquire;
mod guard;
mod holders;
mod key;
mod lock_all;
mod moves;
mod on_wait;
mod open_options;
mod unused;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

pub use acquire::Acquire;
pub use guard::{ExclusiveGuard, Guard, SharedGuard};
pub use lock_all::{
    AcquireAll, Guards, blocking_lock_all, blocking_lock_all_shared, lock_all, lock_all_shared,
};
pub use on_wait::Waiting;
pub use open_options::OpenOptions;
pub use unused::{Removed, UnusedFiles};

use key::Key;
use moves::MOST_IN_VAIN;
use open_options::UNFIT_LABEL;

use crate::error::{Error, ErrorKind, Operation, TryLockError};
use crate::holder::{Label, is_fit_for_a_record};
use crate::mode::Mode;
use crate::os::fork::Generation;
use crate::os::{self, Location, Protocol};
use crate::registry::{Denied, Hold, Membership, Registry, Signature, registry, try_hold};
use crate::shim::{Arc, Mutex};
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
/// tokio::fs::write(&index, "{}").await?; // nobody else is in here
/// guard.unlock().await?; // dropping the guard would do, too
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FileLock {
    handle: Arc<Handle>,
}

struct Handle {
    /// So that the file can be found again after the current directory has changed.
    path: Location,
    options: OpenOptions,
    /// What this process writes of itself into the lock file, if anything.
    signature: Option<Arc<Signature>>,
    /// Set where the lock is one of several in the file.
    key: Option<Key>,
    /// The process that opened it, among the forked ones.
    generation: Generation,
    registry: Arc<Registry>,
    /// Changes when the file at the path has been replaced.
    current: Mutex<Arc<Membership>>,
    /// Guards given out, more or less: a sign of progress, for those who follow a file that is replaced.
    guards: AtomicUsize,
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
        let (label, handle) = (Label::from(label.into()), &*self.handle);
        self.check_owner(Operation::LockExclusive)?;
        self.check_label(&label, Operation::LockExclusive)?;
        let handle = Handle {
            path: handle.path.clone(),
            options: handle.options.with_label(label.clone()),
            signature: handle.signature.clone(),
            key: handle.key.clone(),
            generation: handle.generation,
            registry: handle.registry.clone(),
            current: Mutex::new(self.member().labelled(label)),
            guards: AtomicUsize::new(0),
        };
        Ok(Self { handle: Arc::new(handle) })
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
        &self.handle.path
    }

    /// The name of the lock in its file, if it is a key of a [`LockSpace`](crate::LockSpace).
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.handle.key.as_ref().map(Key::name)
    }

    /// Which lock of the operating system is taken.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.handle.options.takes()
    }

    /// Whether both are proved to be one lock, whatever they are called: files of one number may be several.
    pub(crate) fn is_same_lock(&self, other: &FileLock) -> bool {
        Arc::ptr_eq(self.member().entry(), other.member().entry())
    }

    /// What has happened on this lock file in this process since the first of its handles that
    /// are open now was opened. Starts anew when the file is replaced.
    #[must_use]
    pub fn counters(&self) -> Counters {
        if self.check_owner(Operation::Open).is_err() {
            return Counters::default();
        }
        let counts = self.member().entry().counts();
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
    /// granted the lock, it keeps everybody else out. Do not hold one across other awaits; see
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
    /// [`TryLockError::WouldBlock`] if somebody holds the lock or waits for it, in this process or
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
    /// In a task or another async context, where it would block everybody else.
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
    /// In a task or another async context, where it would block everybody else.
    #[track_caller]
    pub fn blocking_lock_shared(&self) -> Result<SharedGuard, Error> {
        wait::block_on(self.lock_shared())
    }

    fn try_guard<G: Guard>(&self) -> Result<G, TryLockError> {
        self.check_owner(operation(G::MODE))?;
        let tried = if self.member().entry().file().is_local() {
            self.try_hold(G::MODE)
        } else {
            let lock = self.clone();
            wait::blocking_errand(self.handle.registry.pool(), move || lock.try_hold(G::MODE))
        };
        match tried {
            Ok(hold) => {
                self.gives_guard();
                Ok(G::new(self.clone(), hold))
            }
            Err(TryLockError::Error(error)) => Err(self.named(error).into()),
            Err(TryLockError::WouldBlock(error)) => {
                Err(TryLockError::WouldBlock(self.named(error)))
            }
        }
    }

    /// Blocks for the time of some lock and file-system calls.
    fn try_hold(&self, mode: Mode) -> Result<Hold, TryLockError> {
        for _ in 0..MOST_IN_VAIN {
            let member = self.member();
            match try_hold(&member, mode) {
                Ok(hold) => {
                    if self.leads_to(&hold)? {
                        return Ok(hold);
                    }
                    hold.send_others_on();
                    drop(hold);
                }
                Err(Denied::Refused) => {
                    let mut holders = member.own_holders();
                    if holders.is_empty() {
                        holders.extend(member.blocker());
                    }
                    let error = Error::would_block(operation(mode), self.path(), holders);
                    return Err(TryLockError::WouldBlock(error));
                }
                Err(Denied::Failed(error)) => return Err(self.lock_error(mode, error).into()),
                Err(Denied::Moved(_)) => {}
            }
            self.move_on(&member, mode, false).map_err(|error| {
                if !error.is_for_a_lease() {
                    return TryLockError::Error(error);
                }
                TryLockError::WouldBlock(Error::would_block(
                    operation(mode),
                    self.path(),
                    Vec::new(),
                ))
            })?;
        }
        Err(self.replaced(mode).into())
    }

    /// In a forked child everything of the parent is out of bounds, its mutexes first of all.
    #[inline]
    fn check_owner(&self, operation: Operation) -> Result<(), Error> {
        if !self.handle.generation.is_past() {
            return Ok(());
        }
        let detail = "it was opened before this process was forked, and belongs to the parent";
        Err(self.named(Error::found(ErrorKind::Forked, operation, self.path(), detail)))
    }

    #[inline]
    fn gives_guard(&self) {
        let guards = &self.handle.guards;
        // One of two that come together may be lost, at the price of none.
        guards.store(guards.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    fn location(&self) -> Location {
        self.handle.path.clone()
    }

    fn guards_given(&self) -> usize {
        self.handle.guards.load(Ordering::Relaxed)
    }

    #[inline]
    fn member(&self) -> Arc<Membership> {
        self.handle.current.lock().clone()
    }

    /// Whether the lock is on the file that the path leads to, as far as that must be known.
    #[inline]
    fn leads_to(&self, hold: &Hold) -> Result<bool, Error> {
        if !self.has_to_look(hold) {
            return Ok(true);
        }
        let there = hold.member().is_at(&self.handle.path)?;
        if there {
            hold.saw_at_path();
        }
        Ok(there)
    }

    #[inline]
    fn has_to_look(&self, hold: &Hold) -> bool {
        self.handle.options.verifies_path() || !(hold.is_local() || hold.was_seen_at_path())
    }

    /// Another request of this handle has opened the file at the path anew.
    fn has_moved_on(&self, from: &Arc<Membership>) -> bool {
        !Arc::ptr_eq(self.handle.current.lock().entry(), from.entry())
    }

    /// Opens the file at the path anew, unless another request of this handle has done so. Blocks
    /// for the time of some file-system calls; if patient also for a lease of another process.
    fn move_on(&self, from: &Arc<Membership>, mode: Mode, patient: bool) -> Result<(), Error> {
        let handle = &*self.handle;
        if self.has_moved_on(from) {
            return Ok(());
        }
        let opened = match &handle.key {
            Some(key) => {
                let member = key.follow(from, mode, patient)?;
                match handle.options.default_label() {
                    Some(label) => member.labelled(label.clone()),
                    None => member,
                }
            }
            None => {
                let mut wanted = handle.options.wanted(handle.signature.clone());
                wanted.access.patient = patient;
                Registry::join(&handle.registry, &handle.path, &wanted)
                    .map_err(|error| error.met_while_reopening(operation(mode)))?
            }
        };
        // What is not kept, and what was there before, is dropped outside of the mutex.
        let _outside = {
            let mut current = handle.current.lock();
            if Arc::ptr_eq(current.entry(), from.entry()) {
                std::mem::replace(&mut *current, opened)
            } else {
                opened
            }
        };
        Ok(())
    }

    /// Says which lock of the file the error is about, where that is not plain.
    fn named(&self, error: Error) -> Error {
        match &self.handle.key {
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

fn operation(mode: Mode) -> Operation {
    match mode {
        Mode::Exclusive => Operation::LockExclusive,
        Mode::Shared => Operation::LockShared,
    }
}

/// Opens a lock file for a handle. Blocks for the time of some file-system calls.
fn open(path: Location, options: OpenOptions) -> Result<FileLock, Error> {
    let signature = options.signature(&path)?;
    let registry = registry();
    let member = Registry::join(registry, &path, &options.wanted(signature.clone()))?;
    let handle = Handle {
        path,
        options,
        signature,
        key: None,
        generation: Generation::current(),
        registry: registry.clone(),
        current: Mutex::new(member),
        guards: AtomicUsize::new(0),
    };
    Ok(FileLock { handle: Arc::new(handle) })
}

impl fmt::Debug for FileLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("FileLock");
        debug.field("path", &self.path());
        if let Some(key) = &self.handle.key {
            debug.field("key", &key.text());
        }
        debug.field("protocol", &self.protocol()).finish_non_exhaustive()
    }
}
