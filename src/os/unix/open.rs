//! Opening a lock file, and which file it is.
//!
//! Opening changes nothing but what `create` allows: read-write, close-on-exec, never truncating,
//! never through a symbolic link in the last component. What stands at the path is looked at before it is opened:
//! a device would notice, and a FIFO would block. A regular file is then opened through what is held of the look, and
//! may wait for as long as other processes have a lease on it, so not with `O_NONBLOCK`.
//!
//! `O_CREAT` is tried only where there is no file, because in a sticky directory `open(O_CREAT)` on another user's
//! file fails even for root (proc(5), `protected_regular`).

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::libc;
use nix::sys::stat::{Mode, fstatat};

use super::create::create;
use super::descriptor::{Descriptor, identity_in, occupy_standard_streams};
use super::errors::{errno, is_gone};
use super::kernel::look::Look;
use super::kernel::record::CLOSING_RELEASES;
use super::kernel::{self, file_system};
use super::path::{directory_of, open_at, start};
use crate::error::{Error, ErrorKind, Operation};
use crate::os::file_system::Keyed;
use crate::os::foreign::is_foreign;
use crate::os::names::{Names, Proof};
use crate::os::{Access, Identity, Location, Opened};

/// Processes that create and remove one file may make each other's open fail; after so many rounds, and so
/// long a time, the last error is reported.
const OPEN_ROUNDS: usize = 16;
const OPEN_PATIENCE: Duration = Duration::from_secs(1);

/// The kernel takes a lease away after 45 seconds (proc(5), `lease-break-time`).
const LONGEST_LEASE: Duration = Duration::from_secs(60);

/// The pauses between two tries where an open can not be left to wait for a lease.
const PAUSE: Duration = Duration::from_millis(10);

pub(in crate::os) fn open(location: &Location, access: Access) -> Result<Opened, Error> {
    let failed = |error| open_error(location, error);
    let identify = |file: &File| {
        let metadata = file.metadata().map_err(failed)?;
        regular(metadata.mode(), location)?;
        Ok(identity(&metadata))
    };
    let (file, (writable, _)) = Descriptor::open(|| open_file(location, access), identify, failed)?;
    kernel::access_time::keep(&file);
    Ok(Opened { file, writable })
}

/// What the lock file at this place is; `None` if there is none.
pub(in crate::os) fn names_at(location: &Location) -> Result<Option<Names>, Error> {
    match mode_and_names(location) {
        Ok((mode, names)) => regular(mode, location).map(|()| Some(names)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(open_error(location, error)),
    }
}

/// The type and the permissions of what is there, and what it is.
fn mode_and_names(location: &Location) -> io::Result<(u32, Names)> {
    // Without a descriptor, where that is possible: the process may have none left.
    if let (None, path) = location.to_resolve() {
        let (mode, identity) = status(location)?;
        let keyed = if regular(mode, location).is_ok() {
            file_system::at(path)?.keyed
        } else {
            Keyed::Unknown
        };
        let proof = kernel::look::proof_at(path, keyed);
        // If it is one thing that was looked at.
        if !matches!(proof, Proof::Handle(_)) || status(location)? == (mode, identity) {
            return Ok((mode, Names { identity, proof }));
        }
    }
    let look = look_at(location)?;
    Ok((look.mode(), look.names(location)?))
}

/// As `names_at`, where a server may know better than this machine's cache.
pub(in crate::os) fn names_at_server(location: &Location) -> Result<Option<Names>, Error> {
    // To open a directory makes an NFS client ask whether the directory has changed, and to
    // forget what it knew of names in it if so ("close-to-open cache consistency", nfs(5)).
    // One that may be searched only cannot be opened.
    if let Ok((from, path)) = start(location) {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
        let _ = open_at(from, directory_of(path), flags, Mode::empty());
    }
    names_at(location)
}

/// What an open file is.
pub(in crate::os) fn names(file: &File, identity: Identity, keyed: Keyed) -> Names {
    Names { identity, proof: kernel::look::proof(file, keyed) }
}

/// The number that an open file has now. On overlayfs it may change.
pub(in crate::os) fn number_of(file: &File) -> io::Result<Identity> {
    file.metadata().map(|metadata| identity(&metadata))
}

fn look_at(location: &Location) -> io::Result<Look> {
    let (from, path) = start(location)?;
    Look::at(from, path)
}

/// The type and the permissions of what is there, and which file it is.
fn status(location: &Location) -> io::Result<(u32, Identity)> {
    if location.to_resolve().0.is_none() {
        let metadata = location.symlink_metadata()?;
        return Ok((metadata.mode(), identity(&metadata)));
    }
    let (from, path) = start(location)?;
    let found = fstatat(from, path, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    #[allow(clippy::useless_conversion)] // it has 16 bits on some systems
    Ok((u32::from(found.st_mode), identity_in(&found)))
}

fn identity(metadata: &Metadata) -> Identity {
    Identity { device: metadata.dev(), inode: metadata.ino() }
}

/// The file, whether it is open for writing, and what is not to be closed before the file is listed: a
/// system call takes time in which a fork may come.
fn open_file(location: &Location, access: Access) -> Result<(File, (bool, Option<Look>)), Error> {
    // Where to close a descriptor is to lose locks, it must not be a wrong one in the first place.
    let _occupied = CLOSING_RELEASES.then(occupy_standard_streams);
    let failed = |error| open_error(location, error);
    let mut last = None;
    let (begun, mut rounds) = (Instant::now(), 0);
    while rounds < OPEN_ROUNDS || begun.elapsed() < OPEN_PATIENCE {
        rounds += 1;
        let answer = match look_at(location) {
            Ok(look) => {
                regular(look.mode(), location)?;
                match open_existing(&look, location, access) {
                    Ok((file, writable)) => return Ok((file, (writable, Some(look)))),
                    Err(error) => error,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && access.create => {
                let (from, path) = start(location).map_err(failed)?;
                match create(from, path, access.mode).map_err(failed)? {
                    Some(file) => return Ok((file, (true, None))),
                    None => Errno::EEXIST.into(),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(failed(error)),
            Err(error) => error,
        };
        // Removed in between, or made.
        if !is_gone(&answer) && answer.kind() != io::ErrorKind::AlreadyExists {
            return Err(failed(answer));
        }
        last = Some(answer);
    }
    Err(failed(last.expect("the rounds end by an answer or an error")))
}

fn open_existing(look: &Look, location: &Location, access: Access) -> io::Result<(File, bool)> {
    let open = |write| {
        let opened = if access.patient {
            // Its errors may be those of /proc.
            look.open(write).or_else(|_| open_by_name(location, write, LONGEST_LEASE))
        } else {
            open_by_name(location, write, Duration::ZERO)
        };
        opened.map(|file| (file, write))
    };
    if access.read_only {
        return open(false);
    }
    open(true).or_else(|error| match errno(&error) {
        // A read-only file, directory or file system still allows shared locks.
        Some(Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ETXTBSY) => {
            open(false).map_err(|_| error)
        }
        _ => Err(error),
    })
}

/// Opens what is there by now. Blocks on nothing but a lease, and on that no longer than this.
fn open_by_name(location: &Location, write: bool, patience: Duration) -> io::Result<File> {
    let begun = Instant::now();
    let (from, path) = start(location)?;
    let access = if write { OFlag::O_RDWR } else { OFlag::O_RDONLY };
    let flags = access | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    loop {
        match open_at(from, path, flags, Mode::empty()) {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < patience =>
            {
                thread::sleep(PAUSE);
            }
            opened => return opened,
        }
    }
}

/// An error that says what it is instead.
fn regular(mode: u32, path: &Path) -> Result<(), Error> {
    #[allow(clippy::useless_conversion)] // it has 16 bits on some systems
    let is = |kind: libc::mode_t| mode & u32::from(libc::S_IFMT) == u32::from(kind);
    let (what, remedy) = if is(libc::S_IFREG) {
        return Ok(());
    } else if is(libc::S_IFDIR) {
        ("a directory", "name a file in it, or one beside it")
    } else if is(libc::S_IFLNK) {
        ("a symbolic link, which is not followed", "name the file that it leads to")
    } else if is(libc::S_IFIFO) {
        ("a FIFO", "name a regular file")
    } else if is(libc::S_IFSOCK) {
        ("a socket", "name a regular file")
    } else {
        ("a device", "name a regular file")
    };
    let detail = format!("it is {what}; {remedy}");
    Err(Error::found(ErrorKind::NotAFile, Operation::Open, path, detail))
}

pub(in crate::os) fn open_error(path: &Path, error: io::Error) -> Error {
    let kind = if is_foreign(&error) { ErrorKind::ForeignDescriptor } else { ErrorKind::Io };
    Error::os(kind, Operation::Open, path, error)
}
