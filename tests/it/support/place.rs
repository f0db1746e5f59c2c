//! A directory for one test, with room for a lock file and a data file.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Removed with everything in it when the test ends.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        #[cfg(unix)]
        open_to_everybody(directory.path());
        Self { directory }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.at("app.lock")
    }

    pub(crate) fn data_file(&self) -> PathBuf {
        self.at("data")
    }

    /// The names in the directory, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        names(self.directory())
    }
}

/// Some tests come back as another user.
#[cfg(unix)]
fn open_to_everybody(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;

    let permissions = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory, permissions).unwrap();
}

pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
