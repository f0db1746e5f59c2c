//! One fill per key: look, lock the key, look again, fill.
//!
//! A task that fills holds the key's lock from before its second look until its value is in place. So of
//! all who want a value that is absent one fills it, and the others, who wait for the lock, find it
//! with their second look. The lock is the kernel's: a filler that fails, is cancelled, panics or is
//! killed lets the next one in, who finds nothing, and fills.

use std::fmt;
use std::future::Future;

use crate::error::Error;

/// Where a value came from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// It was there.
    Present(T),
    /// It was there after a wait for the key's lock: another task has filled it.
    Awaited(T),
    /// It was absent.
    Filled(T),
}

/// Finds a value or fills it. The fill is given the key's lock, to hold it until the value is in place.
///
/// `look_again` must see what others have filled, on other machines, too.
pub(super) async fn find_or_fill<T, G, C, E, Fill>(
    look: impl Future<Output = Result<Option<T>, C>>,
    lock: impl Future<Output = Result<G, C>>,
    look_again: impl Future<Output = Result<Option<T>, C>>,
    fill: impl FnOnce(G) -> Fill,
) -> Result<Found<T>, E>
where
    Fill: Future<Output = Result<T, E>>,
    E: From<C>,
{
    if let Some(present) = look.await? {
        return Ok(Found::Present(present));
    }
    let guard = lock.await?;
    if let Some(awaited) = look_again.await? {
        return Ok(Found::Awaited(awaited));
    }
    fill(guard).await.map(Found::Filled)
}

/// Why [`CacheDir::get_or_insert_with`](super::CacheDir::get_or_insert_with) gave no value.
#[derive(Debug)]
#[non_exhaustive]
pub enum FillError<E> {
    /// The caller's own fill failed, with this.
    Fill(E),
    /// The cache could not look, lock or store.
    Cache(Error),
}

impl<E> From<Error> for FillError<E> {
    fn from(error: Error) -> Self {
        FillError::Cache(error)
    }
}

impl<E: fmt::Display> fmt::Display for FillError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FillError::Fill(error) => error.fmt(f),
            FillError::Cache(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error> std::error::Error for FillError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FillError::Fill(error) => error.source(),
            FillError::Cache(error) => error.source(),
        }
    }
}
