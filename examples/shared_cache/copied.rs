//! What is cached with `--tree`: a directory with a copy of each file of another one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copied {
    /// The directory, relative to the tree.
    pub(crate) name: PathBuf,
}

impl Copied {
    /// Of every directory that these files are in.
    pub(crate) fn all(names: &[PathBuf]) -> Vec<Self> {
        let parents: BTreeSet<_> = names.iter().filter_map(|name| name.parent()).collect();
        parents.into_iter().map(|name| Self { name: name.to_owned() }).collect()
    }

    pub(crate) fn key(&self) -> Vec<u8> {
        [b"copy ", self.name.as_os_str().as_bytes()].concat()
    }

    /// Fills an empty directory. Blocks.
    pub(crate) fn make(&self, root: &Path, directory: &Path) -> io::Result<()> {
        for (name, content) in files(&root.join(&self.name))? {
            fs::write(directory.join(name), content)?;
        }
        Ok(())
    }

    /// Whether a directory has what it was made of. Blocks.
    pub(crate) fn is_right(&self, root: &Path, directory: &Path) -> io::Result<bool> {
        Ok(files(directory)? == files(&root.join(&self.name))?)
    }
}

/// The files of a directory, and what is in them.
pub(crate) fn files(directory: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.insert(entry.file_name().into(), fs::read(entry.path())?);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_right_and_what_is_damaged_is_not() -> io::Result<()> {
        let root = tempfile::tempdir()?;
        let made = tempfile::tempdir()?;
        fs::create_dir(root.path().join("below"))?;
        fs::write(root.path().join("below/a"), "content")?;
        let copies = Copied::all(&["below/a".into(), "below/b".into()]);
        let [copied] = &copies[..] else { panic!("{copies:?}") };
        copied.make(root.path(), made.path())?;
        assert!(copied.is_right(root.path(), made.path())?);
        fs::write(made.path().join("a"), "contents")?;
        assert!(!copied.is_right(root.path(), made.path())?);
        fs::remove_file(made.path().join("a"))?;
        assert!(!copied.is_right(root.path(), made.path())?);
        Ok(())
    }
}
