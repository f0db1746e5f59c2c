//! Looking for a value. No lock is held: see the header of `store`.

use std::fs::{File, FileTimes};
use std::io::{self, Read};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{CLOCKS_DIFFER, Place, ROUNDS, Store, checksum, if_there, named};
use crate::cache::entry::Entry;
use crate::cache::key::Key;
use crate::error::{Error, ErrorKind, Operation};
use crate::os::shared_directory::{self as directory, Directory, Found, Purpose, Status};

/// A use is noted only when the last one that was noted is this long ago: a hot value is not written
/// to at each read.
const RECENTLY: Duration = Duration::from_secs(60);

/// Who is asked what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cache) enum Freshness {
    /// This machine, which may remember for some seconds that there was nothing.
    AsKnown,
    /// The server, where the directory is on one.
    AtServer,
}

/// Whether a look is a use of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cache) enum Noted {
    AsUse,
    Not,
}

/// A value that stands in its place, and is that of its key.
struct Looked {
    file: File,
    status: Status,
}

impl Store {
    /// `is_cancelled` may be set by a caller that does not want the answer any more.
    pub(in crate::cache) fn look(
        &self,
        key: &Key,
        freshness: Freshness,
        noted: Noted,
        is_cancelled: &AtomicBool,
    ) -> Result<Option<Entry>, Error> {
        let path = || self.value(key);
        let failed = |error| named(Operation::ReadValue, path(), error);
        self.check_format().map_err(failed)?;
        if freshness == Freshness::AtServer {
            self.refresh(&[Place::Root, Place::of(key.value())]).map_err(failed)?;
        }
        // More than one round only if the value is replaced in the same moment.
        for _ in 0..ROUNDS {
            let found = self.look_once(key, is_cancelled).map_err(failed)?;
            let Looked { file, status } = match found {
                Look::Found(looked) => looked,
                Look::Absent => break,
                Look::Replaced => continue,
                Look::NotAFile => {
                    let detail = "something that is not a regular file stands there";
                    let kind = ErrorKind::NotAFile;
                    return Err(Error::found(kind, Operation::ReadValue, path(), detail));
                }
            };
            if noted == Noted::AsUse {
                note_use(&file, &status);
            }
            return Ok(Some(Entry::new(file, path(), status.length, status.modified)));
        }
        // Another version may have its values elsewhere.
        self.check_format_anew().map_err(failed)?;
        Ok(None)
    }

    fn look_once(&self, key: &Key, is_cancelled: &AtomicBool) -> io::Result<Look> {
        let Some(root) = if_there(self.root())? else { return Ok(Look::Absent) };
        if !self.settings.checksums {
            let found = root.open_file_in(key.shard(), key.value())?;
            return Ok(self.looked(found));
        }
        let Some(shard) = self.directory(Place::of(key.value()))? else { return Ok(Look::Absent) };
        let mut looked = match self.looked(shard.open_file(key.value(), Purpose::Read)?) {
            Look::Found(looked) => looked,
            other => return Ok(other),
        };
        let length = looked.status.length;
        if !checksum::is_right(&mut looked.file, length, &shard, key, is_cancelled)? {
            let now = shard.status(key.value())?;
            let is_wrong = now.is_some_and(|now| now.identity == looked.status.identity);
            return Ok(if is_wrong { Look::Absent } else { Look::Replaced });
        }
        Ok(Look::Found(looked))
    }

    fn looked(&self, found: Found) -> Look {
        match found {
            Found::File(file, status) => {
                if self.is_unwanted(status.length, status.modified) {
                    return Look::Absent;
                }
                Look::Found(Looked { file, status })
            }
            Found::Nothing => Look::Absent,
            Found::NotAFile => Look::NotAFile,
        }
    }
}

enum Look {
    Found(Looked),
    Absent,
    Replaced,
    NotAFile,
}

/// Whether the file with this name has this key in it.
pub(super) fn is_key(shard: &Directory, name: &str, key: &Key) -> io::Result<bool> {
    let Found::File(mut file, status) = shard.open_file(name, Purpose::Read)? else {
        return Ok(false);
    };
    if status.length != key.bytes().len() as u64 {
        return Ok(false);
    }
    let mut stored = vec![0; key.bytes().len()];
    match file.read_exact(&mut stored) {
        Ok(()) => Ok(stored == key.bytes()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// When a value was used last, as far as it was noted.
pub(super) fn used(status: &Status) -> SystemTime {
    // Some file systems note no accesses, and some none of files that are new. A time from the future
    // was never true.
    let latest = SystemTime::now() + CLOCKS_DIFFER;
    let times = [status.modified, status.accessed];
    times.into_iter().filter(|time| *time <= latest).max().unwrap_or(UNIX_EPOCH)
}

/// The owner may, others not, and on a read-only file system no process: then the value goes sooner. Nor if
/// that would copy the value, or if the file has a name outside of the cache.
pub(super) fn note_use(file: &File, status: &Status) {
    let now = SystemTime::now();
    let is_long_ago = now.duration_since(used(status)).is_ok_and(|ago| ago > RECENTLY);
    if is_long_ago && status.links == 1 && !directory::copies_to_note(file) {
        let _ = file.set_times(FileTimes::new().set_accessed(now));
    }
}

/// After a file was read that had this status before: to look at it is no use. As far as that is allowed, and not if it would copy the
/// file, or if that has a name outside of the cache.
pub(super) fn forget_use(file: &File, before: &Status) {
    let is_noted = Status::of_file(file).is_ok_and(|now| now.accessed != before.accessed);
    if is_noted && before.links == 1 && !directory::copies_to_note(file) {
        let _ = file.set_times(FileTimes::new().set_accessed(before.accessed));
    }
}
