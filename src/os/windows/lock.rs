//! One lock of a file, in the terms of the system: a range of bytes, which need not exist.
//!
//! Locks are mandatory here: while a range is locked exclusively its bytes can be neither read nor
//! written through another handle. `Flock` is the whole file, as `std::fs::File::lock`, cargo and uv
//! take it, so the content of such a lock file is the holder's. The ranges of `Fcntl` lie beyond
//! any data.
//!
//! A second lock through the same handle does not convert the first one but is held beside it. The
//! first unlock of a range that is locked in both modes gives the exclusive one back
//! (UnlockFileEx, Remarks).

use std::fs::File;
use std::io;
use std::time::Duration;

use windows_sys::Win32::Storage::FileSystem::{
    LOCK_FILE_FLAGS, LOCKFILE_EXCLUSIVE_LOCK, LOCKFILE_FAIL_IMMEDIATELY,
};

use super::interrupt::Interrupt;
use super::overlapped::{self, Range};
use crate::mode::Mode;
use crate::os::file_system::FileSystem;
use crate::os::turnstile::{Taken, TurnstileState};
use crate::os::{Protocol, Region, Waited, wire};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::os) struct Lock(Range);

impl Lock {
    const WHOLE_FILE: Self = Self(Range { start: 0, length: u64::MAX });

    /// The lock that stands for a region.
    pub(in crate::os) fn of(protocol: Protocol, region: Region, _pid: u32) -> Self {
        match protocol {
            Protocol::Flock => Self::WHOLE_FILE,
            Protocol::Fcntl => Self(Range { start: beyond_data(region), length: 1 }),
        }
    }

    /// Range locks are in the way of all others.
    pub(in crate::os) fn mark_in_use(_file: &File) {}

    pub(in crate::os) fn closing_releases(_protocol: Protocol) -> bool {
        false
    }

    /// The turnstile of a region, if there is one. A lock on the whole file leaves no byte for it, and
    /// it needs waits that can have a limit.
    pub(in crate::os) fn turnstile(
        protocol: Protocol,
        region: Region,
        _number: u32,
    ) -> Option<Self> {
        if protocol == Protocol::Flock || !overlapped::is_usable() {
            return None;
        }
        let start = beyond_data(region) + wire::TURNSTILE_IN_SLOT;
        Some(Self(Range { start, length: 1 }))
    }

    pub(in crate::os) fn try_lock(self, file: &File, mode: Mode) -> io::Result<()> {
        overlapped::call(file, self.0, flags(mode) | LOCKFILE_FAIL_IMMEDIATELY)
    }

    /// Blocks until the lock is there, or until the interrupt asks for an end.
    pub(in crate::os) fn wait(
        self,
        file: &File,
        mode: Mode,
        end: &Interrupt,
    ) -> io::Result<Waited> {
        if overlapped::is_usable() {
            let waited = overlapped::wait(file, self.0, flags(mode), end, None)?;
            return Ok(waited.expect("the time is never up"));
        }
        if end.is_requested() {
            return Ok(Waited::Interrupted);
        }
        // The handle is a synchronous one.
        overlapped::call(file, self.0, flags(mode))?;
        Ok(Waited::Acquired)
    }

    /// As `wait`, for no longer than this: `None` if the time is up.
    ///
    /// # Errors
    ///
    /// `Unsupported` if no limit can be set: then nothing has been called.
    pub(in crate::os) fn wait_for(
        self,
        file: &File,
        mode: Mode,
        end: &Interrupt,
        limit: Duration,
    ) -> io::Result<Option<Waited>> {
        if !overlapped::is_usable() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        overlapped::wait(file, self.0, flags(mode), end, Some(limit))
    }

    /// A wait failed with this error although the lock is only busy.
    pub(in crate::os) fn did_not_wait(error: &io::Error) -> bool {
        overlapped::did_not_wait(error)
    }

    pub(in crate::os) fn unlock(self, file: &File) -> io::Result<()> {
        overlapped::unlock(file, self.0)
    }

    /// From exclusive to shared without letting go in between; `false` where that is not possible,
    /// and then the lock is as it was.
    pub(in crate::os) fn downgrade(self, file: &File) -> bool {
        self.weaken(file).is_ok()
    }

    /// From exclusive to shared: both, for a moment.
    fn weaken(self, file: &File) -> io::Result<()> {
        self.try_lock(file, Mode::Shared)?;
        self.unlock(file)
    }

    /// Another handle has locked this turnstile. Which one can not be told, and the system has no question
    /// for it: it is asked for a shared lock, which processes that ask do not keep from each other. `Free` if
    /// that cannot be told, either.
    pub(in crate::os) fn check_turnstile(self, file: &File) -> TurnstileState {
        match self.can_have(file, Mode::Shared) {
            Err(error) if super::errors::is_contention(&error, FileSystem::Local) => {
                TurnstileState::Taken(Taken(0))
            }
            _ => TurnstileState::Free,
        }
    }

    /// No process has the lock, exclusively or shared. For a moment this one has it.
    pub(in crate::os) fn is_free(self, file: &File) -> io::Result<bool> {
        self.can_have(file, Mode::Exclusive).map(|()| true)
    }

    fn can_have(self, file: &File, mode: Mode) -> io::Result<()> {
        self.try_lock(file, mode)?;
        self.unlock(file)
    }

    /// No question asks for both.
    pub(in crate::os) fn check_turnstile_with(
        self,
        _lock: Self,
        file: &File,
        _mode: Mode,
    ) -> Option<TurnstileState> {
        Some(self.check_turnstile(file))
    }

    /// The turnstile has no number here.
    pub(in crate::os) fn renumber(self, _to: Self, _file: &File, _mode: Mode) -> io::Result<()> {
        Ok(())
    }
}

/// Where the lock of a region is. The regions of books, pins, writers and keys begin at 2^58 and beyond as they are, the one of a
/// lock file with a single lock is moved to 2^61. Both are within a lock on the whole file, as others take
/// it, also if they count it to 2^63 - 1 only (Java).
fn beyond_data(region: Region) -> u64 {
    if region.start < wire::BOOKS { wire::BEYOND_DATA } else { region.start }
}

fn flags(mode: Mode) -> LOCK_FILE_FLAGS {
    match mode {
        Mode::Shared => 0,
        Mode::Exclusive => LOCKFILE_EXCLUSIVE_LOCK,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::super::errors::is_contention;
    use super::*;

    fn opened_twice() -> (tempfile::TempDir, [File; 2]) {
        let directory = tempfile::tempdir().expect("a directory");
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.open(directory.path().join("lock")).expect("open")
        };
        let files = [open(), open()];
        (directory, files)
    }

    fn assert_contention(answer: io::Result<()>) {
        assert!(is_contention(&answer.expect_err("the other handle has it"), FileSystem::Local));
    }

    #[test]
    fn the_first_unlock_of_both_gives_the_exclusive_one_back() {
        for protocol in [Protocol::Flock, Protocol::Fcntl] {
            let (_directory, [one, other]) = opened_twice();
            let lock = Lock::of(protocol, Region::ONLY, 0);
            lock.try_lock(&one, Mode::Exclusive).unwrap();
            lock.weaken(&one).unwrap();
            assert_contention(lock.try_lock(&other, Mode::Exclusive));
            lock.try_lock(&other, Mode::Shared).unwrap();
            lock.unlock(&one).unwrap();
            lock.unlock(&other).unwrap();
            lock.try_lock(&other, Mode::Exclusive).unwrap();
        }
    }

    /// Were it otherwise, a lock on a region could not be told from one on the whole file.
    #[test]
    fn every_lock_is_within_the_whole_file() {
        let (_directory, [one, other]) = opened_twice();
        Lock::of(Protocol::Flock, Region::ONLY, 0).try_lock(&one, Mode::Exclusive).unwrap();
        for start in [0, 1 << 62, (1 << 63) - (1 << 23)] {
            let lock = Lock::of(Protocol::Fcntl, Region { start }, 0);
            assert_contention(lock.try_lock(&other, Mode::Shared));
        }
    }

    #[test]
    fn looking_whether_it_is_taken_takes_nothing() {
        let (_directory, [one, other]) = opened_twice();
        let lock = Lock::of(Protocol::Fcntl, Region::ONLY, 0);
        assert_eq!(lock.check_turnstile(&one), TurnstileState::Free);
        lock.try_lock(&other, Mode::Exclusive).unwrap();
        assert_eq!(lock.check_turnstile(&one), TurnstileState::Taken(Taken(0)));
        lock.unlock(&other).unwrap();
        assert_eq!(lock.check_turnstile(&one), TurnstileState::Free);
    }
}
