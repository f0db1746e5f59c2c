//! The files of one subdirectory, and of all of them, one after the other.

use std::fs::{self, Metadata};
use std::io;
use std::time::SystemTime;

use super::books::Books;
use super::look::used;
use super::{Store, if_there};
use crate::cache::entries::Listed;
use crate::cache::key::{self, Kind};

/// The files of one subdirectory.
#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) values: Vec<Value>,
    /// Names of files that stand beside values.
    pub(super) beside: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Value {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
    pub(super) used: SystemTime,
}

impl Store {
    pub(super) fn shard(&self, name: &str) -> io::Result<Shard> {
        let mut shard = Shard::default();
        let Some(directory) = if_there(fs::read_dir(self.directory.join(name)))? else {
            return Ok(shard);
        };
        for entry in directory {
            let Some(entry) = if_there(entry)? else { continue };
            let Ok(name) = entry.file_name().into_string() else { continue };
            match key::kind(&name) {
                Kind::Value { .. } => {
                    // It may be gone since, and anything may have such a name.
                    let metadata = if_there(entry.metadata())?.filter(Metadata::is_file);
                    if let Some(metadata) = metadata {
                        let (modified, used) = (metadata.modified()?, used(&metadata)?);
                        shard.values.push(Value { name, bytes: metadata.len(), modified, used });
                    }
                }
                Kind::Beside { .. } => shard.beside.push(name),
                Kind::Foreign => {}
            }
        }
        Ok(shard)
    }

    /// Looks at every value.
    pub(super) fn count(&self) -> io::Result<Books> {
        let mut books = Books::default();
        for name in key::shards() {
            for value in self.shard(&name)?.values {
                books.bytes += value.bytes;
                books.values += 1;
            }
        }
        Ok(books)
    }

    /// How many values there are, and their bytes.
    pub(in crate::cache) fn size(&self) -> io::Result<(u64, u64)> {
        self.count().map(|books| (books.values, books.bytes))
    }

    /// The values of one subdirectory that a look would find, but for their checksums.
    pub(in crate::cache) fn list(&self, shard: &str) -> io::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for Value { name, bytes, modified, used } in self.shard(shard)?.values {
            if self.is_expired(modified) {
                continue;
            }
            let key = match key::key_in(&name) {
                Some(key) => key.into_bytes(),
                None => {
                    let key = fs::read(self.in_shard(&name, &key::key_beside(&name)));
                    let Some(key) = if_there(key)? else { continue };
                    if key::Key::new(&key).value() != name {
                        continue;
                    }
                    key
                }
            };
            listed.push(Listed { key, path: self.in_shard(&name, &name), bytes, modified, used });
        }
        Ok(listed)
    }
}
