//! A simulated machine for tests of code that uses the locks: with the feature `test-util`.
//!
//! A [`Machine`] is a disk, a kernel and a clock in memory. A [`Process`] on it opens lock files and spaces, and what it gives
//! are the public [`FileLock`] and [`LockSpace`], with the same queue, turns, tenures, records and guards as the real ones. So
//! one test has several processes, some of them killed or stopped at the worst moment, without a file, a thread or a child
//! process. Real and simulated locks can be used side by side.
//!
//! - A wait takes no thread, so all of it runs on a current-thread runtime, also with tokio's clock paused
//!   (`#[tokio::test(start_paused = true)]`).
//! - [`Machine::new`] hands a lock on at once and in order. [`Machine::with_seed`] draws when a process goes on that was
//!   woken, and when a call is answered. The same seed gives the same order on a current-thread runtime, as long as the test
//!   itself draws nothing (`tokio::select!` does, unless it is `biased`).
//! - What runs in a process is given to [`Process::run`]: it stands still while the process is stopped, and ends when it is
//!   killed.
//!
//! A machine can be made in a model, too: with the feature `loom` or `shuttle`, and the cfg of that name, the explorer chooses
//! which thread makes the next call.
//!
//! docs/TESTING.md has a guide, and what is not simulated.
//!
//! # Examples
//!
//! A process dies in the middle of its work, and the next one gets to know of it:
//!
//! ```
//! use tokio_filelock::FileLock;
//! use tokio_filelock::sim::Machine;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let machine = Machine::new();
//! let (first, second) = (machine.process("first"), machine.process("second"));
//! let options = FileLock::options().record(true);
//! let held = first.open_with(options.clone(), "/data/index.lock")?.lock().await?;
//! let lock = second.open_with(options, "/data/index.lock")?;
//! let waits = tokio::spawn(async move { lock.lock().await });
//! tokio::task::yield_now().await;
//!
//! first.kill();
//! let guard = waits.await??;
//! assert_eq!(guard.abandoned().and_then(|dead| dead.program()), Some("first"));
//! # drop(held);
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::engine::sim;
use crate::shim::Arc;
use crate::wait;
use crate::{Error, FileLock, LockSpace, LockSpaceOptions, Mode, OpenOptions, Protocol};

/// A machine in memory: a disk with lock files, a kernel with their locks, a clock. Cloning gives another handle of the same
/// one.
///
/// Paths are names on its disk, and no directory has to be made. A relative one is another name than an absolute one.
#[derive(Debug, Clone)]
pub struct Machine(Arc<sim::Machine>);

impl Machine {
    /// A machine that hands locks on at once: the waiters for a lock get it in order, before the call returns that has
    /// released it.
    #[must_use]
    pub fn new() -> Self {
        Self(sim::Machine::new(None))
    }

    /// A machine that draws what happens next: which of the processes that were woken goes on first, and after how many
    /// turns of other tasks; whether a lock call is answered at once. So a process that comes by may take a lock before
    /// one that was woken for it, as on a real machine.
    ///
    /// On a current-thread runtime the same seed gives the same order, and the same [`trace`](Self::trace). Outside of a
    /// runtime all of it happens at once, in an order that is drawn. In a model under shuttle what is put off happens when shuttle
    /// chooses to: give it a seed from `shuttle::rand`. In one under loom it happens at once.
    ///
    /// # Examples
    ///
    /// Two processes count without a lock around reading *and* writing. Some seed shows it:
    ///
    /// ```
    /// use std::cell::Cell;
    /// use tokio_filelock::sim::Machine;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// async fn counted(seed: u64) -> Result<u32, Box<dyn std::error::Error>> {
    ///     let machine = Machine::with_seed(seed);
    ///     let counter = Cell::new(0);
    ///     let count = async |name| {
    ///         let lock = machine.process(name).open("/counter.lock")?;
    ///         let seen = {
    ///             let _reads = lock.lock_shared().await?;
    ///             counter.get()
    ///         };
    ///         let _writes = lock.lock().await?;
    ///         counter.set(seen + 1);
    ///         Ok::<_, tokio_filelock::Error>(())
    ///     };
    ///     tokio::try_join!(count("one"), count("other"))?;
    ///     Ok(counter.get())
    /// }
    /// let mut lost = 0;
    /// for seed in 0..100 {
    ///     lost += u32::from(counted(seed).await? < 2);
    /// }
    /// assert!(lost > 0);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self(sim::Machine::new(Some(seed)))
    }

    /// Starts a process. Its name is that of its program in [holders](FileLock::holders), records and the trace.
    #[must_use]
    pub fn process(&self, name: &str) -> Process {
        Process(sim::Process::new(&self.0, name))
    }

    /// Starts a program that knows nothing of this crate, as flock(1) or a program that calls `lockf`. It opens the file at
    /// this path, and creates it if there is none.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_filelock::sim::Machine;
    /// use tokio_filelock::{Mode, Protocol, TryLockError};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let machine = Machine::new();
    /// let lock = machine.process("service").open("/app.lock")?;
    /// let flock = machine.foreign("flock", Protocol::Flock, "/app.lock");
    /// assert!(flock.try_lock(Mode::Exclusive)?);
    /// assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock(_))));
    /// drop(flock);
    /// assert!(lock.try_lock().is_ok());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn foreign(&self, name: &str, protocol: Protocol, path: impl AsRef<Path>) -> Foreign {
        self.0.step();
        Foreign(sim::Foreign::open(&self.0, name, protocol, &on_disk(path.as_ref())))
    }

    /// Makes the next lock call on the file at this path fail with this error number of the system that the test runs on, of
    /// whichever process. A number means other things on other systems: 5 is an I/O error on Unix, and a refusal on Windows.
    ///
    /// # Panics
    ///
    /// There is no file at this path.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_filelock::sim::Machine;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let machine = Machine::new();
    /// let lock = machine.process("service").open("/app.lock")?;
    /// machine.fail_next("/app.lock", 5); // EIO
    /// let error = lock.lock().await.unwrap_err();
    /// assert_eq!(error.os_error().and_then(|error| error.raw_os_error()), Some(5));
    /// assert!(lock.lock().await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn fail_next(&self, path: impl AsRef<Path>, errno: i32) {
        self.0.step();
        let inode = self.0.find(&on_disk(path.as_ref()));
        self.0.fail_next(inode.expect("there is a file at the path"), errno);
    }

    /// Removes the name of a file, as rm(1) does. Programs that have it open keep it. `false` if there was none.
    pub fn unlink(&self, path: impl AsRef<Path>) -> bool {
        self.0.step();
        self.0.unlink(&on_disk(path.as_ref()))
    }

    /// Puts a new, empty file in the place of the one at this path, as `mv` does.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_filelock::FileLock;
    /// use tokio_filelock::sim::Machine;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let machine = Machine::new();
    /// let (one, other) = (machine.process("one"), machine.process("other"));
    /// let lock = one.open("/app.lock")?;
    /// let guard = lock.lock().await?;
    /// machine.replace("/app.lock");
    /// // The path leads to another file now, which has a lock of its own.
    /// let new = other.open("/app.lock")?.lock().await?;
    /// drop((guard, new));
    /// assert!(lock.lock().await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn replace(&self, path: impl AsRef<Path>) {
        self.0.step();
        self.0.replace(&on_disk(path.as_ref()));
    }

    /// Whether there is a file at this path.
    #[must_use]
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.0.step();
        self.0.find(&on_disk(path.as_ref())).is_ok()
    }

    /// What is in the file at this path: nothing, or a [record](crate::OpenOptions::record).
    ///
    /// # Errors
    ///
    /// [`NotFound`](io::ErrorKind::NotFound) if there is no file at this path.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        self.0.step();
        self.0.find(&on_disk(path.as_ref())).map(|inode| self.0.content(inode))
    }

    /// Replaces what is in the file at this path, which is created if there is none.
    pub fn write(&self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>) {
        self.0.step();
        let inode = self.0.find_or_create(&on_disk(path.as_ref()));
        self.0.change(inode, |file| *file = content.into());
    }

    /// Lets so much time pass on this machine, beside that of tokio's clock, by which it goes otherwise.
    ///
    /// What takes time there is the chance that a process has which is next in turn and is stopped: 50 ms
    /// (docs/FAIRNESS.md). In a runtime with its timer, paused or not, that passes by itself.
    pub fn advance(&self, time: Duration) {
        self.0.step();
        sim::Machine::advance(&self.0, time);
    }

    /// What has happened in the kernel since the machine was made, a line each. For comparing two runs, and for reading; the
    /// words may change.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.0.trace()
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

/// Which program holds what, and which waits for what in the kernel, a line each: for the message of a test that hangs.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A process of a [`Machine`]. Cloning gives another handle of the same one; dropping the handles ends nothing.
#[derive(Debug, Clone)]
pub struct Process(Arc<sim::Process>);

impl Process {
    /// Opens the lock file at this path, and creates it if there is none, with the default options.
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    pub fn open(&self, path: impl AsRef<Path>) -> Result<FileLock, Error> {
        self.open_with(FileLock::options(), path)
    }

    /// Opens a lock file. All of its options mean what they mean for a real one, but for
    /// [`mode`](OpenOptions::mode), [`wait_on`](OpenOptions::wait_on) and
    /// [`this_machine_only`](OpenOptions::this_machine_only), which have no meaning here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if there is no file and none is to be created, or if the process was killed;
    /// [`ErrorKind::ProtocolMismatch`](crate::ErrorKind::ProtocolMismatch) and
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) as [`OpenOptions::open`].
    pub fn open_with(
        &self,
        options: OpenOptions,
        path: impl AsRef<Path>,
    ) -> Result<FileLock, Error> {
        self.0.machine().step();
        options.open_in(&self.0, &on_disk(path.as_ref()))
    }

    /// Opens the lock files of a space at this path, with the default options.
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_filelock::sim::Machine;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let machine = Machine::new();
    /// let one = machine.process("one").space("/jobs.lock")?;
    /// let other = machine.process("other").space("/jobs.lock")?;
    /// let guard = one.key("a").try_lock()?;
    /// assert!(other.key("a").try_lock().is_err());
    /// assert!(other.key("b").try_lock().is_ok());
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    pub fn space(&self, path: impl AsRef<Path>) -> Result<LockSpace, Error> {
        self.space_with(LockSpace::options(), path)
    }

    /// Opens the lock files of a space at this path.
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    pub fn space_with(
        &self,
        options: LockSpaceOptions,
        path: impl AsRef<Path>,
    ) -> Result<LockSpace, Error> {
        self.0.machine().step();
        options.open_in(&self.0, &on_disk(path.as_ref()))
    }

    /// Runs a future in this process: it is not polled while the process is [paused](Self::pause), and is dropped when that
    /// is [killed](Self::kill). Gives what the future gives, or `None` if the process was killed before.
    ///
    /// # Cancel safety
    ///
    /// As the future itself: dropping drops it.
    ///
    /// # Panics
    ///
    /// When polled after it was ready, as futures do.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_filelock::sim::Machine;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let machine = Machine::new();
    /// let process = machine.process("worker");
    /// let lock = process.open("/app.lock")?;
    /// let works = tokio::spawn(process.run(async move {
    ///     let _guard = lock.lock().await;
    ///     std::future::pending::<()>().await; // works for ever
    /// }));
    /// tokio::task::yield_now().await;
    /// process.kill();
    /// assert_eq!(works.await?, None);
    /// assert!(machine.process("next").open("/app.lock")?.try_lock().is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn run<F: Future>(&self, future: F) -> Run<F> {
        Run(sim::Run::new(&self.0, future))
    }

    /// Kills the process, as `SIGKILL` does. The kernel frees its locks, and the waiters get them in order. Its requests
    /// never resolve, its guards hold nothing, and what it [runs](Self::run) ends. Its records stay as they are, so the
    /// next holder finds it [abandoned](crate::ExclusiveGuard::abandoned).
    ///
    /// A task that was not given to [`run`](Self::run) is not stopped by this.
    pub fn kill(&self) {
        self.0.machine().step();
        self.0.kill();
    }

    /// Stops the process, as `SIGSTOP` does. It keeps its locks, and its place at the turnstile if it is next in turn; its
    /// calls that wait are made anew when it goes on. Neither its calls nor what it [runs](Self::run) go on before
    /// [`resume`](Self::resume). A try in its place is refused.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio_filelock::sim::Machine;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let machine = Machine::new();
    /// let (one, other) = (machine.process("one"), machine.process("other"));
    /// let guard = one.open("/app.lock")?.lock().await?;
    /// let lock = other.open("/app.lock")?;
    /// one.pause();
    /// drop(guard); // This call is not made yet.
    /// assert!(lock.try_lock().is_err());
    /// one.resume();
    /// assert!(lock.try_lock().is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn pause(&self) {
        self.0.machine().step();
        self.0.stop();
    }

    /// Lets a process go on that was [paused](Self::pause).
    pub fn resume(&self) {
        self.0.machine().step();
        self.0.resume();
    }

    /// It was not [killed](Self::kill).
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.machine().step();
        self.0.status() != sim::Status::Dead
    }

    /// Its pid on its machine, as [`Holder::pid`](crate::Holder::pid) gives it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// The name that it was started with.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }
}

/// A future in a process; see [`Process::run`].
#[derive(Debug)]
#[must_use = "futures do nothing unless you `.await` or poll them"]
pub struct Run<F>(sim::Run<F>);

impl<F: Future> Future for Run<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.get_mut().0).poll(cx)
    }
}

/// A program of a [`Machine`] that knows nothing of this crate, and has one lock file open. Dropping it ends the program.
#[derive(Debug)]
pub struct Foreign(sim::Foreign);

impl Foreign {
    /// Takes the lock if it is free, whichever process is next in turn. `false` if it is not.
    ///
    /// # Errors
    ///
    /// What [`Machine::fail_next`] says.
    pub fn try_lock(&self, mode: Mode) -> io::Result<bool> {
        self.0.try_lock(mode)
    }

    /// Waits for the lock, in the kernel's order.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up, as a program that is interrupted.
    ///
    /// # Errors
    ///
    /// What [`Machine::fail_next`] says.
    pub async fn lock(&self, mode: Mode) -> io::Result<()> {
        self.0.lock(mode).await
    }

    /// Gives the lock back. Does nothing if it has none.
    pub fn unlock(&self) {
        self.0.unlock();
    }
}

/// Blocks the thread of a model on a future: a thread that `loom::thread::spawn` or `shuttle::thread::spawn` has started, or the
/// body of the model. Outside of models it blocks as [`FileLock::blocking_lock`] does.
///
/// `shuttle::future::block_on` is the same. `loom::future::block_on` is not: there a deadlock ends the process, and here it is
/// a panic, and so a test that fails.
///
/// # Panics
///
/// In a model under loom or shuttle if all threads wait; outside of models as [`FileLock::blocking_lock`].
///
/// # Examples
///
/// ```
/// use tokio_filelock::sim::{Machine, block_on};
///
/// let lock = Machine::new().process("service").open("/app.lock").unwrap();
/// let guard = block_on(lock.lock()).unwrap();
/// assert!(lock.try_lock().is_err());
/// # drop(guard);
/// ```
#[track_caller]
pub fn block_on<F: Future>(future: F) -> F::Output {
    wait::block_on(future)
}

/// A path as the name of a file on the disk: without `.` and doubled separators.
fn on_disk(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}
