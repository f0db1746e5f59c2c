//! The files of one subdirectory, and of all of them, one after the other.

use std::io::{self, Read};
use std::time::SystemTime;

use super::books::Books;
use super::generation::OpenPointer;
use super::look::used;
use super::{Place, Store};
use crate::cache::entries::Listed;
use crate::cache::key::{self, Key, Kind};
use crate::os::shared_directory::{Directory, Found, Purpose};
use crate::shim::Arc;

/// A file with a longer key is not read to list it.
const LONGEST_KEY: u64 = 1 << 20;

/// The files of one subdirectory.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// `None` if it is not there, or is no directory, or may not be read.
    pub(super) directory: Option<Arc<Directory>>,
    pub(super) values: Vec<Value>,
    /// Names of files that stand beside values.
    pub(super) beside: Vec<String>,
    /// What is no file and has the name of a value.
    pub(super) strange: Vec<String>,
    /// Names that may be those of temporary files.
    pub(super) other: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Value {
    pub(super) name: String,
    /// The hash of its key, if it is a directory: then this is its pointer.
    pub(super) of_directory: Option<String>,
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
    pub(super) used: SystemTime,
}

impl Store {
    pub(super) fn shard(&self, in_shard: &str) -> io::Result<Shard> {
        let mut shard = Shard::default();
        let place = Place::Shard(in_shard);
        let Some(directory) = if_allowed(self.directory(place))?.flatten() else {
            return Ok(shard);
        };
        let Some(names) = if_allowed(directory.names())? else { return Ok(shard) };
        for name in names {
            let name = match name {
                Ok(name) => name,
                // Wiped in the middle.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            };
            match key::kind(&name) {
                // What is in another subdirectory than its own is not of the cache.
                _ if !name.starts_with(in_shard) => shard.other.push(name),
                Kind::Value { .. } => {
                    // It may be gone since, and anything may have such a name.
                    let Some(status) = directory.status(&name)? else { continue };
                    if !status.is_file {
                        shard.strange.push(name);
                        continue;
                    }
                    let (bytes, modified) = (status.length, status.modified);
                    let used = used(&status);
                    shard.values.push(Value { name, of_directory: None, bytes, modified, used });
                }
                Kind::Pointer { hash } => {
                    let hash = hash.to_owned();
                    let OpenPointer { pointer, status, .. } =
                        match OpenPointer::open(&directory, &hash) {
                            Ok(Some(open)) => open,
                            Ok(None) => {
                                shard.strange.push(name);
                                continue;
                            }
                            // Another user keeps it to itself, or has a lease on it.
                            Err(_) => continue,
                        };
                    shard.values.push(Value {
                        name,
                        of_directory: Some(hash),
                        bytes: pointer.bytes,
                        modified: status.modified,
                        used: used(&status),
                    });
                }
                Kind::Beside { .. } => shard.beside.push(name),
                Kind::Foreign => shard.other.push(name),
            }
        }
        shard.directory = Some(directory);
        Ok(shard)
    }

    /// Looks at every value.
    pub(super) fn count(&self) -> io::Result<Books> {
        let mut books = Books::default();
        for name in key::shards() {
            for value in self.shard(&name)?.values {
                books.count(value.bytes);
            }
        }
        Ok(books)
    }

    /// How many values there are, and their bytes, by looking at each.
    pub(in crate::cache) fn counted(&self) -> io::Result<(u64, u64)> {
        self.check_format()?;
        self.count().map(|books| (books.values, books.bytes))
    }

    /// The values of one subdirectory that a look would find, but for their checksums.
    pub(in crate::cache) fn list(&self, name: &str) -> io::Result<Vec<Listed>> {
        self.check_format()?;
        let mut listed = Vec::new();
        let shard = self.shard(name)?;
        let Some(directory) = shard.directory else { return Ok(listed) };
        for Value { name, of_directory, bytes, modified, used } in shard.values {
            if self.is_unwanted(bytes, modified) {
                continue;
            }
            if let Some(hash) = of_directory {
                let Some(open) = OpenPointer::open(&directory, &hash)? else { continue };
                let path = self.directory_path(open.pointer.generation.name());
                let Some(key) = open.key(LONGEST_KEY)? else { continue };
                if Key::new(&key).hash() == hash {
                    listed.push(Listed { key, is_directory: true, path, bytes, modified, used });
                }
                continue;
            }
            let key = match key::key_in(&name) {
                Some(key) => key.into_bytes(),
                None => match key_beside(&directory, &name)? {
                    Some(key) if Key::new(&key).value() == name => key,
                    _ => continue,
                },
            };
            let path = self.path(Place::of(&name), &name);
            listed.push(Listed { key, is_directory: false, path, bytes, modified, used });
        }
        Ok(listed)
    }
}

fn key_beside(directory: &Directory, value: &str) -> io::Result<Option<Vec<u8>>> {
    match directory.open_file(&key::key_beside(value), Purpose::Read)? {
        Found::File(file, status) if status.length <= LONGEST_KEY => {
            let mut key = Vec::new();
            file.take(LONGEST_KEY).read_to_end(&mut key)?;
            Ok(Some(key))
        }
        _ => Ok(None),
    }
}

/// What another user keeps to itself is not there.
fn if_allowed<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
