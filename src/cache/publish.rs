//! How a value gets from the task that has it to its place: which locks the steps need, and what follows if one is not enough.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use futures::future::{Either, select};

use super::entry::Entry;
use super::key::Key;
use super::nested::FillLock;
use super::receive::Received;
use super::store::{Incoming, Taken};
use super::turns::Turn;
use super::{BooksLock, CacheDir, Inner};
use crate::error::{Error, Operation};
use crate::lock::{ExclusiveGuard, SharedGuard};

impl CacheDir {
    /// Puts a value in its place.
    pub(super) async fn publish(
        &self,
        key: &Arc<Key>,
        received: Received,
        fill: FillLock,
    ) -> Result<Entry, Error> {
        let (mut received, mut fill) = (received, fill);
        let mut step = Step::Take;
        loop {
            let way = self.way_in(step, received.length()).await?;
            let turn = self.turn(matches!(way, WayIn::Alone(..))).await;
            let published = self.change_value(key, received, move |inner, key, incoming| {
                // Not while the locks for the next step are waited for.
                let _turn = turn;
                let published = inner.publish(key, incoming, way)?;
                Ok(published.map_err(|(incoming, step)| (Received::of(incoming), fill, step)))
            });
            (received, fill, step) = match published.await? {
                Ok(entry) => return Ok(entry),
                Err(back) => back,
            };
        }
    }

    /// The locks for a step.
    async fn way_in(&self, step: Step, length: u64) -> Result<WayIn, Error> {
        let store = &self.inner.store;
        let taken = match (step, store.settings.max_size) {
            (Step::Alone(turn), _) => return Ok(WayIn::Alone(self.lock_directory().await?, turn)),
            (Step::Fetch, None) => return Ok(WayIn::Fetching(self.lock_books().await?, None)),
            (Step::Take, None) => None,
            (step, Some(most)) => {
                let at_once = match step {
                    Step::Take => store.room.take(length, most),
                    _ => None,
                };
                let taken = match at_once {
                    Some(taken) => Ok(taken),
                    None => self.room_or_books(length, most).await?,
                };
                match taken {
                    Ok(taken) => Some(taken),
                    Err(fetching) => return Ok(fetching),
                }
            }
        };
        Ok(WayIn::Beside(self.lock_directory_shared().await?, taken))
    }

    /// Room that another task fetches for a value, or the locks to fetch some. A task that has room has no lock, and no place
    /// in line for one: other tasks may be in line between.
    async fn room_or_books(&self, length: u64, most: u64) -> Result<Result<Taken, WayIn>, Error> {
        let Inner { store, fetches, .. } = &*self.inner;
        let wanted = store.room.want(length);
        let mut books = pin!(self.lock_books());
        let turn = if self.waits.are_plain() {
            fetches.turn().await
        } else {
            // Another task's wait for the locks has no limit, or tells another caller.
            match select(pin!(fetches.turn()), books.as_mut()).await {
                Either::Left((turn, _)) => turn,
                Either::Right((locked, _)) => return Ok(Err(WayIn::Fetching(locked?, None))),
            }
        };
        // The task that had the turn before may have fetched for this one.
        match wanted.take(most) {
            Some(taken) => Ok(Ok(taken)),
            None => Ok(Err(WayIn::Fetching(books.await?, Some(turn)))),
        }
    }

    async fn change_value<T: Send + 'static>(
        &self,
        key: &Arc<Key>,
        received: Received,
        job: impl FnOnce(&Inner, &Key, Incoming) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let (path, key) = (self.inner.store.value(key), key.clone());
        let incoming = received.into_incoming();
        self.change(Operation::StoreValue, path, move |inner| job(inner, &key, incoming)).await
    }
}

impl Inner {
    /// Puts a value in its place, or gives it back for another step.
    fn publish(
        &self,
        key: &Key,
        incoming: Incoming,
        way: WayIn,
    ) -> io::Result<Result<Entry, (Incoming, Step)>> {
        let (store, writer, length) = (&self.store, self.writer(), incoming.length());
        let published = match way {
            WayIn::Beside(_directory, room) => {
                let lock = || self.locks().books().try_lock().ok();
                let published = store.publish_beside_others(key, incoming, room, writer, lock)?;
                published.map_err(|incoming| (incoming, Step::Fetch))
            }
            WayIn::Fetching(BooksLock { directory: _directory, books }, turn) => {
                let room = if store.keeps_books() {
                    let lock_of = |hash: &str| self.locks().try_fill(hash);
                    match store.fetch_room_beside_others(key, length, writer, lock_of)? {
                        Some(room) => Some(room),
                        None => return Ok(Err((incoming, Step::Alone(turn)))),
                    }
                } else {
                    store.give_up_books(writer)?;
                    None
                };
                drop((books, turn));
                Ok(store.publish_in_room(key, incoming, room, writer)?)
            }
            WayIn::Alone(directory, turn) => {
                let room = store.fetch_room_alone(key, length, writer)?;
                // Others may go on.
                let _directory = directory.downgrade();
                drop(turn);
                Ok(match room {
                    Some(_) => store.publish_in_room(key, incoming, room, writer)?,
                    None => incoming.into_entry(store.value(key))?,
                })
            }
        };
        if published.is_ok() {
            store.settle(key)?;
        }
        Ok(published)
    }
}

/// What a task that puts a value in its place does next.
#[derive(Debug)]
enum Step {
    /// Takes room that was fetched, for this value or by another task. Without a limit it needs none.
    Take,
    /// Fetches some, for all tasks that wait for that; without a limit it gives the books up.
    Fetch,
    /// The same, where the values have to be counted.
    Alone(Option<Turn>),
}

/// The locks for that, and room for the value, or whose turn it is to fetch some.
#[derive(Debug)]
enum WayIn {
    Beside(SharedGuard, Option<Taken>),
    Fetching(BooksLock, Option<Turn>),
    Alone(ExclusiveGuard, Option<Turn>),
}
