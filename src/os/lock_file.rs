//! The open lock file, and the calls on its lock.
//!
//! Here is what every system does alike: how a wait goes on each kind of file system, and what it
//! does at the turnstile. The calls themselves are the platform's ([`Lock`]).

use std::fs::File;
use std::io;
use std::process;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use super::file_system::{FileSystem, Keyed, Kind};
use super::foreign::foreign_descriptor;
use super::names::{Names, Recognized, Sameness};
use super::platform::holders::{self, Inode};
use super::platform::interrupt::Interrupt;
use super::platform::mount::Reach;
use super::platform::{content, errors, file_system, open, remove, same};
use super::turnstile::{
    self, Pace, Turn, Turnstile, TurnstileState, Turnstiles, is_turn_of_another, lock_in_turn,
    new_number, try_in_turn,
};
use super::{
    Access, Descriptor, Effort, Identity, Kept, Location, Lock, Opened, Protocol, Question, Region,
    Standing, Tried, Waited,
};
use crate::error::{Error, ErrorKind};
use crate::holder::Holder;
use crate::mode::Mode;

/// A wait on NFS is made anew after this time, because its wake-up may have been lost.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The pauses between the tries where a wait cannot be left to the kernel: each is twice as long as the
/// one before.
#[derive(Debug, Clone, Copy)]
struct Pauses {
    first: Duration,
    longest: Duration,
}

/// A try is a microsecond. The longest pause is far below the limit of a wait for the turnstile: a process
/// that polls must not seem to be stopped.
const LOCAL: Pauses =
    Pauses { first: Duration::from_millis(1), longest: Duration::from_millis(16) };
/// A try is a round trip.
const REMOTE: Pauses =
    Pauses { first: Duration::from_millis(5), longest: Duration::from_millis(250) };

#[derive(Debug)]
pub(crate) struct LockFile {
    file: Descriptor,
    names: Names,
    writable: bool,
    file_system: FileSystem,
    /// Where locks may exclude this machine only; `None` on a local file system.
    reach: Option<Reach>,
    /// The process that opened it, and that its locks name.
    pid: u32,
    turnstiles: Turnstiles,
    /// For queries for the holders of its locks; found out by the first query.
    inode: OnceLock<Inode>,
}

impl LockFile {
    /// What the lock file at this path is; `None` if there is none. Opens nothing.
    pub(crate) fn names_at(at: &Location) -> Result<Option<Names>, Error> {
        open::names_at(at)
    }

    pub(crate) fn open(at: &Location, access: Access) -> Result<Self, Error> {
        let Opened { file, writable } = open::open(at, access)?;
        let Kind { file_system, keyed } =
            file_system::of(&file).map_err(|error| open::open_error(at, error))?;
        let names = open::names(&file, file.identity(), keyed);
        let is_local = file_system == FileSystem::Local;
        // Overlayfs has copied a file up that is open for writing.
        let numbers_stay =
            keyed == Keyed::ByNumber || is_local && writable && keyed == Keyed::Unknown;
        if !numbers_stay {
            file.may_change(keyed, &names);
        }
        let reach = (!is_local).then(|| Reach::of(&file));
        let file = Self {
            file,
            names,
            writable,
            file_system,
            reach,
            pid: process::id(),
            turnstiles: Turnstiles::default(),
            inode: OnceLock::new(),
        };
        if access.in_use {
            file.mark_in_use();
        }
        Ok(file)
    }

    /// Says that it is in use ([`Access::in_use`]), for as long as it is open.
    pub(crate) fn mark_in_use(&self) {
        // On a server it would meet the range locks.
        if self.is_local() {
            Lock::mark_in_use(&self.file);
        }
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    pub(crate) fn identity(&self) -> Identity {
        self.names.identity
    }

    /// Which of these open files this one is. It was just opened, and has no locks.
    pub(crate) fn ask(&self, known: &[&Self]) -> Recognized {
        let known: Vec<&File> = known.iter().map(|known| &*known.file).collect();
        same::ask(&self.file, &known)
    }

    /// Whether the path leads to this file; on a remote file system, as the server sees it.
    pub(crate) fn is_at(&self, at: &Location) -> Result<bool, Error> {
        let found = if self.is_local() { open::names_at(at) } else { open::names_at_server(at) };
        let there = match found {
            Ok(Some(there)) => there,
            Ok(None) => return Ok(false),
            // Something else is there now.
            Err(error) if error.kind() == ErrorKind::NotAFile => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(match self.names.compare(&there) {
            Sameness::Same => true,
            Sameness::Other => false,
            Sameness::Doubt => self.seems_to_be(&there, at),
        })
    }

    /// Whether this is the file at the path, where no name is proof.
    fn seems_to_be(&self, there: &Names, at: &Location) -> bool {
        // They may have changed since it was opened (overlayfs).
        let number = open::number_of(&self.file).unwrap_or(self.identity());
        if there.identity != number {
            return false;
        }
        // A server would be asked three times more for each lock, and may refuse.
        if !self.is_local() || !same::CAN_ASK {
            return true;
        }
        let for_looking =
            Access { create: false, mode: None, read_only: true, in_use: false, patient: false };
        match Self::open(at, for_looking) {
            Ok(there) => there.ask(&[self]) != Recognized::None,
            Err(_) => true,
        }
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
        self.reach.as_ref()?.excludes_this_machine_only(protocol)
    }

    /// Whether the descriptor still is that of the file, and a path leads to it. One system call.
    pub(crate) fn standing(&self) -> io::Result<Standing> {
        self.file.standing(self.is_local())
    }

    /// An error if the descriptor is not that of the file any more. Asks no server.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.file.check()
    }

    /// Closing any open file of this process releases its locks of the same file.
    pub(crate) fn closing_releases(protocol: Protocol) -> bool {
        Lock::closing_releases(protocol)
    }

    fn call<'a>(
        &'a self,
        protocol: Protocol,
        region: Region,
        mode: Mode,
        pace: &'a Pace,
    ) -> Call<'a> {
        Call { file: self, protocol, region, mode, pace }
    }

    fn os_lock(&self, protocol: Protocol, region: Region) -> Lock {
        Lock::of(protocol, region, self.pid)
    }

    /// A try with no regard for waiters.
    #[cfg(test)]
    pub(crate) fn try_lock(
        &self,
        protocol: Protocol,
        region: Region,
        mode: Mode,
    ) -> io::Result<Tried> {
        self.attempt(self.os_lock(protocol, region), mode)
    }

    fn attempt(&self, lock: Lock, mode: Mode) -> io::Result<Tried> {
        match lock.try_lock(&self.file, mode) {
            Ok(()) => Ok(Tried::Acquired),
            Err(error) if self.is_contention(&error) => Ok(Tried::Busy),
            Err(error) => Err(error),
        }
    }

    fn is_contention(&self, error: &io::Error) -> bool {
        errors::is_contention(error, self.file_system)
    }

    /// Blocks until the lock is there, or until the interrupt asks for an end.
    pub(crate) fn lock(
        &self,
        protocol: Protocol,
        region: Region,
        mode: Mode,
        pace: &Pace,
        end: &Interrupt,
    ) -> io::Result<Waited> {
        let wait = Wait { call: self.call(protocol, region, mode, pace), end };
        match self.file_system {
            FileSystem::Local => lock_in_turn(&wait),
            FileSystem::Nfs if self.keeps_locks_given_up() => wait.poll(),
            FileSystem::Nfs => wait.park_and_ask_again(),
            FileSystem::Other | FileSystem::OtherWithEacces => wait.poll(),
        }
    }

    /// A wait in the kernel must not be given up. Also where nothing tells of the mount.
    fn keeps_locks_given_up(&self) -> bool {
        self.reach.as_ref().is_none_or(Reach::keeps_locks_given_up)
    }

    /// As `lock` on a local file system, with no regard for waiters.
    #[cfg(test)]
    pub(super) fn lock_out_of_turn(
        &self,
        protocol: Protocol,
        region: Region,
        mode: Mode,
        end: &Interrupt,
    ) -> io::Result<Waited> {
        let pace = Pace::new(Instant::now());
        Wait { call: self.call(protocol, region, mode, &pace), end }.park()
    }

    /// Takes the lock if it is free, unless it is the turn of another process: on a local file system, elsewhere there are
    /// no turns. Blocks for some milliseconds at most, and only if it `may_pause`.
    #[inline]
    pub(crate) fn try_lock_in_turn(
        &self,
        protocol: Protocol,
        region: Region,
        mode: Mode,
        pace: &Pace,
        may_pause: bool,
    ) -> io::Result<Tried> {
        if self.is_local() {
            try_in_turn(&self.call(protocol, region, mode, pace), may_pause)
        } else {
            self.attempt(self.os_lock(protocol, region), mode)
        }
    }

    /// Another process waits for the lock, and would be overtaken by one that takes it now.
    ///
    /// `false` where there is no turnstile: on file systems that are not local.
    pub(crate) fn is_turnstile_taken(
        &self,
        protocol: Protocol,
        region: Region,
        pace: &Pace,
    ) -> bool {
        self.is_local() && is_turn_of_another(&self.call(protocol, region, Mode::Shared, pace))
    }

    /// The processes that hold the lock of the region, and those whose calls wait for it, as the kernel sees them.
    pub(crate) fn holders(
        &self,
        protocol: Protocol,
        region: Region,
        effort: Effort,
    ) -> Vec<Holder> {
        holders::of(&self.question(protocol, region), self.inode(), effort)
    }

    /// One of the holders that keep this process from the lock, if one system call tells.
    pub(crate) fn blocker(&self, protocol: Protocol, region: Region) -> Option<Holder> {
        holders::blocker(&self.question(protocol, region))
    }

    /// This process, whose locks they are.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    fn inode(&self) -> &Inode {
        self.inode.get_or_init(|| Inode::of(&self.file, self.identity()))
    }

    fn question(&self, protocol: Protocol, region: Region) -> Question<'_> {
        Question { file: &self.file, protocol, region, pid: self.pid, is_local: self.is_local() }
    }

    /// Removes the file that is at this place, if it is this one, for which it must be locked exclusively.
    pub(crate) fn remove(
        &self,
        location: &Location,
        protocol: Protocol,
    ) -> io::Result<Option<Kept>> {
        remove::remove(location, &self.file, protocol)
    }

    /// Reads the beginning of the file, as much as there is or fits.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        while length < buffer.len() {
            match content::read_at(&self.file, &mut buffer[length..], length as u64) {
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
        content::write_all_at(&self.file, content, at)
    }

    /// More than one name leads to it.
    pub(crate) fn has_other_names(&self) -> io::Result<bool> {
        content::has_other_names(&self.file)
    }

    pub(crate) fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    /// Not where the number of the descriptor is known to be that of another lock file of this process.
    pub(crate) fn unlock(&self, protocol: Protocol, region: Region) -> io::Result<()> {
        if self.file.is_known_to_be_foreign() {
            return Err(foreign_descriptor());
        }
        self.os_lock(protocol, region).unlock(&self.file)
    }

    /// Turns an exclusive lock into a shared one without letting go in between; `false` where the
    /// protocol cannot, and then the lock is as it was.
    pub(crate) fn downgrade(&self, protocol: Protocol, region: Region) -> bool {
        self.os_lock(protocol, region).downgrade(&self.file)
    }
}

/// Nothing could end the wait, so it has not begun. The system's own ENOSYS is about the lock, and has the
/// same kind.
fn cannot_be_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported && error.raw_os_error().is_none()
}

/// One attempt at a lock.
struct Call<'a> {
    file: &'a LockFile,
    protocol: Protocol,
    region: Region,
    mode: Mode,
    pace: &'a Pace,
}

impl Call<'_> {
    fn os_lock(&self) -> Lock {
        self.file.os_lock(self.protocol, self.region)
    }

    fn turnstile(&self, number: u32) -> Option<Lock> {
        Lock::turnstile(self.protocol, self.region, number)
    }
}

impl Turnstile for Call<'_> {
    #[inline]
    fn check(&self) -> TurnstileState {
        match self.turnstile(self.file.pid) {
            Some(turnstile) => turnstile.check_turnstile(&self.file.file),
            None => TurnstileState::Free,
        }
    }

    #[inline]
    fn check_before_try(&self) -> Option<TurnstileState> {
        // Of a descriptor that is no good for this lock, a try says so, held or not.
        let may_try = self.file.writable || self.mode == Mode::Shared;
        match self.turnstile(self.file.pid) {
            Some(turnstile) if may_try => {
                turnstile.check_turnstile_with(self.os_lock(), &self.file.file, self.mode)
            }
            _ => Some(self.check()),
        }
    }

    fn remembered(&self) -> &Turnstiles {
        &self.file.turnstiles
    }

    fn pace(&self) -> &Pace {
        self.pace
    }

    fn region(&self) -> Region {
        self.region
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn pause(&self, time: Duration) {
        thread::sleep(time);
    }

    fn is_free(&self) -> io::Result<bool> {
        match self.os_lock().is_free(&self.file.file) {
            Err(error) if self.file.is_contention(&error) => Ok(false),
            answer => answer,
        }
    }

    #[inline]
    fn try_lock(&self) -> io::Result<Tried> {
        self.file.attempt(self.os_lock(), self.mode)
    }

    fn is_shared(&self) -> bool {
        self.mode == Mode::Shared
    }

    fn is_lock_waited_for(&self) -> bool {
        let Call { file, protocol, region, .. } = *self;
        holders::is_lock_waited_for(&file.question(protocol, region), file.inode())
    }
}

/// One wait for the lock.
struct Wait<'a> {
    call: Call<'a>,
    end: &'a Interrupt,
}

impl Wait<'_> {
    /// Leaves the wait to the kernel. Where the kernel's wait cannot be ended this is a poll.
    fn park(&self) -> io::Result<Waited> {
        match self.call.os_lock().wait(self.file(), self.call.mode, self.end) {
            // It did not wait, although it was asked to. What says so in other words than the system has for
            // that answers in place of the kernel, and would for ever.
            Err(error) if cannot_be_ended(&error) || Lock::did_not_wait(&error) => self.poll(),
            waited => waited,
        }
    }

    /// Leaves the wait to the kernel, but not for ever: the wake-up may be lost. Where a wait cannot
    /// be given a limit this is a poll.
    fn park_and_ask_again(&self) -> io::Result<Waited> {
        loop {
            let os_lock = self.call.os_lock();
            match os_lock.wait_for(self.file(), self.call.mode, self.end, ASK_AGAIN) {
                Ok(Some(waited)) => return Ok(waited),
                Err(error)
                    if self.call.file.is_contention(&error)
                        || Lock::did_not_wait(&error)
                        || cannot_be_ended(&error) =>
                {
                    return self.poll();
                }
                Err(error) => return Err(error),
                Ok(None) => {}
            }
            if let Some(ended) = self.end.pause(REMOTE.first) {
                return Ok(ended);
            }
            if self.call.try_lock()? == Tried::Acquired {
                return Ok(Waited::Acquired);
            }
        }
    }

    /// Tries again and again, where the kernel may not wake a wait, or not let it go.
    fn poll(&self) -> io::Result<Waited> {
        let waited = self.poll_until(None, || self.call.try_lock())?;
        Ok(waited.expect("the time is never up"))
    }

    /// `None` if the time is up.
    fn poll_until(
        &self,
        deadline: Option<Instant>,
        attempt: impl Fn() -> io::Result<Tried>,
    ) -> io::Result<Option<Waited>> {
        let Pauses { first, longest } = if self.call.file.is_local() { LOCAL } else { REMOTE };
        let mut pause = first;
        loop {
            if let Some(ended) = self.end.pause(pause) {
                return Ok(Some(ended));
            }
            if attempt()? == Tried::Acquired {
                return Ok(Some(Waited::Acquired));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
            pause = (pause * 2).min(longest);
        }
    }

    fn file(&self) -> &Descriptor {
        &self.call.file.file
    }
}

impl<'a> turnstile::Wait for Wait<'a> {
    type Turnstile = Call<'a>;

    fn turnstile(&self) -> &Call<'a> {
        &self.call
    }

    fn take_turnstile(&self, limit: Duration) -> Turn {
        // While the call waits, its length is the pid of the waiter. Later it is the number of this turn.
        let pid = self.call.file.pid;
        let [Some(waiting), Some(taken)] =
            [pid, new_number(pid)].map(|number| self.call.turnstile(number))
        else {
            return Turn::None;
        };
        // An exclusive lock needs write access. Readers without it may wait side by side.
        let mode = if self.call.file.writable { Mode::Exclusive } else { Mode::Shared };
        if limit.is_zero() {
            return match self.call.file.attempt(taken, mode) {
                Ok(Tried::Acquired) => Turn::Taken,
                Ok(Tried::Busy) => Turn::TimedOut,
                Err(_) => Turn::None,
            };
        }
        let deadline = Instant::now() + limit;
        let waited = match waiting.wait_for(self.file(), mode, self.end, limit) {
            Err(error) if cannot_be_ended(&error) => {
                self.poll_until(Some(deadline), || self.call.file.attempt(waiting, mode))
            }
            waited => waited,
        };
        match waited {
            Ok(Some(Waited::Acquired)) => {
                // If this fails, processes that check take several turns of this process for one.
                let _ = waiting.renumber(taken, self.file(), mode);
                Turn::Taken
            }
            Ok(Some(Waited::Interrupted)) => Turn::Interrupted,
            Ok(None) => Turn::TimedOut,
            Err(_) => Turn::None,
        }
    }

    fn leave_turnstile(&self) {
        // Where this fails no other process has the turnstile, and each wait for it has a limit.
        let widest = self.call.turnstile(turnstile::WIDEST);
        let _ = widest.map(|turnstile| turnstile.unlock(self.file()));
    }

    fn lock(&self) -> io::Result<Waited> {
        self.park()
    }
}

// With POSIX record locks the two would have to be processes.
#[cfg(all(test, target_os = "linux", not(any(tokio_filelock_loom, tokio_filelock_posix))))]
mod tests {
    use super::*;
    use Mode::Exclusive;

    const ACCESS: Access =
        Access { create: true, mode: None, read_only: false, in_use: false, patient: false };

    #[test]
    fn one_that_waits_is_overtaken_by_the_tries_that_follow_a_look_only() {
        for protocol in [Protocol::Flock, Protocol::Fcntl] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("lock").into();
            let [hot, waits] = [(); 2].map(|()| LockFile::open(&path, ACCESS).unwrap());
            let pace = Pace::new(Instant::now());
            let is_granted = || {
                let tried = hot.try_lock_in_turn(protocol, Region::ONLY, Exclusive, &pace, false);
                let is_granted = tried.unwrap() == Tried::Acquired;
                if is_granted {
                    hot.unlock(protocol, Region::ONLY).unwrap();
                }
                is_granted
            };
            assert!(is_granted());
            let turnstile = Lock::turnstile(protocol, Region::ONLY, 1).unwrap();
            turnstile.try_lock(&waits.file, Exclusive).unwrap();
            let overtaken = (0..100).filter(|_| is_granted()).count();
            assert!(overtaken <= turnstile::HOT_TRIES as usize, "{protocol:?}: {overtaken}");
            assert!(!is_granted(), "{protocol:?}");
        }
    }
}
