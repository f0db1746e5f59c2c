//! Checksums of values, for those who want to notice what a disk or another program has done to
//! them.
//!
//! The file beside a value has a line for the value that is coming, and one for the value that is there: first the
//! file is replaced, then the value, and a reader may look in between, or find things so for good where the
//! second step failed. A line is the SHA-256, the length, and the number of the file (its inode), by which the
//! line is known that is to be kept; a copy has another number, and is as good. A value that matches no line,
//! or that has no such file, counts as absent. One of another length is not read.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use super::{Place, Store};
use crate::cache::key::{Key, hexadecimal};
use crate::os::shared_directory::{Directory, Found, Purpose, Status};

const BUFFER: usize = 64 * 1024;

/// Two lines.
const LENGTH: u64 = 2 * (64 + 1 + 20 + 1 + 20 + 1);

#[derive(Debug)]
struct Line {
    sum: String,
    length: u64,
    number: u64,
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let sum = words.next()?.to_owned();
        let mut number = || words.next()?.parse().ok();
        Some(Self { sum, length: number()?, number: number()? })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {:020} {:020}", self.sum, self.length, self.number)
    }
}

impl Store {
    /// Announces the checksum of the value that is to take the place of what is there.
    pub(super) fn write_checksum(
        &self,
        key: &Key,
        sum: &[u8],
        next: &Status,
        now: Option<&Status>,
        writer: &str,
    ) -> io::Result<()> {
        let next = Line { sum: hexadecimal(sum), length: next.length, number: next.number() };
        let mut text = next.to_string();
        let place = Place::of(key.value());
        if let (Some(now), Some(shard)) = (now, self.directory(place)?) {
            // What cannot be read was the checksum of nothing.
            let mut known = known(&shard, key).unwrap_or_default();
            known.retain(|line| line.length == now.length);
            let of_it = known.iter().find(|line| line.number == now.number());
            text.extend(of_it.or(known.first()).map(Line::to_string));
        }
        self.write_whole(place, &key.checksum(), text.as_bytes(), writer)
    }
}

/// Whether the content of the file is what its checksum says. Reads all of it, if it has the right length, and
/// goes back to the start. A caller that gave up waiting gets an error.
pub(super) fn is_right(
    file: &mut File,
    length: u64,
    shard: &Directory,
    key: &Key,
    is_cancelled: &AtomicBool,
) -> io::Result<bool> {
    let mut known = known(shard, key)?;
    known.retain(|line| line.length == length);
    if known.is_empty() {
        return Ok(false);
    }
    // It may grow meanwhile.
    let found = hexadecimal(&hash(file.take(length.saturating_add(1)), is_cancelled)?);
    file.rewind()?;
    Ok(known.iter().any(|line| line.sum == found))
}

/// What is in the file with the checksums.
fn known(shard: &Directory, key: &Key) -> io::Result<Vec<Line>> {
    let Found::File(file, status) = shard.open_file(&key.checksum(), Purpose::Read)? else {
        return Ok(Vec::new());
    };
    if status.length > LENGTH {
        return Ok(Vec::new());
    }
    let mut known = Vec::new();
    file.take(LENGTH).read_to_end(&mut known)?;
    Ok(String::from_utf8_lossy(&known).lines().filter_map(Line::parse).collect())
}

fn hash(mut file: impl Read, is_cancelled: &AtomicBool) -> io::Result<Vec<u8>> {
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
