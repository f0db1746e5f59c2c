//! There is no page that is zero in every child: none that all systems have.

use std::ptr::NonNull;

use nix::libc;

pub(in crate::os::unix) fn page() -> Option<NonNull<libc::c_void>> {
    None
}
