//! What is asked of the disk: every call of fsync(2) and fdatasync(2) that the cache makes, but for what is
//! in directories (`Directory::finish_tree`).
//!
//! | policy | an insert of a value | in which order |
//! |---|---|---|
//! | `Never` | nothing | |
//! | `Values` | its content, that of its key and of its checksum if there are such files | each before the rename that makes the file visible |
//! | `Inserts` | the same; the subdirectory; the directory | the content first, the names when all of them are in place, before the insert returns; the subdirectory also between checksum and value, if a value is replaced |
//!
//! | policy | an insert of a directory | in which order |
//! |---|---|---|
//! | `Never` | nothing | |
//! | `Values` | all that is in it, and the content of the pointer | each before the rename that makes it visible |
//! | `Inserts` | the same; `dirs` and the directory; the subdirectory and the directory | the generation's name before the pointer's: the one before was promised; that one's end after the insert |
//!
//! Before a directory is deleted under another name, that it has lost its own is synced, but with
//! `Never`: half of it must not be found again.
//!
//! A hit needs the value, the key file of a long key, and the checksum if they are wanted. Where a value
//! is replaced, the one before was promised, and the disk may see the two renames in any order. The file
//! with the checksums has that of the value before, too; so it goes first, for good.
//!
//! With `Inserts` the name of the directory in its parent is synced as well when it is opened, with those of all
//! parents, for another process may have made them a moment ago; and where the directory is found to be another one
//! than before.
//!
//! Where a file system cannot sync something there is nothing to wait for, and that is no error.

use std::fs::File;
use std::io;
use std::path::Path;

use super::{Place, Settings, Store, if_there};
use crate::cache::key;
use crate::os::shared_directory::{self as directory, Directory};

/// What must survive a power failure. The death of a process loses nothing in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SyncPolicy {
    /// Nothing is asked of the disk. After a power failure, values that were inserted shortly before
    /// may be absent, or have lost their content: for caches that are thrown away then, or that have
    /// [`checksums`](crate::cache::CacheOptions::checksums).
    Never,
    /// A value is on the disk (fdatasync(2); for a directory syncfs(2), or fsync(2) of all that is in it)
    /// before it is visible: after a power failure it is whole, or absent.
    #[default]
    Values,
    /// As `Values`, and its directory before the insert returns (fsync(2)): it is there after a power
    /// failure. So are the names of the cache directory and all its parents, which are synced when it is opened.
    Inserts,
}

impl Store {
    /// The content of a file that is complete.
    pub(super) fn sync_file(&self, file: &File) -> io::Result<()> {
        if self.settings.sync == SyncPolicy::Never {
            return Ok(());
        }
        #[cfg(test)]
        tests::FILES.with(|count| count.set(count.get() + 1));
        directory::sync_file(file)
    }

    /// The name of a checksum, before the value is replaced.
    pub(super) fn sync_checksum(&self, key: &key::Key) -> io::Result<()> {
        self.sync_names(&[Place::of(key.value())])
    }

    /// A caller that was told that the value is there finds it after a power failure, if that is wanted.
    pub(in crate::cache) fn settle(&self, key: &key::Key) -> io::Result<()> {
        self.sync_names(&[Place::of(key.value()), Place::Root])
    }

    /// The names of generations, before one of them is pointed to: the one before it was promised.
    pub(super) fn sync_generation(&self) -> io::Result<()> {
        self.sync_names(&[Place::Directories, Place::Root])
    }

    /// A directory has lost its name, and what is in it is removed next: no half of it may be found.
    pub(super) fn sync_removal(&self, directory: &Directory) -> io::Result<()> {
        if self.settings.sync == SyncPolicy::Never { Ok(()) } else { sync(directory) }
    }

    fn sync_names(&self, places: &[Place<'_>]) -> io::Result<()> {
        if self.settings.sync != SyncPolicy::Inserts {
            return Ok(());
        }
        for place in places {
            // What was wiped needs no sync.
            if let Some(directory) = self.directory(*place)? {
                if_there(sync(&directory))?;
            }
        }
        Ok(())
    }
}

/// The name of the cache directory that is found, also where another process has made it.
pub(super) fn name_of(directory: &Path, settings: &Settings) -> io::Result<()> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    if settings.sync != SyncPolicy::Inserts {
        return Ok(());
    }
    match Directory::open(parent).and_then(|parent| sync(&parent)) {
        // Who may not read what is in there has made nothing of it, or has lost the right since.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Ok(())
        }
        synced => if_there(synced).map(drop),
    }
}

/// All names on the way there: others may have made them a moment ago.
pub(in crate::cache) fn names_to(directory: &Path, settings: &Settings) -> io::Result<()> {
    directory.ancestors().try_for_each(|directory| name_of(directory, settings))
}

fn sync(directory: &Directory) -> io::Result<()> {
    #[cfg(test)]
    tests::DIRECTORIES.with(|count| count.set(count.get() + 1));
    directory.sync()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::cache::key::Key;
    use crate::cache::options::CacheOptions;

    // How often this thread has asked.
    thread_local! {
        pub(super) static FILES: Cell<u32> = const { Cell::new(0) };
        pub(super) static DIRECTORIES: Cell<u32> = const { Cell::new(0) };
    }

    fn store(sync: SyncPolicy, checksums: bool) -> (tempfile::TempDir, Store) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().canonicalize().unwrap();
        let settings = Settings { sync, checksums, ..Settings::default() };
        let held = Directory::open(&path).unwrap();
        (place, Store::new(path, held, settings))
    }

    #[test]
    fn all_names_to_a_directory_that_is_opened() {
        for (policy, expected) in
            [(SyncPolicy::Never, false), (SyncPolicy::Values, false), (SyncPolicy::Inserts, true)]
        {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().canonicalize().unwrap().join("made/of/parents");
            // By this process, and then by one that finds them.
            for _ in 0..2 {
                let before = DIRECTORIES.get();
                CacheOptions::default().sync(policy).find_here(&path);
                let above = path.ancestors().count() as u32 - 1;
                assert_eq!(DIRECTORIES.get() - before, if expected { above } else { 0 });
            }
            // Made anew by another process. On Windows, where no directory is synced, a path is all that is kept of it.
            if cfg!(windows) {
                continue;
            }
            let held = Directory::open(&path).unwrap();
            let settings = Settings { sync: policy, ..Settings::default() };
            let store = Store::new(path.clone(), held, settings);
            std::fs::rename(&path, path.with_file_name("moved")).unwrap();
            std::fs::create_dir(&path).unwrap();
            let before = DIRECTORIES.get();
            for _ in 0..2 {
                store.root().unwrap();
            }
            assert_eq!(DIRECTORIES.get() - before, u32::from(expected));
        }
    }

    /// The syncs of one insert, of files and of directories.
    fn syncs(store: &Store, key: &Key) -> [u32; 2] {
        let counts = [&FILES, &DIRECTORIES];
        let [files, directories] = counts.map(|count| count.get());
        let writer = "0123456789abcdef";
        let mut incoming = store.begin(writer).unwrap();
        incoming.write(b"value").unwrap();
        store.finish(&incoming).unwrap();
        let lock = || Some(());
        store.publish_beside_others(key, incoming, None, writer, lock).unwrap().unwrap();
        store.settle(key).unwrap();
        [FILES.get() - files, DIRECTORIES.get() - directories]
    }

    /// With nothing there, and again in place of a value. Books are not synced, but where there are none
    /// they are a new file.
    #[test]
    fn as_many_syncs_as_promised() {
        let (short, long) = (Key::new(b"short"), Key::new(&[b'k'; 200]));
        let table = [
            (SyncPolicy::Never, false, [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
            (SyncPolicy::Never, true, [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
            (SyncPolicy::Values, false, [[1, 0], [1, 0]], [[2, 0], [1, 0]]),
            (SyncPolicy::Values, true, [[2, 0], [2, 0]], [[3, 0], [2, 0]]),
            (SyncPolicy::Inserts, false, [[1, 2], [1, 2]], [[2, 2], [1, 2]]),
            (SyncPolicy::Inserts, true, [[2, 2], [2, 3]], [[3, 2], [2, 3]]),
        ];
        for (policy, checksums, of_short, of_long) in table {
            for (key, expected) in [(&short, of_short), (&long, of_long)] {
                let (_place, store) = store(policy, checksums);
                // Makes the books.
                syncs(&store, &Key::new(b"other"));
                let counted = [syncs(&store, key), syncs(&store, key)];
                assert_eq!(counted, expected, "{policy:?}, checksums: {checksums}, {key:?}");
            }
        }
    }
}
