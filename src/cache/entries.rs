//! `Entries`: all values, one after the other.

use std::fmt;
use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;
use std::vec;

use futures::Stream;

use super::{CacheDir, Inner, key};
use crate::error::Error;

/// The values of a [`CacheDir`], in no particular order: what [`CacheDir::entries`] gives.
///
/// A subdirectory, a 256th of the values, is read at a time. Values that come or go meanwhile may be
/// there or not.
///
/// A [`Stream`] of results as well.
pub struct Entries {
    cache: CacheDir,
    /// What is left of the subdirectories.
    shards: vec::IntoIter<String>,
    /// One that is being read.
    listing: Option<Listing>,
    listed: vec::IntoIter<Result<Listed, Error>>,
}

type Listing = Pin<Box<dyn Future<Output = Vec<Result<Listed, Error>>> + Send>>;

/// A value in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// The key.
    pub key: Vec<u8>,
    /// Whether the value is a directory; otherwise it is a file.
    pub is_directory: bool,
    /// The file or the directory that the value is.
    pub path: PathBuf,
    /// The length of the value, or of all files in it.
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
        Self { cache, shards, listing: None, listed: Vec::new().into_iter() }
    }

    /// The next value, or `None` after the last one.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time; the next call goes on where this one began.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if a subdirectory or what says a key cannot be read; the next
    /// call goes on after it. What another user keeps to itself is not listed, and is no error.
    pub async fn next(&mut self) -> Result<Option<Listed>, Error> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await.transpose()
    }
}

impl Stream for Entries {
    type Item = Result<Listed, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(listed) = self.listed.next() {
                return Poll::Ready(Some(listed));
            }
            if let Some(listing) = &mut self.listing {
                let listed = ready!(listing.as_mut().poll(cx));
                self.listing = None;
                self.listed = listed.into_iter();
                continue;
            }
            let Some(shard) = self.shards.next() else { return Poll::Ready(None) };
            let cache = self.cache.clone();
            self.listing = Some(Box::pin(async move {
                cache.run(move |inner: &Inner| inner.store.list(&shard)).await
            }));
        }
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("cache", &self.cache).finish_non_exhaustive()
    }
}
