//! The signals that threads block.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr;

use nix::libc;

/// Whether the program may fetch this signal with sigwait(3). It must block it in all threads for that,
/// and those of the wait pool inherit what they block; no more can be found out here.
pub(in crate::os::unix) fn may_be_fetched(signal: libc::c_int) -> bool {
    let mut blocked = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: no new mask is given, and the pointer to the old one is valid.
    let failed =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), blocked.as_mut_ptr()) };
    // SAFETY: on success pthread_sigmask has filled in the mask.
    failed == 0 && unsafe { libc::sigismember(blocked.as_ptr(), signal) } == 1
}

/// As `may_be_fetched`.
pub(in crate::os::unix) fn is_blocked_in_any(signal: libc::c_int) -> bool {
    may_be_fetched(signal)
}
