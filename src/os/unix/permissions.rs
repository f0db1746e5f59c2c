//! The permission bits of a file that is created.

use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::Mode;

use super::errors::errno;

/// A file system without modes, or with modes of its own, refuses to change them. The file is good.
pub(super) fn unless_refused(changed: io::Result<()>) -> io::Result<()> {
    match changed {
        Err(error)
            if matches!(
                errno(&error),
                Some(
                    Errno::EPERM
                        | Errno::EACCES
                        | Errno::EOPNOTSUPP
                        | Errno::ENOSYS
                        | Errno::EINVAL
                )
            ) =>
        {
            Ok(())
        }
        changed => changed,
    }
}

pub(super) fn mode_bits(mode: u32) -> Mode {
    #[allow(clippy::unnecessary_cast)] // it has 16 bits on some systems
    Mode::from_bits_truncate(mode as libc::mode_t)
}
