//! A value on its way in: a temporary file that nobody looks for.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::Store;
use crate::cache::options::SyncPolicy;

#[derive(Debug)]
pub(crate) struct Incoming {
    pub(super) file: NamedTempFile,
    pub(super) length: u64,
    hasher: Option<Sha256>,
}

impl Incoming {
    /// The checksum of the value, if the store wants one.
    pub(super) fn checksum(&self) -> Option<Vec<u8>> {
        self.hasher.as_ref().map(|hasher| hasher.clone().finalize().to_vec())
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        Ok(())
    }
}

impl Store {
    pub(in crate::cache) fn begin(&self, writer: &str) -> io::Result<Incoming> {
        let hasher = self.settings.checksums.then(Sha256::new);
        Ok(Incoming { file: self.temporary(writer)?, length: 0, hasher })
    }

    /// The value is whole. After a power failure it is so still, or it is absent.
    pub(in crate::cache) fn finish(&self, incoming: &Incoming) -> io::Result<()> {
        self.sync(incoming.file.as_file())
    }

    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        match self.settings.sync {
            SyncPolicy::Never => Ok(()),
            SyncPolicy::Values | SyncPolicy::Inserts => file.sync_data(),
        }
    }

    /// Removes the files of dead writers; `of_dead` gives the lock of a writer that is dead. What cannot
    /// be removed stays.
    pub(in crate::cache) fn remove_temporary_files<G>(&self, of_dead: impl Fn(&str) -> Option<G>) {
        let Ok(directory) = fs::read_dir(self.temporary_directory()) else { return };
        let mut dead = HashMap::new();
        for entry in directory.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Some((writer, _)) = name.split_once('-') else { continue };
            let lock = dead.entry(writer.to_owned()).or_insert_with(|| of_dead(writer));
            if lock.is_some() {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
