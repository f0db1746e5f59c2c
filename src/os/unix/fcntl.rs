//! `Protocol::Fcntl`: byte-range locks of fcntl(2), as open file description (OFD) locks or as POSIX
//! record locks ([`record`]).
//!
//! The range of a region starts at its first byte and is 1 + pid bytes long. All processes conflict
//! on the first byte, and a process that asks for the holder reads the holder's pid from the length,
//! although the kernel itself names no process for an OFD lock. Linux pids are below 2^22, so a
//! range never reaches into the next 2^23-byte slot.
#![allow(clippy::disallowed_methods, unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::kernel::record;
use super::range::Range;
use crate::mode::Mode;
use crate::os::turnstile::{Taken, TurnstileState};

// C libraries give the constants another width than the field has.
#[allow(clippy::unnecessary_cast)]
const SHARED: libc::c_short = libc::F_RDLCK as libc::c_short;
#[allow(clippy::unnecessary_cast)]
const EXCLUSIVE: libc::c_short = libc::F_WRLCK as libc::c_short;
#[allow(clippy::unnecessary_cast)]
const UNLOCKED: libc::c_short = libc::F_UNLCK as libc::c_short;

/// A lock that another open file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocker {
    pub(super) range: Range,
    pub(super) mode: Mode,
    /// Of a POSIX record lock; OFD locks belong to no process.
    pub(super) pid: Option<u32>,
}

impl Blocker {
    /// A turnstile that this one has.
    pub(super) fn as_turnstile(&self) -> TurnstileState {
        // The pid is that of a POSIX record lock; an open file description lock has none.
        TurnstileState::Taken(Taken(self.range.length << 32 | u64::from(self.pid.unwrap_or(0))))
    }

    /// A lock of this range and mode can not be had beside it.
    pub(super) fn keeps_out(&self, range: Range, mode: Mode) -> bool {
        let ends_before =
            |one: Range, other: Range| one.length != 0 && one.start + one.length <= other.start;
        let overlaps = !ends_before(self.range, range) && !ends_before(range, self.range);
        overlaps && (mode == Mode::Exclusive || self.mode == Mode::Exclusive)
    }
}

pub(super) fn try_lock(file: &File, range: Range, mode: Mode) -> io::Result<()> {
    call(file, record::set, kind(mode), range)
}

pub(super) fn lock(file: &File, range: Range, mode: Mode) -> io::Result<()> {
    call(file, record::set_and_wait, kind(mode), range)
}

pub(super) fn unlock(file: &File, range: Range) -> io::Result<()> {
    call(file, record::set, UNLOCKED, range)
}

/// The lock of another open file that keeps this range from being locked exclusively; `None` if there
/// is none. The kernel names one of several.
pub(super) fn blocker(file: &File, range: Range) -> io::Result<Option<Blocker>> {
    let mut lock = describe(EXCLUSIVE, range)?;
    fcntl(file, record::get(&mut lock)).map_err(with_number)?;
    if lock.l_type == UNLOCKED {
        return Ok(None);
    }
    let [start, length] = [lock.l_start, lock.l_len].map(|offset| offset.try_into().unwrap_or(0));
    let mode = if lock.l_type == SHARED { Mode::Shared } else { Mode::Exclusive };
    let pid = u32::try_from(lock.l_pid).ok().filter(|&pid| pid > 0);
    Ok(Some(Blocker { range: Range { start, length }, mode, pid }))
}

fn kind(mode: Mode) -> libc::c_short {
    match mode {
        Mode::Shared => SHARED,
        Mode::Exclusive => EXCLUSIVE,
    }
}

fn call(
    file: &File,
    command: impl for<'a> FnOnce(&'a libc::flock) -> FcntlArg<'a>,
    kind: libc::c_short,
    range: Range,
) -> io::Result<()> {
    let lock = describe(kind, range)?;
    fcntl(file, command(&lock)).map_err(with_number)?;
    Ok(())
}

/// nix names the errnos that the C library knows; a network file system has others (512, 524).
fn with_number(error: Errno) -> io::Error {
    match error {
        // As it was set by the call that has just failed.
        Errno::UnknownErrno => io::Error::last_os_error(),
        known => known.into(),
    }
}

fn describe(kind: libc::c_short, range: Range) -> io::Result<libc::flock> {
    // Where offsets have 32 bits there is no turnstile and there are no keys.
    let too_far = |_| io::Error::from(Errno::EOVERFLOW);
    // SAFETY: flock is plain data for which all zeros is valid; systems have fields of their own.
    let mut lock: libc::flock = unsafe { MaybeUninit::zeroed().assume_init() };
    lock.l_type = kind;
    lock.l_whence = libc::SEEK_SET.try_into().map_err(too_far)?;
    lock.l_start = range.start.try_into().map_err(too_far)?;
    lock.l_len = range.length.try_into().map_err(too_far)?;
    lock.l_pid = 0; // required of OFD locks (fcntl(2))
    Ok(lock)
}
