//! A cache directory that tasks and processes share.
//!
//! [`CacheDir`] is the handle, and says what it promises. The directory is made of ordinary files, one
//! for each value; docs/CACHE.md describes them for other programs.

mod blocking;
mod directory;
mod entries;
mod entry;
mod fill;
mod key;
mod leases;
mod locks;
mod nested;
mod options;
mod pin;
mod publish;
mod receive;
mod stats;
mod store;
mod turns;
mod value;
mod waits;

#[cfg(test)]
mod models;

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use directory::{Dir, Pin};
pub use entries::{Entries, Listed};
pub use entry::Entry;
pub use fill::FillError;
pub use options::CacheOptions;
pub use stats::Stats;
pub use store::{Removed, SyncPolicy};
pub use value::IntoValue;

use crate::error::{Error, ErrorKind, Operation};
use crate::lock::{ExclusiveGuard, FileLock, SharedGuard, Waiting};
use crate::process;
use crate::space::LockSpace;
use crate::wait;
use fill::{Found, find_or_fill};
use key::Key;
use leases::{LEASES_END, Leases};
use locks::Locks;
use nested::{Asked, FillLock, Inside};
use stats::Counts;
use store::{Freshness, Noted, Store, named};
use turns::{Opened, Turn, Turns};
use waits::Waits;

/// So many tasks that share the directory change values at once, each on a thread. What more there are wait, when they have their
/// locks: so a task that has a turn waits for no lock, and no wait for a lock keeps others from their turns.
const CHANGES_AT_ONCE: usize = 64;

/// A directory of values that tasks and processes share: computed once, read often.
///
/// A key is any bytes, a value is a file, or a [directory](CacheDir::get_or_insert_dir_with). [`get_or_insert_with`](CacheDir::get_or_insert_with) is the
/// main thing: among all tasks and processes that ask for a value at the same time, one makes it, and
/// the others wait and get it.
///
/// What it promises:
/// - **One fill per key.** If the one who fills fails, is cancelled or killed, the next one fills; the
///   error goes to the one whose fill failed.
/// - **Readers do not wait.** A hit takes no lock: it opens a file. It finds a whole value or none,
///   and keeps what it has opened while the value is replaced, removed or pruned.
/// - **Any key, any length of value.** A value is never in memory as a whole, unless you
///   [`read`](Entry::read) it so.
/// - **Limits hold** ([`max_size`](CacheOptions::max_size), [`max_age`](CacheOptions::max_age)), also
///   while others insert.
/// - **Wiping is allowed.** `rm -rf` of the directory at any moment breaks no lock, loses no insert of a file that
///   is under way, and makes no operation on files fail. Directories may be found half wiped, pinned or not: use
///   [`clear`](CacheDir::clear) where there are any. The lock files lie beside the directory:
///   `<directory>.lock` and the same with `.1` to `.7` (see [`LockSpace`]).
///   Leave those alone.
/// - **Crash-safe.** A process that is killed leaves no torn value, and no lock. What it had half
///   written is removed when the directory is opened next.
///
/// It is a cache: values may go at any moment, and a fill should give the same value in each process that runs it.
/// Trust the directory no more than those who may write to it.
///
/// Cloning is cheap. All handles of a process that lead to one directory work together, but each
/// counts for itself ([`stats`](CacheDir::stats)).
///
/// # Examples
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tokio_filelock::CacheDir;
/// # async fn download(_url: &str) -> std::io::Result<&'static [u8]> { Ok(b"...") }
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("downloads");
/// let cache = CacheDir::open(&path).await?;
/// let url = "https://example.org/index.json";
/// let entry = cache.get_or_insert_with(url, || download(url)).await?;
/// assert_eq!(entry.read().await?, b"...");
/// assert!(cache.get(url).await?.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CacheDir {
    inner: Arc<Inner>,
    waits: Waits,
}

struct Inner {
    store: Store,
    lock_file: PathBuf,
    /// The caller's own.
    fills: Option<LockSpace>,
    read_only: bool,
    /// Opened with the directory, or, where that was not allowed, when they are needed first. Hits do without.
    locks: Opened<Locks>,
    /// The lock file of who pins and may not write.
    shared: Opened<FileLock>,
    leases: Leases,
    changes: Turns,
    /// Whose turn it is fetches room in the books for all who wait for that.
    fetches: Turns,
    counts: Counts,
}

impl Inner {
    fn locks(&self) -> &Locks {
        self.locks.get().expect("who writes has locks")
    }

    fn writer(&self) -> &str {
        self.locks().writer()
    }
}

impl CacheDir {
    /// Opens the directory, and creates it if there is none, with the default
    /// [`options`](CacheDir::options).
    ///
    /// # Cancel safety
    ///
    /// As [`CacheOptions::open`].
    ///
    /// # Errors
    ///
    /// See [`CacheOptions::open`].
    pub async fn open(directory: impl AsRef<Path>) -> Result<Self, Error> {
        Self::options().open(directory).await
    }

    /// The options that [`open`](CacheDir::open) uses, to change them.
    pub fn options() -> CacheOptions {
        CacheOptions::default()
    }

    fn new(
        store: Store,
        lock_file: PathBuf,
        fills: Option<LockSpace>,
        read_only: bool,
        waits: Waits,
    ) -> Self {
        let inner = Inner {
            store,
            lock_file,
            fills,
            read_only,
            locks: Opened::default(),
            shared: Opened::default(),
            leases: Leases::default(),
            changes: Turns::new(CHANGES_AT_ONCE),
            fetches: Turns::new(1),
            counts: Counts::default(),
        };
        Self { inner: Arc::new(inner), waits }
    }

    /// A handle that waits for no longer than this for a lock that others hold: see
    /// [`CacheOptions::timeout`]. A clone in all else.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("cache");
    /// use std::time::Duration;
    /// use tokio_filelock::{CacheDir, ErrorKind};
    ///
    /// let cache = CacheDir::open(&path).await?;
    /// let hasty = cache.with_timeout(Duration::from_millis(10));
    /// let fill = || async {
    ///     // The key is held by this fill.
    ///     let tried = tokio::spawn(async move { hasty.insert("key", &b"b"[..]).await });
    ///     let error = tried.await.unwrap().unwrap_err();
    ///     assert_eq!(error.kind(), ErrorKind::TimedOut);
    ///     Ok::<_, std::io::Error>(&b"a"[..])
    /// };
    /// cache.get_or_insert_with("key", fill).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_timeout(&self, limit: Duration) -> Self {
        let waits = Waits { limit: Some(limit), ..self.waits.clone() };
        Self { inner: self.inner.clone(), waits }
    }

    /// A handle that tells when it waits for a lock that others hold: see [`CacheOptions::on_wait`]. A
    /// clone in all else.
    #[must_use]
    pub fn with_on_wait(
        &self,
        after: Duration,
        tell: impl Fn(&Waiting<'_>) + Send + Sync + 'static,
    ) -> Self {
        let waits = Waits { tell: Some((after, Arc::new(tell))), ..self.waits.clone() };
        Self { inner: self.inner.clone(), waits }
    }

    /// The path of the directory, absolute and without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.store.directory
    }

    /// The value of a key, open, if there is one. A key whose value is a directory has none here: see
    /// [`get_dir`](CacheDir::get_dir).
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotAFile`] if something else stands in place of the value, [`ErrorKind::Io`] if the
    /// file cannot be opened.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>, Error> {
        let found = self.look(&Arc::new(Key::new(key.as_ref()))).await?;
        self.count_look(found.is_some());
        Ok(found)
    }

    /// As [`get`](CacheDir::get), without being a use of the value: it goes as soon as it would have gone,
    /// and [`stats`](CacheDir::stats) does not count it.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time.
    ///
    /// # Errors
    ///
    /// As [`get`](CacheDir::get).
    pub async fn peek(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>, Error> {
        let key = Arc::new(Key::new(key.as_ref()));
        self.look_and(&key, Freshness::AsKnown, Noted::Not, Ok).await
    }

    /// The content of a key's value, all of it in memory, if there is one: [`get`](CacheDir::get) and
    /// [`Entry::read`] in one step, and so a little faster.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time.
    ///
    /// # Errors
    ///
    /// As [`get`](CacheDir::get).
    pub async fn read(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        let key = Arc::new(Key::new(key.as_ref()));
        let look = || self.look_and(&key, Freshness::AsKnown, Noted::AsUse, Entry::read_all);
        let mut read = look().await;
        for _ in 0..store::ROUNDS {
            match read {
                // Another host of a network file system has replaced or removed it in the same moment.
                Err(error) if is_stale(&error) => read = look().await,
                _ => break,
            }
        }
        let read = read?;
        self.count_look(read.is_some());
        Ok(read)
    }

    /// The value of a key; if there is none, what `fill` gives is inserted first.
    ///
    /// Among all tasks and processes one runs its `fill` at a time for a key. The others wait, and get
    /// the value; or, if that fill fails, is cancelled or killed, the next of them runs its own.
    /// `fill` gives bytes, or any reader, such as a file or a network stream, which is read to its end
    /// ([`IntoValue`]).
    ///
    /// In a cache that is opened to be [read only](CacheOptions::read_only) each caller who finds nothing
    /// runs its own `fill`, and gets what that gave. It is not kept: until the entry is dropped it is a
    /// file without a name in [`std::env::temp_dir`].
    ///
    /// A fill may use the cache for other keys, but not for its own: that is an error
    /// ([`ErrorKind::Deadlock`]); in a task that the fill spawns it is not noticed, and waits for itself.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time. A fill that is under way is dropped as well, and what came of it
    /// removed; the next one who waits for the key fills. A value that is being put in its place at that
    /// moment may be there all the same.
    ///
    /// # Errors
    ///
    /// [`FillError::Fill`] with the error of `fill`; no other caller gets that. [`FillError::Cache`] if the
    /// value cannot be looked for (as [`get`](CacheDir::get)) or stored (as
    /// [`insert`](CacheDir::insert)).
    pub async fn get_or_insert_with<F, Fut, V, E, Form>(
        &self,
        key: impl AsRef<[u8]>,
        fill: F,
    ) -> Result<Entry, FillError<E>>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
        V: IntoValue<Form>,
    {
        let key = Arc::new(Key::new(key.as_ref()));
        if self.inner.read_only {
            return self.get_or_fill(&key, fill).await;
        }
        let look = self.look_for_fill(&key, Freshness::AsKnown);
        let look_again = self.look_for_fill(&key, Freshness::AtServer);
        let lock = self.lock_fill(&key);
        let fill = |(lock, held): (FileLock, FillLock)| async {
            let inside = Inside::of(key.clone(), lock, &held);
            let value = inside.poll(fill()).await.map_err(FillError::Fill)?;
            let received = inside.poll(self.receive(&key, value)).await?;
            self.publish(&key, received, held).await.map_err(FillError::Cache)
        };
        let counts = &self.inner.counts;
        let (entry, count) = match find_or_fill(look, lock, look_again, fill).await? {
            Found::Present(entry) => (entry, &counts.hits),
            Found::Awaited(entry) => (entry, &counts.waits),
            Found::Filled(entry) => (entry, &counts.fills),
        };
        count.up();
        Ok(entry)
    }

    /// Inserts a value, in place of the one that there may be, and gives it, open.
    ///
    /// The value is bytes, or any reader, such as a file or a network stream, which is read to its end
    /// ([`IntoValue`]). It is written to a temporary file, of which nothing is visible. Then, after a fill of
    /// the same key that may be under way, it takes its place, in one step.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time; nothing is inserted then, unless the value is being put in its place
    /// at that moment.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the value cannot be read or written; then nothing is changed, and nothing
    /// left behind. As [`FileLock::lock`](crate::FileLock::lock) if the locks cannot be had, and
    /// [`ErrorKind::TimedOut`] if others hold them for longer than
    /// [`timeout`](CacheOptions::timeout), with their names.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("cache");
    /// let cache = tokio_filelock::CacheDir::open(&path).await?;
    /// cache.insert("greeting", "hello").await?;
    /// let manifest = tokio::fs::File::open("Cargo.toml").await?;
    /// let entry = cache.insert("manifest", manifest).await?;
    /// assert_eq!(std::fs::read(entry.path())?, std::fs::read("Cargo.toml")?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn insert<Form>(
        &self,
        key: impl AsRef<[u8]>,
        value: impl IntoValue<Form>,
    ) -> Result<Entry, Error> {
        let key = Arc::new(Key::new(key.as_ref()));
        self.locks().await?;
        let received = self.receive(&key, value).await?;
        let (_, held) = self.lock_fill(&key).await?;
        self.publish(&key, received, held).await
    }

    /// Removes the value of a key; whether there was one.
    ///
    /// A fill of the key that is under way is waited for, so what there is afterwards was begun
    /// afterwards. A reader that has the value open keeps it.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time; the value is removed or not.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the file cannot be removed; otherwise as [`insert`](CacheDir::insert).
    pub async fn remove(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let key = Key::new(key.as_ref());
        let (_, fill) = self.lock_fill(&key).await?;
        let directory = self.lock_directory_to_remove().await?;
        let turn = self.turn(directory.is_alone()).await;
        let path = self.inner.store.value(&key);
        let remove = self.change(Operation::RemoveValue, path, move |inner| {
            let _guards = (directory, fill, turn);
            inner.store.remove(&key, inner.writer())
        });
        remove.await
    }

    /// Removes every value that is there; says how many.
    ///
    /// Waits for no fill: one that is under way puts its value in place afterwards. Values that are
    /// open stay with those who have opened them. Files that are not of the cache are left alone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future while it removes does not stop it; before that nothing is removed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if a file cannot be removed; otherwise as [`insert`](CacheDir::insert).
    pub async fn clear(&self) -> Result<Removed, Error> {
        self.walk(|inner| {
            let locks = inner.locks();
            inner.store.clear(locks.writer(), |writer| locks.of_dead(writer))
        })
        .await
    }

    /// Removes what is older than [`max_age`](CacheOptions::max_age), and then what was not used for
    /// longest, until [`max_size`](CacheOptions::max_size) is kept; says how much.
    ///
    /// Looks at every value. Inserts keep to `max_size` by themselves; call this now and then for
    /// `max_age`, or after the limits were lowered.
    ///
    /// # Cancel safety
    ///
    /// As [`clear`](CacheDir::clear).
    ///
    /// # Errors
    ///
    /// As [`clear`](CacheDir::clear).
    pub async fn prune(&self) -> Result<Removed, Error> {
        self.walk(|inner| {
            let locks = inner.locks();
            inner.store.prune(locks.writer(), |writer| locks.of_dead(writer))
        })
        .await
    }

    /// How much there is in the directory, and what became of those who asked through this handle and its
    /// clones.
    ///
    /// With a [`max_size`](CacheOptions::max_size) the books of the directory say how much there is, at the
    /// cost of reading one small file. They may say too much: values that others have wiped, and what was
    /// about to be inserted when a process was killed. Where no handle keeps books each value is looked at.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the directory cannot be read.
    pub async fn stats(&self) -> Result<Stats, Error> {
        let (values, bytes) = self.run(|inner| inner.store.size()).await?;
        Ok(self.inner.counts.with(values, bytes))
    }

    /// As [`stats`](CacheDir::stats), by looking at each value; makes the books right by that, if there is a
    /// [`max_size`](CacheOptions::max_size) and the cache is not read only. Inserts wait meanwhile, then.
    ///
    /// # Cancel safety
    ///
    /// As [`clear`](CacheDir::clear).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the directory cannot be read; otherwise as [`insert`](CacheDir::insert).
    pub async fn recount(&self) -> Result<Stats, Error> {
        let (values, bytes) = if self.inner.read_only || !self.inner.store.keeps_books() {
            self.run(|inner| inner.store.counted()).await
        } else {
            self.walk(|inner| inner.store.recount(inner.writer())).await
        }?;
        Ok(self.inner.counts.with(values, bytes))
    }

    /// All values that are not too old, one after the other.
    #[must_use]
    pub fn entries(&self) -> Entries {
        Entries::new(self.clone())
    }

    async fn look(&self, key: &Arc<Key>) -> Result<Option<Entry>, Error> {
        self.look_and(key, Freshness::AsKnown, Noted::AsUse, Ok).await
    }

    /// What is no file there is replaced by the fill.
    async fn look_for_fill(
        &self,
        key: &Arc<Key>,
        freshness: Freshness,
    ) -> Result<Option<Entry>, Error> {
        unless_strange(self.look_and(key, freshness, Noted::AsUse, Ok).await)
    }

    /// Of who may not insert: what the fill gives is not kept.
    async fn get_or_fill<F, Fut, V, E, Form>(
        &self,
        key: &Arc<Key>,
        fill: F,
    ) -> Result<Entry, FillError<E>>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
        V: IntoValue<Form>,
    {
        if let Some(entry) = self.look_for_fill(key, Freshness::AsKnown).await? {
            self.inner.counts.hits.up();
            return Ok(entry);
        }
        let value = fill().await.map_err(FillError::Fill)?;
        let incoming = self.receive(key, value).await?.into_incoming();
        let path = self.inner.store.value(key);
        let open = self.call(Operation::StoreValue, path.clone(), |_| incoming.into_entry(path));
        let entry = open.await?;
        self.inner.counts.fills.up();
        Ok(entry)
    }

    async fn look_and<T: Send + 'static>(
        &self,
        key: &Arc<Key>,
        freshness: Freshness,
        noted: Noted,
        then: fn(Entry) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let key = key.clone();
        let look = move |inner: &Inner, is_cancelled: &AtomicBool| {
            let found = inner.store.look(&key, freshness, noted, is_cancelled)?;
            found.map(then).transpose()
        };
        self.look_patiently(look).await
    }

    /// Also while another process has a lease on a file.
    async fn look_patiently<T: Send + 'static>(
        &self,
        look: impl Fn(&Inner, &AtomicBool) -> Result<T, Error> + Clone + Send + 'static,
    ) -> Result<T, Error> {
        let wanted = Wanted::default();
        let look = {
            let is_cancelled = wanted.flag();
            move |inner: &Inner| look(inner, &is_cancelled)
        };
        let begun = Instant::now();
        let limit = self.waits.limit.unwrap_or(LEASES_END);
        let (mut turn, mut round) = (None, 0);
        loop {
            let looked = self.run(look.clone()).await;
            drop(turn);
            match looked {
                Err(error) if is_lease(&error) => {
                    let waited = begun.elapsed();
                    if waited >= LEASES_END {
                        return Err(error);
                    }
                    if waited >= limit {
                        return Err(still_leased(&error, waited));
                    }
                }
                looked => return looked,
            }
            round += 1;
            turn = Some(self.inner.leases.look_again(round).await);
        }
    }

    fn count_look(&self, found: bool) {
        let counts = &self.inner.counts;
        if found { &counts.hits } else { &counts.misses }.up();
    }

    /// Does something to all values, with the directory to itself.
    async fn walk<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let directory = self.lock_directory().await?;
        let walk = self.change_and_name(move |inner| {
            let _guard = directory;
            job(inner)
        });
        walk.await
    }

    /// Looks whose the directory is, and removes what dead processes had half written, as far as that is
    /// allowed.
    async fn clean_up(&self) -> Result<(), Error> {
        let is_foreign = self.run(|inner| inner.store.note_format()).await;
        if is_foreign || self.inner.read_only {
            return Ok(());
        }
        match self.locks().await {
            Ok(_) => {}
            // There is nothing of ours to be removed where we may not write.
            Err(error) if error.is_refusal() => return Ok(()),
            Err(error) => return Err(error),
        }
        let clean = self.call(Operation::OpenCache, self.path(), |inner| {
            let locks = inner.locks();
            inner.store.remove_temporary_files(locks.writer(), |writer| locks.of_dead(writer));
            Ok(())
        });
        clean.await
    }

    async fn locks(&self) -> Result<&Locks, Error> {
        let Inner { store, lock_file, fills, read_only, locks, .. } = &*self.inner;
        if *read_only {
            let reason = "the cache directory was opened to be read only";
            let error = io::Error::new(io::ErrorKind::PermissionDenied, reason);
            return Err(Error::os(ErrorKind::Io, Operation::ChangeCache, self.path(), error));
        }
        let open = async {
            let locks = Locks::open(lock_file, fills.clone(), &store.settings, &self.waits).await?;
            store.pins.are_in(locks.directory());
            Ok(locks)
        };
        locks.get_or_open(open).await
    }

    /// Without a limit the books stay as they are: they say too much then, which they may.
    async fn lock_directory_to_remove(&self) -> Result<DirectoryLock, Error> {
        Ok(match self.inner.store.keeps_books() {
            true => DirectoryLock::Alone(self.lock_directory().await?),
            false => DirectoryLock::Together(self.lock_directory_shared().await?),
        })
    }

    /// For a value that is a directory. Without a limit the books are given up.
    async fn lock_directory_to_publish(&self) -> Result<DirectoryLock, Error> {
        Ok(match self.inner.store.keeps_books() {
            true => DirectoryLock::Alone(self.lock_directory().await?),
            false => DirectoryLock::WithBooks(self.lock_books().await?),
        })
    }

    /// Beside others who change other values, while no process walks over them.
    async fn lock_directory_shared(&self) -> Result<SharedGuard, Error> {
        self.waits.lock_shared(self.locks().await?.directory()).await
    }

    /// A turn to change values. A task that has the directory alone needs none: all processes wait for it, and turns are kept for
    /// as long as a disk takes to sync, or a tree to be removed.
    async fn turn(&self, is_alone: bool) -> Option<Turn> {
        if is_alone { None } else { Some(self.inner.changes.turn().await) }
    }

    /// To write the books beside others.
    async fn lock_books(&self) -> Result<BooksLock, Error> {
        let directory = self.lock_directory_shared().await?;
        let books = self.waits.lock(self.locks().await?.books()).await?;
        Ok(BooksLock { directory, books })
    }

    async fn lock_directory(&self) -> Result<ExclusiveGuard, Error> {
        self.waits.lock(self.locks().await?.directory()).await
    }

    async fn lock_fill(&self, key: &Key) -> Result<(FileLock, FillLock), Error> {
        let lock = self.locks().await?.fill(key);
        let held = match nested::asked(key, &lock) {
            Asked::Outside => FillLock::new(self.waits.lock(&lock).await?),
            Asked::Inside(outer) => outer.turn(self.waits.limit).await.ok_or_else(|| {
                let (kind, path) = (ErrorKind::TimedOut, self.inner.store.value(key));
                let detail = "in time: another part of the fill around it has the same lock";
                Error::found(kind, Operation::StoreValue, path, detail)
            })?,
            Asked::ForItself => {
                let (kind, path) = (ErrorKind::Deadlock, self.inner.store.value(key));
                let detail = "its own fill asks for that, and would wait for itself";
                return Err(Error::found(kind, Operation::StoreValue, path, detail));
            }
        };
        Ok((lock, held))
    }

    /// Makes file-system calls under locks that the job owns. The guards go where the calls are made: a
    /// task that is dropped may not let others in before they are over. And it is an errand: others wait
    /// for these locks, so it may not stand in line for a thread behind them.
    async fn change<T: Send + 'static>(
        &self,
        operation: Operation,
        path: impl Into<PathBuf>,
        job: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let path = path.into();
        let named = move |error| named(operation, path, error);
        self.change_and_name(move |inner| job(inner).map_err(named)).await
    }

    /// The same, for who names in its errors what they are about.
    async fn change_and_name<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = self.inner.clone();
        process::pool().run(move || job(&inner)).await
    }

    /// Makes file-system calls where they may block.
    async fn call<T: Send + 'static>(
        &self,
        operation: Operation,
        path: impl AsRef<Path>,
        job: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let done = self.run(job).await;
        done.map_err(|error| named(operation, path, error))
    }

    async fn run<T: Send + 'static>(&self, job: impl FnOnce(&Inner) -> T + Send + 'static) -> T {
        let inner = self.inner.clone();
        wait::call(process::pool(), move || job(&inner)).await
    }
}

/// What has no business there is replaced.
fn unless_strange<T>(looked: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    looked.or_else(|error| match error.kind() {
        ErrorKind::NotAFile => Ok(None),
        _ => Err(error),
    })
}

/// Another process has a lease on a file: opening it without waiting is refused.
fn is_lease(error: &Error) -> bool {
    error.os_error().is_some_and(|source| source.kind() == io::ErrorKind::WouldBlock)
}

fn still_leased(error: &Error, waited: Duration) -> Error {
    let detail = format!(
        "within {} ms: another process has a lease on it and does not give it back",
        waited.as_millis()
    );
    Error::found(ErrorKind::TimedOut, Operation::ReadValue, error.path(), detail)
}

/// The server does not know an open file any more.
fn is_stale(error: &Error) -> bool {
    let stale = io::ErrorKind::StaleNetworkFileHandle;
    error.os_error().is_some_and(|source| source.kind() == stale)
}

/// Of who writes the books beside others.
#[derive(Debug)]
struct BooksLock {
    directory: SharedGuard,
    books: ExclusiveGuard,
}

/// Of who changes one value.
#[derive(Debug)]
#[allow(dead_code)] // held
enum DirectoryLock {
    /// Who has a limit.
    Alone(ExclusiveGuard),
    /// Others may change other values, and no process walks over them.
    Together(SharedGuard),
    WithBooks(BooksLock),
}

impl DirectoryLock {
    fn is_alone(&self) -> bool {
        matches!(self, DirectoryLock::Alone(_))
    }
}

/// Says when its caller does not want the answer any more.
#[derive(Debug, Default)]
struct Wanted {
    is_cancelled: Arc<AtomicBool>,
}

impl Wanted {
    fn flag(&self) -> Arc<AtomicBool> {
        self.is_cancelled.clone()
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for CacheDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheDir").field("path", &self.path()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    /// While others keep all turns, whose disks take long.
    #[tokio::test]
    async fn a_task_that_has_the_directory_alone_waits_for_no_turn() {
        let place = tempfile::tempdir().unwrap();
        let options = CacheDir::options().sync(SyncPolicy::Never).max_size(100);
        let cache = options.open(place.path().join("cache")).await.unwrap();
        cache.insert("key", "value").await.unwrap();
        let mut turns = Vec::new();
        for _ in 0..CHANGES_AT_ONCE {
            turns.push(cache.inner.changes.turn().await);
        }
        let alone = async {
            assert!(cache.remove("key").await.unwrap());
            let fill = |dir: PathBuf| async move { std::fs::write(dir.join("file"), "value") };
            cache.insert_dir("key", fill).await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(60), alone).await.expect("it has the directory");
    }
}
