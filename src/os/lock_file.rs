//! The open lock file, and the calls on its lock.
//!
//! Opening changes nothing but what `create` allows: read-write, close-on-exec, never truncating,
//! never through a symbolic link in the last component, never blocking on a FIFO. The first try
//! is without `O_CREAT`, because in a sticky directory `open(O_CREAT)` on another user's file
//! fails even for root (proc(5), `protected_regular`).

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::mem;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::fstat;

use super::file_system::{self, FileSystem};
use super::holders::Inode;
use super::interrupt::{self, Interrupt};
use super::mount::Mount;
use super::turnstile::{DISTRUST, Gate, Turn, lock_in_turn};
use super::{
    Access, Attempt, Effort, Identity, Protocol, Region, Waited, errno, fcntl, flock, fork,
    holders, is_contention, is_gone, is_interrupted,
};
use crate::error::{Error, ErrorKind, Operation};
use crate::holder::{Holder, Mode};

/// Two processes that create and remove one file may make each other's open fail; after so many
/// rounds the last error is reported.
const OPEN_ROUNDS: usize = 16;

/// A wait on NFS is made anew after this time, because its wake-up may have been lost.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// So many times in a row a call that waits for nobody is made again when it was interrupted.
const INTERRUPTIONS: usize = 100;

/// The pauses between the tries where a wait cannot be left to the kernel.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) struct LockFile {
    /// Before the file: taken off the list before the descriptor is closed.
    _disowned_by_children: fork::Disowned,
    file: File,
    identity: Identity,
    writable: bool,
    file_system: FileSystem,
    /// Where locks may exclude this machine only; `None` on a local file system.
    mount: Option<Mount>,
    /// The process that opened it, and that its locks name.
    pid: u32,
    trust: Mutex<Trust>,
    /// For the question who holds its locks; found out when that is asked first.
    inode: OnceLock<Inode>,
}

impl LockFile {
    /// The identity of the lock file at this path; `None` if there is none.
    pub(crate) fn identity_of(path: &Path) -> Result<Option<Identity>, Error> {
        match path.symlink_metadata() {
            Ok(metadata) => regular(&metadata, path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(open_error(path, error)),
        }
    }

    /// As `identity_of`, where a server may know better than this machine's cache.
    pub(crate) fn identity_at_server(path: &Path) -> Result<Option<Identity>, Error> {
        // To open a directory makes an NFS client ask whether the directory has changed, and to
        // forget what it knew of names in it if so ("close-to-open cache consistency", nfs(5)).
        // One that may be searched only cannot be opened.
        if let Some(directory) = path.parent() {
            let flags = libc::O_DIRECTORY | libc::O_NONBLOCK;
            let _ = OpenOptions::new().read(true).custom_flags(flags).open(directory);
        }
        Self::identity_of(path)
    }

    pub(crate) fn open(path: &Path, access: Access) -> Result<Self, Error> {
        let (file, writable) = open(path, access).map_err(|error| open_error(path, error))?;
        let metadata = file.metadata().map_err(|error| open_error(path, error))?;
        let identity = regular(&metadata, path)?;
        let file_system = file_system::of(&file).map_err(|error| open_error(path, error))?;
        let mount = if file_system == FileSystem::Local { None } else { Mount::of(&file) };
        let _disowned_by_children = fork::disown_in_children(&file);
        Ok(Self {
            _disowned_by_children,
            file,
            identity,
            writable,
            file_system,
            mount,
            pid: process::id(),
            trust: Mutex::default(),
            inode: OnceLock::new(),
        })
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Lock calls that do not wait for another holder return at once.
    #[inline]
    pub(crate) fn is_local(&self) -> bool {
        self.file_system == FileSystem::Local
    }

    /// Why locks of this protocol exclude the programs of this machine only, if they do.
    pub(crate) fn excludes_this_machine_only(&self, protocol: Protocol) -> Option<&'static str> {
        self.mount.as_ref()?.excludes_this_machine_only(protocol)
    }

    /// Some path still leads to the file, as far as the link count tells: an NFS client that removes
    /// a file which it has open renames it, and the count stays.
    pub(crate) fn is_linked(&self) -> io::Result<bool> {
        match fstat(&self.file).map_err(io::Error::from) {
            Ok(status) => Ok(status.st_nlink > 0),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn range(&self, region: Region) -> fcntl::Range {
        fcntl::Range::of(region, self.pid)
    }

    pub(crate) fn try_lock(
        &self,
        protocol: Protocol,
        region: Region,
        mode: Mode,
    ) -> io::Result<Attempt> {
        let answer = retrying(|| match protocol {
            Protocol::Flock => flock::try_lock(&self.file, mode),
            Protocol::Fcntl => fcntl::try_lock(&self.file, self.range(region), mode),
        });
        match answer {
            Ok(()) => Ok(Attempt::Acquired),
            Err(error) if is_contention(&error) => Ok(Attempt::Busy),
            Err(error) => Err(error),
        }
    }

    /// Blocks until the lock is there, or until the interrupt asks for an end.
    pub(crate) fn lock(
        &self,
        protocol: Protocol,
        region: Region,
        mode: Mode,
        end: &Interrupt,
    ) -> io::Result<Waited> {
        let wait = Wait { file: self, protocol, region, mode, end };
        match self.file_system {
            FileSystem::Local => lock_in_turn(&wait),
            FileSystem::Nfs => wait.park_and_ask_again(),
            FileSystem::Other => wait.poll(),
        }
    }

    /// As `lock` on a local file system, with no regard for others who wait.
    #[cfg(test)]
    pub(super) fn lock_out_of_turn(
        &self,
        protocol: Protocol,
        region: Region,
        mode: Mode,
        end: &Interrupt,
    ) -> io::Result<Waited> {
        Wait { file: self, protocol, region, mode, end }.lock()
    }

    /// Somebody else waits for the lock, and would be overtaken by whoever takes it now.
    ///
    /// `false` where there is no turnstile: on file systems that are not local.
    pub(crate) fn is_turnstile_taken(&self, protocol: Protocol, region: Region) -> bool {
        if !self.is_local() {
            return false;
        }
        let start = turnstile_start(protocol, region);
        // Another range that covers the byte is somebody's lock on the whole file.
        let taken = matches!(
            fcntl::blocker(&self.file, fcntl::Range::byte(start)),
            Ok(Some(by)) if by.range.start == start
        );
        taken && !self.distrusts_turnstile()
    }

    /// Who holds the lock of the region, and whose calls wait for it, as the kernel sees it.
    pub(crate) fn holders(
        &self,
        protocol: Protocol,
        region: Region,
        effort: Effort,
    ) -> Vec<Holder> {
        let inode = self.inode.get_or_init(|| Inode::of(&self.file, self.identity));
        holders::of(&self.file, inode, protocol, region, effort)
    }

    /// Reads the beginning of the file, as much as there is or fits.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        while length < buffer.len() {
            match self.file.read_at(&mut buffer[length..], length as u64) {
                Ok(0) => break,
                // Only a server gives less than there is.
                Ok(count) if self.is_local() => return Ok(count),
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(length)
    }

    pub(crate) fn write(&self, content: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(content, at)
    }

    pub(crate) fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn distrusts_turnstile(&self) -> bool {
        let until = self.trust().distrusted_until;
        until.is_some_and(|until| Instant::now() < until)
    }

    fn trust(&self) -> MutexGuard<'_, Trust> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn unlock(&self, protocol: Protocol, region: Region) -> io::Result<()> {
        retrying(|| match protocol {
            Protocol::Flock => flock::unlock(&self.file),
            Protocol::Fcntl => fcntl::unlock(&self.file, self.range(region)),
        })
    }

    /// Turns an exclusive lock into a shared one without letting go in between; `false` where the
    /// protocol cannot, and then the lock is as it was.
    pub(crate) fn downgrade(&self, protocol: Protocol, region: Region) -> bool {
        match protocol {
            // "Converting a lock is not guaranteed to be atomic" (flock(2)).
            Protocol::Flock => false,
            Protocol::Fcntl => {
                retrying(|| fcntl::try_lock(&self.file, self.range(region), Mode::Shared)).is_ok()
            }
        }
    }
}

/// The byte at which the turnstile of a region begins: far beyond the data, and for byte ranges in
/// the middle of the region's slot, which the lock itself never reaches. As the lock does, it carries
/// the pid in its length.
pub(super) fn turnstile_start(protocol: Protocol, region: Region) -> u64 {
    const OF_WHOLE_FILE: u64 = 1 << 61;
    const HALF_A_SLOT: u64 = 1 << 22;
    match protocol {
        Protocol::Flock => OF_WHOLE_FILE,
        Protocol::Fcntl => region.start + HALF_A_SLOT,
    }
}

/// What an open file has seen of the turnstile.
#[derive(Debug, Default)]
struct Trust {
    /// The last wait passed its owner.
    passed: bool,
    /// Until when it is not looked at.
    distrusted_until: Option<Instant>,
}

/// One wait for the lock.
struct Wait<'a> {
    file: &'a LockFile,
    protocol: Protocol,
    region: Region,
    mode: Mode,
    end: &'a Interrupt,
}

impl Wait<'_> {
    /// Leaves the wait to the kernel.
    fn park(&self) -> io::Result<Waited> {
        match self.end.wait(|| self.call()) {
            // It did not wait, although it was asked to.
            Err(error) if is_contention(&error) => self.poll(),
            waited => waited,
        }
    }

    /// Leaves the wait to the kernel, but not for ever: the wake-up may be lost. Where a wait cannot
    /// be given a limit this is a poll.
    fn park_and_ask_again(&self) -> io::Result<Waited> {
        loop {
            match self.end.wait_for(ASK_AGAIN, || self.call()) {
                Ok(Some(waited)) => return Ok(waited),
                Err(error)
                    if is_contention(&error) || error.kind() == io::ErrorKind::Unsupported =>
                {
                    return self.poll();
                }
                Err(error) => return Err(error),
                Ok(None) => {}
            }
            if let Some(ended) = self.end.pause(FIRST_PAUSE) {
                return Ok(ended);
            }
            if self.try_lock()? == Attempt::Acquired {
                return Ok(Waited::Acquired);
            }
        }
    }

    /// The lock call that blocks.
    fn call(&self) -> io::Result<()> {
        match self.protocol {
            Protocol::Flock => flock::lock(&self.file.file, self.mode),
            Protocol::Fcntl => {
                fcntl::lock(&self.file.file, self.file.range(self.region), self.mode)
            }
        }
    }

    /// Tries again and again, where the kernel may not wake a wait, or not let it go.
    fn poll(&self) -> io::Result<Waited> {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(ended) = self.end.pause(pause) {
                return Ok(ended);
            }
            if self.try_lock()? == Attempt::Acquired {
                return Ok(Waited::Acquired);
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn try_lock(&self) -> io::Result<Attempt> {
        self.file.try_lock(self.protocol, self.region, self.mode)
    }

    fn turnstile(&self) -> fcntl::Range {
        let start = turnstile_start(self.protocol, self.region);
        self.file.range(Region { start })
    }
}

impl Gate for Wait<'_> {
    fn take_turnstile(&self, limit: Duration) -> Turn {
        if self.file.distrusts_turnstile() || !interrupt::is_available() {
            return Turn::None;
        }
        // An exclusive lock needs write access. Readers who have none may wait side by side.
        let mode = if self.file.writable { Mode::Exclusive } else { Mode::Shared };
        let take = || fcntl::lock(&self.file.file, self.turnstile(), mode);
        match self.end.wait_for(limit, take) {
            Ok(Some(Waited::Acquired)) => {
                self.file.trust().passed = false;
                Turn::Taken
            }
            Ok(Some(Waited::Interrupted)) => Turn::Interrupted,
            Ok(None) => Turn::TimedOut,
            Err(_) => Turn::None,
        }
    }

    fn leave_turnstile(&self) {
        // Where this fails nobody else has the turnstile, and nobody waits for it without a limit.
        let _ = retrying(|| fcntl::unlock(&self.file.file, self.turnstile()));
    }

    fn passed_turnstile(&self) {
        let until = Instant::now() + DISTRUST;
        let mut trust = self.file.trust();
        if mem::replace(&mut trust.passed, true) {
            trust.distrusted_until = Some(until);
        }
    }

    fn try_if_free(&self) -> io::Result<Attempt> {
        // Only the exclusive lock shows that nobody holds it shared. A descriptor that may not have
        // it learns nothing.
        let free = self.file.try_lock(self.protocol, self.region, Mode::Exclusive);
        if self.mode == Mode::Exclusive || !matches!(free, Ok(Attempt::Acquired)) {
            return Ok(free.unwrap_or(Attempt::Busy));
        }
        let shared = self.try_lock();
        if shared.is_err() {
            let _ = self.file.unlock(self.protocol, self.region);
        }
        shared
    }

    fn lock(&self) -> io::Result<Waited> {
        self.park()
    }
}

/// EINTR that nobody asked for is not an answer, unless there is no other: a server may say so for
/// ever.
fn retrying(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for _ in 0..INTERRUPTIONS {
        match call() {
            Err(error) if is_interrupted(&error) => {}
            answer => return answer,
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// The file, and whether it is open for writing.
fn open(path: &Path, access: Access) -> io::Result<(File, bool)> {
    let mut last = None;
    for _ in 0..OPEN_ROUNDS {
        let opened = match open_existing(path, access.read_only) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && access.create => {
                create(path, access.mode).map(|file| (file, true))
            }
            opened => opened,
        };
        match opened {
            // Made by somebody else in between.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = Some(error),
            opened => return opened,
        }
    }
    Err(last.expect("the rounds end by an answer or an error"))
}

fn open_existing(path: &Path, read_only: bool) -> io::Result<(File, bool)> {
    let open = |write| base_options().write(write).open(path).map(|file| (file, write));
    if read_only {
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

fn create(path: &Path, mode: Option<u32>) -> io::Result<File> {
    let file =
        base_options().write(true).create_new(true).mode(mode.unwrap_or(0o666)).open(path)?;
    if let Some(mode) = mode {
        // The umask of the first creator would decide for everybody.
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(file)
}

fn base_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // std adds O_CLOEXEC.
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    options
}

fn regular(metadata: &Metadata, path: &Path) -> Result<Identity, Error> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(Identity { device: metadata.dev(), inode: metadata.ino() });
    }
    let (what, remedy) = if kind.is_dir() {
        ("a directory", "name a file in it, or one beside it")
    } else if kind.is_symlink() {
        ("a symbolic link, which is not followed", "name the file that it leads to")
    } else if kind.is_fifo() {
        ("a FIFO", "name a regular file")
    } else if kind.is_socket() {
        ("a socket", "name a regular file")
    } else {
        ("a device", "name a regular file")
    };
    let detail = format!("it is {what}; {remedy}");
    Err(Error::found(ErrorKind::NotAFile, Operation::Open, path, detail))
}

fn open_error(path: &Path, error: io::Error) -> Error {
    if errno(&error) == Some(Errno::ELOOP) {
        if let Ok(metadata) = path.symlink_metadata() {
            if let Err(error) = regular(&metadata, path) {
                return error;
            }
        }
    }
    Error::os(ErrorKind::Io, Operation::Open, path, error)
}
