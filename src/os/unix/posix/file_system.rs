//! What kind of file system a lock file is on, by its name. An allow-list, as on Linux.
#![cfg_attr(
    any(target_os = "netbsd", target_os = "illumos", target_os = "solaris"),
    allow(unsafe_code)
)]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::os::file_system::{FileSystem, Keyed, Kind};

/// File systems whose locks are the kernel's own, and that have one vnode for each number. Layers over
/// others (nullfs, union) are absent: what is below may be remote, and have several.
const LOCAL: &[&str] = &[
    "apfs", "hfs", "ufs", "ffs", "zfs", "tmpfs", "mfs", "lfs", "hammer", "hammer2", "ext2fs",
    "msdos", "msdosfs", "exfat", "cd9660", "pcfs",
];

pub(in crate::os) fn of(file: &File) -> io::Result<Kind> {
    Ok(kind(name(file)?))
}

/// Of what stands at the path, or of what a symbolic link there leads to.
pub(in crate::os) fn at(path: &Path) -> io::Result<Kind> {
    Ok(kind(name_at(path)?))
}

fn kind(name: Option<String>) -> Kind {
    match name {
        Some(name) if LOCAL.contains(&name.as_str()) => {
            Kind { file_system: FileSystem::Local, keyed: Keyed::ByNumber }
        }
        Some(name) if name.starts_with("nfs") => {
            Kind { file_system: FileSystem::Nfs, keyed: Keyed::Unknown }
        }
        _ => Kind { file_system: FileSystem::OtherWithEacces, keyed: Keyed::Unknown },
    }
}

/// Layers over others have the name of what is below, or are not known to copy.
pub(in crate::os::unix) fn copies_to_change(_file: &File) -> bool {
    false
}

#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "openbsd"
))]
fn name(file: &File) -> io::Result<Option<String>> {
    Ok(Some(nix::sys::statfs::fstatfs(file)?.filesystem_type_name().to_owned()))
}

#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "openbsd"
))]
fn name_at(path: &Path) -> io::Result<Option<String>> {
    Ok(Some(nix::sys::statfs::statfs(path)?.filesystem_type_name().to_owned()))
}

#[cfg(any(target_os = "netbsd", target_os = "illumos", target_os = "solaris"))]
fn name(file: &File) -> io::Result<Option<String>> {
    use std::os::fd::AsRawFd;

    use nix::libc;

    // SAFETY: the descriptor is open, and the pointer valid for the call.
    status(|status| unsafe { libc::fstatvfs(file.as_raw_fd(), status) })
}

#[cfg(any(target_os = "netbsd", target_os = "illumos", target_os = "solaris"))]
fn name_at(path: &Path) -> io::Result<Option<String>> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    use nix::libc;

    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a null byte, and the pointer is valid for the call.
    status(|status| unsafe { libc::statvfs(path.as_ptr(), status) })
}

#[cfg(any(target_os = "netbsd", target_os = "illumos", target_os = "solaris"))]
fn status(
    ask: impl FnOnce(*mut nix::libc::statvfs) -> nix::libc::c_int,
) -> io::Result<Option<String>> {
    use std::mem::MaybeUninit;

    let mut status = MaybeUninit::uninit();
    if ask(status.as_mut_ptr()) != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on success it has been filled in.
    let status = unsafe { status.assume_init() };
    #[cfg(target_os = "netbsd")]
    let name = status.f_fstypename;
    #[cfg(not(target_os = "netbsd"))]
    let name = status.f_basetype;
    let bytes = name.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0);
    Ok(String::from_utf8(bytes.collect()).ok())
}

/// Whether the client takes names and sizes for true that another machine has changed since, as those of SMB do.
pub(in crate::os::unix) fn is_seen_late(directory: impl AsFd) -> bool {
    let Ok(directory) = directory.as_fd().try_clone_to_owned() else { return false };
    name(&File::from(directory)).is_ok_and(|name| name.as_deref() == Some("smbfs"))
}

/// Whether a client may tell by its times, and by nothing else, that a directory has changed.
pub(in crate::os::unix) fn is_told_by_times(directory: impl AsFd) -> bool {
    let Ok(directory) = directory.as_fd().try_clone_to_owned() else { return false };
    name(&File::from(directory)).is_ok_and(|name| name.as_deref() == Some("nfs"))
}

/// It cannot be told.
#[cfg(not(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "openbsd",
    target_os = "netbsd",
    target_os = "illumos",
    target_os = "solaris"
)))]
fn name(_file: &File) -> io::Result<Option<String>> {
    Ok(None)
}

/// It cannot be told.
#[cfg(not(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "openbsd",
    target_os = "netbsd",
    target_os = "illumos",
    target_os = "solaris"
)))]
fn name_at(_path: &Path) -> io::Result<Option<String>> {
    Ok(None)
}
