//! Checksums of values, for those who want to notice what a disk or another program has done to
//! them.
//!
//! The file beside a value has the SHA-256 of the value that is coming, and of the one before it:
//! first the file is replaced, then the value, and a reader may look in between. A value that matches
//! neither, or that has no such file, counts as absent.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use super::{Place, Store};
use crate::cache::key::{Key, hexadecimal};
use crate::os::shared_directory::{Directory, Found, Purpose};

const BUFFER: usize = 64 * 1024;

/// Two lines.
const LENGTH: u64 = 2 * (64 + 1);

impl Store {
    /// Announces the checksum of the next value.
    pub(super) fn write_checksum(&self, key: &Key, next: &[u8], writer: &str) -> io::Result<()> {
        let mut text = (hexadecimal(next) + "\n").into_bytes();
        let place = Place::of(key.value());
        // What cannot be read was the checksum of nothing.
        let now = self.directory(place)?.and_then(|shard| known(&shard, key).ok().flatten());
        if let Some(line) = now.as_deref().and_then(|now| now.split(|byte| *byte == b'\n').next()) {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        self.write_whole(place, &key.checksum(), &text, writer)
    }
}

/// Whether the content of the file is what its checksum says. Reads all of it, and goes back to the
/// start. Whoever gave up waiting for that gets an error.
pub(super) fn is_right(
    file: &mut File,
    shard: &Directory,
    key: &Key,
    is_cancelled: &AtomicBool,
) -> io::Result<bool> {
    let found = hexadecimal(&hash(file, is_cancelled)?);
    file.rewind()?;
    let known = known(shard, key)?.unwrap_or_default();
    Ok(known.split(|byte| *byte == b'\n').any(|line| line == found.as_bytes()))
}

/// What is in the file with the checksums.
fn known(shard: &Directory, key: &Key) -> io::Result<Option<Vec<u8>>> {
    let Found::File(file, status) = shard.open_file(&key.checksum(), Purpose::Read)? else {
        return Ok(None);
    };
    if status.length > LENGTH {
        return Ok(None);
    }
    let mut known = Vec::new();
    file.take(LENGTH).read_to_end(&mut known)?;
    Ok(Some(known))
}

fn hash(file: &mut File, is_cancelled: &AtomicBool) -> io::Result<Vec<u8>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        if is_cancelled.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().to_vec()),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
    }
}
