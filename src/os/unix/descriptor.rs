//! The descriptors that this crate keeps open.
//!
//! A descriptor is a number, and other code of the process can close it or give the number to another
//! file ([`foreign`](crate::os::foreign)). So each is kept with the identity of its file, which is compared
//! where a call would do harm to another one, and before it is closed. A number that was given to *the same file*
//! again is not told apart: the lock that went with the first descriptor is gone unseen.
//!
//! The identity is numbers, and those of an open file may change: on overlayfs when it is copied up, on FUSE whenever
//! the server likes. Where they may, something else is kept as well ([`Lasting`](super::recognition::Lasting)), and
//! looked at when they have. Where that tells nothing, nothing is called through the descriptor any more; it is closed
//! all the same, or it would stay open.
//!
//! The numbers are 3 or higher: code that takes 0 to 2 for the standard streams writes to them and replaces
//! them.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::mem::{self, ManuallyDrop};
use std::ops::Deref;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{FileStat, fstat};

use super::errors::is_gone;
use super::fork::{self, Generation, Listed};
use super::kernel::{descriptor_of, links, record};
use super::recognition::Is;
use crate::os::file_system::Keyed;
use crate::os::foreign::foreign_descriptor;
use crate::os::{Identity, Names, Standing};

/// An open file that children do not inherit. Derefs to the file.
pub(in crate::os) struct Descriptor {
    file: ManuallyDrop<File>,
    identity: Identity,
    generation: Generation,
    /// It was seen to be foreign. The file may be opened anew under this number.
    foreign: AtomicBool,
    /// Let go of after the file is closed, or a child that is forked in between keeps the descriptor.
    listed: Listed,
    /// Others of the same file, which a child may have as well. Where closing releases locks they stay for as long.
    _earlier: Option<Box<Descriptor>>,
}

/// Opens once more what a child may have, which is closed. Where that would release the locks that this process has
/// on the file it is kept beside the other one; or it is used, which costs no lock there, for children inherit none.
fn again<T, E>(
    earlier: Option<(Descriptor, T)>,
    open: impl FnOnce() -> Result<(Descriptor, T), E>,
    closing_releases: bool,
) -> Result<(Descriptor, T), E> {
    let Some(earlier) = earlier.filter(|_| closing_releases) else { return open() };
    match open() {
        Ok((mut opened, more)) if opened.identity == earlier.0.identity => {
            opened._earlier = Some(Box::new(earlier.0));
            Ok((opened, more))
        }
        Ok((another, _)) => {
            // What is there by now may be locked as well.
            mem::forget(another);
            Ok(earlier)
        }
        Err(_) => Ok(earlier),
    }
}

impl Descriptor {
    /// Opens a file, and asks which one it is. The first function may be called several times.
    pub(super) fn open<T, E>(
        mut open: impl FnMut() -> Result<(File, T), E>,
        identify: impl Fn(&File) -> Result<Identity, E>,
        failed: impl Fn(io::Error) -> E,
    ) -> Result<(Self, T), E> {
        let mut open_and_list = || {
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
            let opened = Self { file, identity, generation, foreign, listed, _earlier: None };
            Ok((opened, more))
        };
        fork::open_listed(|earlier| again(earlier, &mut open_and_list, record::CLOSING_RELEASES))
    }

    pub(in crate::os) fn identity(&self) -> Identity {
        self.identity
    }

    /// Has it recognized where its numbers, which may change, have changed.
    pub(in crate::os) fn may_change(&self, keyed: Keyed, names: &Names) {
        self.listed.lasts(descriptor_of::lasting(&self.file, keyed, names));
    }

    /// Its number was given to another file of this crate, so other code has closed it. No system call.
    #[inline]
    pub(in crate::os) fn is_known_to_be_foreign(&self) -> bool {
        self.listed.is_foreign()
    }

    /// Whether it still is the descriptor of its file, and a path leads to that. One system call, unless something
    /// looks wrong.
    pub(in crate::os) fn standing(&self, is_local: bool) -> io::Result<Standing> {
        // A server is asked for all there is: what a client does not ask for it does not bring up to date.
        let quick = if is_local { links::of(&self.file) } else { None };
        match quick {
            Some((identity, links)) if identity == self.identity => Ok(standing_of(links)),
            _ => self.standing_by_fstat(),
        }
    }

    fn standing_by_fstat(&self) -> io::Result<Standing> {
        match fstat(&**self) {
            Ok(now) if identity_in(&now) == self.identity => Ok(standing_of(links_of(&now))),
            answer => self.looks_wrong(answer),
        }
    }

    #[cold]
    fn looks_wrong(&self, answer: nix::Result<FileStat>) -> io::Result<Standing> {
        match answer {
            // A server may say so of a file that is open.
            Ok(_) | Err(Errno::EBADF) if self.is() != Is::Own => Ok(Standing::Foreign),
            Ok(now) => Ok(standing_of(links_of(&now))),
            Err(error) if is_gone(&error.into()) => Ok(Standing::Unlinked),
            Err(error) => Err(error.into()),
        }
    }

    /// An error if it is not the descriptor of its file any more, or may be none. Asks no server.
    pub(in crate::os) fn check(&self) -> io::Result<()> {
        if self.is() == Is::Own { Ok(()) } else { Err(foreign_descriptor()) }
    }

    fn is(&self) -> Is {
        if self.foreign.load(Ordering::Relaxed) || self.listed.is_foreign() {
            return Is::Other;
        }
        let is = descriptor_of::is(&**self, self.identity, self.listed.lasting());
        if is == Is::Other {
            self.foreign.store(true, Ordering::Relaxed);
        }
        is
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
        if record::CLOSING_RELEASES && self.generation.is_inherited() {
            return;
        }
        // The standard library aborts the process where what it closes is not open.
        if self.is() != Is::Other {
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

fn links_of(status: &FileStat) -> u64 {
    #[allow(clippy::unnecessary_cast)] // some systems have other widths
    let links = status.st_nlink as u64;
    links
}

fn standing_of(links: u64) -> Standing {
    if links > 0 { Standing::Linked } else { Standing::Unlinked }
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
    // SAFETY: the call has made it, and it has no other owner.
    Ok(Some(unsafe { File::from_raw_fd(number) }))
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::os::fd::RawFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;

    fn opened(path: &Path) -> io::Result<(Descriptor, ())> {
        let open = || File::open(path).map(|file| (file, ()));
        let identify = |file: &File| {
            let metadata = file.metadata()?;
            Ok(Identity { device: metadata.dev(), inode: metadata.ino() })
        };
        Descriptor::open(open, identify, |error| error)
    }

    /// None of the numbers is given to another file, for what has it is kept.
    fn is_open(number: RawFd, path: &Path) -> bool {
        std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok_and(|leads| leads == path)
    }

    /// With POSIX record locks a close releases what other open files of this process have.
    #[test]
    fn where_closing_releases_locks_none_is_closed_for_a_fork() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
        let _ = [&one, &other].map(|path| File::create(path).unwrap());
        let earlier = opened(&one).unwrap();
        let first = earlier.0.as_raw_fd();
        let again_the_same = again(Some(earlier), || opened(&one), true).unwrap();
        assert_ne!(again_the_same.0.as_raw_fd(), first, "a child may have that");
        assert!(is_open(first, &one));
        let refused = || Err(io::Error::from(io::ErrorKind::Other));
        let used = again(Some(again_the_same), refused, true).unwrap();
        let mut replaced = 0;
        let replace = || {
            let opened = opened(&other)?;
            replaced = opened.0.as_raw_fd();
            Ok::<_, io::Error>(opened)
        };
        let used = again(Some(used), replace, true).unwrap();
        assert!(is_open(replaced, &other) && is_open(first, &one));
        drop(used);
        assert!(!is_open(first, &one), "it goes with the last one");
    }

    #[test]
    fn elsewhere_what_a_child_may_have_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("one");
        File::create(&path).unwrap();
        let earlier = opened(&path).unwrap();
        let refused = || Err(io::Error::from(io::ErrorKind::Other));
        again(Some(earlier), refused, false).unwrap_err();
        let names = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let open = names.filter(|name| std::fs::read_link(name.path()).is_ok_and(|at| at == path));
        assert_eq!(open.count(), 0);
    }

    /// Other code has closed the descriptor, and the number goes to a file of this crate.
    #[test]
    fn a_number_that_another_descriptor_has_got_is_known_to_be_foreign() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("one");
        File::create(&path).unwrap();
        let (older, ()) = opened(&path).unwrap();
        assert_eq!(older.is(), Is::Own);
        let newer = Listed::new(&*older);
        assert!(older.listed.is_foreign() && !newer.is_foreign());
        assert_eq!(older.is(), Is::Other, "also if it is the same file");
        drop(newer);
        let number = older.as_raw_fd();
        drop(older);
        assert!(is_open(number, &path), "it is the newer one's");
        // SAFETY: nothing else has the number.
        unsafe { libc::close(number) };
    }

    /// The file, under a number that no other test gets.
    fn far_above(path: &Path, least: RawFd) -> io::Result<File> {
        let file = File::open(path)?;
        // SAFETY: the duplicate, which is new, gets an owner.
        let above = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
        assert!(above >= least, "{}", io::Error::last_os_error());
        // SAFETY: it was made just now, and has no other owner.
        Ok(unsafe { File::from_raw_fd(above) })
    }

    /// Whether a child that is forked now has a descriptor of this number.
    fn a_child_has(number: RawFd) -> bool {
        // SAFETY: the child makes async-signal-safe calls only.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: async-signal-safe, and the number is any.
            let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
            // SAFETY: async-signal-safe.
            unsafe { libc::_exit(i32::from(flags < 0)) };
        }
        let mut status = 0;
        // SAFETY: the status has its room.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(waited, child);
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
    }

    /// What was closed while another thread forked stays in the list, and the program gets the number for a file of its own.
    #[test]
    fn a_number_that_a_fork_left_in_the_list_is_the_programs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("one");
        File::create(&path).unwrap();
        for (least, is_known) in [(701, true), (801, false)] {
            let open = || far_above(&path, least).map(|file| (file, ()));
            let identify = |file: &File| {
                let metadata = file.metadata()?;
                if is_known {
                    return Ok(Identity { device: metadata.dev(), inode: metadata.ino() });
                }
                fork::forks().begin();
                Err(io::Error::other("it is not known"))
            };
            let opened = Descriptor::open(open, identify, |error| error);
            let number = least;
            match opened {
                Ok((opened, ())) => {
                    assert!(is_known && opened.as_raw_fd() == number);
                    fork::forks().begin();
                    drop(opened);
                }
                Err(_) => assert!(!is_known),
            }
            fork::forks().end();
            let own = far_above(&path, least).unwrap();
            assert_eq!(own.as_raw_fd(), number);
            assert!(a_child_has(number), "known: {is_known}");
            drop(own);
        }
    }
}
