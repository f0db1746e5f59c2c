//! Directory handles that need no right to read, and openat2(2).

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, copy_file_range};
use nix::unistd::syncfs;

use super::file_system;
use crate::os::file_system::FileSystem;

pub(in crate::os::unix) const SEARCH: OFlag = OFlag::O_PATH;

/// Opens a file below a directory without following a link on the way. `None` where that takes a call
/// for each name.
pub(in crate::os::unix) fn open_beneath(
    directory: BorrowedFd<'_>,
    path: &str,
    flags: OFlag,
) -> Option<nix::Result<OwnedFd>> {
    let path = std::ffi::CString::new(path).ok()?;
    open_strictly(directory, &path, flags, false)
}

/// Opens what has this name in a directory, but not if something else is mounted there. `None` where the
/// system cannot tell.
pub(in crate::os::unix) fn open_on_this_mount(
    directory: BorrowedFd<'_>,
    name: &CStr,
    flags: OFlag,
) -> Option<nix::Result<OwnedFd>> {
    open_strictly(directory, name, flags, true)
}

#[cfg(target_os = "linux")]
fn open_strictly(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlag,
    on_this_mount: bool,
) -> Option<nix::Result<OwnedFd>> {
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::fcntl::{OpenHow, ResolveFlag, openat2};

    /// Kernels before 5.6 do not have it, and some sandboxes forbid what they do not know.
    static IS_MISSING: AtomicBool = AtomicBool::new(false);

    if IS_MISSING.load(Ordering::Relaxed) {
        return None;
    }
    let mut resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    resolve.set(ResolveFlag::RESOLVE_NO_XDEV, on_this_mount);
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
fn open_strictly(
    _directory: BorrowedFd<'_>,
    _path: &CStr,
    _flags: OFlag,
    _on_this_mount: bool,
) -> Option<nix::Result<OwnedFd>> {
    None
}

/// Whether syncfs(2) reaches the disk: FUSE and network file systems may do nothing.
pub(in crate::os::unix) fn syncs_at_once(file: &File) -> bool {
    file_system::of(file).is_ok_and(|kind| kind.file_system == FileSystem::Local)
}

/// Makes all that is in the file system of an open file survive a power failure.
pub(in crate::os::unix) fn sync_all(file: &File) -> io::Result<()> {
    Ok(syncfs(file)?)
}

/// Also for processes that this one starts.
pub(in crate::os::unix) fn path_by_handle(directory: BorrowedFd<'_>) -> Option<PathBuf> {
    let path = format!("/proc/{}/fd/{}", std::process::id(), directory.as_raw_fd());
    Some(PathBuf::from(path)).filter(|path| path.is_dir())
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
    // Then a caller that gave up waiting is heard.
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
