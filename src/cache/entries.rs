//! `Entries`: all values, one after the other.

use std::path::PathBuf;
use std::time::SystemTime;
use std::vec;

use super::CacheDir;
use super::key;
use crate::error::{Error, Operation};

/// The values of a [`CacheDir`], in no particular order: what [`CacheDir::entries`] gives.
///
/// A subdirectory, a 256th of the values, is read at a time. Values that come or go meanwhile may be
/// there or not.
#[derive(Debug)]
pub struct Entries {
    cache: CacheDir,
    /// What is left of the subdirectories.
    shards: vec::IntoIter<String>,
    listed: vec::IntoIter<Listed>,
}

/// A value in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// The key.
    pub key: Vec<u8>,
    /// The file that the value is.
    pub path: PathBuf,
    /// The length of the value.
    pub bytes: u64,
    /// When it was written.
    pub modified: SystemTime,
    /// When it was last used, as far as that was noted: a use is noted if the one before was noted more
    /// than a minute ago.
    pub used: SystemTime,
}

impl Entries {
    pub(super) fn new(cache: CacheDir) -> Self {
        let shards = key::shards().collect::<Vec<_>>().into_iter();
        Self { cache, shards, listed: Vec::new().into_iter() }
    }

    /// The next value, or `None` after the last one.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time; the next call goes on where this one began.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if a subdirectory cannot be read; the next call goes on
    /// after it.
    pub async fn next(&mut self) -> Result<Option<Listed>, Error> {
        loop {
            if let Some(listed) = self.listed.next() {
                return Ok(Some(listed));
            }
            let Some(shard) = self.shards.as_slice().first().cloned() else { return Ok(None) };
            let directory = self.cache.path().to_owned();
            let list = self
                .cache
                .call(Operation::ListCache, directory, move |inner| inner.store.list(&shard));
            let listed = list.await;
            self.shards.next();
            self.listed = listed?.into_iter();
        }
    }
}
