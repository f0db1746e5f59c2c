//! Values on their way in, from a reader to a temporary file.

use std::path::PathBuf;
use std::pin::pin;

use tokio::io::AsyncReadExt;

use super::CacheDir;
use super::key::Key;
use super::store::Incoming;
use super::value::{IntoSource, Source};
use crate::error::{Error, ErrorKind, Operation};
use crate::process;
use crate::wait;

/// How much of a value is in memory.
const CHUNK: u64 = 256 * 1024;

/// What has come in. Dropping it removes the temporary file, on another thread: a task may be dropped
/// where nothing may block, and with it an answer that it has not seen.
#[derive(Debug, Default)]
pub(super) struct Received(Option<Incoming>);

impl Received {
    pub(super) fn of(incoming: Incoming) -> Self {
        Self(Some(incoming))
    }

    pub(super) fn length(&self) -> u64 {
        self.0.as_ref().map_or(0, Incoming::length)
    }

    pub(super) fn into_incoming(mut self) -> Incoming {
        self.0.take().expect("present until it is taken")
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(incoming) = self.0.take() {
            wait::leave(process::pool(), move || drop(incoming));
        }
    }
}

impl CacheDir {
    /// Takes a value to its end, and writes it to a temporary file. The locks are open, unless the cache is
    /// read only.
    pub(super) async fn receive<Form>(
        &self,
        key: &Key,
        value: impl IntoSource<Form>,
    ) -> Result<Received, Error> {
        let path = self.inner.store.value(key);
        let reader = match value.into_source() {
            Source::Bytes(bytes) => return self.write(path, None, bytes, true).await,
            Source::Reader(reader) => reader,
        };
        let mut reader = pin!(reader);
        let mut received = Received(None);
        let mut is_whole = false;
        while !is_whole {
            let mut chunk = Vec::new();
            let read = (&mut reader).take(CHUNK).read_to_end(&mut chunk).await;
            let incoming = received.0.take();
            let length = match read {
                Ok(length) => length as u64,
                Err(error) => {
                    self.run(move |_| drop(incoming)).await;
                    return Err(Error::os(ErrorKind::Io, Operation::ReadInput, path, error));
                }
            };
            is_whole = length < CHUNK;
            received = self.write(path.clone(), incoming, chunk, is_whole).await?;
        }
        Ok(received)
    }

    async fn write(
        &self,
        path: PathBuf,
        incoming: Option<Incoming>,
        bytes: Vec<u8>,
        is_last: bool,
    ) -> Result<Received, Error> {
        let write = self.call(Operation::StoreValue, path, move |inner| {
            // Where this fails the file is removed here.
            let mut incoming = match incoming {
                Some(incoming) => incoming,
                None if inner.read_only => Incoming::unkept()?,
                None => inner.store.begin(inner.writer())?,
            };
            incoming.write(&bytes)?;
            if is_last && !inner.read_only {
                inner.store.finish(&incoming)?;
            }
            Ok(Received::of(incoming))
        });
        write.await
    }
}
