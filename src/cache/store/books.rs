//! How many bytes and values there are, without looking at each of them.
//!
//! One small file. Who writes it has the directory alone, or shares it and has the lock of the books. It may count too much, never too
//! little: what comes is added before it is visible, and often some room more (`room`); what goes is taken
//! off afterwards. So a process
//! that is killed in between leaves room unused, and no limit is passed. What it counts too much, and
//! what others have wiped, does not stay: each prune counts anew, and after as many values as
//! there were an insert does so in any case. Books that are missing or damaged are made anew by
//! counting.
//!
//! Who has no limit keeps no books. The first one after a count says in the books that they are out
//! of date; who has a limit then counts anew, with the directory alone.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};

use super::{Place, ROUNDS, Store, ask_anew, named};
use crate::cache::key::hexadecimal;
use crate::error::{Error, Operation};
use crate::os::shared_directory::{Directory, Found, Purpose};

const NAME: &str = "books";

/// What `stored` says when values come that are not counted.
const OUT_OF_DATE: u64 = u64::MAX;

/// Longer books are none.
const LONGEST: u64 = 4096;

/// Of what is on disk: its layout, and which byte is locked for what (docs/WIRE.md).
const FORMAT: u64 = 4;

/// A store of less than this many values is counted anew after this many, not after fewer: who counts has the
/// directory alone. Before room is made it is counted anew if the books say far too much (`publish`).
const FEW: u64 = 4096;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::cache) struct Books {
    pub(in crate::cache) bytes: u64,
    pub(in crate::cache) values: u64,
    /// Values that were stored since all of them were counted.
    pub(in crate::cache) stored: u64,
    /// Says which count that was (`room`); zero only in books that are given up.
    pub(in crate::cache) count: u64,
}

impl Books {
    /// Of a count that begins.
    pub(super) fn new() -> Self {
        let count = RandomState::new().build_hasher().finish().max(1);
        Self { count, ..Self::default() }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.count_more(1, bytes);
    }

    /// A value that is there.
    pub(super) fn see(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.values = self.values.saturating_add(1);
    }

    /// Values that are going to come.
    pub(super) fn count_more(&mut self, values: u64, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.values = self.values.saturating_add(values);
        self.stored = self.stored.saturating_add(values);
    }

    /// What was wiped by others was never taken off, so there may be less than nothing left.
    pub(super) fn take_off(&mut self, values: u64, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.values = self.values.saturating_sub(values);
    }

    /// Counting costs a look at each value. It is due after about as many have come, or when more have
    /// come than were counted.
    pub(super) fn is_count_due(&self) -> bool {
        self.stored.saturating_mul(2) >= self.values.saturating_add(FEW)
    }

    /// Values have come that were not counted, by those who have no limit to keep.
    pub(super) fn are_out_of_date(&self) -> bool {
        self.stored == OUT_OF_DATE
    }

    /// There may be more than was counted: who has a limit counts anew.
    pub(super) fn give_up(&mut self) {
        self.stored = OUT_OF_DATE;
    }

    fn parse(text: &str) -> Parsed {
        let Some(format) = format_of(text) else { return Parsed::Damaged };
        // Those before are read as if there were no books. They knew no directories, no lock of the books, or no names
        // with all of the hash.
        if format < FORMAT {
            return Parsed::Damaged;
        }
        if format != FORMAT {
            return Parsed::Foreign(format);
        }
        let mut numbers = [0; 4];
        let mut words = text.split_whitespace();
        for (number, name) in numbers.iter_mut().zip(["bytes", "values", "stored", "count"]) {
            let (Some(word), Some(digits)) = (words.next(), words.next()) else {
                return Parsed::Damaged;
            };
            match digits.parse() {
                Ok(parsed) if word == name => *number = parsed,
                _ => return Parsed::Damaged,
            }
        }
        let [bytes, values, stored, count] = numbers;
        let books = Self { bytes, values, stored, count };
        if books.to_string() == text { Parsed::Books(books) } else { Parsed::Damaged }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Books(Books),
    /// Of another version of this crate, which may have laid out the directory in another way.
    Foreign(u64),
    Damaged,
}

/// The format that undamaged books say, those of other versions, too: in every format the last line is
/// the check of what is before it, and one line is the number.
fn format_of(text: &str) -> Option<u64> {
    let (before, check) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let before = format!("{before}\n");
    if check != check_line(&before) {
        return None;
    }
    before.lines().find_map(|line| line.strip_prefix("format "))?.parse().ok()
}

fn check_line(text: &str) -> String {
    format!("check {}", hexadecimal(&Sha256::digest(text)[..8]))
}

/// Always of the same length, so that writing it over leaves nothing behind.
impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, values, stored, count } = self;
        let text = format!(
            "bytes {bytes:020}\nvalues {values:020}\nstored {stored:020}\ncount {count:020}\n\
             format {FORMAT}\n"
        );
        writeln!(f, "{text}{}", check_line(&text))
    }
}

impl Store {
    /// What the books say, without the room that this handle has left, or else what counting says; with the
    /// directory alone.
    pub(super) fn books(&self) -> io::Result<Books> {
        let mut books = match self.read_books()? {
            Parsed::Books(books) => books,
            Parsed::Foreign(format) => return Err(foreign(format)),
            Parsed::Damaged => self.count().0,
        };
        self.room.merge(&mut books);
        Ok(books)
    }

    /// How many values there are, and their bytes: what the books say, or else what counting says.
    pub(in crate::cache) fn size(&self) -> Result<(u64, u64), Error> {
        let failed = |error| named(Operation::ListCache, &self.directory, error);
        match self.read_books().map_err(failed)? {
            Parsed::Books(books) if !books.are_out_of_date() => {
                let Books { values, bytes, .. } = self.room.taken_out_of(books);
                Ok((values, bytes))
            }
            Parsed::Foreign(format) => Err(failed(foreign(format))),
            Parsed::Books(_) | Parsed::Damaged => self.counted(),
        }
    }

    /// What the books say, if they are up to date.
    pub(super) fn books_as_they_are(&self) -> io::Result<Option<Books>> {
        match self.read_books()? {
            Parsed::Books(books) if !books.are_out_of_date() => Ok(Some(books)),
            Parsed::Foreign(format) => Err(foreign(format)),
            Parsed::Books(_) | Parsed::Damaged => Ok(None),
        }
    }

    /// Makes the books right, with the directory to itself.
    pub(in crate::cache) fn recount(&self, writer: &str) -> Result<(u64, u64), Error> {
        let failed = |error| named(Operation::ListCache, &self.directory, error);
        self.check_format_anew().map_err(failed)?;
        let (books, unseen) = self.count();
        self.write_books_if_possible(books, writer);
        unseen.check(Operation::ListCache)?;
        Ok((books.values, books.bytes))
    }

    /// Whether this one keeps the books.
    pub(in crate::cache) fn keeps_books(&self) -> bool {
        self.settings.max_size.is_some()
    }

    /// The books of those who keep them; for others, whether the directory is another version's.
    pub(super) fn books_if_kept(&self) -> io::Result<Option<Books>> {
        if self.keeps_books() {
            return self.books().map(Some);
        }
        match self.read_books()? {
            Parsed::Foreign(format) => Err(foreign(format)),
            Parsed::Books(_) | Parsed::Damaged => Ok(None),
        }
    }

    /// Whether the books say that values come that are not counted.
    pub(super) fn are_books_given_up(&self) -> io::Result<bool> {
        match self.read_books()? {
            Parsed::Books(books) => Ok(books.are_out_of_date()),
            Parsed::Foreign(format) => Err(foreign(format)),
            Parsed::Damaged => Ok(false),
        }
    }

    /// Says in the books that values come that are not counted, for those who keep them; under their lock.
    pub(in crate::cache) fn give_up_books(&self, writer: &str) -> io::Result<()> {
        let books = match self.read_books()? {
            Parsed::Books(books) if books.are_out_of_date() => return Ok(()),
            Parsed::Foreign(format) => return Err(foreign(format)),
            Parsed::Books(_) | Parsed::Damaged => Books { stored: OUT_OF_DATE, ..Books::default() },
        };
        self.write_books(books, writer)
    }

    /// Looks whether the directory is another version's, so that those who read no books know; whether it is.
    pub(in crate::cache) fn note_format(&self) -> bool {
        let is_foreign = matches!(self.read_books(), Ok(Parsed::Foreign(_)));
        self.is_foreign.store(is_foreign, Ordering::Relaxed);
        is_foreign
    }

    /// An error if the directory is another version's by now: asked of the disk.
    pub(super) fn check_format_anew(&self) -> io::Result<()> {
        self.note_format();
        self.check_format()
    }

    /// An error if the directory is another version's still.
    pub(super) fn check_format(&self) -> io::Result<()> {
        if !self.is_foreign.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.read_books()? {
            Parsed::Foreign(format) => Err(foreign(format)),
            Parsed::Books(_) | Parsed::Damaged => {
                self.is_foreign.store(false, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// What is no file, or too long, or cannot be opened now, is damaged.
    fn read_books(&self) -> io::Result<Parsed> {
        let Some(root) = self.directory(Place::Root)? else { return Ok(Parsed::Damaged) };
        for _ in 0..ROUNDS {
            match read_books_in(&root) {
                // Another host has put a new file in its place, and the server has let go of this one.
                Err(error) if error.kind() == io::ErrorKind::StaleNetworkFileHandle => {}
                read => return read,
            }
        }
        Ok(Parsed::Damaged)
    }

    /// Writes the books before something comes: without them it may not.
    pub(super) fn write_books(&self, books: Books, writer: &str) -> io::Result<()> {
        let text = books.to_string();
        let root = self.directory_made(Place::Root, writer)?;
        // In one call, and in place: it needs no room on a disk that is full. But a file with another
        // name is perhaps not of the cache; and of two contents of one file another machine may miss the second.
        if !root.is_told_by_times() {
            if let Ok(Found::File(mut file, status)) = root.open_file(NAME, Purpose::Write) {
                if status.links == 1 && status.length == text.len() as u64 {
                    return file.write_all(text.as_bytes());
                }
            }
        }
        match self.write_whole(Place::Root, NAME, text.as_bytes(), writer) {
            // There are none, then, and each process counts.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(()),
            written => written,
        }
    }

    /// Writes the books after something went. Books that count too much do no harm.
    pub(super) fn write_books_if_possible(&self, books: Books, writer: &str) {
        let _ = self.write_books(books, writer);
    }
}

fn read_books_in(root: &Directory) -> io::Result<Parsed> {
    ask_anew(root);
    let (file, length) = match root.open_file(NAME, Purpose::Read) {
        Ok(Found::File(file, status)) if status.length <= LONGEST => (file, status.length),
        Ok(_) => return Ok(Parsed::Damaged),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Parsed::Damaged),
        Err(error) => return Err(error),
    };
    // One byte more shows the end in the same read.
    let mut text = Vec::with_capacity(length as usize + 1);
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(String::from_utf8(text).map_or(Parsed::Damaged, |text| Books::parse(&text)))
}

fn foreign(format: u64) -> io::Error {
    let text = format!(
        "another version of this crate has made it (format {format}, and not {FORMAT}); use that \
         version, or `clear` it"
    );
    io::Error::new(io::ErrorKind::Unsupported, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_survive_and_damage_is_noticed() {
        let books = Books { bytes: u64::MAX, values: 17, stored: 3, count: 12 };
        let text = books.to_string();
        assert_eq!(Books::parse(&text), Parsed::Books(books));
        assert_eq!(Books::default().to_string().len(), text.len());
        for at in 0..text.len() {
            assert_eq!(Books::parse(&text[..at]), Parsed::Damaged, "cut at {at}");
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            let damaged = String::from_utf8(damaged).unwrap();
            assert_eq!(Books::parse(&damaged), Parsed::Damaged, "bit at {at}");
        }
    }

    /// Computed by Python's `hashlib`; docs/WIRE.md has the same lines.
    #[test]
    fn books_of_other_versions_are_known_as_such() {
        let ours = "bytes 00000000000000000007\nvalues 00000000000000000001\n\
                    stored 00000000000000000001\ncount 00000000000000000009\nformat 4\ncheck 0db5b4edf537283a\n";
        assert_eq!(Books { bytes: 7, values: 1, stored: 1, count: 9 }.to_string(), ours);
        assert_eq!(
            Books::parse("format 5\nlimits none\ncheck 3ccef7d80ab57f5e\n"),
            Parsed::Foreign(5)
        );
        assert_eq!(
            Books::parse("format 5\nlimits none\ncheck 0000000000000000\n"),
            Parsed::Damaged
        );
        // Before there was a lock of the books, and before names said all of the hash.
        for before in ["format 2\ncheck 3e5b845872a07f46", "format 3\ncheck ccf9e6e92b312556"] {
            let before = ours.replace("format 4\ncheck 0db5b4edf537283a", before);
            assert_eq!(Books::parse(&before), Parsed::Damaged);
        }
        // Before there were directories.
        let before = "bytes 00000000000000000007\nvalues 00000000000000000001\n\
                      stored 00000000000000000001\nformat 1\ncheck d1ab4e25f0ab2234\n";
        assert_eq!(Books::parse(before), Parsed::Damaged);
        // The form before there were formats.
        let before = "bytes 7\nvalues 1\nstored 1\n";
        let before = format!("{before}{}\n", check_line(before));
        assert_eq!(Books::parse(&before), Parsed::Damaged);
    }

    #[test]
    fn counting_is_due_after_as_many_as_there_were() {
        let mut books = Books { values: 5000, ..Books::default() };
        let mut came = 0;
        while !books.is_count_due() {
            books.add(1);
            came += 1;
        }
        assert_eq!(came, 9096);
    }
}
