//! Removing a lock file that is locked.
//!
//! The name goes while the lock is held, so the next holder has a file without a name, and looks for
//! another one. That is safe only if every participant looks after it has the lock. Between the look at the
//! name and its removal another program can still give the name to another file. A program that may do that to a
//! directory can remove every file in it as well.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::libc;
use nix::sys::stat::{FileStat, Mode as Permissions, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::descriptor::{Descriptor, identity_in};
use super::errors::is_contention;
use super::holders::RecordLocks;
use super::kernel::look::Look;
use super::kernel::{DIRECTORY, file_system, record};
use super::lock::Lock;
use super::path::{directory_of, open_at, start};
use super::range::Range;
use crate::mode::Mode;
use crate::os::file_system::FileSystem;
use crate::os::{Kept, Location, Protocol};

/// Removes the name, if it leads to this file, which is locked.
pub(in crate::os) fn remove(
    location: &Location,
    file: &Descriptor,
    protocol: Protocol,
) -> io::Result<Option<Kept>> {
    let (from, path) = start(location)?;
    let Some(name) = path.file_name() else { return Ok(Some(Kept::Replaced)) };
    let flags = OFlag::from_bits_retain(DIRECTORY) | OFlag::O_DIRECTORY;
    let directory = open_at(from, directory_of(path), flags, Permissions::empty())?;
    if protocol == Protocol::Flock {
        return unlink(directory.as_fd(), name, file);
    }
    // Keys may lie in the file, of this process or of another one. None is locked while the name goes.
    if record::CLOSING_RELEASES {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // To close it again releases what other code of this process has locked in it by fcntl(2).
    if RecordLocks::of_this_process().are_in_file(file, file.identity()) {
        return Ok(Some(Kept::Locked));
    }
    let other = open_in(directory.as_fd(), name)?;
    if other.identity() != file.identity() {
        return Ok(Some(Kept::Replaced));
    }
    for range in Range::OF_KEYS {
        if !locks(&other, Lock::Bytes(*range))? {
            return Ok(Some(Kept::Locked));
        }
    }
    unlink(directory.as_fd(), name, file)
}

fn open_in(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Descriptor> {
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let open =
        || open_at(directory, Path::new(name), flags, Permissions::empty()).map(|it| (it, ()));
    let identify = |file: &File| Ok::<_, io::Error>(identity_in(&fstat(file)?));
    Ok(Descriptor::open(open, identify, |error| error)?.0)
}

/// Locks, if that is possible at once.
fn locks(file: &Descriptor, lock: Lock) -> io::Result<bool> {
    match lock.try_lock(file, Mode::Exclusive) {
        Ok(()) => Ok(true),
        Err(error) if is_contention(&error, FileSystem::Local) => Ok(false),
        Err(error) => Err(error),
    }
}

fn unlink(directory: BorrowedFd<'_>, name: &OsStr, file: &Descriptor) -> io::Result<Option<Kept>> {
    file.check()?;
    if fstat(&**file)?.st_size > 0 {
        return Ok(Some(Kept::NotEmpty));
    }
    let found = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(Some(Kept::Replaced)),
        found => found?,
    };
    if identity_in(&found) != file.identity() {
        return Ok(Some(Kept::Replaced));
    }
    if found.st_nlink != 1 {
        return Ok(Some(Kept::Linked));
    }
    unlinkat(directory, name, UnlinkatFlags::NoRemoveDir)?;
    Ok(None)
}

/// Removes the files in a directory that are chosen by name, have not been changed for so long, and are not
/// locked. Tells of each that was chosen.
pub(crate) fn remove_unused(
    directory: &Path,
    is_chosen: impl Fn(&OsStr) -> bool,
    unchanged_for: Duration,
    mut tell: impl FnMut(&OsStr, Option<Kept>),
) -> io::Result<()> {
    if record::CLOSING_RELEASES {
        // To look at a file would release the locks that this process has on it.
        return Err(io::ErrorKind::Unsupported.into());
    }
    let opened = File::open(directory)?;
    let own = RecordLocks::of_this_process();
    for entry in Dir::from_fd(opened.try_clone()?.into())?.into_iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if !matches!(name.as_bytes(), b"." | b"..") && is_chosen(name) {
            let kept = remove_if_unused(opened.as_fd(), name, unchanged_for, &own);
            tell(name, kept.unwrap_or_else(|error| Some(Kept::Failed(error))));
        }
    }
    Ok(())
}

fn remove_if_unused(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    unchanged_for: Duration,
    own: &RecordLocks,
) -> io::Result<Option<Kept>> {
    let look = || match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(None),
        found => found.map(Some),
    };
    let Some(found) = look()? else { return Ok(Some(Kept::Replaced)) };
    if let Some(kept) = reason_to_keep(&found, unchanged_for) {
        return Ok(Some(kept));
    }
    // To close a file releases what other code of this process has locked in it by fcntl(2). Looking closes nothing.
    if own.any() && own.are_in(&Look::at(directory, Path::new(name))?.inode()) {
        return Ok(Some(Kept::Locked));
    }
    let file = open_in(directory, name)?;
    if file_system::of(&file)?.file_system != FileSystem::Local {
        return Ok(Some(Kept::Remote));
    }
    // Every lock that this crate, or another program, takes in the file: flock(2), and any range.
    for lock in [Lock::WholeFile, Lock::Bytes(Range::ALL)] {
        if !locks(&file, lock)? {
            return Ok(Some(Kept::Locked));
        }
    }
    match look()? {
        Some(now) => match reason_to_keep(&now, unchanged_for) {
            None => unlink(directory, name, &file),
            kept => Ok(kept),
        },
        None => Ok(Some(Kept::Replaced)),
    }
}

fn reason_to_keep(found: &FileStat, unchanged_for: Duration) -> Option<Kept> {
    let kind = SFlag::from_bits_truncate(found.st_mode & libc::S_IFMT);
    let changed =
        SystemTime::UNIX_EPOCH + Duration::from_secs(found.st_mtime.try_into().unwrap_or(0));
    if kind != SFlag::S_IFREG {
        Some(Kept::NotAFile)
    } else if found.st_size > 0 {
        Some(Kept::NotEmpty)
    } else if found.st_nlink != 1 {
        Some(Kept::Linked)
    } else if changed.elapsed().unwrap_or(Duration::ZERO) < unchanged_for {
        Some(Kept::Recent)
    } else {
        None
    }
}
