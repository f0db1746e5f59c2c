//! Where a lock file is.
//!
//! A path names the file for as long as the file may have to be found again: when it was removed, and
//! where the path is verified. An absolute path is resolved anew each time. A relative one is resolved
//! from the directory that was current when the lock was opened, which is held open: its own path may be
//! out of reach (a parent that may not be searched, a file system that was unmounted lazily) or too
//! long for the system, and it may change.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Directory;
use crate::error::{Error, ErrorKind, Operation};

/// Where a lock file is; derefs to its path for people.
#[derive(Clone)]
pub(crate) struct Location {
    /// Absolute, unless the current directory had no path.
    shown: Arc<Path>,
    /// Set for a path that was given as a relative one.
    relative: Option<Relative>,
}

#[derive(Clone)]
struct Relative {
    from: Arc<Directory>,
    path: PathBuf,
}

impl Location {
    /// Makes some system calls.
    pub(crate) fn of(path: &Path) -> Result<Self, Error> {
        Self::find(path).map_err(|error| Error::os(ErrorKind::Io, Operation::Open, path, error))
    }

    fn find(path: &Path) -> io::Result<Self> {
        let absolute = std::path::absolute(path);
        if path.is_absolute() || path.as_os_str().is_empty() {
            return Ok(Self { shown: absolute?.into(), relative: None });
        }
        match Directory::current()? {
            None => Ok(Self { shown: absolute?.into(), relative: None }),
            Some(from) => {
                let path = path.to_owned();
                let shown = absolute.unwrap_or_else(|_| path.clone()).into();
                Ok(Self { shown, relative: Some(Relative { from: Arc::new(from), path }) })
            }
        }
    }

    /// The location of the file beside this one whose name has something appended.
    pub(crate) fn with_suffix(&self, suffix: &str) -> Self {
        let append = |path: &Path| {
            let mut longer = path.as_os_str().to_owned();
            longer.push(suffix);
            PathBuf::from(longer)
        };
        let relative = self
            .relative
            .as_ref()
            .map(|relative| Relative { from: relative.from.clone(), path: append(&relative.path) });
        Self { shown: append(&self.shown).into(), relative }
    }

    /// The path for people, for errors to keep.
    pub(crate) fn shared(&self) -> Arc<Path> {
        self.shown.clone()
    }

    /// The directory from which to resolve the path, if it is not the root, and the path.
    #[cfg_attr(not(unix), allow(dead_code))] // no directory is held there
    pub(super) fn to_resolve(&self) -> (Option<&Directory>, &Path) {
        match &self.relative {
            Some(relative) => (Some(&relative.from), &relative.path),
            None => (None, &self.shown),
        }
    }
}

impl Deref for Location {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.shown
    }
}

impl AsRef<Path> for Location {
    fn as_ref(&self) -> &Path {
        self
    }
}

/// The path as it stands.
impl From<PathBuf> for Location {
    fn from(shown: PathBuf) -> Self {
        Self { shown: shown.into(), relative: None }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown.fmt(f)
    }
}
