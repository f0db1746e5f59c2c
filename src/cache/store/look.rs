//! Looking for a value. No lock is held: see the header of `store`.

use std::fs::{File, FileTimes, Metadata};
use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use super::{ROUNDS, Store, checksum, if_there};
use crate::cache::entry::Entry;
use crate::cache::key::Key;
use crate::error::{Error, ErrorKind, Operation};
use crate::os::cache_file::{self, Found};

/// A use is noted only when the last one that was noted is this long ago: a hot value is not written
/// to at each read.
const RECENTLY: Duration = Duration::from_secs(60);

impl Store {
    pub(in crate::cache) fn look(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let path = self.value(key);
        let failed = |error| Error::os(ErrorKind::Io, Operation::ReadValue, &path, error);
        // More than one round only if the value is replaced in the same moment.
        for _ in 0..ROUNDS {
            let (mut file, metadata) = match cache_file::open(&path).map_err(failed)? {
                Found::Value(file, metadata) => (file, metadata),
                Found::Nothing => return Ok(None),
                Found::NotAFile => {
                    let detail = "something that is not a regular file stands there";
                    let kind = ErrorKind::NotAFile;
                    return Err(Error::found(kind, Operation::ReadValue, &path, detail));
                }
            };
            let modified = metadata.modified().map_err(failed)?;
            if self.is_expired(modified) {
                return Ok(None);
            }
            if let Some(name) = key.key() {
                if !self.is_key(&name, key).map_err(failed)? {
                    return Ok(None);
                }
                if !cache_file::leads_to(&path, &metadata).map_err(failed)? {
                    continue;
                }
            }
            if self.settings.checksums {
                let checksum = self.in_shard(key.value(), &key.checksum());
                if !checksum::is_right(&mut file, &checksum).map_err(failed)? {
                    return Ok(None);
                }
            }
            note_use(&file, &metadata);
            return Ok(Some(Entry::new(file, path, metadata.len(), modified)));
        }
        Ok(None)
    }

    /// Whether the file with this name has this key in it.
    pub(super) fn is_key(&self, name: &str, key: &Key) -> io::Result<bool> {
        let Some(mut file) = if_there(File::open(self.in_shard(key.value(), name)))? else {
            return Ok(false);
        };
        // With room for one more byte, so that a longer one is not taken for it.
        let mut stored = vec![0; key.bytes().len() + 1];
        let mut length = 0;
        loop {
            match file.read(&mut stored[length..]) {
                Ok(0) => return Ok(&stored[..length] == key.bytes()),
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// When a value was used last, as far as it was noted.
pub(super) fn used(metadata: &Metadata) -> io::Result<SystemTime> {
    // Some file systems note no accesses, and some none of files that are new.
    let modified = metadata.modified()?;
    Ok(metadata.accessed().map_or(modified, |accessed| accessed.max(modified)))
}

/// The owner may, others not, and on a read-only file system nobody: then the value goes sooner.
fn note_use(file: &File, metadata: &Metadata) {
    let now = SystemTime::now();
    if used(metadata).is_ok_and(|used| now.duration_since(used).is_ok_and(|ago| ago > RECENTLY)) {
        let _ = file.set_times(FileTimes::new().set_accessed(now));
    }
}
