//! The files below a directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What a tree consists of. All paths are relative to its root.
#[derive(Default)]
pub(crate) struct Tree {
    /// Regular files, sorted.
    pub(crate) files: Vec<PathBuf>,
    /// Directories and entries that could not be read, and why.
    pub(crate) unreadable: Vec<(PathBuf, String)>,
}

impl Tree {
    /// Lists the tree. Symbolic links are not followed, `target` and `.git` are left out.
    ///
    /// Fails if the root cannot be read; what is below is then listed as unreadable instead.
    pub(crate) fn list(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        let mut directories = tree.list_directory(root, Path::new(""))?;
        while let Some(directory) = directories.pop() {
            match tree.list_directory(root, &directory) {
                Ok(below) => directories.extend(below),
                Err(error) => tree.unreadable.push((directory, error.to_string())),
            }
        }
        tree.files.sort_unstable();
        Ok(tree)
    }

    /// Adds the files of one directory, and gives the directories in it.
    fn list_directory(&mut self, root: &Path, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let mut directories = Vec::new();
        for entry in fs::read_dir(root.join(directory))? {
            let entry = entry?;
            if entry.file_name() == "target" || entry.file_name() == ".git" {
                continue;
            }
            let name = directory.join(entry.file_name());
            match entry.file_type() {
                Ok(kind) if kind.is_file() => self.files.push(name),
                Ok(kind) if kind.is_dir() => directories.push(name),
                Ok(_) => {}
                Err(error) => self.unreadable.push((name, error.to_string())),
            }
        }
        Ok(directories)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_files_only_and_no_build_products() -> io::Result<()> {
        let root = tempfile::tempdir()?;
        for directory in ["below", "target", "below/.git"] {
            fs::create_dir(root.path().join(directory))?;
        }
        for file in ["b", "a", "below/c", "target/d", "below/.git/e"] {
            fs::write(root.path().join(file), "")?;
        }
        std::os::unix::fs::symlink(root.path(), root.path().join("circle"))?;
        let tree = Tree::list(root.path())?;
        assert_eq!(tree.files, ["a", "b", "below/c"].map(PathBuf::from));
        assert!(tree.unreadable.is_empty());
        assert!(Tree::list(&root.path().join("missing")).is_err());
        Ok(())
    }
}
