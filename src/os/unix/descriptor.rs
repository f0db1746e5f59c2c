//! The descriptors that this crate keeps open.
//!
//! A descriptor is a number, and other code of the process can close it or give the number to another
//! file ([`foreign`](crate::os::foreign)). So each is kept with the identity of its file, which is compared
//! where a call would do harm to another one, and before it is closed. A number that was given to *the same file*
//! again is not told apart: the lock that went with the first descriptor is gone unseen.
//!
//! The numbers are 3 or higher: 0 to 2 are written to and replaced by whoever takes them for the standard
//! streams.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{FileStat, fstat};

use super::errors::is_gone;
use super::fork::{self, Generation, Listed};
use super::kernel::{descriptor_of, record};
use crate::os::foreign::foreign_descriptor;
use crate::os::{Identity, Standing};

/// An open file that children do not inherit. Derefs to the file.
pub(in crate::os) struct Descriptor {
    file: ManuallyDrop<File>,
    identity: Identity,
    generation: Generation,
    /// It was seen to be foreign. The file may be opened anew under this number.
    foreign: AtomicBool,
    /// Let go of after the file is closed, or a child that is forked in between keeps the descriptor.
    listed: Listed,
}

impl Descriptor {
    /// Opens a file, and asks which one it is. The first function may be called several times.
    pub(super) fn open<T, E>(
        mut open: impl FnMut() -> Result<(File, T), E>,
        identify: impl Fn(&File) -> Result<Identity, E>,
        failed: impl Fn(io::Error) -> E,
    ) -> Result<(Self, T), E> {
        let open_and_list = || {
            let (mut file, more) = open()?;
            let mut listed = Listed::new(&file);
            if let Some(other) = above_standard_streams(&file).map_err(&failed)? {
                listed = Listed::new(&other);
                file = other;
            }
            let identity = identify(&file)?;
            listed.is_of(identity);
            let file = ManuallyDrop::new(file);
            let (generation, foreign) = (Generation::current(), AtomicBool::new(false));
            Ok((Self { file, identity, generation, foreign, listed }, more))
        };
        fork::open_listed(open_and_list)
    }

    pub(in crate::os) fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether it still is the descriptor of its file, and a path leads to that. One system call.
    pub(in crate::os) fn standing(&self) -> io::Result<Standing> {
        match fstat(&**self) {
            Ok(now) if identity_in(&now) != self.identity => Ok(self.set_foreign()),
            Ok(now) if now.st_nlink > 0 => Ok(Standing::Linked),
            Ok(_) => Ok(Standing::Unlinked),
            Err(Errno::EBADF) => Ok(self.set_foreign()),
            Err(error) if is_gone(&error.into()) => Ok(Standing::Unlinked),
            Err(error) => Err(error.into()),
        }
    }

    /// An error if it is not the descriptor of its file any more. Asks no server.
    pub(in crate::os) fn check(&self) -> io::Result<()> {
        if self.is_own() { Ok(()) } else { Err(foreign_descriptor()) }
    }

    fn is_own(&self) -> bool {
        if !self.foreign.load(Ordering::Relaxed) && !descriptor_of::is_still(&**self, self.identity)
        {
            self.set_foreign();
        }
        !self.foreign.load(Ordering::Relaxed)
    }

    fn set_foreign(&self) -> Standing {
        self.foreign.store(true, Ordering::Relaxed);
        Standing::Foreign
    }
}

impl Deref for Descriptor {
    type Target = File;

    #[inline]
    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // In a forked child it is closed, and the number may be one of this process's own lock files.
        if self.listed.is_lost() {
            return;
        }
        // A child that no handler has told, in which a close may drop the locks that it has itself.
        if record::CLOSING_RELEASES && self.generation.is_past() {
            return;
        }
        // The standard library aborts the process where what it closes is not open.
        if self.is_own() {
            // SAFETY: dropped here and nowhere else.
            unsafe { ManuallyDrop::drop(&mut self.file) };
        }
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

#[inline]
pub(super) fn identity_in(status: &FileStat) -> Identity {
    #[allow(clippy::unnecessary_cast)] // some systems have other widths
    Identity { device: status.st_dev as u64, inode: status.st_ino as u64 }
}

/// Takes what is vacant of the numbers of the standard streams, so that a file gets none of them.
pub(super) fn occupy_standard_streams() -> Vec<File> {
    let mut occupied = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        if file.as_raw_fd() > libc::STDERR_FILENO {
            break;
        }
        occupied.push(file);
    }
    occupied
}

/// The same open file under a number that is none of the standard streams', if it has not got one.
fn above_standard_streams(file: &File) -> io::Result<Option<File>> {
    if file.as_raw_fd() > libc::STDERR_FILENO {
        return Ok(None);
    }
    // SAFETY: the file is open, and the call has no other precondition.
    let number =
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, libc::STDERR_FILENO + 1) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has made it, and nobody else has it.
    Ok(Some(unsafe { File::from_raw_fd(number) }))
}
