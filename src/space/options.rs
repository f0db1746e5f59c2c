//! How the lock files of a space are opened.

use std::path::Path;

use super::{FILES, LockSpace, lock_file};
#[cfg(any(test, feature = "test-util"))]
use crate::engine::sim;
use crate::error::Error;
use crate::os::Location;
use crate::process;
#[cfg(any(test, feature = "test-util"))]
use crate::shim::Arc;
use crate::wait;
use crate::{FileLock, OpenOptions, Protocol, Tenure, WaitOn};

/// Options for opening a [`LockSpace`], in the manner of [`OpenOptions`]. The protocol is always
/// [`Protocol::Fcntl`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tokio_filelock::LockSpace;
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("downloads.lock");
/// // Lock files that several users share.
/// let downloads = LockSpace::options().mode(0o666).open(&path).await?;
/// # drop(downloads);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "options open nothing by themselves"]
pub struct LockSpaceOptions {
    file: OpenOptions,
}

impl LockSpaceOptions {
    pub(super) fn new() -> Self {
        Self { file: FileLock::options().protocol(Protocol::Fcntl).in_use() }
    }

    /// Whether lock files that are missing are created; see [`OpenOptions::create`].
    pub fn create(self, create: bool) -> Self {
        Self { file: self.file.create(create) }
    }

    /// The permission bits of lock files that this call creates; see [`OpenOptions::mode`]. An
    /// exclusive lock needs write permission.
    pub fn mode(self, mode: u32) -> Self {
        Self { file: self.file.mode(mode) }
    }

    /// Whether the path must still lead to the locked file when a guard is given out; see
    /// [`OpenOptions::verify_path`].
    pub fn verify_path(self, verify_path: bool) -> Self {
        Self { file: self.file.verify_path(verify_path) }
    }

    /// Where a task that waits for another process parks the wait; see [`OpenOptions::wait_on`].
    pub fn wait_on(self, wait_on: WaitOn) -> Self {
        Self { file: self.file.wait_on(wait_on) }
    }

    /// How long this process keeps a key for its own tasks while others may want it; see
    /// [`Tenure`].
    pub fn tenure(self, tenure: Tenure) -> Self {
        Self { file: self.file.tenure(tenure) }
    }

    /// Whether locks will do that exclude the programs of this machine only; see
    /// [`OpenOptions::this_machine_only`].
    pub fn this_machine_only(self, will_do: bool) -> Self {
        Self { file: self.file.this_machine_only(will_do) }
    }

    /// Opens the lock files.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future opens nothing, although lock files may be created all the same.
    ///
    /// # Errors
    ///
    /// As [`OpenOptions::open`], for the first lock file that cannot be opened.
    pub async fn open(self, path: impl AsRef<Path>) -> Result<LockSpace, Error> {
        let path = path.as_ref().to_owned();
        let job = {
            let path = path.clone();
            move || self.blocking_open(&path)
        };
        wait::call(process::pool(), job).await
    }

    /// [`open`](LockSpaceOptions::open) for code outside of async: makes the file-system calls on
    /// the calling thread.
    ///
    /// # Errors
    ///
    /// As [`open`](LockSpaceOptions::open).
    pub fn blocking_open(self, path: impl AsRef<Path>) -> Result<LockSpace, Error> {
        // The same directory for all the files, although the current one may change in between.
        let first = Location::of(path.as_ref())?;
        let open = |number| self.file.clone().open_at(lock_file(&first, number));
        let files = (0..FILES).map(open).collect::<Result<_, _>>()?;
        Ok(LockSpace { files })
    }

    /// Opens the lock files of a simulated process.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn open_in(
        self,
        process: &Arc<sim::Process>,
        path: &Path,
    ) -> Result<LockSpace, Error> {
        let first = Location::from(path.to_owned());
        let open = |number| self.file.clone().open_in(process, &lock_file(&first, number));
        let files = (0..FILES).map(open).collect::<Result<_, _>>()?;
        Ok(LockSpace { files })
    }
}
