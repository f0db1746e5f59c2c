//! How a cache directory is opened.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::CacheDir;
use super::store::{
    ROUNDS, Settings, Store, SyncPolicy, if_there, make_directory, names_to, remove_unfinished,
};
use super::waits::Waits;
use crate::error::{Error, ErrorKind, Operation};
use crate::lock::Waiting;
use crate::os::shared_directory::Directory;
use crate::process;
use crate::space::LockSpace;
use crate::wait;

/// Options for opening a [`CacheDir`], in the manner of [`std::fs::OpenOptions`].
///
/// All who share a directory should give the same.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tokio_filelock::cache::CacheDir;
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("downloads");
/// let cache = CacheDir::options()
///     .max_size(2 << 30) // 2 GiB
///     .max_age(Duration::from_secs(30 * 24 * 60 * 60))
///     .mode(0o664) // for a group of users
///     .open(&path)
///     .await?;
/// # drop(cache);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "options open nothing by themselves"]
pub struct CacheOptions {
    settings: Settings,
    read_only: bool,
    lock_file: Option<PathBuf>,
    fills: Option<LockSpace>,
    waits: Waits,
}

impl CacheOptions {
    /// The most bytes that the values may have together; no limit by default.
    ///
    /// An insert that would pass it first removes what was not used for longest, for all values that wait for room with
    /// it, and a tenth of the room more, 64 values at most, so that not each insert has to. Handles put down room for values before they
    /// insert them, a 16th of this at most, and what of that is not used yet counts as used. Values on their way in, file names and the disk's
    /// blocks do not count, nor do directories that are pinned and no value any more. A value that is larger
    /// than this is given to the caller, but not kept.
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.settings.max_size = Some(bytes);
        self
    }

    /// The greatest age of a value since it was written; no limit by default. An older one counts as
    /// absent, and is removed by [`prune`](CacheDir::prune).
    pub fn max_age(mut self, age: Duration) -> Self {
        self.settings.max_age = Some(age);
        self
    }

    /// The permission bits of everything that is created: values and lock files get these exactly,
    /// whatever the umask; directories also get the right to search where these give the right to
    /// read. By default all get the usual ones, 0666 and 0777 less the umask.
    ///
    /// Directories that are values get no other rights by this than they lack: to read, and to enter and
    /// change directories as these bits say, and to run what its owner may run. What a fill has made keeps the
    /// rights that it gave.
    ///
    /// For users who share the directory give `0o666`, or `0o664` with a common group. Who may only
    /// read has hits and cannot insert.
    pub fn mode(mut self, mode: u32) -> Self {
        self.settings.mode = Some(mode);
        self
    }

    /// What must survive a power failure; [`SyncPolicy::Values`] by default.
    pub fn sync(mut self, policy: SyncPolicy) -> Self {
        self.settings.sync = policy;
        self
    }

    /// Whether a checksum (SHA-256) is kept beside each value and compared at each hit; `false` by
    /// default. A value that does not match counts as absent; so does one that was inserted without.
    ///
    /// Finding a value then costs reading all of it. Directories have no checksums.
    pub fn checksums(mut self, checksums: bool) -> Self {
        self.settings.checksums = checksums;
        self
    }

    /// Whether the directory is only read: nothing is created, removed or cleaned up; `false` by
    /// default. What would change it is an error then, and
    /// [`get_or_insert_with`](CacheDir::get_or_insert_with) gives what its fill gave without keeping it.
    ///
    /// A directory that cannot be written to needs no more than this to be read, and not even this if
    /// it exists.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Where the lock files are: this path, and the same with `.1` to `.7` appended. By default
    /// `<directory>.lock`, beside the directory.
    ///
    /// For a directory whose parent its users may not write to. All who share the directory must give
    /// the same, and it must not be inside.
    pub fn lock_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.lock_file = Some(path.into());
        self
    }

    /// Takes the locks of fills from a space of the caller's own, in which the lock of a key is that of
    /// the same name: a task that holds `locks.key(name)` keeps fills, inserts and removals of the key
    /// out. By default the space is that of the [`lock_file`](CacheOptions::lock_file), which is needed for
    /// the directory in any case. All who share the directory must give the same.
    pub fn locks(mut self, locks: LockSpace) -> Self {
        self.fills = Some(locks);
        self
    }

    /// Whether locks will do that exclude the programs of this machine only; see
    /// [`OpenOptions::this_machine_only`](crate::OpenOptions::this_machine_only). Otherwise opening is
    /// an error where it is known to be so.
    pub fn this_machine_only(mut self, will_do: bool) -> Self {
        self.settings.this_machine_only = will_do;
        self
    }

    /// The longest that an operation waits for a lock that others hold: for a fill of the key by another
    /// task, for those who change the directory at the moment, for a lease that another process has on
    /// the value (fcntl(2), `F_SETLEASE`), and when the cache is opened, for another
    /// program that has locked the whole lock file. Then it is an error with
    /// [`ErrorKind::TimedOut`], which says who holds it ([`Error::holders`]). By default there is no limit.
    /// Hits wait for leases only. For one handle only: [`CacheDir::with_timeout`].
    ///
    /// An operation takes some locks, five as a rule at most, one after the other, and each may take so long.
    ///
    /// # Panics
    ///
    /// Operations panic if they take a lock and are not polled in a tokio runtime with its timer enabled.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.waits.limit = Some(limit);
        self
    }

    /// Calls a function when a lock has been waited for longer than `after`, and again when its holder
    /// changes: who fills the key, and since when; as [`Acquire::on_wait`](crate::Acquire::on_wait),
    /// which see. For one handle only: [`CacheDir::with_on_wait`].
    ///
    /// # Panics
    ///
    /// Operations panic if they have to wait and are not polled in a tokio runtime with its timer enabled.
    pub fn on_wait(
        mut self,
        after: Duration,
        tell: impl Fn(&Waiting<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.waits.tell = Some((after, Arc::new(tell)));
        self
    }

    /// Opens the directory, and creates it if there is none, with its parents.
    ///
    /// Removes what processes have left behind that were killed in the middle of an insert.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future opens nothing, although files and directories may be created all the
    /// same.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the directory cannot be created or found; [`ErrorKind::InvalidInput`] if it is
    /// a mount point and no [`lock_file`](CacheOptions::lock_file) is named, or if that is inside;
    /// [`ErrorKind::Unsupported`] if it is on a share of SMB (CIFS) that Linux has mounted, where nothing of
    /// what a cache promises can be kept;
    /// otherwise as [`OpenOptions::open`](crate::OpenOptions::open), for the lock files. A directory that exists
    /// and may not be written to is no error. Nor is one that another version of this crate made in a way that
    /// this one does not know: nothing is removed from it, and everything but [`clear`](CacheDir::clear) is
    /// [`ErrorKind::Unsupported`] then.
    pub async fn open(self, directory: impl AsRef<Path>) -> Result<CacheDir, Error> {
        let path = directory.as_ref().to_owned();
        let find = {
            let (path, options) = (path.clone(), self.clone());
            move || options.find(&path)
        };
        let (store, lock_file) = wait::call(process::pool(), find).await?;
        let cache = CacheDir::new(store, lock_file, self.fills, self.read_only, self.waits);
        cache.clean_up().await?;
        Ok(cache)
    }

    /// [`open`](CacheOptions::open) for code outside of async: blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`open`](CacheOptions::open).
    ///
    /// # Panics
    ///
    /// As [`CacheDir::blocking_get`].
    pub fn blocking_open(self, directory: impl AsRef<Path>) -> Result<CacheDir, Error> {
        wait::block_on(self.open(directory))
    }

    #[cfg(test)]
    pub(super) fn find_here(self, path: &Path) {
        self.find(path).unwrap();
    }

    /// Blocks for the time of the calls.
    fn find(self, path: &Path) -> Result<(Store, PathBuf), Error> {
        let failed = |error| Error::os(ErrorKind::Io, Operation::OpenCache, path, error);
        let (directory, held) = find(path, &self.settings, self.read_only).map_err(failed)?;
        let senseless = |detail: &str| {
            Error::found(ErrorKind::InvalidInput, Operation::OpenCache, &directory, detail)
        };
        if held.is_seen_late() {
            let detail = "it is on a share of SMB (CIFS), whose client takes names and sizes for true that \
                          others have changed: keys would be filled twice, inserts fail, and limits be \
                          passed; use a directory on a local file system or on NFS";
            let kind = ErrorKind::Unsupported;
            return Err(Error::found(kind, Operation::OpenCache, &directory, detail));
        }
        let lock_file = match self.lock_file {
            Some(lock_file) => {
                let lock_file = std::path::absolute(lock_file).map_err(failed)?;
                let place = lock_file.parent().and_then(|parent| parent.canonicalize().ok());
                if place.is_some_and(|place| place.starts_with(&directory)) {
                    return Err(senseless(
                        "its `lock_file` is inside, where a wipe of the directory removes it; \
                         name one outside",
                    ));
                }
                lock_file
            }
            None => {
                if !self.read_only && is_mount_point(&directory, &held) {
                    return Err(senseless(
                        "it is a mount point, so the lock files would lie beside it and not in what \
                         is mounted, and others who mount it would have locks of their own: use a \
                         subdirectory of it, or name with `lock_file` a place that all of them see",
                    ));
                }
                let mut path = directory.clone().into_os_string();
                path.push(".lock");
                path.into()
            }
        };
        Ok((Store::new(directory, held, self.settings), lock_file))
    }
}

/// One path for all who share the directory, however they call it: the lock files lie beside that.
fn find(path: &Path, settings: &Settings, read_only: bool) -> io::Result<(PathBuf, Directory)> {
    let path = std::path::absolute(path)?;
    let mut rounds = 0..ROUNDS;
    loop {
        let found = path.canonicalize().and_then(|found| {
            let directory = Directory::open(&found)?;
            if !directory.is_led_to_by(&path)? {
                // Exchanged in the same moment.
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok((directory, found))
        });
        match found {
            // Another process may wipe it as soon as it is there.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !read_only => {
                rounds.next().ok_or(error)?;
            }
            found => {
                let (directory, path) = found?;
                if !read_only {
                    if settings.mode.is_some() {
                        remove_unfinished(&path);
                    }
                    names_to(&path, settings)?;
                }
                return Ok((path, directory));
            }
        }
        // The parents are not the cache's own: the path leads through their links, and they get the usual
        // permissions.
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        if_there(make_directory(&path, settings))?;
    }
}

/// As far as the system tells.
fn is_mount_point(path: &Path, directory: &Directory) -> bool {
    let parent = path.parent().and_then(|parent| Directory::open(parent).ok());
    let mounts = (directory.mount(), parent.and_then(|parent| parent.mount()));
    matches!(mounts, (Some(inside), Some(outside)) if inside != outside)
}
