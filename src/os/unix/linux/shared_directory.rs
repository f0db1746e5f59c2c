//! Directory handles that need no right to read, and openat2(2).

use std::fs::{self, File};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, copy_file_range};

pub(in crate::os::unix) const SEARCH: OFlag = OFlag::O_PATH;

/// Opens a file below a directory without following a link on the way. `None` where that takes a call
/// for each name.
#[cfg(target_os = "linux")]
pub(in crate::os::unix) fn open_beneath(
    directory: BorrowedFd<'_>,
    path: &str,
    flags: OFlag,
) -> Option<nix::Result<OwnedFd>> {
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::errno::Errno;
    use nix::fcntl::{OpenHow, ResolveFlag, openat2};

    /// Kernels before 5.6 do not have it, and some sandboxes forbid what they do not know.
    static IS_MISSING: AtomicBool = AtomicBool::new(false);

    if IS_MISSING.load(Ordering::Relaxed) {
        return None;
    }
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    loop {
        match openat2(directory, path, how) {
            Err(Errno::EINTR) => {}
            Err(Errno::ENOSYS | Errno::EPERM) => {
                IS_MISSING.store(true, Ordering::Relaxed);
                return None;
            }
            opened => return Some(opened),
        }
    }
}

/// Android's sandboxes do not know openat2.
#[cfg(target_os = "android")]
pub(in crate::os::unix) fn open_beneath(
    _directory: BorrowedFd<'_>,
    _path: &str,
    _flags: OFlag,
) -> Option<nix::Result<OwnedFd>> {
    None
}

/// The number of the mount, if `/proc` tells.
pub(in crate::os::unix) fn mount(directory: BorrowedFd<'_>) -> Option<u64> {
    let info = fs::read(format!("/proc/thread-self/fdinfo/{}", directory.as_raw_fd())).ok()?;
    let info = String::from_utf8(info).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// Copies some of a file in the kernel, from there on, to where the other one stands; whether there may be
/// more. Neither an error nor the end of the file is told.
pub(in crate::os::unix) fn copy_some(from: &File, done: &mut u64, to: &File) -> bool {
    // Then whoever gave up waiting is heard.
    const AT_ONCE: usize = 64 << 20;
    let Ok(mut from_there) = i64::try_from(*done) else { return false };
    match copy_file_range(from, Some(&mut from_there), to, None, AT_ONCE) {
        Ok(0) | Err(_) => false,
        Ok(more) => {
            *done += more as u64;
            true
        }
    }
}
