//! Directories as values: filling, finding and pinning them.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::fill::{Found, find_or_fill};
use super::key::Key;
use super::nested::{FillLock, Inside};
use super::pin;
use super::store::{FoundDirectory, Freshness, Noted, Staging};
use super::{CacheDir, FillError, Inner};
use crate::error::{Error, Operation};
use crate::lock::{FileLock, SharedGuard};
use crate::os::{Protocol, fork};
use crate::process;
use crate::wait;

/// A value of a [`CacheDir`] that is a directory.
///
/// **It may vanish at any time**, unless it is pinned: others may replace, remove or prune it, and then
/// what is at [`path`](Dir::path) is deleted, also while it is read. [`pin`](Dir::pin) keeps it.
///
/// What a fill has given is pinned for as long as this lives.
#[derive(Debug, Clone)]
pub struct Dir {
    cache: CacheDir,
    found: Arc<FoundDirectory>,
    pin: Option<Pin>,
}

impl Dir {
    /// Where the directory was found. Without a [pin](Dir::pin) it may be gone already.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.found.path
    }

    /// The bytes of all files in it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.found.bytes
    }

    /// When it was put in its place.
    #[must_use]
    pub fn modified(&self) -> SystemTime {
        self.found.modified
    }

    /// Keeps the directory where it is and as it is, until the pin and its clones are dropped, or the
    /// process has died: whatever becomes of the key meanwhile. `None` if the directory is gone; then look or fill
    /// again.
    ///
    /// A pin is a shared lock of the lock file, which takes no right to write. A process that replaces, removes, prunes
    /// or clears does not wait for it: the key has its next value at once, and the directory is deleted after its last pin. It
    /// takes room on the disk until then, which does not count for [`max_size`](super::CacheOptions::max_size).
    ///
    /// A pin keeps out those who use this crate. It does not keep what other programs delete or change.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time.
    ///
    /// # Errors
    ///
    /// As [`FileLock::lock_shared`], if the lock file cannot be opened or locked.
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the directory cannot be looked at.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("cache");
    /// let cache = tokio_filelock::CacheDir::open(&path).await?;
    /// let unpack = |dir: std::path::PathBuf| async move { tokio::fs::write(dir.join("a"), "1").await };
    /// let pin = loop {
    ///     let dir = cache.get_or_insert_dir_with("archive", unpack).await?;
    ///     if let Some(pin) = dir.pin().await? {
    ///         break pin;
    ///     }
    /// };
    /// cache.remove("archive").await?;
    /// assert_eq!(std::fs::read(pin.path().join("a"))?, b"1");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn pin(&self) -> Result<Option<Pin>, Error> {
        if let Some(pin) = &self.pin {
            return Ok(Some(pin.clone()));
        }
        let lock = async {
            let file = self.cache.pins().await?;
            let generation = &self.found.generation;
            let lock = pin::lock_of(&file, generation.name(), generation.number());
            self.cache.waits.lock_shared(&lock).await
        };
        let is_there = async {
            let generation = self.found.generation.clone();
            let look = move |inner: &Inner| inner.store.is_there(&generation);
            self.cache.call(Operation::ReadValue, self.path(), look).await
        };
        let guard = pin::pin(lock, is_there).await?;
        Ok(guard.map(|guard| Pin::new(self.cache.inner.clone(), self.found.clone(), guard)))
    }

    /// [`pin`](Dir::pin) for code outside of async: blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`pin`](Dir::pin).
    ///
    /// # Panics
    ///
    /// As [`CacheDir::blocking_get`].
    pub fn blocking_pin(&self) -> Result<Option<Pin>, Error> {
        wait::block_on(self.pin())
    }
}

/// Keeps a [directory](Dir) where it is, until this and its clones are dropped.
#[derive(Clone)]
pub struct Pin(Arc<Pinned>);

struct Pinned {
    /// `None` when it is dropped.
    guard: Option<SharedGuard>,
    process: fork::Generation,
    cache: Arc<Inner>,
    found: Arc<FoundDirectory>,
}

impl Pin {
    fn new(cache: Arc<Inner>, found: Arc<FoundDirectory>, guard: SharedGuard) -> Self {
        let process = fork::Generation::current();
        Self(Arc::new(Pinned { guard: Some(guard), process, cache, found }))
    }

    /// Where the directory is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.found.path
    }
}

impl AsRef<Path> for Pin {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pin").field(&self.path()).finish()
    }
}

/// The last pin of a directory that has no name any more is followed by its deletion.
impl Drop for Pinned {
    fn drop(&mut self) {
        self.guard = None;
        if self.process.is_inherited() {
            return; // it is the parent's
        }
        let (cache, found) = (self.cache.clone(), self.found.clone());
        if cache.locks.get().is_some() {
            wait::leave(process::pool(), move || {
                cache.store.remove_if_marked(&found.generation, cache.writer());
            });
        }
    }
}

/// A directory that is filled. Dropping it removes what is there, on another thread: a task may be dropped
/// where nothing may block.
struct Staged {
    cache: Arc<Inner>,
    /// `None` when it has gone its way.
    staging: Option<Staging>,
    process: fork::Generation,
}

impl Staged {
    fn staging(&self) -> &Staging {
        self.staging.as_ref().expect("on its way in")
    }

    fn placed(mut self) {
        self.staging = None;
    }

    /// Blocks for the time of the calls.
    fn discard(mut self) {
        if let Some(staging) = self.staging.take() {
            self.cache.store.discard(staging, self.cache.writer());
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let staging = self.staging.take();
        if let Some(staging) = staging.filter(|_| !self.process.is_inherited()) {
            let cache = self.cache.clone();
            wait::leave(process::pool(), move || cache.store.discard(staging, cache.writer()));
        }
    }
}

impl CacheDir {
    /// The directory that is the value of a key, if there is one. A key whose value is a file has none.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time.
    ///
    /// # Errors
    ///
    /// As [`get`](CacheDir::get).
    pub async fn get_dir(&self, key: impl AsRef<[u8]>) -> Result<Option<Dir>, Error> {
        let key = Arc::new(Key::new(key.as_ref()));
        let found = self.look_for_dir(&key, Freshness::AsKnown, Noted::AsUse).await?;
        self.count_look(found.is_some());
        Ok(found)
    }

    /// As [`get_dir`](CacheDir::get_dir), without being a use of the value: see [`peek`](CacheDir::peek).
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time.
    ///
    /// # Errors
    ///
    /// As [`get`](CacheDir::get).
    pub async fn peek_dir(&self, key: impl AsRef<[u8]>) -> Result<Option<Dir>, Error> {
        let key = Arc::new(Key::new(key.as_ref()));
        self.look_for_dir(&key, Freshness::AsKnown, Noted::Not).await
    }

    /// The directory that is the value of a key; if there is none, one that `fill` has filled is inserted
    /// first.
    ///
    /// As [`get_or_insert_with`](CacheDir::get_or_insert_with), but for what the value is: one fill at a time for
    /// a key, among all tasks and processes.
    ///
    /// `fill` is given the path of an empty directory, in the cache directory; where other users may write to that, on
    /// Linux, it is one in `/proc` that leads to the empty directory whatever they do. When it is done no code may change what is
    /// in there any more. There may be files, directories and symbolic links, 128 directories deep at most. If `fill`
    /// fails, is cancelled or killed, the directory is removed with all that is in it.
    ///
    /// A key has one value, a file or a directory: what is inserted replaces the other.
    ///
    /// # Cancel safety
    ///
    /// As [`get_or_insert_with`](CacheDir::get_or_insert_with). What a cancelled fill has left running, on the
    /// threads of `tokio::fs` for one, does not find the directory any more.
    ///
    /// # Errors
    ///
    /// As [`get_or_insert_with`](CacheDir::get_or_insert_with). [`ErrorKind::Io`](crate::ErrorKind::Io) as well if
    /// the cache directory was wiped while `fill` ran, or the tree is too deep.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("cache");
    /// let cache = tokio_filelock::CacheDir::open(&path).await?;
    /// let unpack = |dir: std::path::PathBuf| async move {
    ///     tokio::fs::create_dir(dir.join("src")).await?;
    ///     tokio::fs::write(dir.join("src/lib.rs"), "//! A library.").await
    /// };
    /// let dir = cache.get_or_insert_dir_with("library-1.0.tar.gz", unpack).await?;
    /// assert_eq!(std::fs::read_to_string(dir.path().join("src/lib.rs"))?, "//! A library.");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_or_insert_dir_with<F, Fut, E>(
        &self,
        key: impl AsRef<[u8]>,
        fill: F,
    ) -> Result<Dir, FillError<E>>
    where
        F: FnOnce(PathBuf) -> Fut,
        Fut: Future<Output = Result<(), E>>,
    {
        let key = Arc::new(Key::new(key.as_ref()));
        let look = self.look_for_dir_to_fill(&key, Freshness::AsKnown);
        let look_again = self.look_for_dir_to_fill(&key, Freshness::AtServer);
        let lock = self.lock_fill(&key);
        let fill = |(lock, held): (FileLock, FillLock)| async {
            let inside = Inside::of(key.clone(), lock, &held);
            let (staged, bytes) = inside.poll(self.fill_dir(&key, fill)).await?;
            self.publish_dir(&key, staged, bytes, held).await.map_err(FillError::Cache)
        };
        let counts = &self.inner.counts;
        let (dir, count) = match find_or_fill(look, lock, look_again, fill).await? {
            Found::Present(dir) => (dir, &counts.hits),
            Found::Awaited(dir) => (dir, &counts.waits),
            Found::Filled(dir) => (dir, &counts.fills),
        };
        count.up();
        Ok(dir)
    }

    /// Inserts a directory, in place of the value that there may be, and gives it.
    ///
    /// `fill` is that of [`get_or_insert_dir_with`](CacheDir::get_or_insert_dir_with). Several may fill a directory
    /// for one key at the same time; each takes its place in one step, and the last one stays.
    ///
    /// # Cancel safety
    ///
    /// As [`insert`](CacheDir::insert).
    ///
    /// # Errors
    ///
    /// [`FillError::Fill`] with the error of `fill`. [`FillError::Cache`] as
    /// [`get_or_insert_dir_with`](CacheDir::get_or_insert_dir_with).
    pub async fn insert_dir<F, Fut, E>(
        &self,
        key: impl AsRef<[u8]>,
        fill: F,
    ) -> Result<Dir, FillError<E>>
    where
        F: FnOnce(PathBuf) -> Fut,
        Fut: Future<Output = Result<(), E>>,
    {
        let key = Arc::new(Key::new(key.as_ref()));
        let (staged, bytes) = self.fill_dir(&key, fill).await?;
        let (_, held) = self.lock_fill(&key).await?;
        Ok(self.publish_dir(&key, staged, bytes, held).await?)
    }

    /// [`get_dir`](CacheDir::get_dir) for code outside of async: blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`get_dir`](CacheDir::get_dir).
    ///
    /// # Panics
    ///
    /// As [`blocking_get`](CacheDir::blocking_get).
    pub fn blocking_get_dir(&self, key: impl AsRef<[u8]>) -> Result<Option<Dir>, Error> {
        wait::block_on(self.get_dir(key))
    }

    /// [`get_or_insert_dir_with`](CacheDir::get_or_insert_dir_with) for code outside of async: blocks the thread,
    /// and calls the function on it, which must not use blocking forms of the cache itself.
    ///
    /// # Errors
    ///
    /// As [`get_or_insert_dir_with`](CacheDir::get_or_insert_dir_with).
    ///
    /// # Panics
    ///
    /// As [`blocking_get`](CacheDir::blocking_get).
    pub fn blocking_get_or_insert_dir_with<E>(
        &self,
        key: impl AsRef<[u8]>,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Dir, FillError<E>> {
        wait::block_on(self.get_or_insert_dir_with(key, |dir| async move { fill(&dir) }))
    }

    /// [`insert_dir`](CacheDir::insert_dir) for code outside of async: blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`insert_dir`](CacheDir::insert_dir).
    ///
    /// # Panics
    ///
    /// As [`blocking_get`](CacheDir::blocking_get).
    pub fn blocking_insert_dir<E>(
        &self,
        key: impl AsRef<[u8]>,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Dir, FillError<E>> {
        wait::block_on(self.insert_dir(key, |dir| async move { fill(&dir) }))
    }

    async fn look_for_dir(
        &self,
        key: &Arc<Key>,
        freshness: Freshness,
        noted: Noted,
    ) -> Result<Option<Dir>, Error> {
        let key = key.clone();
        let look =
            move |inner: &Inner, _: &_| inner.store.look_for_directory(&key, freshness, noted);
        let found = self.look_patiently(look).await?;
        Ok(found.map(|found| Dir { cache: self.clone(), found: Arc::new(found), pin: None }))
    }

    async fn look_for_dir_to_fill(
        &self,
        key: &Arc<Key>,
        freshness: Freshness,
    ) -> Result<Option<Dir>, Error> {
        super::unless_strange(self.look_for_dir(key, freshness, Noted::AsUse).await)
    }

    /// A directory that is filled, and how many bytes it has.
    async fn fill_dir<F, Fut, E>(&self, key: &Key, fill: F) -> Result<(Staged, u64), FillError<E>>
    where
        F: FnOnce(PathBuf) -> Fut,
        Fut: Future<Output = Result<(), E>>,
    {
        self.locks().await?;
        let path = self.inner.store.value(key);
        let cache = self.inner.clone();
        let staged = self
            .call(Operation::StoreValue, &path, move |inner| {
                let staging = Some(inner.store.stage(inner.writer())?);
                Ok(Staged { cache, staging, process: fork::Generation::current() })
            })
            .await?;
        if let Err(error) = fill(staged.staging().path.clone()).await {
            self.run(move |_| staged.discard()).await;
            return Err(FillError::Fill(error));
        }
        let finished = self.call(Operation::StoreValue, path, move |inner| {
            match inner.store.finish_directory(staged.staging()) {
                Ok(bytes) => Ok((staged, bytes)),
                Err(error) => {
                    staged.discard();
                    Err(error)
                }
            }
        });
        Ok(finished.await?)
    }

    /// Puts a directory in its place.
    async fn publish_dir(
        &self,
        key: &Arc<Key>,
        staged: Staged,
        bytes: u64,
        fill: FillLock,
    ) -> Result<Dir, Error> {
        let directory = self.lock_directory_to_publish().await?;
        let turn = self.turn(directory.is_alone()).await;
        let (path, key) = (self.inner.store.value(key), key.clone());
        let cache = self.inner.clone();
        let publish = self.change(Operation::StoreValue, path, move |inner| {
            let _turn = turn;
            let (store, writer) = (&inner.store, inner.writer());
            let published = match store.publish_directory(&key, staged.staging(), bytes, writer) {
                Ok(published) => published,
                Err(error) => {
                    staged.discard();
                    return Err(error);
                }
            };
            staged.placed();
            // Also for a caller that is gone by now.
            let (found, guard) = (Arc::new(published.found), published.lock.downgrade());
            let pin = Pin::new(cache, found.clone(), guard);
            drop(directory);
            store.settle(&key)?;
            drop(fill);
            // After a power failure there is the one or the other.
            if let Some(replaced) = &published.replaced {
                let _ = store.remove_garbage(replaced, writer);
            }
            Ok((found, pin))
        });
        let (found, pin) = publish.await?;
        Ok(Dir { cache: self.clone(), found, pin: Some(pin) })
    }

    /// The lock file, opened for no more than this process may.
    async fn pins(&self) -> Result<FileLock, Error> {
        let Inner { store, lock_file, read_only, locks, shared, .. } = &*self.inner;
        if let Some(locks) = locks.get() {
            return Ok(locks.directory().clone());
        }
        let open = async {
            let options = FileLock::options().protocol(Protocol::Fcntl).read_only(*read_only);
            let options = options.this_machine_only(store.settings.this_machine_only);
            options.create(false).open(lock_file).await
        };
        shared.get_or_open(open).await.cloned()
    }
}
