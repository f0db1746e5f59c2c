//! A value on its way in: a temporary file that no reader looks for.

use std::collections::HashMap;
use std::io::{self, Seek, Write};
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::publish::entry;
use super::temporary::Temporary;
use super::{Generation, Place, Store, writer_in};
use crate::cache::entry::Entry;

#[derive(Debug)]
pub(crate) struct Incoming {
    pub(super) temporary: Temporary,
    pub(super) length: u64,
    hasher: Option<Sha256>,
}

impl Incoming {
    pub(in crate::cache) fn length(&self) -> u64 {
        self.length
    }

    /// The checksum of the value, if the store wants one.
    pub(super) fn checksum(&self) -> Option<Vec<u8>> {
        self.hasher.as_ref().map(|hasher| hasher.clone().finalize().to_vec())
    }

    /// One that gets no place: a file that only this process can reach, outside of the cache.
    pub(in crate::cache) fn unkept() -> io::Result<Self> {
        Ok(Self { temporary: Temporary::unnamed()?, length: 0, hasher: None })
    }

    /// The value, which is not kept: once the entry is dropped nothing is left of it.
    pub(in crate::cache) fn into_entry(self, path: PathBuf) -> io::Result<Entry> {
        let mut file = self.temporary.file()?.try_clone()?;
        file.rewind()?;
        entry(file, path)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.temporary.file()?.write_all(bytes)?;
        self.length += bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        Ok(())
    }
}

impl Store {
    pub(in crate::cache) fn begin(&self, writer: &str) -> io::Result<Incoming> {
        self.check_format()?;
        let hasher = self.settings.checksums.then(Sha256::new);
        Ok(Incoming { temporary: self.temporary(writer)?, length: 0, hasher })
    }

    /// The value is whole. After a power failure it is so still, or it is absent.
    pub(in crate::cache) fn finish(&self, incoming: &Incoming) -> io::Result<()> {
        self.sync_file(incoming.temporary.file()?)
    }

    /// Removes what dead writers have left, and directories that were pinned when they were replaced or
    /// removed; `of_dead` gives the lock of a writer that is dead. What cannot be removed stays.
    pub(in crate::cache) fn remove_temporary_files<G>(
        &self,
        writer: &str,
        of_dead: impl Fn(&str) -> Option<G>,
    ) {
        let mut dead = HashMap::new();
        // A directory that gets its mode before its name has a temporary one.
        for place in [Place::Temporary, Place::Directories, Place::Root] {
            let Ok(Some(directory)) = self.directory(place) else { continue };
            let Ok(names) = directory.names() else { continue };
            for name in names.flatten() {
                if let (Place::Temporary, Some(marked)) = (place, Generation::parse(&name)) {
                    let _ = self.remove_garbage(&marked, writer);
                    continue;
                }
                let Some(writer) = writer_in(&name) else { continue };
                let lock = dead.entry(writer.to_owned()).or_insert_with(|| of_dead(writer));
                if lock.is_none() {
                    continue;
                }
                if let Place::Directories = place {
                    let _ = directory.remove_tree(&name);
                } else if directory.remove_file(&name).is_err() {
                    let _ = directory.remove_directory(&name);
                }
            }
        }
    }
}
