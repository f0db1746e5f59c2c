//! Making a file that has no name until it is complete.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::linkat;

use crate::os::unix::path::{directory_of, open_at};
use crate::os::unix::permissions::{mode_bits, unless_refused};

/// A new file at this path, which has the mode from the moment at which it is there. A process that is
/// killed in here leaves nothing.
///
/// # Errors
///
/// `AlreadyExists`; all others where the file system, or a system without `/proc`, can not do this.
pub(in crate::os::unix) fn create(
    from: BorrowedFd<'_>,
    path: &Path,
    mode: u32,
) -> io::Result<File> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR;
    let file = open_at(from, directory_of(path), flags, mode_bits(mode))?;
    // Its one name until it has another.
    let name: PathBuf = format!("/proc/thread-self/fd/{}", file.as_raw_fd()).into();
    unless_refused(fs::set_permissions(&name, Permissions::from_mode(mode)))?;
    linkat(AT_FDCWD, &name, from, path, AtFlags::AT_SYMLINK_FOLLOW)?;
    Ok(file)
}
