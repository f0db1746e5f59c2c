//! Reading a record is no use of the lock file that its access time should tell of.
#![allow(clippy::disallowed_methods)]

use std::fs::File;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// From now on reading leaves the access time as it is, where this process may ask for that: in files
/// of its own user, and as root (open(2), `O_NOATIME`).
pub(in crate::os::unix) fn keep(file: &File) {
    // Lock files need none of the other flags that can be set here.
    let _ = fcntl(file, FcntlArg::F_SETFL(OFlag::O_NOATIME));
}
