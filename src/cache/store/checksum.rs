//! Checksums of values, for those who want to notice what a disk or another program has done to
//! them.
//!
//! The file beside a value has the SHA-256 of the value that is coming, and of the one before it:
//! first the file is replaced, then the value, and a reader may look in between. A value that matches
//! neither, or that has no such file, counts as absent.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Store, if_there};
use crate::cache::key::hexadecimal;

const BUFFER: usize = 64 * 1024;

impl Store {
    /// Announces the checksum of the next value.
    pub(super) fn write_checksum(&self, path: &Path, next: &[u8], writer: &str) -> io::Result<()> {
        let mut text = hexadecimal(next) + "\n";
        if let Some(now) = if_there(fs::read_to_string(path)).ok().flatten() {
            if let Some(line) = now.lines().next() {
                text = text + line + "\n";
            }
        }
        self.write_whole(path, text.as_bytes(), writer)
    }
}

/// Whether the content of the file is what its checksum says. Reads all of it, and goes back to the
/// start.
pub(super) fn is_right(file: &mut File, checksum: &Path) -> io::Result<bool> {
    let found = hexadecimal(&hash(file)?);
    file.rewind()?;
    let known = match fs::read(checksum) {
        Ok(known) => known,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(known.split(|byte| *byte == b'\n').any(|line| line == found.as_bytes()))
}

fn hash(file: &mut File) -> io::Result<Vec<u8>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().to_vec()),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
    }
}
