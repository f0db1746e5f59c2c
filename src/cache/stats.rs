//! `Stats`: what is in a cache directory, and what became of those who asked.

use std::sync::atomic::{AtomicU64, Ordering};

/// What [`CacheDir::stats`](super::CacheDir::stats) gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Values in the directory.
    pub values: u64,
    /// The bytes of these values.
    pub bytes: u64,
    /// Times that a handle of this process, or a clone of it, found a value at once.
    pub hits: u64,
    /// Times that it found none and did not fill it: `get` and `read`.
    pub misses: u64,
    /// Times that it found a value after it had waited for another task to fill it.
    pub waits: u64,
    /// Times that it filled a value.
    pub fills: u64,
}

/// Counted for a handle and its clones.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) hits: Count,
    pub(super) misses: Count,
    pub(super) waits: Count,
    pub(super) fills: Count,
}

#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counts {
    pub(super) fn with(&self, values: u64, bytes: u64) -> Stats {
        let [hits, misses, waits, fills] = [&self.hits, &self.misses, &self.waits, &self.fills]
            .map(|count| count.0.load(Ordering::Relaxed));
        Stats { values, bytes, hits, misses, waits, fills }
    }
}
