//! The forms for code outside of async.

use std::iter;

use super::{CacheDir, Entry, FillError, IntoValue, Listed, Removed, Stats};
use crate::error::Error;
use crate::wait;

impl CacheDir {
    /// [`get`](CacheDir::get) for code outside of async: blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`get`](CacheDir::get).
    ///
    /// # Panics
    ///
    /// On a thread that is driving a runtime or another `block_on`. All blocking forms do.
    pub fn blocking_get(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>, Error> {
        wait::block_on(self.get(key))
    }

    /// [`read`](CacheDir::read) for code outside of async: blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`read`](CacheDir::read).
    ///
    /// # Panics
    ///
    /// As [`blocking_get`](CacheDir::blocking_get).
    pub fn blocking_read(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        wait::block_on(self.read(key))
    }

    /// [`get_or_insert_with`](CacheDir::get_or_insert_with) for code outside of async: blocks the thread,
    /// and calls the function on it, which must not use blocking forms of the cache itself.
    ///
    /// # Errors
    ///
    /// As [`get_or_insert_with`](CacheDir::get_or_insert_with).
    ///
    /// # Panics
    ///
    /// As [`blocking_get`](CacheDir::blocking_get).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("cache");
    /// let cache = tokio_filelock::CacheDir::options().blocking_open(&path)?;
    /// let entry = cache.blocking_get_or_insert_with("greeting", || std::io::Result::Ok("hello"))?;
    /// assert_eq!(entry.len(), 5);
    /// assert_eq!(cache.blocking_read("greeting")?.unwrap(), b"hello");
    /// # Ok(())
    /// # }
    /// ```
    pub fn blocking_get_or_insert_with<V: IntoValue<Form>, E, Form>(
        &self,
        key: impl AsRef<[u8]>,
        fill: impl FnOnce() -> Result<V, E>,
    ) -> Result<Entry, FillError<E>> {
        wait::block_on(self.get_or_insert_with(key, || async { fill() }))
    }

    /// [`insert`](CacheDir::insert) for code outside of async: blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`insert`](CacheDir::insert).
    ///
    /// # Panics
    ///
    /// As [`blocking_get`](CacheDir::blocking_get).
    pub fn blocking_insert<Form>(
        &self,
        key: impl AsRef<[u8]>,
        value: impl IntoValue<Form>,
    ) -> Result<Entry, Error> {
        wait::block_on(self.insert(key, value))
    }

    /// [`remove`](CacheDir::remove) for code outside of async: blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`remove`](CacheDir::remove).
    ///
    /// # Panics
    ///
    /// As [`blocking_get`](CacheDir::blocking_get).
    pub fn blocking_remove(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        wait::block_on(self.remove(key))
    }

    /// [`clear`](CacheDir::clear) for code outside of async: blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`clear`](CacheDir::clear).
    ///
    /// # Panics
    ///
    /// As [`blocking_get`](CacheDir::blocking_get).
    pub fn blocking_clear(&self) -> Result<Removed, Error> {
        wait::block_on(self.clear())
    }

    /// [`prune`](CacheDir::prune) for code outside of async: blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`prune`](CacheDir::prune).
    ///
    /// # Panics
    ///
    /// As [`blocking_get`](CacheDir::blocking_get).
    pub fn blocking_prune(&self) -> Result<Removed, Error> {
        wait::block_on(self.prune())
    }

    /// [`stats`](CacheDir::stats) for code outside of async: blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`stats`](CacheDir::stats).
    ///
    /// # Panics
    ///
    /// As [`blocking_get`](CacheDir::blocking_get).
    pub fn blocking_stats(&self) -> Result<Stats, Error> {
        wait::block_on(self.stats())
    }

    /// [`recount`](CacheDir::recount) for code outside of async: blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`recount`](CacheDir::recount).
    ///
    /// # Panics
    ///
    /// As [`blocking_get`](CacheDir::blocking_get).
    pub fn blocking_recount(&self) -> Result<Stats, Error> {
        wait::block_on(self.recount())
    }

    /// [`entries`](CacheDir::entries) for code outside of async: each step blocks the thread, and panics as
    /// [`blocking_get`](CacheDir::blocking_get) does.
    pub fn blocking_entries(&self) -> impl Iterator<Item = Result<Listed, Error>> + use<> {
        let mut entries = self.entries();
        iter::from_fn(move || wait::block_on(entries.next()).transpose())
    }
}
