//! Which file is open and how many names it has, and nothing else.
//!
//! Since Linux 6.13 a question for the times of a file makes its next write dearer: that gets a time stamp of its own
//! (Documentation/filesystems/multigrain-ts.rst), and a lock with a record writes. fstat(2) asks for all there is.
//! statx(2) asks for what is wanted, and since Linux 6.11 needs no path. Where it is older, or a filter refuses the call
//! (seccomp(2)), there is no answer, and fstat(2) is to be asked.
#![allow(unsafe_code)]

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;

use crate::os::Identity;

/// The system has answered, or was not asked yet.
static IS_ANSWERED: AtomicBool = AtomicBool::new(true);

/// Which file it is, and how many names it has; `None` if that is to be asked by fstat(2). One system call.
#[inline]
pub(in crate::os::unix) fn of(file: &File) -> Option<(Identity, u64)> {
    if IS_ANSWERED.load(Ordering::Relaxed) { ask(file) } else { None }
}

fn ask(file: &File) -> Option<(Identity, u64)> {
    const WANTED: u32 = libc::STATX_NLINK | libc::STATX_INO;
    let mut status = MaybeUninit::<libc::statx>::uninit();
    // The bare call: in place of one that is missing, libraries make calls that take a path to be there.
    // SAFETY: a path that is not there is an error, or means the file itself; the answer has the room that the call fills.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_statx,
            file.as_raw_fd(),
            ptr::null::<libc::c_char>(),
            libc::AT_EMPTY_PATH,
            WANTED,
            status.as_mut_ptr(),
        )
    };
    if answer != 0 {
        // fstat(2) says what is wrong with the descriptor.
        if Errno::last() != Errno::EBADF {
            IS_ANSWERED.store(false, Ordering::Relaxed);
        }
        return None;
    }
    // SAFETY: the call has filled it.
    let status = unsafe { status.assume_init() };
    #[allow(clippy::useless_conversion)] // it has other types in other libraries
    let device = u64::from(libc::makedev(status.stx_dev_major, status.stx_dev_minor));
    let identity = Identity { device, inode: status.stx_ino };
    (status.stx_mask & WANTED == WANTED).then_some((identity, status.stx_nlink.into()))
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// Or there is no answer: on an old system, and under some emulators.
    #[test]
    fn the_answer_is_that_of_fstat() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
        let file = File::create(&one).unwrap();
        let is_right = || {
            let metadata = file.metadata().unwrap();
            let identity = Identity { device: metadata.dev(), inode: metadata.ino() };
            assert!(of(&file).is_none_or(|answer| answer == (identity, metadata.nlink())));
            metadata.nlink()
        };
        assert_eq!(is_right(), 1);
        fs::hard_link(&one, &other).unwrap();
        assert_eq!(is_right(), 2);
        fs::remove_file(&one).unwrap();
        fs::remove_file(&other).unwrap();
        assert_eq!(is_right(), 0);
    }
}
