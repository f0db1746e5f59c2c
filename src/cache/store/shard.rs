//! The files of one subdirectory, and of all of them, one after the other.

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::SystemTime;

use super::books::Books;
use super::generation::OpenPointer;
use super::look::used;
use super::{Place, Store, named};
use crate::cache::entries::Listed;
use crate::cache::key::{self, Key, Kind};
use crate::error::{Error, ErrorKind, Operation};
use crate::os::shared_directory::{Directory, Found, Purpose};
use crate::shim::Arc;

/// A file with a longer key is not read to list it.
const LONGEST_KEY: u64 = 1 << 20;

/// What could not be removed or looked at, for the task that asked for that: the first of it. It stops nothing else.
#[derive(Debug, Default)]
pub(super) struct Kept(Option<(PathBuf, io::Error)>);

impl Kept {
    pub(super) fn add(&mut self, path: PathBuf, error: io::Error) {
        self.0.get_or_insert((path, error));
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn check(self, operation: Operation) -> Result<(), Error> {
        match self.0 {
            None => Ok(()),
            Some((path, error)) => Err(Error::os(ErrorKind::Io, operation, path, error)),
        }
    }
}

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
    /// What could not be looked at, the first of it: there may be more than this.
    pub(super) unseen: Option<io::Error>,
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

impl Value {
    /// That of its key.
    pub(super) fn hash(&self) -> &str {
        key::hash(&self.name)
    }
}

impl Shard {
    /// What is in the subdirectory of this name, as far as it can be looked at.
    pub(super) fn of(name: &str, directory: io::Result<Option<Arc<Directory>>>) -> Self {
        let mut shard = Self::default();
        if let Err(error) = shard.look_into(name, directory) {
            shard.unseen.get_or_insert(error);
        }
        shard
    }

    fn look_into(
        &mut self,
        in_shard: &str,
        directory: io::Result<Option<Arc<Directory>>>,
    ) -> io::Result<()> {
        let Some(directory) = if_allowed(directory)?.flatten() else { return Ok(()) };
        let Some(names) = if_allowed(directory.names())? else { return Ok(()) };
        self.directory = Some(directory.clone());
        for name in names {
            let name = match name {
                Ok(name) => name,
                // Wiped in the middle.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            };
            match key::kind(&name) {
                // What is in another subdirectory than its own is not of the cache.
                _ if !name.starts_with(in_shard) => self.other.push(name),
                Kind::Value { .. } => {
                    // It may be gone since, and anything may have such a name.
                    let status = match directory.status(&name) {
                        Ok(Some(status)) => status,
                        Ok(None) => continue,
                        Err(error) => {
                            self.unseen.get_or_insert(error);
                            continue;
                        }
                    };
                    if !status.is_file {
                        self.strange.push(name);
                        continue;
                    }
                    let (bytes, modified) = (status.length, status.modified);
                    let used = used(&status);
                    self.values.push(Value { name, of_directory: None, bytes, modified, used });
                }
                Kind::Pointer { hash } => {
                    let hash = hash.to_owned();
                    let OpenPointer { pointer, status, .. } =
                        match OpenPointer::open(&directory, &hash) {
                            Ok(Some(open)) => open,
                            Ok(None) => {
                                self.strange.push(name);
                                continue;
                            }
                            // Another user keeps it to itself, or has a lease on it.
                            Err(_) => continue,
                        };
                    self.values.push(Value {
                        name,
                        of_directory: Some(hash),
                        bytes: pointer.bytes,
                        modified: status.modified,
                        used: used(&status),
                    });
                }
                Kind::Beside { .. } => self.beside.push(name),
                Kind::Foreign => self.other.push(name),
            }
        }
        Ok(())
    }
}

impl Store {
    /// As far as it can be looked at.
    pub(super) fn shard(&self, in_shard: &str) -> Shard {
        Shard::of(in_shard, self.directory(Place::Shard(in_shard)))
    }

    /// Looks at every value. The books are out of date if one subdirectory cannot be looked at, which is told.
    pub(super) fn count(&self) -> (Books, Kept) {
        let (mut books, mut kept) = (Books::new(), Kept::default());
        for name in key::shards() {
            let shard = self.shard(&name);
            for value in &shard.values {
                books.see(value.bytes);
            }
            if let Some(error) = shard.unseen {
                kept.add(self.directory.join(&name), error);
            }
        }
        if !kept.is_nothing() {
            books.give_up();
        }
        (books, kept)
    }

    /// How many values there are, and their bytes, by looking at each.
    pub(in crate::cache) fn counted(&self) -> Result<(u64, u64), Error> {
        let failed = |error| named(Operation::ListCache, &self.directory, error);
        self.check_format_anew().map_err(failed)?;
        let (books, unseen) = self.count();
        unseen.check(Operation::ListCache)?;
        Ok((books.values, books.bytes))
    }

    /// The values of one subdirectory that a look would find, but for their checksums; and errors for what
    /// cannot be looked at.
    pub(in crate::cache) fn list(&self, name: &str) -> Vec<Result<Listed, Error>> {
        let failed = |path, error| Err(named(Operation::ListCache, path, error));
        if let Err(error) = self.check_format_anew() {
            return vec![failed(self.directory.clone(), error)];
        }
        let Shard { directory, values, unseen, .. } = self.shard(name);
        let mut listed = Vec::new();
        for value in values.into_iter().filter(|it| !self.is_unwanted(it.bytes, it.modified)) {
            let Some(directory) = &directory else { break };
            let path = self.path(Place::of(&value.name), &value.name);
            match if_allowed(self.listed(directory, value)) {
                Ok(found) => listed.extend(found.flatten().map(Ok)),
                Err(error) => listed.push(failed(path, error)),
            }
        }
        listed.extend(unseen.map(|error| failed(self.directory.join(name), error)));
        listed
    }

    /// `None` if no key leads there.
    fn listed(&self, directory: &Directory, value: Value) -> io::Result<Option<Listed>> {
        let Value { name, of_directory, bytes, modified, used } = value;
        if let Some(hash) = of_directory {
            let Some(open) = OpenPointer::open(directory, &hash)? else { return Ok(None) };
            let path = self.directory_path(open.pointer.generation.name());
            let key = open.key(LONGEST_KEY)?.filter(|key| Key::new(key).hash() == hash);
            let listed = |key| Listed { key, is_directory: true, path, bytes, modified, used };
            return Ok(key.map(listed));
        }
        let key = match key::key_in(&name) {
            Some(key) => Some(key.into_bytes()),
            None => key_beside(directory, &name)?.filter(|key| Key::new(key).value() == name),
        };
        let path = self.path(Place::of(&name), &name);
        Ok(key.map(|key| Listed { key, is_directory: false, path, bytes, modified, used }))
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
