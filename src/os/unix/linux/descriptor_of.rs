//! Which file a descriptor stands for, asked of the kernel alone: no call waits for a server, and all may be made in a
//! signal handler.
//!
//! Numbers first. Where they have changed, what lasts for as long as a file is open: its handle, where the file
//! system finds its inode by that; elsewhere the kernel's own number of the inode (`ino` in
//! `/proc/PID/fdinfo`, Linux 5.14), which on overlayfs is not the one that `stat` shows, and the mount. FUSE
//! changes the kernel's number as well, so without a handle the mount is all that lasts there.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::errno::Errno;
use nix::libc;

use super::handle;
use crate::os::file_system::Keyed;
use crate::os::names::Proof;
use crate::os::unix::recognition::{Is, Lasting};
use crate::os::{Identity, Names};

/// What a digest is of: its lowest bits.
const KINDS: u32 = 0b111;
const HANDLE: u32 = 1;
const INODE: u32 = 2;
const MOUNT: u32 = 3;
const NOTHING: u32 = 4;

/// `Other` only if it is not open, or stands for another file. A server that answers by path may say of a
/// file that was removed that there is none (9p).
pub(in crate::os::unix) fn is(
    descriptor: impl AsFd,
    identity: Identity,
    Lasting(lasting): Lasting,
) -> Is {
    let descriptor = descriptor.as_fd().as_raw_fd();
    let now = match number(descriptor) {
        Ok(now) if now == identity => return Is::Own,
        Ok(now) => now,
        // SAFETY: async-signal-safe, and the call has no precondition.
        Err(Errno::EBADF) if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } < 0 => {
            return Is::Other;
        }
        Err(_) => return Is::Own,
    };
    let digest = match lasting & KINDS {
        HANDLE if now.device == identity.device => handle::of_descriptor(descriptor, of_handle),
        INODE => of_kernel(descriptor, INODE),
        MOUNT => of_kernel(descriptor, MOUNT),
        NOTHING => None,
        _ => return Is::Other,
    };
    match digest {
        Some(digest) if digest != lasting => Is::Other,
        Some(_) if lasting & KINDS != MOUNT => Is::Own,
        _ => Is::Unknown,
    }
}

/// What lasts of a file whose numbers may change.
pub(in crate::os::unix) fn lasting(file: &File, keyed: Keyed, names: &Names) -> Lasting {
    let kinds: &[u32] = match (&names.proof, keyed) {
        (Proof::Handle(handle), _) => return Lasting(of_handle(handle)),
        (_, Keyed::ByHandle) => &[MOUNT],
        _ => &[INODE, MOUNT],
    };
    let mut digests = kinds.iter().map(|kind| of_kernel(file.as_raw_fd(), *kind));
    Lasting(digests.find_map(|digest| digest).unwrap_or(NOTHING))
}

fn number(descriptor: RawFd) -> Result<Identity, Errno> {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // The C library's own may be older than the call.
    // SAFETY: a bare system call; both pointers are valid for it, and an empty path means the descriptor.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_statx,
            descriptor,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC,
            libc::STATX_INO,
            found.as_mut_ptr(),
        )
    };
    if failed != 0 {
        return number_by_fstat(descriptor);
    }
    // SAFETY: plain data, of which all zeros is valid, and the call has filled it in.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::unnecessary_cast)]
    let device = libc::makedev(found.stx_dev_major, found.stx_dev_minor) as u64;
    Ok(Identity { device, inode: found.stx_ino })
}

/// Before Linux 4.11, and where a sandbox refuses the other.
#[cold]
fn number_by_fstat(descriptor: RawFd) -> Result<Identity, Errno> {
    let mut found = MaybeUninit::<libc::stat64>::zeroed();
    // SAFETY: async-signal-safe; the pointer is valid for the call.
    if unsafe { libc::fstat64(descriptor, found.as_mut_ptr()) } != 0 {
        return Err(Errno::last());
    }
    // SAFETY: plain data, of which all zeros is valid, and the call has filled it in.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::unnecessary_cast)]
    Ok(Identity { device: found.st_dev as u64, inode: found.st_ino as u64 })
}

fn of_handle(handle: &[u8]) -> u32 {
    digest(handle, HANDLE)
}

/// `None` without `/proc`, and before the system that tells so much.
fn of_kernel(descriptor: RawFd, kind: u32) -> Option<u32> {
    let mut buffer = [0; 512];
    let told = told_of(descriptor, &mut buffer)?;
    let line = |key: &[u8]| told.split(|byte| *byte == b'\n').find(|line| line.starts_with(key));
    let mount = digest(line(b"mnt_id:")?, MOUNT);
    match kind {
        MOUNT => Some(mount),
        _ => line(b"ino:").map(|inode| digest(inode, INODE) ^ mount & !KINDS),
    }
}

/// The file of this thread's `/proc` that tells of a descriptor, or its beginning.
fn told_of(descriptor: RawFd, buffer: &mut [u8; 512]) -> Option<&[u8]> {
    let mut path = [0; 64];
    write!(&mut path[..], "/proc/thread-self/fdinfo/{descriptor}\0").ok()?;
    // SAFETY: async-signal-safe; the path ends with a null byte.
    let file = unsafe { libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return None;
    }
    // SAFETY: async-signal-safe; the buffer is as long as is said.
    let length = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), buffer.len()) };
    // SAFETY: it was opened above.
    unsafe { libc::close(file) };
    buffer.get(..usize::try_from(length).ok()?)
}

/// FNV-1a.
fn digest(bytes: &[u8], kind: u32) -> u32 {
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, add);
    ((hash >> 32 ^ hash) as u32) & !KINDS | kind
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::os::fd::BorrowedFd;

    use super::*;

    /// Numbers that are those of no file, as if they had changed.
    const CHANGED: Identity = Identity { device: 0, inode: 0 };

    fn file() -> File {
        tempfile::tempfile().unwrap()
    }

    #[test]
    fn a_file_whose_number_has_changed_is_recognized() {
        let [one, other] = [file(), file()];
        let of_one = Lasting(of_kernel(one.as_raw_fd(), INODE).unwrap());
        assert_eq!(is(&one, CHANGED, of_one), Is::Own);
        assert_eq!(is(&other, CHANGED, of_one), Is::Other);
        assert_eq!(is(&one, CHANGED, Lasting(0)), Is::Other, "numbers are proof");
    }

    #[test]
    fn where_the_mount_is_all_that_lasts_another_one_tells() {
        let [one, other] = [file(), File::open("/proc/self/status").unwrap()];
        let of_one = Lasting(of_kernel(one.as_raw_fd(), MOUNT).unwrap());
        assert_eq!(is(&one, CHANGED, of_one), Is::Unknown);
        assert_eq!(is(&other, CHANGED, of_one), Is::Other);
        assert_eq!(is(&one, CHANGED, Lasting(NOTHING)), Is::Unknown);
    }

    #[test]
    fn what_is_not_open_is_another() {
        // SAFETY: no process has so many, and it is used for calls that fail then.
        let closed = unsafe { BorrowedFd::borrow_raw(1 << 29) };
        for lasting in [0, HANDLE, INODE, MOUNT, NOTHING] {
            assert_eq!(is(closed, CHANGED, Lasting(lasting)), Is::Other);
        }
    }
}
