//! How a lock file is opened.

use std::path::Path;

use super::{FileLock, open};
use crate::error::Error;
use crate::os::{Access, Protocol, Region};
use crate::registry::{Tenure, Wanted, registry};
use crate::wait::{self, WaitOn};

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
}

impl OpenOptions {
    pub(super) fn new() -> Self {
        let access = Access { create: true, mode: None, read_only: false };
        Self {
            protocol: Protocol::default(),
            access,
            verify_path: false,
            wait_on: WaitOn::default(),
            tenure: Tenure::default(),
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
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.access.read_only = read_only;
        self
    }

    /// Whether the path must still lead to the locked file when a guard is given out; `false` by
    /// default.
    ///
    /// A lock file that no path leads to any more is noticed in any case whenever the process
    /// acquires the lock of the operating system, and everybody who waits moves to the new one.
    /// This option looks at the path for each guard, at the cost of one `lstat` (a microsecond on
    /// a local file system), and so notices as well a file that was *renamed* away, one that
    /// another hard link keeps alive, and one that was removed between two tasks of this process
    /// that hand the lock on: use it where a holder removes the lock file.
    pub fn verify_path(mut self, verify_path: bool) -> Self {
        self.verify_path = verify_path;
        self
    }

    /// Where a task of this handle that has to wait for another process parks the wait;
    /// [`WaitOn::WaitPool`] by default.
    ///
    /// With [`WaitOn::RuntimePool`] the wait is a `spawn_blocking` call of the runtime whose task
    /// begins to wait: one for each contended file, however many tasks wait. (A wait that begins when
    /// another task lets go, or an errand of a remote file system comes back busy, is parked on the
    /// wait pool: that is nobody's runtime in particular.) It counts towards
    /// [`max_blocking_threads`](tokio::runtime::Builder::max_blocking_threads), and it costs:
    /// - as many contended files as there are threads stop `tokio::fs`, DNS look-ups and everybody's
    ///   `spawn_blocking` until some holder lets go. If that holder needs one of them, for ever;
    /// - dropping the runtime waits for the parked waits to end. They are interrupted as soon as
    ///   nobody wants them; one whose future was leaked ([`std::mem::forget`]), or that a task of
    ///   another runtime waits for, holds up the drop until the lock arrives. So does every one
    ///   where waits cannot be interrupted ([`interrupt`](crate::interrupt)).
    ///
    /// The runtime's pool is also used where the process may not have another thread. If that pool
    /// has none either, tokio panics; the panic is caught here, reported by the panic hook, and
    /// becomes an error of the lock.
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

    /// Opens the lock file.
    ///
    /// Changes nothing of a file that exists, follows no symbolic link in the last component of
    /// the path, and accepts regular files only. The file-system calls run on the runtime's
    /// blocking pool, or on the crate's own where there is no runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future opens nothing, although a lock file may be created all the same.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotAFile`](crate::ErrorKind::NotAFile) if something else stands there,
    /// [`ErrorKind::ProtocolMismatch`](crate::ErrorKind::ProtocolMismatch) if this process has the
    /// file open with the other protocol,
    /// [`ErrorKind::RuntimeShutdown`](crate::ErrorKind::RuntimeShutdown) if the runtime shut down
    /// before the call ran, [`ErrorKind::Io`](crate::ErrorKind::Io) otherwise.
    pub async fn open(self, path: impl AsRef<Path>) -> Result<FileLock, Error> {
        let path = path.as_ref().to_owned();
        let job = {
            let path = path.clone();
            move || open(&path, self)
        };
        match wait::call(registry().pool(), job).await {
            Some(opened) => opened,
            None => Err(Error::runtime_shutdown(&path)),
        }
    }

    /// [`open`](OpenOptions::open) for code outside of async: makes the file-system calls on the
    /// calling thread.
    ///
    /// # Errors
    ///
    /// As [`open`](OpenOptions::open).
    pub fn blocking_open(self, path: impl AsRef<Path>) -> Result<FileLock, Error> {
        open(path.as_ref(), self)
    }

    pub(super) fn wanted(&self) -> Wanted {
        let access = Access { create: self.access.create && !self.access.read_only, ..self.access };
        Wanted {
            protocol: self.protocol,
            region: Region::ONLY,
            access,
            wait_on: self.wait_on,
            tenure: self.tenure,
        }
    }

    pub(super) fn verifies_path(&self) -> bool {
        self.verify_path
    }
}
