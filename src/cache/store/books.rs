//! How many bytes and values there are, without looking at each of them.
//!
//! One small file, read and written under the directory's lock. It may count too much, never too
//! little: what comes is added before it is visible, what goes is taken off afterwards. So a process
//! that is killed in between leaves room unused, and no limit is passed. What it counts too much, and
//! what others have wiped, does not stay: whoever prunes counts anew, and after as many values as
//! there were somebody does so in any case. Books that are missing or damaged are made anew by
//! counting.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::{Store, if_there};
use crate::cache::key::hexadecimal;

/// A store of less than this many values is counted anew after this many, not after fewer.
const FEW: u64 = 1024;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Books {
    pub(super) bytes: u64,
    pub(super) values: u64,
    /// Values that were stored since all of them were counted.
    pub(super) stored: u64,
}

impl Books {
    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.values += 1;
        self.stored += 1;
    }

    /// What was wiped by others was never taken off, so there may be less than nothing left.
    pub(super) fn take_off(&mut self, values: u64, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.values = self.values.saturating_sub(values);
    }

    /// Counting costs a look at each value. It is due after about as many have come.
    pub(super) fn is_count_due(&self) -> bool {
        self.stored.saturating_mul(2) >= self.values.saturating_add(FEW)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = [0; 3];
        let mut words = text.split_whitespace();
        for (number, name) in numbers.iter_mut().zip(["bytes", "values", "stored"]) {
            if words.next() != Some(name) {
                return None;
            }
            *number = words.next()?.parse().ok()?;
        }
        let [bytes, values, stored] = numbers;
        let books = Self { bytes, values, stored };
        // The check at the end included.
        (books.to_string() == text).then_some(books)
    }
}

/// Always of the same length, so that writing it over leaves nothing behind.
impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, values, stored } = self;
        let text = format!("bytes {bytes:020}\nvalues {values:020}\nstored {stored:020}\n");
        let check = hexadecimal(&Sha256::digest(&text)[..8]);
        writeln!(f, "{text}check {check}")
    }
}

impl Store {
    fn books_path(&self) -> PathBuf {
        self.directory.join("books")
    }

    /// What the books say, or else what counting says.
    pub(super) fn books(&self) -> io::Result<Books> {
        let path = self.books_path();
        let Some(text) = if_there(fs::read(&path))? else { return self.count() };
        if let Some(books) = String::from_utf8(text).ok().and_then(|text| Books::parse(&text)) {
            return Ok(books);
        }
        // Writing them over would leave the end of something longer.
        if_there(fs::remove_file(&path))?;
        self.count()
    }

    /// Writes the books before something comes: without them it may not.
    pub(super) fn write_books(&self, books: Books, writer: &str) -> io::Result<()> {
        let (path, text) = (self.books_path(), books.to_string());
        match OpenOptions::new().write(true).open(&path) {
            // In one call, and in place: it needs no room on a disk that is full.
            Ok(mut file) => file.write_all(text.as_bytes()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.write_whole(&path, text.as_bytes(), writer)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the books after something went. Books that count too much do no harm.
    pub(super) fn write_books_if_possible(&self, books: Books, writer: &str) {
        let _ = self.write_books(books, writer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_survive_and_damage_is_noticed() {
        let books = Books { bytes: u64::MAX, values: 17, stored: 3 };
        let text = books.to_string();
        assert_eq!(Books::parse(&text), Some(books));
        assert_eq!(Books::default().to_string().len(), text.len());
        for at in 0..text.len() {
            assert_eq!(Books::parse(&text[..at]), None, "cut at {at}");
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            assert_eq!(Books::parse(&String::from_utf8(damaged).unwrap()), None, "bit at {at}");
        }
    }

    #[test]
    fn counting_is_due_after_as_many_as_there_were() {
        let mut books = Books { bytes: 0, values: 5000, stored: 0 };
        let mut came = 0;
        while !books.is_count_due() {
            books.add(1);
            came += 1;
        }
        assert_eq!(came, 6024);
    }
}
