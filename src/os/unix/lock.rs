//! One lock of a file, in the terms of the system.

use std::fs::File;
use std::io;
use std::time::Duration;

use super::errors::{self, is_interrupted};
use super::fcntl;
use super::flock;
use super::interrupt::Interrupt;
use super::kernel::record;
use super::range::Range;
use crate::mode::Mode;
use crate::os::turnstile::TurnstileState;
use crate::os::{Protocol, Region, Waited, wire};

/// So many times in a row a call that does not wait is made again when it was interrupted.
const INTERRUPTIONS: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::os) enum Lock {
    WholeFile,
    Bytes(Range),
}

impl Lock {
    /// The lock that stands for a region, when this process takes it.
    pub(in crate::os) fn of(protocol: Protocol, region: Region, pid: u32) -> Self {
        match protocol {
            Protocol::Flock => Lock::WholeFile,
            Protocol::Fcntl => Lock::Bytes(Range::of(region, pid)),
        }
    }

    /// Closing any descriptor of the file releases the locks that this process has on it.
    pub(in crate::os) fn closing_releases(protocol: Protocol) -> bool {
        protocol == Protocol::Fcntl && record::CLOSING_RELEASES
    }

    /// Shares the lock of flock(2) for as long as the file is open, where that is apart from range
    /// locks. A process that has it exclusively just now is about to remove the file.
    pub(in crate::os) fn mark_in_use(file: &File) {
        if !record::SEES_FLOCK {
            let _ = flock::try_lock(file, Mode::Shared);
        }
    }

    /// The turnstile of a region, if there is one. As the lock does, it carries a number in its length:
    /// the pid while the call waits, later one that tells this turn from others.
    pub(in crate::os) fn turnstile(
        protocol: Protocol,
        region: Region,
        number: u32,
    ) -> Option<Self> {
        if protocol == Protocol::Flock && record::SEES_FLOCK {
            return None;
        }
        let start = turnstile_start(protocol, region);
        Some(Lock::Bytes(Range::of(Region { start }, number)))
    }

    #[inline]
    pub(in crate::os) fn try_lock(self, file: &File, mode: Mode) -> io::Result<()> {
        retrying(|| match self {
            Lock::WholeFile => flock::try_lock(file, mode),
            Lock::Bytes(range) => fcntl::try_lock(file, range, mode),
        })
    }

    /// Blocks until the lock is there, or until the interrupt asks for an end.
    ///
    /// # Errors
    ///
    /// `Unsupported` if nothing could end the wait: then nothing has been called.
    pub(in crate::os) fn wait(
        self,
        file: &File,
        mode: Mode,
        end: &Interrupt,
    ) -> io::Result<Waited> {
        end.wait(|| self.call(file, mode))
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
        end.wait_for(limit, || self.call(file, mode))
    }

    /// A wait failed with this error although the lock is only busy.
    pub(in crate::os) fn did_not_wait(error: &io::Error) -> bool {
        errors::did_not_wait(error)
    }

    /// The lock call that blocks.
    fn call(self, file: &File, mode: Mode) -> io::Result<()> {
        match self {
            Lock::WholeFile => flock::lock(file, mode),
            Lock::Bytes(range) => fcntl::lock(file, range, mode),
        }
    }

    #[inline]
    pub(in crate::os) fn unlock(self, file: &File) -> io::Result<()> {
        retrying(|| match self {
            Lock::WholeFile => flock::unlock(file),
            Lock::Bytes(range) => fcntl::unlock(file, range),
        })
    }

    /// From exclusive to shared without letting go in between; `false` where that is not possible,
    /// and then the lock is as it was.
    pub(in crate::os) fn downgrade(self, file: &File) -> bool {
        match self {
            // "Converting a lock is not guaranteed to be atomic" (flock(2)).
            Lock::WholeFile => false,
            Lock::Bytes(_) => self.try_lock(file, Mode::Shared).is_ok(),
        }
    }

    /// Another open file has a lock that begins as this turnstile does. `Free` if that cannot be told.
    #[inline]
    pub(in crate::os) fn check_turnstile(self, file: &File) -> TurnstileState {
        let Lock::Bytes(range) = self else { return TurnstileState::Free };
        match fcntl::blocker(file, Range::byte(range.start)) {
            Ok(Some(by)) if by.range.start == range.start => by.as_turnstile(),
            Ok(Some(_)) => TurnstileState::Covered,
            Ok(None) | Err(_) => TurnstileState::Free,
        }
    }

    /// As `check_turnstile`, and whether the lock behind this turnstile could be had is asked by the same call: `None` if not.
    /// The kernel names one lock of several, so a second call may be needed.
    #[inline]
    pub(in crate::os) fn check_turnstile_with(
        self,
        lock: Self,
        file: &File,
        mode: Mode,
    ) -> Option<TurnstileState> {
        let (Lock::Bytes(turnstile), Lock::Bytes(lock)) = (self, lock) else {
            return Some(self.check_turnstile(file));
        };
        let both = Range { start: lock.start, length: turnstile.start + 1 - lock.start };
        match fcntl::blocker(file, both) {
            Ok(None) | Err(_) => Some(TurnstileState::Free),
            Ok(Some(by)) if by.range.start == turnstile.start => Some(by.as_turnstile()),
            Ok(Some(by)) if by.keeps_out(lock, mode) => None,
            Ok(Some(_)) => Some(self.check_turnstile(file)),
        }
    }

    /// No process has the lock, exclusively or shared. For a moment this one may have it.
    pub(in crate::os) fn is_free(self, file: &File) -> io::Result<bool> {
        match self {
            Lock::WholeFile => {
                self.try_lock(file, Mode::Exclusive)?;
                self.unlock(file).map(|()| true)
            }
            // The kernel can be asked, also through a descriptor that is open for reading only.
            Lock::Bytes(range) => fcntl::blocker(file, range).map(|by| by.is_none()),
        }
    }

    /// Gives a turnstile that this open file has another number.
    pub(in crate::os) fn renumber(self, to: Self, file: &File, mode: Mode) -> io::Result<()> {
        let (Lock::Bytes(from), Lock::Bytes(to)) = (self, to) else { return Ok(()) };
        match from.length.checked_sub(to.length) {
            Some(0) => Ok(()),
            Some(surplus) => {
                fcntl::unlock(file, Range { start: to.start + to.length, length: surplus })
            }
            // It becomes longer. All processes that take it cover its first byte, so the rest is free.
            None => fcntl::try_lock(file, to, mode),
        }
    }
}

/// The byte at which the turnstile of a region begins: far beyond the data, and for byte ranges in
/// the middle of the region's slot, which the lock itself never reaches.
pub(super) fn turnstile_start(protocol: Protocol, region: Region) -> u64 {
    match protocol {
        Protocol::Flock => wire::TURNSTILE_OF_FILE,
        Protocol::Fcntl => region.start + wire::TURNSTILE_IN_SLOT,
    }
}

/// Retries on EINTR, bounded: some servers return it indefinitely.
fn retrying(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for _ in 0..INTERRUPTIONS {
        match call() {
            Err(error) if is_interrupted(&error) => {}
            answer => return answer,
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}
