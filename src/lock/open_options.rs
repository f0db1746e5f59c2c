//! How a lock file is opened.

use std::path::Path;

use super::FileLock;
use crate::driver::Tenure;
use crate::engine::Signature;
use crate::engine::file::{Origin, Wanted};
#[cfg(any(test, feature = "test-util"))]
use crate::engine::sim;
use crate::error::{Error, ErrorKind, Operation};
use crate::holder::{Label, Process, is_fit_for_a_record};
use crate::os::{self, Access, Location, Protocol, Region};
use crate::process;
use crate::shim::Arc;
use crate::wait::{self, WaitOn};

pub(super) const UNFIT_LABEL: &str = "its label is not one line of 1 to 200 bytes without control \
     characters, marks of text direction and letters that are not seen";

/// Options for opening a lock file, in the manner of [`std::fs::OpenOptions`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tokio_filelock::{FileLock, Protocol};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("mailbox.lock");
/// // A lock file that a group of users shares, with programs that call lockf(3).
/// let lock = FileLock::options().protocol(Protocol::Fcntl).mode(0o664).open(&path).await?;
/// # drop(lock);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "options open nothing by themselves"]
pub struct OpenOptions {
    protocol: Protocol,
    access: Access,
    verify_path: bool,
    wait_on: WaitOn,
    tenure: Tenure,
    record: bool,
    require_record: bool,
    label: Option<Label>,
    this_machine_only: bool,
}

impl OpenOptions {
    pub(super) fn new() -> Self {
        let access =
            Access { create: true, mode: None, read_only: false, in_use: false, patient: true };
        Self {
            protocol: Protocol::default(),
            access,
            verify_path: false,
            wait_on: WaitOn::default(),
            tenure: Tenure::default(),
            record: false,
            require_record: false,
            label: None,
            this_machine_only: false,
        }
    }

    /// Which lock of the operating system is taken; [`Protocol::Flock`] by default.
    ///
    /// All programs that share the lock file must take the same one. Within one process, opening
    /// one file with two protocols is an error.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// For lock files that no program locks by flock(2): they tell programs that remove old files that they
    /// are in use.
    pub(crate) fn in_use(mut self) -> Self {
        self.access.in_use = true;
        self
    }

    /// Whether the lock file is created if there is none; `true` by default.
    ///
    /// Its directory is never created.
    pub fn create(mut self, create: bool) -> Self {
        self.access.create = create;
        self
    }

    /// The permission bits of a lock file that this call creates: these exactly, whatever the
    /// umask. By default it gets 0666 less the umask, as other files do. A file that exists keeps
    /// its own.
    ///
    /// Has no meaning on Windows.
    ///
    /// For a lock that several users share, give `0o666`: a user who can only read the lock file
    /// can, on most file systems, take the shared lock only.
    pub fn mode(mut self, mode: u32) -> Self {
        self.access.mode = Some(mode);
        self
    }

    /// Whether the lock file is opened for reading only; `false` by default. It is not created
    /// then.
    ///
    /// A shared lock needs no more. An exclusive one is granted by flock(2) on local file systems,
    /// and refused with [`ErrorKind::WrongAccess`](crate::ErrorKind::WrongAccess) by fcntl(2) and
    /// on NFS. Without this option a file that cannot be opened for writing is opened for reading,
    /// to the same effect.
    ///
    /// A program that watches the directory (inotify(7)) takes the closing of a file that was open for writing for
    /// a change; not that of one that was open for reading only.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.access.read_only = read_only;
        self
    }

    /// Whether the path must still lead to the locked file when a guard is given out; `false` by
    /// default.
    ///
    /// A lock file that no path leads to any more is noticed in any case whenever the process
    /// acquires the lock of the operating system, and every waiter moves to the new one.
    /// This option looks at the path for each guard, and so notices as well a file that was *renamed* away, one that
    /// another hard link keeps alive, and one that was removed between two tasks of this process
    /// that hand the lock on: use it where a holder removes the lock file. It costs two system calls on ext4, xfs and
    /// btrfs, six on tmpfs, and 25 on overlayfs, where the file has to be opened to tell which one it is.
    pub fn verify_path(mut self, verify_path: bool) -> Self {
        self.verify_path = verify_path;
        self
    }

    /// Where a task of this handle that has to wait for another process parks the wait;
    /// [`WaitOn::WaitPool`] by default.
    ///
    /// With [`WaitOn::RuntimePool`] the wait is a `spawn_blocking` call of the multi-thread runtime whose
    /// task begins to wait: one for each contended file, however many tasks wait. (A wait that begins when
    /// another task lets go, or an errand of a remote file system comes back busy, is parked on the
    /// wait pool, for there is no runtime to tell.) It counts towards
    /// [`max_blocking_threads`](tokio::runtime::Builder::max_blocking_threads), and it costs:
    /// - as many contended files as there are threads stop `tokio::fs`, DNS look-ups and every
    ///   `spawn_blocking` until some holder lets go. If that holder needs one of them, for ever;
    /// - dropping the runtime waits for the parked waits to end. They are interrupted as soon as
    ///   no task wants them; one whose future was leaked ([`std::mem::forget`]), or that a task of
    ///   another runtime waits for, holds up the drop until the lock arrives. So does one whose signal
    ///   was taken by the program meanwhile ([`interrupt`](crate::interrupt)).
    ///
    /// A current-thread runtime is not asked, for its pool panics if it has no thread and may not have
    /// one. That of a multi-thread runtime leaves the call in its queue then, so a thread is started, and
    /// ended, to see whether there is one to be had. Otherwise, and with [`WaitOn::WaitPool`], the error is
    /// [`ErrorKind::NoThread`].
    pub fn wait_on(mut self, wait_on: WaitOn) -> Self {
        self.wait_on = wait_on;
        self
    }

    /// How long this process keeps the lock of the operating system for its own tasks while others
    /// may want it; see [`Tenure`].
    pub fn tenure(mut self, tenure: Tenure) -> Self {
        self.tenure = tenure;
        self
    }

    /// Whether a lock will do that excludes the programs of this machine only; `false` by default,
    /// and then opening is an error where it is known to be so.
    ///
    /// Known are 9p, sshfs, NFS mounts with `nolock` or `local_lock`, CIFS mounts with `nobrl`, and cluster file systems that are told so,
    /// by what `/proc/thread-self/mountinfo` says of the mount. Where that does not tell of the mount of a
    /// remote file system, opening is an error as well. docs/PLATFORMS.md tells what is not known.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio_filelock::FileLock;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("app.lock");
    /// // No program locks this file from outside of the virtual machine.
    /// let lock = FileLock::options().this_machine_only(true).open(&path).await?;
    /// # drop(lock);
    /// # Ok(())
    /// # }
    /// ```
    pub fn this_machine_only(mut self, will_do: bool) -> Self {
        self.this_machine_only = will_do;
        self
    }

    /// Whether this process leaves a [`Record`](crate::Record) of itself in the lock file while it
    /// holds the lock exclusively; `false` by default.
    ///
    /// With records, waiters of any process learn since when the lock is held and for what
    /// ([`FileLock::holders`]); a holder that died in the middle of its work is found by the next one
    /// ([`ExclusiveGuard::abandoned`](crate::ExclusiveGuard::abandoned)), and guards carry a number
    /// that grows with every tenure ([`ExclusiveGuard::token`](crate::ExclusiveGuard::token)). All
    /// of that needs every program that takes the lock to leave records.
    ///
    /// Only the holder writes the record, after it has acquired the lock from the operating system,
    /// and marks it as released before the lock goes back: three small reads and
    /// writes for each exclusive tenure, made in place on a local file system. A handover inside the
    /// process changes nothing. It is a text of at most 4,096 bytes whose first line is the
    /// pid; it **replaces the content of the lock file**, unless that is more than a record can be or the
    /// file has another name as well: it may be the data of a program then, and the record is one that cannot be written. It is never forced to disk: after a crash of
    /// the machine an older one may be there, with an older token.
    ///
    /// Where it cannot be written (a disk that is full, a quota, a file system that was made read-only, a
    /// server that fails) the lock is given all the same, with no token, and the content of the file stays as it was:
    /// a dead holder is told then, and to the next one again; that this holder dies is not. With
    /// [`require_record`](Self::require_record) it is an error instead. That the file itself may not be written
    /// to is an error of opening.
    ///
    /// Handles of one file share the record: it is written from the next tenure on after any of them
    /// asked for it, for as long as the process has the file open. It carries the
    /// [label](crate::Acquire::label) of the holder with which the tenure began.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio_filelock::FileLock;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("index.lock");
    /// let lock = FileLock::options().record(true).label("nightly rebuild").open(&path).await?;
    /// let guard = lock.lock().await?;
    /// if let Some(dead) = guard.abandoned() {
    ///     println!("process {} died while it held the lock: repairing the index", dead.pid());
    /// }
    /// let text = std::fs::read_to_string(&path)?;
    /// assert_eq!(text.lines().next(), Some(std::process::id().to_string().as_str()));
    /// assert_eq!(guard.token(), Some(1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn record(mut self, record: bool) -> Self {
        self.record = record;
        self
    }

    /// Whether an exclusive lock without its [`record`](Self::record) is worse than none; `false` by default.
    ///
    /// Where the record cannot be written, as on a full disk, no task gets the exclusive lock then, through
    /// any handle of the file in this process: the error is that of the write, mostly
    /// [`ErrorKind::Io`]. For programs that rely on the
    /// [`token`](crate::ExclusiveGuard::token) or on [`abandoned`](crate::ExclusiveGuard::abandoned).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio_filelock::FileLock;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("leader.lock");
    /// let lock = FileLock::options().record(true).require_record(true).open(&path).await?;
    /// let guard = lock.lock().await?;
    /// assert!(guard.token().is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn require_record(mut self, require_record: bool) -> Self {
        self.require_record = require_record;
        self
    }

    /// What this process does with the lock: the label of acquisitions of this handle that have
    /// [none of their own](crate::Acquire::label), which says more. One line of at most 200 bytes, without
    /// characters that control, are invisible or change the direction of text.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into().into());
        self
    }

    /// Opens the lock file.
    ///
    /// Changes nothing of a file that exists, follows no symbolic link in the last component of
    /// the path, and accepts regular files only. The file-system calls run on a
    /// thread of this crate, at most 512 of such calls at a time; where the process may not have another
    /// thread, on this one. No runtime waits for them when it is dropped; a clock that a test has paused
    /// (`tokio::time::pause`) stands still until they are over.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future opens nothing, although a lock file may be created all the same.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if a [`label`](Self::label) is not fit for a record, a record is
    /// required and none is to be left, or one is to be left through a handle that is read-only; [`ErrorKind::WrongAccess`] if one is to be left in
    /// a file that may not be written;
    /// [`ErrorKind::NotAFile`](crate::ErrorKind::NotAFile) if something else stands there,
    /// [`ErrorKind::ProtocolMismatch`](crate::ErrorKind::ProtocolMismatch) if this process has the
    /// file open with the other protocol,
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where locks are known to exclude
    /// this machine only and that [is not enough](Self::this_machine_only),
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) otherwise.
    pub async fn open(self, path: impl AsRef<Path>) -> Result<FileLock, Error> {
        let path = path.as_ref().to_owned();
        let job = {
            let path = path.clone();
            move || self.blocking_open(&path)
        };
        wait::call(process::pool(), job).await
    }

    /// [`open`](OpenOptions::open) for code outside of async: makes the file-system calls on the
    /// calling thread.
    ///
    /// # Errors
    ///
    /// As [`open`](OpenOptions::open).
    pub fn blocking_open(self, path: impl AsRef<Path>) -> Result<FileLock, Error> {
        self.open_at(Location::of(path.as_ref())?)
    }

    /// As [`blocking_open`](OpenOptions::blocking_open).
    pub(crate) fn open_at(self, location: Location) -> Result<FileLock, Error> {
        let signature = self.signature(&location, os::this_process)?;
        let handle = Origin::open(location, self.wanted(signature), self.verify_path)?;
        Ok(FileLock { handle: Arc::new(handle) })
    }

    /// Opens the lock file of a simulated process.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn open_in(
        self,
        process: &Arc<sim::Process>,
        path: &Path,
    ) -> Result<FileLock, Error> {
        let record = self.signature(path, || process.identity())?;
        let wanted = sim::Wanted {
            protocol: self.protocol,
            region: Region::ONLY,
            create: self.access.create,
            read_only: self.access.read_only,
            tenure: self.tenure,
            record,
            label: self.label,
        };
        let handle = sim::Origin::open(process, path, wanted, self.verify_path)?;
        Ok(FileLock { handle: Arc::new(handle) })
    }

    fn signature(
        &self,
        path: &Path,
        process: impl FnOnce() -> Process,
    ) -> Result<Option<Arc<Signature>>, Error> {
        let refused = |detail| Error::found(ErrorKind::InvalidInput, Operation::Open, path, detail);
        if let Some(label) = &self.label {
            if !is_fit_for_a_record(label) {
                return Err(refused(UNFIT_LABEL));
            }
        }
        if self.require_record && !self.record {
            return Err(refused("a record is required and none is to be left: `record` is off"));
        }
        if self.record && self.access.read_only {
            return Err(refused(
                "a record can not be left through a read-only handle: open it for writing, or \
                 without a record",
            ));
        }
        let signature = || Signature::new(&process(), self.require_record);
        Ok(self.record.then(|| Arc::new(signature())))
    }

    fn wanted(&self, record: Option<Arc<Signature>>) -> Wanted {
        let access = Access { create: self.access.create && !self.access.read_only, ..self.access };
        Wanted {
            protocol: self.protocol,
            region: Region::ONLY,
            access,
            wait_on: self.wait_on,
            tenure: self.tenure,
            record,
            label: self.label.clone(),
            this_machine_only: self.this_machine_only,
        }
    }
}
