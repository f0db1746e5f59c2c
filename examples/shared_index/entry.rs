//! The text format of the index: a header, and one entry a line.
//!
//! ```text
//! next 00000000000000000072 recorded 00000000000000000001
//! file README.md
//! file src/lib.rs
//! claim 1.4 README.md
//! hash 1.4 af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262 17 README.md
//! claim 2.1 src/lib.rs
//! skip 2.1 permission%20denied src/lib.rs
//! ```
//!
//! Every line is made of words of visible ASCII characters, so that no file name can break it. A
//! line that was written over in the middle does not parse, and is not mistaken for another one.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::escape::{Escaped, unescape};

/// The first line. Its width is fixed, so that it can be written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Where the first `file` line begins that no task has claimed, in bytes from the start.
    pub(crate) next: u64,
    /// How many results stand in the index.
    pub(crate) recorded: u64,
}

/// Any other line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A file to hash.
    File { name: PathBuf },
    /// A task has taken the file.
    Claim { by: TaskId, name: PathBuf },
    /// A task is done with the file.
    Result { by: TaskId, outcome: Outcome, name: PathBuf },
}

/// What came of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Hashed { digest: blake3::Hash, bytes: u64 },
    Skipped { reason: String },
}

/// A task of a process, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskId {
    pub(crate) process: u32,
    pub(crate) task: u32,
}

impl Header {
    /// The length of its line, with the line break.
    pub(crate) const LENGTH: usize = "next ".len() + 20 + " recorded ".len() + 20 + 1;

    pub(crate) fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let ["next", next, "recorded", recorded] = words[..] else { return None };
        Some(Self { next: next.parse().ok()?, recorded: recorded.parse().ok()? })
    }
}

impl Entry {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        Some(match words[..] {
            ["file", name] => Self::File { name: parse_name(name)? },
            ["claim", by, name] => Self::Claim { by: TaskId::parse(by)?, name: parse_name(name)? },
            ["hash", by, digest, bytes, name] => Self::Result {
                by: TaskId::parse(by)?,
                outcome: Outcome::Hashed {
                    digest: digest.parse().ok()?,
                    bytes: bytes.parse().ok()?,
                },
                name: parse_name(name)?,
            },
            ["skip", by, reason, name] => Self::Result {
                by: TaskId::parse(by)?,
                outcome: Outcome::Skipped { reason: String::from_utf8(unescape(reason)?).ok()? },
                name: parse_name(name)?,
            },
            _ => return None,
        })
    }
}

impl TaskId {
    fn parse(word: &str) -> Option<Self> {
        let (process, task) = word.split_once('.')?;
        Some(Self { process: process.parse().ok()?, task: task.parse().ok()? })
    }
}

fn parse_name(word: &str) -> Option<PathBuf> {
    unescape(word).filter(|name| !name.is_empty()).map(|name| OsString::from_vec(name).into())
}

fn escaped(name: &Path) -> Escaped<'_> {
    Escaped(name.as_os_str().as_bytes())
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "next {:020} recorded {:020}", self.next, self.recorded)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name } => writeln!(f, "file {}", escaped(name)),
            Self::Claim { by, name } => writeln!(f, "claim {by} {}", escaped(name)),
            Self::Result { by, outcome: Outcome::Hashed { digest, bytes }, name } => {
                writeln!(f, "hash {by} {} {bytes} {}", digest.to_hex(), escaped(name))
            }
            Self::Result { by, outcome: Outcome::Skipped { reason }, name } => {
                writeln!(f, "skip {by} {} {}", Escaped(reason.as_bytes()), escaped(name))
            }
        }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.process, self.task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_keeps_its_width() {
        for number in [0, 1, u64::MAX] {
            let header = Header { next: number, recorded: number };
            let line = header.to_string();
            assert_eq!(line.len(), Header::LENGTH);
            assert_eq!(Header::parse(line.trim_end()), Some(header));
        }
    }

    #[test]
    fn entries_survive() {
        let by = TaskId { process: 2, task: 31 };
        let name = PathBuf::from(OsString::from_vec(b"a b\n\xff%/c".to_vec()));
        let hashed = Outcome::Hashed { digest: blake3::hash(b"x"), bytes: 1 };
        let skipped = Outcome::Skipped { reason: "denied: 100 %\n".into() };
        let entries = [
            Entry::File { name: name.clone() },
            Entry::Claim { by, name: name.clone() },
            Entry::Result { by, outcome: hashed, name: name.clone() },
            Entry::Result { by, outcome: skipped, name },
        ];
        for entry in entries {
            let line = entry.to_string();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert_eq!(Entry::parse(line.trim_end()), Some(entry), "{line}");
        }
    }

    #[test]
    fn damaged_lines_are_noticed() {
        for line in ["", "file", "file ", "claim 1.x a", "hash 1.1 abc 5 a", "file a b", "fil a"] {
            assert_eq!(Entry::parse(line), None, "{line}");
        }
    }
}
