//! A page of memory that is zero in every child, however it was made.
#![allow(unsafe_code)]

use std::ptr::{self, NonNull};

use nix::libc;

/// All zeros, and never unmapped. `None` before Linux 4.14, and where a sandbox or an emulator refuses it.
pub(in crate::os::unix) fn page() -> Option<NonNull<libc::c_void>> {
    // SAFETY: sysconf has no preconditions.
    let size = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    let (rights, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, wherever there is room.
    let page = unsafe { libc::mmap(ptr::null_mut(), size, rights, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping was just made, and nothing is in it.
    if unsafe { libc::madvise(page, size, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: the same, and it is not used.
        unsafe { libc::munmap(page, size) };
        return None;
    }
    NonNull::new(page)
}
