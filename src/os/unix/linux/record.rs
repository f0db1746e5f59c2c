//! Byte-range locks as open file description (OFD) locks: they belong to the open file, as those of
//! flock(2) do.
#![allow(unsafe_code)]

use std::mem::size_of_val;

use nix::fcntl::FcntlArg;
use nix::libc;

use crate::os::unix::range::Range;
use crate::os::wire::{FIRST_MARK, MARK_LENGTH_BITS};

/// Closing another descriptor of a file releases none of its locks.
pub(in crate::os::unix) const CLOSING_RELEASES: bool = false;

/// On a local file system flock(2) and fcntl(2) do not see each other.
pub(in crate::os::unix) const SEES_FLOCK: bool = false;

/// The command of [`set_and_wait`].
pub(in crate::os::unix) const WAIT: libc::c_int = libc::F_OFD_SETLKW;

pub(in crate::os::unix) fn set(lock: &libc::flock) -> FcntlArg<'_> {
    FcntlArg::F_OFD_SETLK(lock)
}

pub(in crate::os::unix) fn set_and_wait(lock: &libc::flock) -> FcntlArg<'_> {
    FcntlArg::F_OFD_SETLKW(lock)
}

pub(in crate::os::unix) fn get(lock: &mut libc::flock) -> FcntlArg<'_> {
    FcntlArg::F_OFD_GETLK(lock)
}

/// A range that no other lock has, on any file: by a chance of one in 2^80. And it meets another one of its
/// kind by a chance of one in 2^39.
///
/// `None` without random numbers to be had. Those of a process would not do: a forked child has the same.
pub(in crate::os::unix) fn mark() -> Option<Range> {
    let mut random = [0_u64; 2];
    let size = size_of_val(&random);
    // SAFETY: there is room for as many bytes as it says.
    let drawn = unsafe { libc::getrandom(random.as_mut_ptr().cast(), size, libc::GRND_NONBLOCK) };
    if usize::try_from(drawn) != Ok(size) {
        return None;
    }
    let [start, length] = random;
    let start = FIRST_MARK + (start & (FIRST_MARK - 1));
    Some(Range { start, length: 1 + (length & ((1 << MARK_LENGTH_BITS) - 1)) })
}
