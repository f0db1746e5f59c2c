//! `Protocol::Fcntl`: byte-range locks of fcntl(2), as open file description (OFD) locks.
//!
//! The range of a region starts at its first byte and is 1 + pid bytes long. Everybody conflicts
//! on the first byte, and whoever asks with `F_OFD_GETLK` reads the holder's pid from the length,
//! although the kernel itself names no process for an OFD lock. Linux pids are below 2^22, so a
//! range never reaches into the next 2^23-byte slot.
#![allow(clippy::disallowed_methods)]

use std::fs::File;
use std::io;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::{Mode, Region};

pub(super) fn try_lock(file: &File, region: Region, mode: Mode) -> io::Result<()> {
    call(file, |range| FcntlArg::F_OFD_SETLK(range), kind(mode), region)
}

pub(super) fn lock(file: &File, region: Region, mode: Mode) -> io::Result<()> {
    call(file, |range| FcntlArg::F_OFD_SETLKW(range), kind(mode), region)
}

pub(super) fn unlock(file: &File, region: Region) -> io::Result<()> {
    call(file, |range| FcntlArg::F_OFD_SETLK(range), libc::F_UNLCK, region)
}

fn kind(mode: Mode) -> libc::c_int {
    match mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
    }
}

fn call(
    file: &File,
    command: impl for<'a> FnOnce(&'a libc::flock) -> FcntlArg<'a>,
    kind: libc::c_int,
    region: Region,
) -> io::Result<()> {
    let too_far = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let range = libc::flock {
        l_type: kind.try_into().map_err(too_far)?,
        l_whence: libc::SEEK_SET.try_into().map_err(too_far)?,
        l_start: region.start.try_into().map_err(too_far)?,
        l_len: 1 + libc::off_t::from(nix::unistd::Pid::this().as_raw()),
        l_pid: 0, // required of OFD locks (fcntl(2))
    };
    fcntl(file, command(&range))?;
    Ok(())
}
