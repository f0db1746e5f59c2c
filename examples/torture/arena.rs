//! What is locked: files of either protocol, and keys.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio_filelock::{Error, FileLock, LockSpace, OpenOptions, Protocol};

/// What all processes lock, in one order.
pub(crate) struct Arena {
    directory: PathBuf,
    locks: Vec<Lock>,
}

/// One of the locks.
#[derive(Debug, Clone)]
pub(crate) struct Lock {
    /// Its row in the witness.
    pub(crate) row: usize,
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file that stays.
    Plain(Protocol),
    /// One with records.
    Recorded(Protocol),
    /// One that its holders remove and replace: every process looks at the path, as documented.
    Removed(Protocol),
    Key(&'static str),
}

use Kind::{Key, Plain, Recorded, Removed};

const KINDS: [Kind; 12] = [
    Plain(Protocol::Flock),
    Plain(Protocol::Flock),
    Plain(Protocol::Fcntl),
    Plain(Protocol::Fcntl),
    Recorded(Protocol::Flock),
    Recorded(Protocol::Fcntl),
    Removed(Protocol::Flock),
    Removed(Protocol::Fcntl),
    Key("anna"),
    Key("bert"),
    Key("cleo"),
    Key("dora"),
];

impl Arena {
    pub(crate) const LOCKS: usize = KINDS.len();

    pub(crate) fn new(directory: &Path) -> Self {
        let locks = KINDS.into_iter().enumerate().map(|(row, kind)| {
            let name = match kind {
                Key(_) => "space".to_owned(),
                _ => format!("{row}.lock"),
            };
            Lock { row, path: directory.join(name), kind }
        });
        Self { directory: directory.to_owned(), locks: locks.collect() }
    }

    /// Those that are never removed are there from the beginning, for those who only read.
    pub(crate) fn create(&self) -> io::Result<()> {
        fs::create_dir(&self.directory)?;
        for lock in &self.locks {
            if let Plain(_) | Recorded(_) = lock.kind {
                fs::write(&lock.path, "")?;
            }
        }
        Ok(())
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn locks(&self) -> &[Lock] {
        &self.locks
    }
}

impl Lock {
    pub(crate) async fn open(&self) -> Result<FileLock, Error> {
        match self.kind {
            Key(name) => Ok(LockSpace::open(&self.path).await?.key(name)),
            _ => self.options().open(&self.path).await,
        }
    }

    /// Through a handle that only reads, and so leaves no record.
    pub(crate) async fn open_to_read(&self) -> Result<FileLock, Error> {
        FileLock::options().protocol(self.protocol()).read_only(true).open(&self.path).await
    }

    /// Whether there is such a handle: not of a key, nor of what the next process may have to make.
    pub(crate) fn is_readable(&self) -> bool {
        matches!(self.kind, Plain(_) | Recorded(_))
    }

    fn protocol(&self) -> Protocol {
        match self.kind {
            Plain(protocol) | Recorded(protocol) | Removed(protocol) => protocol,
            Key(_) => Protocol::Fcntl,
        }
    }

    fn options(&self) -> OpenOptions {
        let options = FileLock::options().protocol(self.protocol());
        match self.kind {
            Recorded(_) => options.record(true).label("torture"),
            Removed(_) => options.verify_path(true),
            Plain(_) | Key(_) => options,
        }
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lock {} ({:?})", self.row, self.kind)
    }
}
