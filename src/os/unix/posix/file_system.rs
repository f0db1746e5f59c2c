//! What kind of file system a lock file is on, by its name. An allow-list, as on Linux.
#![cfg_attr(
    any(target_os = "netbsd", target_os = "illumos", target_os = "solaris"),
    allow(unsafe_code)
)]

use std::fs::File;
use std::io;

use crate::os::file_system::FileSystem;

/// File systems whose locks are the kernel's own. Layers over others (nullfs, union) are absent: what
/// is below may be remote.
const LOCAL: &[&str] = &[
    "apfs", "hfs", "ufs", "ffs", "zfs", "tmpfs", "mfs", "lfs", "hammer", "hammer2", "ext2fs",
    "msdos", "msdosfs", "exfat", "cd9660", "pcfs",
];

pub(in crate::os) fn of(file: &File) -> io::Result<FileSystem> {
    Ok(match name(file)? {
        Some(name) if LOCAL.contains(&name.as_str()) => FileSystem::Local,
        Some(name) if name.starts_with("nfs") => FileSystem::Nfs,
        _ => FileSystem::OtherWithEacces,
    })
}

/// Layers over others have the name of what is below, or nobody knows that they copy.
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

#[cfg(any(target_os = "netbsd", target_os = "illumos", target_os = "solaris"))]
fn name(file: &File) -> io::Result<Option<String>> {
    use std::mem::MaybeUninit;
    use std::os::fd::AsRawFd;

    use nix::libc;

    let mut status = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the descriptor is open, and the pointer valid for the call.
    let failed = unsafe { libc::fstatvfs(file.as_raw_fd(), status.as_mut_ptr()) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on success fstatvfs has filled it in.
    let status = unsafe { status.assume_init() };
    #[cfg(target_os = "netbsd")]
    let name = status.f_fstypename;
    #[cfg(not(target_os = "netbsd"))]
    let name = status.f_basetype;
    let bytes = name.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0);
    Ok(String::from_utf8(bytes.collect()).ok())
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
