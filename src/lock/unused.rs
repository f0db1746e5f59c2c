//! Removing lock files that are not in use, a directory at a time.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Operation};
use crate::holder::Shown;
use crate::os::{self, Kept};
use crate::process;
use crate::wait;

/// Which lock files of a directory to remove: those that are not in use.
///
/// A file is removed if its name ends as it should, and it is a regular file, empty, with one name, unchanged
/// for long enough, and not locked: both a flock(2) lock and one of fcntl(2) over all its bytes are taken
/// without waiting, and kept until the name is gone. So also a key of a [`LockSpace`](crate::LockSpace), and
/// a process that waits, keep a file.
///
/// This is safe only if *every* program that locks such a file looks, after it has the lock, whether the file
/// still has a name or the path still leads to it, as this crate does. flock(1), `std::fs::File::lock` and cargo do not.
///
/// On Linux a file in which this process has a POSIX record lock (`F_SETLK`, lockf(3), SQLite) is left alone and not opened,
/// where `/proc` tells of it: to close it would release that lock. One that is taken while the files are looked at may be lost.
///
/// Symbolic links are not followed, and directories are not entered. The files are looked at through a handle of the
/// directory, so a directory that is put in its place meanwhile is left alone.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tokio_filelock::UnusedFiles;
///
/// # let directory = tempfile::tempdir()?;
/// # let directory = directory.path();
/// # std::fs::write(directory.join("job-17.lock"), "")?;
/// # #[cfg(target_os = "linux")] {
/// let unused = UnusedFiles::ending_with(".lock").unchanged_for(Duration::ZERO);
/// let removed = unused.remove_from(directory).await?;
/// assert_eq!(removed.files, [directory.join("job-17.lock")]);
/// # }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is removed until `remove_from` is called"]
pub struct UnusedFiles {
    suffix: OsString,
    unchanged_for: Duration,
}

/// What [`UnusedFiles::remove_from`] has done.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Removed {
    /// The files that are gone.
    pub files: Vec<PathBuf>,
    /// The files that were left where they are, of those whose name ends as it should, and why.
    pub kept: Vec<(PathBuf, Kept)>,
}

impl UnusedFiles {
    /// Files whose name ends with this, and which were not changed for a day.
    pub fn ending_with(suffix: impl Into<OsString>) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { suffix: suffix.into(), unchanged_for: DAY }
    }

    /// Only those that were not changed for so long, by the time of the last change of their content. Locking
    /// changes nothing, so that is mostly the time at which the file was made.
    pub fn unchanged_for(mut self, time: Duration) -> Self {
        self.unchanged_for = time;
        self
    }

    /// Removes them. The file-system calls run on a thread of the crate.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop what has begun.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if the suffix is empty; [`ErrorKind::Unsupported`] where closing a file would
    /// release other locks of this process in it, which is so on other systems than Linux;
    /// [`ErrorKind::Io`] if the directory cannot be read. What is wrong with one file is told in [`Removed::kept`].
    pub async fn remove_from(self, directory: impl AsRef<Path>) -> Result<Removed, Error> {
        let directory = directory.as_ref().to_owned();
        wait::call(process::pool(), move || self.blocking_remove_from(directory)).await
    }

    /// [`remove_from`](Self::remove_from) for code outside of async.
    ///
    /// # Errors
    ///
    /// As [`remove_from`](Self::remove_from).
    pub fn blocking_remove_from(self, directory: impl AsRef<Path>) -> Result<Removed, Error> {
        let directory = directory.as_ref();
        if self.suffix.is_empty() {
            let detail =
                "say how the names of lock files end: an empty suffix is that of every file";
            let kind = ErrorKind::InvalidInput;
            return Err(Error::found(kind, Operation::RemoveUnused, directory, detail));
        }
        let suffix = self.suffix.as_encoded_bytes();
        let is_chosen = |name: &OsStr| name.as_encoded_bytes().ends_with(suffix);
        let mut removed = Removed::default();
        let tell = |name: &OsStr, kept: Option<Kept>| {
            let path = directory.join(name);
            match kept {
                None => removed.files.push(path),
                Some(kept) => removed.kept.push((path, kept)),
            }
        };
        match os::remove_unused(directory, is_chosen, self.unchanged_for, tell) {
            Ok(()) => Ok(removed),
            Err(error) => {
                let kind = match error.kind() {
                    io::ErrorKind::Unsupported => ErrorKind::Unsupported,
                    _ => ErrorKind::Io,
                };
                Err(Error::os(kind, Operation::RemoveUnused, directory, error))
            }
        }
    }
}

/// A line for each file.
impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for path in &self.files {
            writeln!(f, "removed `{}`", Shown::path(path))?;
        }
        for (path, kept) in &self.kept {
            writeln!(f, "kept `{}`: {kept}", Shown::path(path))?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_name_moves_no_cursor() {
        let kept = vec![(PathBuf::from("/tmp/\u{1b}[2Jx.lock"), Kept::NotEmpty)];
        let told = Removed { files: vec!["/tmp/\u{1b}[31m\u{7}job.lock".into()], kept }.to_string();
        assert_eq!(told.lines().count(), 2);
        assert!(!told.contains(['\u{1b}', '\u{7}']), "{told:?}");
    }
}
