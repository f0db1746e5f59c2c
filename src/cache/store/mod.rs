//! What is on disk: a directory of values, and everything that is done to it. All of it blocks.
//!
//! ```text
//! <directory>/
//!   1f/                    values, by the first two digits of their key's hash
//!     1f0e...-src%2flib.rs   a value, as it was inserted
//!     1f9a...-https%3a#7d..  a value whose name has no room for the key: the rest of its hash
//!     1f9a....key            its key, for lists
//!     1f0e....sha256         the checksum of a value, if that is wanted
//!     1f0e....dir            which directory is the value, if that is a directory
//!   dirs/                  directories that are values (`generation`)
//!     1f0e...-9a41...        one that is complete
//!     <writer>-3b7d...       one on its way in or out
//!   tmp/                   values on their way in
//!     <writer>-7c01...       of a process that lives, or that died
//!   books                  how many bytes and values there are
//!   oldest                 what goes next where there is a limit
//! ```
//!
//! Who changes a value holds the lock of its key and that of the directory (`locks`): shared, to insert a file, or
//! if there is no limit to keep, or else exclusively, as for a walk. With a limit an insert has room in the books
//! (`room`), which have a lock of their own. Who reads values holds nothing:
//! 1. A value appears and is replaced by renaming a file that is complete. A file that is in its place
//!    is never written again. So a reader that has opened a value has all of it, and keeps it.
//! 2. The name of a value belongs to one key (`key`). So what is found under it is the value of that key, and the file
//!    with a longer key is read only to list it.
//! 3. Anything here may vanish at any moment, because another process wipes the directory. Code that misses a
//!    directory makes it, code that misses a file takes it for a value that is not there.
//! 4. Only files whose names are ours, in places that are ours, are ever removed.
//! 5. Anything may stand under any name, put there by another user who may write to the directory. So
//!    all goes by directory handles and single names in them (`os::shared_directory`), and a path is made for
//!    messages only, and to see whether the directory was exchanged. What is not of the kind that it
//!    should be counts as absent, and gives way to what is put in its place; a directory with something
//!    in it stays, and is the error of those who want that place.
//! 6. One thing that cannot be removed or looked at stops nothing but what needs it.

mod books;
mod checksum;
mod generation;
mod incoming;
mod look;
mod oldest;
mod prune;
mod publish;
mod room;
mod shard;
mod sync;
mod temporary;

use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc as StdArc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::key::{self, Key};
use super::pin::Pins;
use crate::error::{Error, ErrorKind, Operation};
use crate::os::shared_directory::Directory;
use crate::shim::{Arc, Mutex};

#[cfg(test)]
pub(super) use books::Books;
pub(super) use generation::{FoundDirectory, Generation, Staging};
pub(super) use incoming::Incoming;
pub(super) use look::{Freshness, Noted};
pub use prune::Removed;
#[cfg(test)]
pub(super) use room::Amount;
pub(super) use room::{Room, Taken};
pub use sync::SyncPolicy;
pub(super) use sync::names_to;

/// A process that wipes the directory may make a step fail again and again; after so many rounds its
/// error is reported.
pub(super) const ROUNDS: usize = 16;

/// Clocks of machines that share a directory may differ by so much. A file that is from later than that
/// has a time that says nothing.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

const TEMPORARY: &str = "tmp";
const DIRECTORIES: &str = "dirs";

#[derive(Debug)]
pub(super) struct Store {
    /// Absolute, and no symbolic link when it was opened.
    pub(super) directory: PathBuf,
    /// What was there at the last look.
    held: Mutex<Arc<Directory>>,
    /// Another version's directory was seen here.
    is_foreign: AtomicBool,
    pub(super) pins: Pins,
    pub(super) room: StdArc<Room>,
    pub(super) settings: Settings,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub(super) max_size: Option<u64>,
    pub(super) max_age: Option<Duration>,
    pub(super) mode: Option<u32>,
    pub(super) sync: SyncPolicy,
    pub(super) checksums: bool,
    pub(super) this_machine_only: bool,
}

/// A directory of the store.
#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    /// The one that has all others.
    Root,
    Shard(&'a str),
    Temporary,
    /// Where the directories are that are values.
    Directories,
}

impl<'a> Place<'a> {
    /// Where a value is, and what stands beside it.
    fn of(value: &'a str) -> Self {
        Place::Shard(key::shard(value))
    }

    fn name(self) -> Option<&'a str> {
        match self {
            Place::Root => None,
            Place::Shard(name) => Some(name),
            Place::Temporary => Some(TEMPORARY),
            Place::Directories => Some(DIRECTORIES),
        }
    }
}

impl Store {
    pub(super) fn new(directory: PathBuf, held: Directory, settings: Settings) -> Self {
        let (held, is_foreign) = (Mutex::new(Arc::new(held)), AtomicBool::new(false));
        let (pins, room) = (Pins::default(), StdArc::default());
        Self { directory, held, is_foreign, pins, room, settings }
    }

    /// The path of a key's value, for messages and for other programs.
    pub(super) fn value(&self, key: &Key) -> PathBuf {
        self.path(Place::of(key.value()), key.value())
    }

    /// The path of a file, for messages.
    fn path(&self, place: Place<'_>, name: &str) -> PathBuf {
        let mut path = self.directory.clone();
        path.extend(place.name());
        path.push(name);
        path
    }

    /// The directory that the path leads to now.
    fn root(&self) -> io::Result<Arc<Directory>> {
        let held = self.held.lock().clone();
        if held.is_at(&self.directory)? {
            return Ok(held);
        }
        // Wiped and made anew, or moved away.
        let found = Arc::new(Directory::open(&self.directory)?);
        sync::name_of(&self.directory, &self.settings)?;
        let before = std::mem::replace(&mut *self.held.lock(), found.clone());
        drop((held, before)); // and not under the mutex
        Ok(found)
    }

    /// A directory of the store, if it is there. What is no directory has nothing in it.
    fn directory(&self, place: Place<'_>) -> io::Result<Option<Arc<Directory>>> {
        let Some(root) = if_there(self.root())? else { return Ok(None) };
        let Some(name) = place.name() else { return Ok(Some(root)) };
        subdirectory(&root, name)
    }

    /// A directory of the store, which is made if it is missing. What is no directory gives way to it.
    fn directory_made(&self, place: Place<'_>, writer: &str) -> io::Result<Arc<Directory>> {
        let mut rounds = 0..ROUNDS;
        loop {
            let opened = self.root().and_then(|root| {
                let Some(name) = place.name() else { return Ok(root) };
                match root.subdirectory(name) {
                    Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                        if_there(root.remove_file(name))?;
                        Err(io::ErrorKind::NotFound.into())
                    }
                    opened => opened.map(Arc::new),
                }
            });
            match opened {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    rounds.next().ok_or(error)?;
                }
                opened => return opened,
            }
            // Wiped together with its parent, perhaps.
            if_there(self.make(place, writer))?;
        }
    }

    fn make(&self, place: Place<'_>, writer: &str) -> io::Result<()> {
        make_directory(&self.directory, &self.settings)?;
        let Some(name) = place.name() else { return Ok(()) };
        let other_name = temporary_name(writer);
        let root = self.root()?;
        root.make_subdirectory(name, self.settings.mode, &other_name)?;
        root.show_change();
        Ok(())
    }

    /// Makes network file systems ask their server.
    fn refresh(&self, places: &[Place<'_>]) -> io::Result<()> {
        for place in places {
            if let Some(directory) = self.directory(*place)? {
                directory.refresh();
            }
        }
        Ok(())
    }

    /// As if it were not there.
    fn is_unwanted(&self, bytes: u64, modified: SystemTime) -> bool {
        self.settings.max_size.is_some_and(|most| bytes > most) || self.is_expired(modified)
    }

    /// The value was written too long ago, or it is not known when.
    fn is_expired(&self, modified: SystemTime) -> bool {
        self.settings.max_age.is_some_and(|most| match modified.elapsed() {
            Ok(age) => age > most,
            Err(ahead) => ahead.duration() > CLOCKS_DIFFER,
        })
    }
}

/// Asks the server of a network file system what is in there, where a handle may show what was there before.
fn ask_anew(directory: &Directory) {
    if directory.is_told_by_times() {
        directory.refresh();
    }
}

/// A directory in the one of the store, if it is there. What is no directory has nothing in it.
fn subdirectory(root: &Directory, name: &str) -> io::Result<Option<Arc<Directory>>> {
    match root.subdirectory(name) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
        opened => Ok(if_there(opened)?.map(Arc::new)),
    }
}

/// A name that no other file has, and that says whose it is.
fn temporary_name(writer: &str) -> String {
    format!("{writer}-{:016x}", RandomState::new().build_hasher().finish())
}

/// The writer that a temporary name says.
fn writer_in(name: &str) -> Option<&str> {
    name.split_once('-').map(|(writer, _)| writer)
}

/// Makes the directory at this path, if it is missing. Its parent must be there. What stands there already
/// stays, and no link there is followed.
pub(super) fn make_directory(path: &Path, settings: &Settings) -> io::Result<()> {
    // What has none is there.
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let parent = Directory::open(&parent.canonicalize()?)?;
    if parent.status(name)?.is_some() {
        return Ok(());
    }
    match parent.make_subdirectory(name, settings.mode, &unfinished_name(name)) {
        // Another process is about to make it, or was killed when it was.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            parent.make_subdirectory(name, settings.mode, &temporary_name("tokio-filelock"))
        }
        made => made,
    }
}

/// What the directory is called that is to become the cache directory, before it has its mode. There is one
/// name, so that what a killed process has left is found.
fn unfinished_name(name: &OsStr) -> String {
    format!(".tokio-filelock-{}", &key::hexadecimal(&Sha256::digest(name.as_encoded_bytes()))[..16])
}

/// The cache directory is there: what is to become the same one is not wanted. As far as it can be removed.
pub(super) fn remove_unfinished(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
    if let Ok(parent) = Directory::open(parent) {
        let _ = parent.remove_directory(&unfinished_name(name));
    }
}

/// What an error of the store is for its caller.
pub(super) fn named(operation: Operation, path: impl AsRef<Path>, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::IsADirectory => ErrorKind::NotAFile,
        io::ErrorKind::Unsupported => ErrorKind::Unsupported,
        _ => return Error::os(ErrorKind::Io, operation, path, error),
    };
    // Found by the store, which says it all.
    Error::found(kind, operation, path, error.to_string())
}

/// What is not there needs nothing done to it.
pub(super) fn if_there<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
