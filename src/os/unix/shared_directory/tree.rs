//! Trees: all that is below a directory that a user of the crate has filled.
//!
//! They are walked by handles and single names, as everything here: no link is followed, nothing but a
//! regular file is opened, and no step leads to another file system or mount. What is exchanged in the
//! middle is met as what it is then. Memory and descriptors are bounded, however large a tree is: two
//! descriptors for each directory on the way down, and names one at a time.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::dir::{Dir, OwningIter, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::{Directory, PERMISSIONS, again, file_flags, flags, is_dot, set_mode};
use crate::os::found::Purpose;
use crate::os::unix::errors::errno;
use crate::os::unix::kernel;

/// A deeper tree is refused.
const DEEPEST: usize = 128;

/// What lies deeper is moved up before it is removed: others may plant trees of any depth.
const DEEPEST_IN_REMOVAL: usize = 32;

impl Directory {
    /// Makes a directory in here that was not there: for this user alone, or as the umask says.
    pub(crate) fn create_directory(&self, name: &str, for_us_alone: bool) -> io::Result<Self> {
        let bits = if for_us_alone { 0o700 } else { 0o777 };
        again(|| mkdirat(&self.0, name, Mode::from_bits_truncate(bits)))?;
        let made = self.subdirectory(name)?;
        let status = again(|| fstat(&made.0))?;
        let is_open = for_us_alone && status.st_mode & 0o077 != 0;
        let top = Level::new(made.open_itself()?, c"".into())?.next()?;
        if status.st_uid != geteuid().as_raw() || is_open || top.is_some() {
            // What was made is gone, and this is another one.
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(made)
    }

    /// Other users may exchange what is in here.
    pub(crate) fn may_others_write(&self) -> bool {
        let status = again(|| fstat(&self.0));
        status.is_ok_and(|it| it.st_uid != geteuid().as_raw() || it.st_mode & 0o022 != 0)
    }

    /// A path that leads here whatever becomes of the name, for as long as this is held; where there are such
    /// paths.
    pub(crate) fn path_by_handle(&self) -> Option<PathBuf> {
        kernel::shared_directory::path_by_handle(self.0.as_fd())
    }

    /// What must be done before others may see the tree in here; says how many bytes its files have.
    ///
    /// With a mode it adds to the rights that the tree has: to read what the mode lets read, to enter and to
    /// change directories, and to run what its owner may run. A file with more names than one is left as it is: one of
    /// them may be elsewhere. With `sync` all of it survives a power failure, where the file system can.
    pub(crate) fn finish_tree(&self, mode: Option<u32>, sync: bool) -> io::Result<u64> {
        let top = File::from(self.open_itself()?);
        let sync_each = sync && !kernel::shared_directory::syncs_at_once(&top);
        let device = again(|| fstat(&top))?.st_dev;
        let mut bytes = 0_u64;
        let mut levels = vec![Level::new(top.try_clone()?.into(), c"".into())?];
        while let Some(level) = levels.last_mut() {
            let Some((name, _)) = level.next()? else {
                let done = levels.pop().expect("the last one");
                if let Some(mode) = mode {
                    add_rights(&done.directory, rights_of_directory(mode))?;
                }
                if sync_each {
                    super::where_it_can(File::from(done.directory).sync_all())?;
                }
                continue;
            };
            let status = level.status(&name)?;
            match kind(&status) {
                SFlag::S_IFDIR => {
                    let below = level.enter(&name, device)?;
                    if levels.len() == DEEPEST {
                        let text = format!("it is more than {DEEPEST} directories deep");
                        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
                    }
                    levels.push(Level::new(below, name)?);
                }
                SFlag::S_IFREG => {
                    bytes = bytes.saturating_add(u64::try_from(status.st_size).unwrap_or(0));
                    let lacks = mode.and_then(|mode| lacking(&status, mode));
                    if lacks.is_some() || sync_each {
                        level.finish_file(&name, mode, sync_each)?;
                    }
                }
                _ => {}
            }
        }
        if sync && !sync_each {
            kernel::shared_directory::sync_all(&top)?;
        }
        Ok(bytes)
    }

    /// Removes what stands under a name in here, whatever it is. Fails with the first thing that could
    /// not be removed, after the rest of it.
    pub(crate) fn remove_tree(&self, name: &str) -> io::Result<()> {
        let name = CString::new(name)?;
        if remove(self.0.as_fd(), &name, None, false)? {
            return Ok(());
        }
        let device = again(|| fstat(&self.0))?.st_dev;
        loop {
            let top = match enter(self.0.as_fd(), &name, device) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                top => top?,
            };
            let (removed, failed) = empty(top, device)?;
            match again(|| unlinkat(&self.0, &*name, UnlinkatFlags::RemoveDir)) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                // Something was moved up, or was put in meanwhile, or the system has not told of it.
                Err(error) if removed == 0 => return Err(failed.unwrap_or(error)),
                Err(_) => {}
            }
        }
    }
}

/// A directory on the way down, and what is left of it.
struct Level {
    directory: OwnedFd,
    names: OwningIter,
    name: CString,
}

impl Level {
    fn new(directory: OwnedFd, name: CString) -> io::Result<Self> {
        let names = Dir::from_fd(directory.try_clone()?)?.into_iter();
        Ok(Self { directory, names, name })
    }

    fn next(&mut self) -> io::Result<Option<(CString, Option<Type>)>> {
        for entry in self.names.by_ref() {
            let entry = match entry {
                Ok(entry) => entry,
                // Wiped in the middle.
                Err(Errno::ENOENT) => break,
                Err(error) => return Err(error.into()),
            };
            if !is_dot(entry.file_name()) {
                return Ok(Some((entry.file_name().to_owned(), entry.file_type())));
            }
        }
        Ok(None)
    }

    fn status(&self, name: &CStr) -> io::Result<FileStat> {
        again(|| fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW))
    }

    fn enter(&self, name: &CStr, device: nix::libc::dev_t) -> io::Result<OwnedFd> {
        enter(self.directory.as_fd(), name, device)
    }

    fn finish_file(&self, name: &CStr, mode: Option<u32>, sync: bool) -> io::Result<()> {
        let opened =
            again(|| openat(&self.directory, name, file_flags(Purpose::Read), Mode::empty()));
        let file = File::from(opened?);
        let status = again(|| fstat(&file))?;
        if kind(&status) != SFlag::S_IFREG {
            return Ok(()); // exchanged
        }
        if let Some(lacking) = mode.and_then(|mode| lacking(&status, mode)) {
            add_rights(&file, lacking)?;
        }
        if sync { super::where_it_can(file.sync_all()) } else { Ok(()) }
    }
}

/// Opens a directory for reading what is in it.
fn enter(from: BorrowedFd<'_>, name: &CStr, device: nix::libc::dev_t) -> io::Result<OwnedFd> {
    let flags = flags(OFlag::O_RDONLY);
    let opened = match kernel::shared_directory::open_on_this_mount(from, name, flags) {
        Some(opened) => opened?,
        None => again(|| openat(from, name, flags, Mode::empty()))?,
    };
    if again(|| fstat(&opened))?.st_dev != device {
        return Err(io::ErrorKind::CrossesDevices.into());
    }
    Ok(opened)
}

/// Removes what is in a directory: how much of it, and what first could not be removed.
fn empty(top: OwnedFd, device: nix::libc::dev_t) -> io::Result<(usize, Option<io::Error>)> {
    let (mut removed, mut failed) = (0, None);
    let mut levels = vec![Level::new(top, c"".into())?];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { return Ok((removed, failed)) };
        let (name, kind) = match level.next() {
            Ok(Some(found)) => found,
            ended => {
                if let Err(error) = ended {
                    failed.get_or_insert(error);
                }
                let done = levels.pop().expect("the last one");
                if let Some(above) = levels.last() {
                    let rmdir =
                        || unlinkat(&above.directory, &*done.name, UnlinkatFlags::RemoveDir);
                    match again(rmdir) {
                        Ok(()) => removed += 1,
                        Err(error) => drop(failed.get_or_insert(error)),
                    }
                }
                continue;
            }
        };
        match remove(level.directory.as_fd(), &name, kind, true) {
            Ok(true) => removed += 1,
            Ok(false) if depth < DEEPEST_IN_REMOVAL => {
                let below = level.enter(&name, device).and_then(|below| Level::new(below, name));
                match below {
                    Ok(below) => levels.push(below),
                    Err(error) => drop(failed.get_or_insert(error)),
                }
            }
            Ok(false) => {
                let up = format!(".{:016x}", RandomState::new().build_hasher().finish());
                let (from, to) = (&levels[depth - 1].directory, &levels[0].directory);
                match again(|| renameat(from, &*name, to, &*up)) {
                    Ok(()) => removed += 1,
                    Err(error) => drop(failed.get_or_insert(error)),
                }
            }
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
}

/// Removes what has nothing in it. `false` if it is a directory with something in it. A directory of the tree
/// may get the rights that this takes.
fn remove(
    from: BorrowedFd<'_>,
    name: &CStr,
    kind: Option<Type>,
    of_tree: bool,
) -> io::Result<bool> {
    let unlink = |flags| {
        let mut is_allowed = !of_tree;
        loop {
            match again(|| unlinkat(from, name, flags)) {
                // A directory that its owner may not write to, as in caches of some package managers.
                Err(error)
                    if error.kind() == io::ErrorKind::PermissionDenied
                        && errno(&error) == Some(Errno::EACCES)
                        && !is_allowed =>
                {
                    is_allowed = true;
                    add_rights(&from, Mode::S_IRWXU)?;
                }
                done => return done,
            }
        }
    };
    if kind != Some(Type::Directory) {
        match unlink(UnlinkatFlags::NoRemoveDir) {
            Ok(()) => return Ok(true),
            Err(error) => match errno(&error) {
                Some(Errno::ENOENT) => return Ok(true),
                Some(Errno::EISDIR | Errno::EPERM) => {}
                _ => return Err(error),
            },
        }
    }
    match unlink(UnlinkatFlags::RemoveDir) {
        Ok(()) => Ok(true),
        Err(error) => match errno(&error) {
            Some(Errno::ENOENT) => Ok(true),
            Some(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
            _ => Err(error),
        },
    }
}

fn kind(status: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits())
}

/// A user that reads or writes files may enter.
fn rights_of_directory(mode: u32) -> Mode {
    let mode = mode & PERMISSIONS;
    Mode::from_bits_truncate((mode | (mode & 0o444) >> 2) as _)
}

/// What a file's rights lack of a mode.
#[allow(clippy::unnecessary_cast)] // its type differs between systems
fn lacking(status: &FileStat, mode: u32) -> Option<Mode> {
    if status.st_nlink != 1 {
        return None;
    }
    let rights = status.st_mode as u32;
    let read = mode & 0o444;
    let run = if rights & 0o100 != 0 { read >> 2 } else { 0 };
    let lacking = (read | run) & !rights;
    (lacking != 0).then(|| Mode::from_bits_truncate(lacking as _))
}

fn add_rights(file: &impl AsFd, rights: Mode) -> io::Result<()> {
    let now = again(|| fstat(file))?.st_mode;
    let before = Mode::from_bits_truncate(now & 0o7777);
    if before.contains(rights) { Ok(()) } else { set_mode(file, before | rights) }
}
