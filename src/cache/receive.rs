//! Values on their way in, from a reader to a temporary file.

use std::pin::pin;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::CacheDir;
use super::key::Key;
use super::store::Incoming;
use crate::error::{Error, ErrorKind, Operation};
use crate::registry::registry;
use crate::wait;

/// How much of a value is in memory.
const CHUNK: u64 = 256 * 1024;

/// What has come in. Dropping it removes the temporary file, on another thread: a task may be dropped
/// where nothing may block.
#[derive(Debug, Default)]
pub(super) struct Received(Option<Incoming>);

impl Received {
    pub(super) fn into_incoming(mut self) -> Incoming {
        self.0.take().expect("present until it is taken")
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(incoming) = self.0.take() {
            wait::errand(registry().pool(), move || drop(incoming));
        }
    }
}

impl CacheDir {
    /// Reads a value to its end, and writes it to a temporary file.
    pub(super) async fn receive(
        &self,
        key: &Key,
        reader: impl AsyncRead,
    ) -> Result<Received, Error> {
        let path = self.inner.store.value(key);
        self.locks().await?;
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
            let write = self.call(Operation::StoreValue, &path, move |inner| {
                // Where this fails the file is removed here.
                let mut incoming = match incoming {
                    Some(incoming) => incoming,
                    None => inner.store.begin(inner.writer())?,
                };
                incoming.write(&chunk)?;
                if is_whole {
                    inner.store.finish(&incoming)?;
                }
                Ok(incoming)
            });
            received = Received(Some(write.await?));
        }
        Ok(received)
    }
}
