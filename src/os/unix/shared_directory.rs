//! Directories that are held, and the files in them.
//!
//! A cache directory is shared, so anything may stand where a file of it should be, and it may be
//! exchanged at any moment. So nothing here takes a path that leads through such a directory. A
//! [`Directory`] is an open handle; names are names in it, without a slash; no symbolic link is followed,
//! nothing waits for a FIFO, a device or a lease, and a file is known by the descriptor that was opened,
//! not by its name. Permissions are set by descriptor, on what this process has made.

mod tree;

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::dir::{Dir, OwningIter};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, lstat, mkdirat, stat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::descriptor::Descriptor;
use super::errors::errno;
use super::kernel;
use crate::os::Identity;
use crate::os::found::{Found, Purpose, Status};

const PERMISSIONS: u32 = 0o777;

/// So many bytes at a time.
const COPIED: usize = 256 * 1024;

/// The clock of a server goes on at least so often: 100 times in a second, and often 250 or 1000 times.
const TICK: Duration = Duration::from_millis(10);
const MOST_TICKS: u32 = 5;

/// A directory, whatever becomes of its name.
#[derive(Debug)]
pub(crate) struct Directory(Handle);

#[derive(Debug)]
enum Handle {
    /// For long: other code of the process may close it or give its number to another file meanwhile.
    Kept(Descriptor),
    /// For some calls.
    Passing(OwnedFd),
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Handle::Kept(descriptor) => descriptor.as_fd(),
            Handle::Passing(descriptor) => descriptor.as_fd(),
        }
    }
}

/// A file that this process has made, and keeps open for as long as a value takes to come in.
#[derive(Debug)]
pub(crate) struct MadeFile(Descriptor);

impl MadeFile {
    pub(crate) fn keep(file: &File) -> io::Result<Self> {
        let open = || Ok((file.try_clone()?, ()));
        let identify = |file: &File| Ok(Status::of_file(file)?.identity);
        Ok(Self(Descriptor::open(open, identify, |error| error)?.0))
    }

    /// The file, to be used now: an error if the descriptor is that of another one by now.
    pub(crate) fn checked(&self) -> io::Result<&File> {
        self.0.check()?;
        Ok(&self.0)
    }
}

impl Directory {
    /// Opens the directory at a path, which is followed up to its last name.
    ///
    /// [`io::ErrorKind::NotADirectory`] if something else stands there, a symbolic link for one.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = flags(kernel::shared_directory::SEARCH);
        Self::keep(|| again(|| open(path, flags, Mode::empty()))).map_err(not_a_directory)
    }

    /// Whether the path leads here still. Where it cannot be followed any more, the handle
    /// counts.
    pub(crate) fn is_at(&self, path: &Path) -> io::Result<bool> {
        let there = match again(|| lstat(path)) {
            Ok(there) => Status::of(&there),
            Err(error) if is_absence(&error) => return Ok(false),
            Err(_) => return self.check().map(|()| true),
        };
        match again(|| fstat(&self.0)) {
            Ok(here) if there.identity == Status::of(&here).identity => Ok(true),
            _ => {
                // A number that was taken is noted, before it may be given to the same directory again: then
                // dropping this would close that.
                let _ = self.check();
                Ok(false)
            }
        }
    }

    /// Whether a path whose links were read leads here, by a link that may be followed: in a directory where
    /// every user makes files and removes none of others, that is one of this user, or of the owner of that
    /// directory. So it is in the kernel (`fs.protected_symlinks`, proc_sys_fs(5)), where it is
    /// switched on, for programs that do not read links.
    ///
    /// [`io::ErrorKind::PermissionDenied`] if the link is another user's.
    pub(crate) fn is_led_to_by(&self, path: &Path) -> io::Result<bool> {
        let there = again(|| lstat(path))?;
        if there.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFLNK.bits() {
            let here = again(|| fstat(&self.0))?;
            return Ok(Status::of(&there).identity == Status::of(&here).identity);
        }
        let Some(parent) = path.parent() else { return Ok(true) };
        let parent = again(|| stat(parent))?;
        let is_shared = Mode::S_ISVTX | Mode::S_IWOTH;
        let is_ours = [geteuid().as_raw(), parent.st_uid].contains(&there.st_uid);
        if is_ours || !Mode::from_bits_truncate(parent.st_mode).contains(is_shared) {
            return Ok(true);
        }
        let text = "a symbolic link of another user stands there, and others may make links there: name \
                    a directory of your own";
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }

    /// Makes a network file system ask its server what is in here ("close-to-open cache consistency",
    /// nfs(5)).
    pub(crate) fn refresh(&self) {
        // One that may be searched only cannot be opened.
        let _ = self.open_itself();
    }

    /// Whether the system shows what others did in here too late to build on it.
    pub(crate) fn is_seen_late(&self) -> bool {
        kernel::file_system::is_seen_late(&self.0)
    }

    /// Whether another machine may tell by times alone that something in here has changed.
    ///
    /// To a client of NFS 3 a file or a directory has changed if its times or its length have. The times are those of the server's
    /// clock, which goes on in ticks of some milliseconds, so a client that has looked between two changes of one tick believes what
    /// it saw until the next change. A file system does not say of which version of NFS it is, so what is asked here is true of
    /// NFS 4 as well, where a directory has a number that each change counts up.
    pub(crate) fn is_told_by_times(&self) -> bool {
        kernel::file_system::is_told_by_times(&self.0)
    }

    /// Makes the last change in here one that other machines notice, where they tell by times alone: the directory gets a time
    /// that no tick has. One of another user, to which no process of this one may give a time, is changed once more in
    /// another tick, if the server's clock goes on within 50 ms.
    pub(crate) fn show_change(&self) {
        if self.is_told_by_times() {
            self.give_new_time();
        }
    }

    fn give_new_time(&self) {
        if self.set_time(SystemTime::now()).is_ok() {
            return;
        }
        let modified = || fstat(&self.0).map(|now| (now.st_mtime, now.st_mtime_nsec));
        let Ok(before) = modified() else { return };
        for _ in 0..MOST_TICKS {
            thread::sleep(TICK);
            // A user that may write in here may do this.
            let now = TimeSpec::UTIME_NOW;
            let changed = self.set_times(&now, &now).and_then(|()| modified());
            if changed != Ok(before) {
                return;
            }
        }
    }

    /// To the nanosecond: only its owner may do that, and root.
    fn set_time(&self, modified: SystemTime) -> nix::Result<()> {
        let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.set_times(&TimeSpec::UTIME_OMIT, &TimeSpec::from_duration(modified))
    }

    fn set_times(&self, accessed: &TimeSpec, modified: &TimeSpec) -> nix::Result<()> {
        utimensat(&self.0, ".", accessed, modified, UtimensatFlags::NoFollowSymlink)
    }

    /// The mount that the directory is on, as far as the system tells.
    pub(crate) fn mount(&self) -> Option<u64> {
        kernel::shared_directory::mount(self.0.as_fd())
    }

    /// A directory in here; errors as those of [`open`](Directory::open).
    pub(crate) fn subdirectory(&self, name: &str) -> io::Result<Self> {
        let flags = flags(kernel::shared_directory::SEARCH);
        let opened = again(|| openat(&self.0, name, flags, Mode::empty()));
        opened.map(Handle::Passing).map(Self).map_err(not_a_directory)
    }

    /// Makes a directory in here, unless there is one. With a mode it appears with that, whatever the
    /// umask: it is made under another name, which a process that dies leaves behind.
    pub(crate) fn make_subdirectory(
        &self,
        name: impl AsRef<OsStr>,
        mode: Option<u32>,
        other_name: &str,
    ) -> io::Result<()> {
        let name = name.as_ref();
        let Some(mode) = mode else {
            return match again(|| mkdirat(&self.0, name, Mode::from_bits_truncate(0o777))) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            };
        };
        again(|| mkdirat(&self.0, other_name, Mode::from_bits_truncate(0o700)))?;
        let made = self.subdirectory(other_name).and_then(|made| made.set_mode(mode));
        let renamed = made.and_then(|()| self.rename(other_name, self, name));
        match renamed {
            Ok(()) => Ok(()),
            Err(error) => {
                let _ = self.remove_directory(other_name);
                // Another process has made it, and there is something in it already.
                let is_there = [Errno::EEXIST, Errno::ENOTEMPTY, Errno::EBUSY];
                match errno(&error) {
                    Some(errno) if is_there.contains(&errno) => Ok(()),
                    _ => Err(error),
                }
            }
        }
    }

    /// Of a directory that this process has made: it has nothing in it. A process that reads or writes the files
    /// may enter.
    fn set_mode(&self, mode: u32) -> io::Result<()> {
        let directory = self.open_itself()?;
        for entry in Dir::from_fd(directory.try_clone()?)?.into_iter() {
            if !is_dot(entry?.file_name()) {
                // What was made is gone, and this is another one.
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        }
        let mode = mode & PERMISSIONS;
        let mode = Mode::from_bits_truncate((mode | (mode & 0o444) >> 2) as _);
        // Such as the one that hands on the group.
        let special =
            Mode::from_bits_truncate(fstat(&directory)?.st_mode) & !Mode::from_bits_truncate(0o777);
        set_mode(&directory, mode | special)
    }

    fn open_itself(&self) -> io::Result<OwnedFd> {
        again(|| openat(&self.0, ".", flags(OFlag::O_RDONLY), Mode::empty()))
    }

    /// Opens a file in here, if it is one.
    ///
    /// [`io::ErrorKind::WouldBlock`] while another process has a lease on it (`F_SETLEASE`), which the
    /// try asks back.
    pub(crate) fn open_file(&self, name: &str, purpose: Purpose) -> io::Result<Found> {
        found(again(|| openat(&self.0, name, file_flags(purpose), Mode::empty())))
    }

    /// Opens a file for reading in a directory that is in here. A file that is no directory has no files in it.
    pub(crate) fn open_file_in(&self, subdirectory: &str, name: &str) -> io::Result<Found> {
        let path = format!("{subdirectory}/{name}");
        let flags = file_flags(Purpose::Read);
        if let Some(opened) = kernel::shared_directory::open_beneath(self.0.as_fd(), &path, flags) {
            return match opened {
                // The link may be the directory.
                Err(Errno::ELOOP) => self.step_by_step(subdirectory, name),
                opened => found(opened.map_err(Into::into)),
            };
        }
        self.step_by_step(subdirectory, name)
    }

    fn step_by_step(&self, subdirectory: &str, name: &str) -> io::Result<Found> {
        match self.subdirectory(subdirectory) {
            Ok(subdirectory) => subdirectory.open_file(name, Purpose::Read),
            Err(error) if is_absence(&error) => Ok(Found::Nothing),
            Err(error) => Err(error),
        }
    }

    /// The same directory, for long.
    pub(crate) fn kept(&self) -> io::Result<Self> {
        let flags = flags(kernel::shared_directory::SEARCH);
        Self::keep(|| again(|| openat(&self.0, ".", flags, Mode::empty())))
    }

    fn keep(mut open: impl FnMut() -> io::Result<OwnedFd>) -> io::Result<Self> {
        let open = || Ok((File::from(open()?), ()));
        let identify = |directory: &File| Ok(Status::of_file(directory)?.identity);
        Ok(Self(Handle::Kept(Descriptor::open(open, identify, |error| error)?.0)))
    }

    /// An error if this is not the descriptor of the directory any more.
    pub(crate) fn check(&self) -> io::Result<()> {
        match &self.0 {
            Handle::Kept(descriptor) => descriptor.check(),
            Handle::Passing(_) => Ok(()),
        }
    }

    /// Makes a file in here that was not there, to be written and read. The mode is the exact one, or
    /// 0666 less the umask.
    pub(crate) fn create_file(&self, name: &str, mode: Option<u32>) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let bits = Mode::from_bits_truncate((mode.unwrap_or(0o666) & PERMISSIONS) as _);
        let file = again(|| openat(&self.0, name, flags | OFlag::O_CLOEXEC, bits))?;
        if let Some(mode) = mode {
            let mode = Mode::from_bits_truncate((mode & PERMISSIONS) as _);
            if let Err(error) = set_mode(&file, mode) {
                let _ = self.remove_file(name);
                return Err(error);
            }
        }
        Ok(file.into())
    }

    /// What stands under a name, without opening it.
    pub(crate) fn status(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Status>> {
        match again(|| fstatat(&self.0, name.as_ref(), AtFlags::AT_SYMLINK_NOFOLLOW)) {
            Ok(status) => Ok(Some(Status::of(&status))),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Renames what stands under a name in here, over what stands under the other name.
    pub(crate) fn rename(
        &self,
        name: &str,
        to: &Directory,
        new_name: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        again(|| renameat(&self.0, name, &to.0, new_name.as_ref()))
    }

    /// Removes anything but a directory.
    pub(crate) fn remove_file(&self, name: &str) -> io::Result<()> {
        again(|| unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir))
    }

    /// Removes an empty directory.
    pub(crate) fn remove_directory(&self, name: &str) -> io::Result<()> {
        again(|| unlinkat(&self.0, name, UnlinkatFlags::RemoveDir))
    }

    /// The names in here that are text, with `.` and `..`.
    pub(crate) fn names(&self) -> io::Result<Names> {
        Ok(Names(Dir::from_fd(self.open_itself()?)?.into_iter()))
    }

    /// Makes the names in here survive a power failure, where the file system can.
    pub(crate) fn sync(&self) -> io::Result<()> {
        where_it_can(File::from(self.open_itself()?).sync_all())
    }
}

/// What [`Directory::names`] gives.
pub(crate) struct Names(OwningIter);

impl Iterator for Names {
    type Item = io::Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.next()? {
                Ok(entry) => match entry.file_name().to_str() {
                    Ok(name) => return Some(Ok(name.to_owned())),
                    Err(_) => continue,
                },
                Err(error) => return Some(Err(error.into())),
            }
        }
    }
}

impl Status {
    /// What tells the file from others of its directory, while it is there.
    pub(crate) fn number(&self) -> u64 {
        self.identity.inode
    }

    /// Of an open file.
    pub(crate) fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::of(&fstat(file)?))
    }

    // Their types differ between systems.
    #[allow(clippy::unnecessary_cast)]
    fn of(status: &FileStat) -> Self {
        #[cfg(target_os = "netbsd")]
        let nanoseconds = [status.st_mtimensec, status.st_atimensec];
        #[cfg(not(target_os = "netbsd"))]
        let nanoseconds = [status.st_mtime_nsec, status.st_atime_nsec];
        let kind = status.st_mode & SFlag::S_IFMT.bits();
        Self {
            is_file: kind == SFlag::S_IFREG.bits(),
            is_directory: kind == SFlag::S_IFDIR.bits(),
            identity: Identity { device: status.st_dev as u64, inode: status.st_ino as u64 },
            links: status.st_nlink as u64,
            length: u64::try_from(status.st_size).unwrap_or(0),
            modified: time(status.st_mtime as i64, nanoseconds[0] as i64),
            accessed: time(status.st_atime as i64, nanoseconds[1] as i64),
        }
    }
}

/// Makes the content of a file survive a power failure, where the file system can.
pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    where_it_can(file.sync_data())
}

/// Reads from the start of a file, whatever the place of its descriptor.
pub(crate) fn read_exact_at_start(file: &File, to: &mut [u8]) -> io::Result<()> {
    file.read_exact_at(to, 0)
}

/// Copies a file of this length from its start, whatever the place of its descriptor: by sharing its blocks
/// where the file system can. Fails once the caller has given up waiting.
pub(crate) fn copy(
    from: &File,
    length: u64,
    to: &MadeFile,
    is_cancelled: &AtomicBool,
) -> io::Result<()> {
    let mut done = 0;
    while kernel::shared_directory::copy_some(from, &mut done, to.checked()?) {
        go_on(is_cancelled)?;
    }
    // Between these two files the kernel does not do it, or it is done.
    let mut buffer = vec![0; COPIED];
    while done < length {
        go_on(is_cancelled)?;
        match from.read_at(&mut buffer, done) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => {
                to.checked()?.write_all(&buffer[..more])?;
                done += more as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn go_on(is_cancelled: &AtomicBool) -> io::Result<()> {
    if is_cancelled.load(Ordering::Relaxed) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
}

/// Whether to set the times of a file may copy all of it.
pub(crate) fn copies_to_note(file: &File) -> bool {
    kernel::file_system::copies_to_change(file)
}

fn time(seconds: i64, nanoseconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let whole = if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    let rest = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
    whole.and_then(|whole| whole.checked_add(rest)).unwrap_or(UNIX_EPOCH)
}

fn flags(access: OFlag) -> OFlag {
    access | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn file_flags(purpose: Purpose) -> OFlag {
    let access = match purpose {
        Purpose::Read => OFlag::O_RDONLY,
        // Reading, too: a FIFO without a reader would be another error.
        Purpose::Write => OFlag::O_RDWR,
    };
    access | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC
}

fn found(opened: io::Result<OwnedFd>) -> io::Result<Found> {
    let not_files = [Errno::ELOOP, Errno::ENXIO, Errno::ENODEV, Errno::EISDIR, Errno::EOPNOTSUPP];
    let file = match opened {
        Ok(descriptor) => File::from(descriptor),
        Err(error) if is_absence(&error) => return Ok(Found::Nothing),
        // A symbolic link, a socket, a device without a driver, a directory that was to be written.
        Err(error) if errno(&error).is_some_and(|errno| not_files.contains(&errno)) => {
            return Ok(Found::NotAFile);
        }
        Err(error) => return Err(error),
    };
    let status = Status::of_file(&file)?;
    Ok(if status.is_file { Found::File(file, status) } else { Found::NotAFile })
}

/// Nothing is there, or it is in something that is no directory.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn not_a_directory(error: io::Error) -> io::Error {
    match errno(&error) {
        // Not everywhere does O_DIRECTORY come first.
        Some(Errno::ELOOP | Errno::EMLINK) => io::ErrorKind::NotADirectory.into(),
        _ => error,
    }
}

/// Where a file system knows no permissions, files are usable all the same.
fn set_mode(file: &impl AsFd, mode: Mode) -> io::Result<()> {
    let refusals = [Errno::EPERM, Errno::EACCES, Errno::EINVAL, Errno::ENOSYS, Errno::EOPNOTSUPP];
    match fchmod(file, mode) {
        Err(error) if !refusals.contains(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Some file systems have nothing to do here, and say so by an error (fsync(2)).
fn where_it_can(synced: io::Result<()>) -> io::Result<()> {
    let cannot = [Errno::EINVAL, Errno::EOPNOTSUPP, Errno::ENOTSUP, Errno::ENOSYS, Errno::ENOTTY];
    match synced {
        Err(error) if errno(&error).is_some_and(|errno| cannot.contains(&errno)) => Ok(()),
        synced => synced,
    }
}

/// A signal is no answer. What a server has forgotten is not there.
fn again<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            Err(Errno::ESTALE) => return Err(Errno::ENOENT.into()),
            done => return Ok(done?),
        }
    }
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of root, as a directory on a server may be; the user of this thread may write in there.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_directory_of_another_user_gets_the_time_of_another_tick() {
        use std::fs::{Permissions, set_permissions};
        use std::os::unix::fs::PermissionsExt;

        use nix::unistd::{Uid, setfsuid};

        if !geteuid().is_root() {
            println!("not run: needs root");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        set_permissions(place.path(), Permissions::from_mode(0o777)).unwrap();
        let directory = Directory::open(place.path()).unwrap();
        let modified = || place.path().metadata().unwrap().modified().unwrap();
        let before = modified();
        thread::scope(|scope| {
            scope.spawn(|| {
                // Of this thread alone.
                setfsuid(Uid::from_raw(65534));
                assert_eq!(directory.set_time(before), Err(Errno::EPERM));
                directory.give_new_time();
            });
        });
        assert!(modified() > before);
    }

    /// A file that is not open was not synced: other code of the process may have closed it.
    #[test]
    fn a_sync_that_failed_is_told_and_one_that_cannot_be_is_not() {
        for told in [Errno::EBADF, Errno::EIO, Errno::ENOSPC, Errno::EDQUOT] {
            let synced = where_it_can(Err(told.into()));
            assert_eq!(errno(&synced.unwrap_err()), Some(told));
        }
        for cannot in [Errno::EINVAL, Errno::EOPNOTSUPP, Errno::ENOSYS, Errno::ENOTTY] {
            where_it_can(Err(cannot.into())).unwrap();
        }
    }
}
