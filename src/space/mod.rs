//! Many named locks in a few lock files.
//!
//! A key is a [`FileLock`] on a slot of one of the files; the name's hash says which (`slot`). The
//! space holds the files open by handles of their own, whose locks are never taken, so a key costs
//! no system call, and the files stay open while the space or any of its keys lives. A key is a name and no more until
//! it is used.

mod options;
mod slot;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use options::LockSpaceOptions;

use crate::error::Error;
use crate::lock::FileLock;
use crate::os::Location;
use slot::{FILES, Slot};

/// Any number of named locks in eight lock files.
///
/// [`key`](LockSpace::key) gives the lock of a name: a [`FileLock`], with the same queue and the same
/// guarantees. Nothing is written, and nothing is left behind for a name that was used once: a key
/// is a range of bytes far beyond the end of the file. Cloning is cheap.
///
/// # The lock files
///
/// The files are `path`, `path.1`, … `path.7`, all empty. They are eight because the kernel keeps the
/// locks of a file in a list: beside 10,000 held keys a lock and unlock take 36 µs, in one file they
/// would take 450 µs (docs/PLATFORMS.md, "Many locks in one file"). Treat them as one: to remove
/// one of them while its keys are held splits those locks, as with any lock file. On local file systems of
/// Linux the space shares flock(2) on each of them while it is open, which tells systemd-tmpfiles, from
/// version 254 on, to leave it (docs/PLATFORMS.md, "Programs that remove old files").
///
/// A thread waits in the kernel for each key that another process holds and a task here waits for.
/// On a file system that is not known to be local each lock and unlock takes a thread as well, for
/// the time of the call. A program that may want thousands of keys at once bounds it, with a semaphore. To
/// name the holder of a key when a time runs out takes as long as to list all locks of the machine; a
/// refused try asks the kernel only, which does not name this process.
///
/// # Several keys
///
/// Two names may share a slot, by a chance of one in 4·10<sup>12</sup>. Then they are one lock, which
/// costs no more than waiting, unless a task asks for the one while it holds the other: it would
/// wait for itself. To hold several keys use [`lock_all`](crate::lock_all), which takes one lock
/// once, whatever it is called.
///
/// # Where a key is
///
/// A wire format, the same in all versions and on all systems; other programs can take part. With
/// `h` the first 8 bytes of the SHA-256 of the name, as a big-endian number:
///
/// - the upper 3 bits of `h` are the number of the file, where 0 is `path` itself;
/// - the next 39 bits are the number of the slot `s`, which begins at byte 2<sup>62</sup> +
///   `s` · 2<sup>23</sup>.
///
/// A process that locks the first byte of the slot, with [`Protocol::Fcntl`](crate::Protocol) (fcntl(2)),
/// holds the key. This crate locks 1 + pid bytes, so that the holder can be told. In Python:
///
/// ```python
/// h = int.from_bytes(hashlib.sha256(name).digest()[:8], "big")
/// path = path if h >> 61 == 0 else f"{path}.{h >> 61}"
/// start = (1 << 62) + (h >> 22) % (1 << 39) * (1 << 23)
/// with open(path, "r+") as file:
///     fcntl.lockf(file, fcntl.LOCK_EX, 1, start)
/// ```
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
/// let downloads = LockSpace::open(&path).await?;
/// let guard = downloads.key("https://example.org/a.tar.gz").lock().await?;
/// // No other task fetches this one; all others are free.
/// let other = downloads.key("https://example.org/b.tar.gz").try_lock()?;
/// # drop((guard, other));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LockSpace {
    files: Arc<[FileLock]>,
}

impl LockSpace {
    /// Opens the lock files at this path, and creates those that are missing, with the default
    /// [`options`](LockSpace::options).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future opens nothing, although lock files may be created all the same.
    ///
    /// # Errors
    ///
    /// See [`LockSpaceOptions::open`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::options().open(path).await
    }

    /// The options that [`open`](LockSpace::open) uses, to change them.
    pub fn options() -> LockSpaceOptions {
        LockSpaceOptions::new()
    }

    /// The lock of this name, which is any bytes.
    ///
    /// Makes no system call and waits for nothing: what takes place is a hash of the name. Handles of one name share one queue, in this
    /// process too; ask for a new one each time, or keep it, as you like.
    #[must_use]
    pub fn key(&self, name: impl AsRef<[u8]>) -> FileLock {
        let name = name.as_ref();
        let slot = Slot::of(name);
        self.files[slot.file].of_key(name, slot.region)
    }

    /// The path of the first lock file, made absolute when the space was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.files[0].path()
    }

    /// The first of the lock files, as a lock of its own at byte 0.
    /// The lock of a name of which only the beginning of the hash is known; messages call it by that.
    pub(crate) fn key_of_hash(&self, hash: u64) -> FileLock {
        let slot = Slot::of_hash(hash);
        self.files[slot.file].of_key(format!("{hash:016x}").as_bytes(), slot.region)
    }

    pub(crate) fn first_file(&self) -> &FileLock {
        &self.files[0]
    }
}

impl fmt::Debug for LockSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockSpace").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// Where the lock file with this number is.
fn lock_file(first: &Location, number: usize) -> Location {
    if number == 0 { first.clone() } else { first.with_suffix(&format!(".{number}")) }
}
