//! What an operating system is to provide, and what each item does. The compiler checks `unix` and `windows` against
//! this list; a new system has all of it.
//!
//! A system without file locks opens nothing. There the list itself makes the types that stand for something open,
//! without values, and gives each function the answer behind its `or`; `none` has what is left.

#[cfg(not(any(unix, windows)))]
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::fork::{self, Generation};
use super::platform::shared_directory::Names as Listing;
use super::shared_directory::{Found, Purpose, Status};
use super::{
    Access, Directory as CurrentDirectory, Effort, Identity, Interrupt, Kept, Location, Names,
    Pace, Protocol, Recognized, Region, Standing, Tried, Waited,
};
#[cfg(any(unix, windows))]
use super::{
    LockFile,
    platform::{errors, holders, remove},
    shared_directory::{self, Directory, MadeFile},
};
use crate::error::{Error, ErrorKind};
use crate::holder::{Circumstances, Holder, Process};
use crate::mode::Mode;

/// Each form takes signatures. For each signature it compiles a function which calls the platform's item, so an item
/// that is missing or has other types is an error.
macro_rules! contract {
    // The functions of a module or a type. The receiver of a method is its first argument.
    (functions $scope:ident { $(
        $(#[$does:meta])* fn $name:ident($($given:ident: $of:ty),* $(,)?) $(-> $answer:ty)?;
    )* }) => {
        #[allow(dead_code)]
        const _: () = { $(
            $(#[$does])*
            fn $name($($given: $of),*) $(-> $answer)? { $scope::$name($($given),*) }
        )* };
    };
    // The same, with the answers of a system without file locks.
    (mod $module:ident { $(
        $(#[$does:meta])* fn $name:ident($($given:ident: $of:ty),* $(,)?) $(-> $answer:ty)?,
            or $none:expr;
    )* }) => {
        #[cfg(any(unix, windows))]
        contract!(functions $module { $($(#[$does])* fn $name($($given: $of),*) $(-> $answer)?;)* });
        #[cfg(not(any(unix, windows)))]
        #[allow(unused_variables)] // few answers depend on an argument
        pub(crate) mod $module {
            use super::*;

            $(pub(crate) fn $name($($given: $of),*) $(-> $answer)? { $none })*
        }
    };
    (impl $type:ident { $(
        $(#[$does:meta])* fn $name:ident($($given:ident: $of:ty),* $(,)?) $(-> $answer:ty)?,
            or $none:expr;
    )* }) => {
        #[cfg(any(unix, windows))]
        contract!(functions $type { $($(#[$does])* fn $name($($given: $of),*) $(-> $answer)?;)* });
        #[cfg(not(any(unix, windows)))]
        #[allow(unused_variables)]
        impl $type {
            $(pub(crate) fn $name($($given: $of),*) $(-> $answer)? { $none })*
        }
    };
    // The methods of what is open. Without file locks there is no such value, so no method is called.
    (opened $type:ident { $(
        $(#[$does:meta])* fn $name:ident(&self $(, $given:ident: $of:ty)* $(,)?) $(-> $answer:ty)?;
    )* }) => {
        #[cfg(any(unix, windows))]
        contract!(functions $type {
            $($(#[$does])* fn $name(this: &$type $(, $given: $of)*) $(-> $answer)?;)*
        });
        #[cfg(not(any(unix, windows)))]
        #[derive(Debug)]
        pub(crate) struct $type {
            _open: File,
            never: Infallible,
        }
        #[cfg(not(any(unix, windows)))]
        impl $type {
            $($(#[$does])* pub(crate) fn $name(&self $(, _: $of)*) $(-> $answer)? { match self.never {} })*
        }
    };
}

/// Answers of a system without file locks.
#[cfg(not(any(unix, windows)))]
mod answers {
    use super::*;
    use crate::error::Operation;

    pub(super) fn unsupported<T>() -> io::Result<T> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn no_file_locks<T>(at: &Location) -> Result<T, Error> {
        let detail = "there are no file locks on this operating system";
        Err(Error::found(ErrorKind::Unsupported, Operation::Open, at, detail))
    }

    pub(super) fn unknown_process() -> Process {
        let [host, boot, program] = [None, None, None];
        let [pid_namespace, time_namespace, start] = [None; 3];
        Process { pid: 0, host, boot, pid_namespace, time_namespace, start, program }
    }
}
#[cfg(not(any(unix, windows)))]
use answers::{no_file_locks, unknown_process, unsupported};

// What the layers above use. Under loom these are the `LockFile` and the `Interrupt` of the model.

contract! { impl LockFile {
    /// What the lock file at this path is; `None` if there is none. Opens nothing.
    fn names_at(at: &Location) -> Result<Option<Names>, Error>, or no_file_locks(at);

    fn open(at: &Location, access: Access) -> Result<LockFile, Error>, or no_file_locks(at);

    /// Closing any open file of this process releases its locks of the same file.
    fn closing_releases(protocol: Protocol) -> bool, or false;
} }

contract! { opened LockFile {
    fn names(&self) -> &Names;
    fn identity(&self) -> Identity;

    /// Which of these open files this one is. It was just opened, and has no locks.
    fn ask(&self, known: &[&LockFile]) -> Recognized;

    /// Whether the path leads to this file; on a remote file system, as the server sees it.
    fn is_at(&self, at: &Location) -> Result<bool, Error>;

    /// Says that it is in use ([`Access::in_use`]), for as long as it is open.
    fn mark_in_use(&self);

    fn is_writable(&self) -> bool;

    /// Lock calls that do not wait for another holder return at once.
    fn is_local(&self) -> bool;

    /// Why locks of this protocol exclude the programs of this machine only, if they do.
    fn excludes_this_machine_only(&self, protocol: Protocol) -> Option<&'static str>;

    /// Whether the descriptor still is that of the file, and a path leads to it. One system call.
    fn standing(&self) -> io::Result<Standing>;

    /// An error if the descriptor is not that of the file any more. Asks no server.
    fn check(&self) -> io::Result<()>;

    /// A try with no regard for waiters.
    #[cfg(test)]
    fn try_lock(&self, protocol: Protocol, region: Region, mode: Mode) -> io::Result<Tried>;

    /// Takes the lock if it is free, unless it is the turn of another process. Blocks for some milliseconds at most, and only if it
    /// `may_pause`.
    fn try_lock_in_turn(
        &self,
        protocol: Protocol,
        region: Region,
        mode: Mode,
        pace: &Pace,
        may_pause: bool,
    ) -> io::Result<Tried>;

    /// Blocks until the lock is there, or until the interrupt asks for an end.
    fn lock(
        &self,
        protocol: Protocol,
        region: Region,
        mode: Mode,
        pace: &Pace,
        end: &Interrupt,
    ) -> io::Result<Waited>;

    /// Another process waits for the lock, and would be overtaken by one that takes it now.
    fn is_turnstile_taken(&self, protocol: Protocol, region: Region, pace: &Pace) -> bool;

    fn unlock(&self, protocol: Protocol, region: Region) -> io::Result<()>;

    /// Turns an exclusive lock into a shared one without letting go in between; `false` where the protocol cannot, and then
    /// the lock is as it was.
    fn downgrade(&self, protocol: Protocol, region: Region) -> bool;

    /// The processes that hold the lock of the region, and those whose calls wait for it, as the kernel sees them.
    fn holders(&self, protocol: Protocol, region: Region, effort: Effort) -> Vec<Holder>;

    /// One of the holders that keep this process from the lock, if one system call tells.
    fn blocker(&self, protocol: Protocol, region: Region) -> Option<Holder>;

    /// The process that opened it, whose locks they are.
    fn pid(&self) -> u32;

    /// Removes the file at this place, if it is this one, which must be locked exclusively.
    fn remove(&self, location: &Location, protocol: Protocol) -> io::Result<Option<Kept>>;

    /// Reads the beginning of the file, as much as there is or fits.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    fn write(&self, content: &[u8], at: u64) -> io::Result<()>;
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// More than one name leads to it.
    fn has_other_names(&self) -> io::Result<bool>;
} }

contract! { functions Interrupt {
    /// Makes the wait return, if that is possible, or not begin.
    fn request(this: &Interrupt);

    /// Lets this much time pass; returns early when the end of the wait is asked for.
    fn pause(this: &Interrupt, time: Duration) -> Option<Waited>;
} }

contract! { functions fork {
    /// Listens for forks. A handle that is made before the first call is not noticed to be the parent's.
    fn listen();
} }

contract! { functions Generation {
    fn current() -> Generation;

    /// What was made in this generation is the parent's, or a grandparent's.
    fn is_inherited(generation: Generation) -> bool;

    /// How many forks lie between this process and the first one of the program.
    fn number(generation: Generation) -> usize;
} }

contract! { functions CurrentDirectory {
    /// The current directory, held open so that relative paths are resolved from it; `None` where it always has a path.
    fn current() -> io::Result<Option<CurrentDirectory>>;
} }

contract! { mod errors {
    /// Whether a failed call on an open file means that this open file is of no use any more, because the file is gone.
    fn is_gone(error: &io::Error) -> bool, or false;

    /// The kind of a lock call's error, which is not contention.
    fn lock_error_kind(error: &io::Error) -> ErrorKind, or ErrorKind::Unsupported;
} }

contract! { mod holders {
    /// Whether the system can tell which process holds a lock of this protocol.
    fn tells_holders(protocol: Protocol) -> bool, or false;

    /// What this process can say of itself.
    fn this_process() -> Process, or unknown_process();

    /// The same for a holder that is known to be this process.
    fn describe_this_process(holder: &mut Holder, effort: Effort), or ();

    /// Whether a recorded pid is still there, and since when.
    fn look_up(pid: u32) -> Circumstances, or Circumstances::Unknown;
} }

contract! { mod remove {
    /// Removes the files in a directory that are chosen by name, have not been changed for so long, and are not locked. Tells
    /// of each that was chosen.
    fn remove_unused(
        directory: &Path,
        is_chosen: impl Fn(&OsStr) -> bool,
        unchanged_for: Duration,
        tell: impl FnMut(&OsStr, Option<Kept>),
    ) -> io::Result<()>, or unsupported();
} }

contract! { impl Directory {
    /// Opens the directory at a path, which is followed up to its last name. [`io::ErrorKind::NotADirectory`] if something
    /// else stands there.
    fn open(path: &Path) -> io::Result<Directory>, or unsupported();
} }

contract! { opened Directory {
    /// Whether the path leads here still.
    fn is_at(&self, path: &Path) -> io::Result<bool>;

    /// Whether only users that may change the directory, or its owner, made the path lead here.
    fn is_led_to_by(&self, path: &Path) -> io::Result<bool>;

    /// Has what the system remembers of the names in here looked at again.
    fn refresh(&self);

    /// Whether the system shows what others did in here too late to build on it.
    fn is_seen_late(&self) -> bool;

    /// Whether another machine may tell by times alone that something in here has changed, and so take two changes for one.
    fn is_told_by_times(&self) -> bool;

    /// Makes the last change in here one that other machines notice, where they tell by times alone.
    fn show_change(&self);

    /// The mount that the directory is on, as far as the system tells.
    fn mount(&self) -> Option<u64>;

    /// A directory in here, for some calls; errors as those of `open`.
    fn subdirectory(&self, name: &str) -> io::Result<Directory>;

    /// The same directory, for long: other code may close its descriptor or give the number away meanwhile.
    fn kept(&self) -> io::Result<Directory>;

    /// An error if this is not the descriptor of the directory any more.
    fn check(&self) -> io::Result<()>;

    /// Makes a directory in here, unless there is one. With a mode it appears with that, whatever the umask: it is made under
    /// the other name, which a process that dies leaves behind.
    fn make_subdirectory(
        &self,
        name: impl AsRef<OsStr>,
        mode: Option<u32>,
        other_name: &str,
    ) -> io::Result<()>;

    /// Makes a directory in here that was not there.
    fn create_directory(&self, name: &str, for_us_alone: bool) -> io::Result<Directory>;

    /// Opens a file in here, if it is one. Waits for nothing that may stand there instead.
    fn open_file(&self, name: &str, purpose: Purpose) -> io::Result<Found>;

    /// Opens a file for reading in a directory that is in here. A file that is no directory has no files in it.
    fn open_file_in(&self, subdirectory: &str, name: &str) -> io::Result<Found>;

    /// Makes a file in here that was not there, to be written and read. The mode is the exact one, or 0666 less the umask.
    fn create_file(&self, name: &str, mode: Option<u32>) -> io::Result<File>;

    /// What stands under a name, without opening it.
    fn status(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Status>>;

    /// Renames what stands under a name in here, over what stands under the other name.
    fn rename(
        &self,
        name: &str,
        to: &Directory,
        new_name: impl AsRef<OsStr>,
    ) -> io::Result<()>;

    /// Removes anything but a directory.
    fn remove_file(&self, name: &str) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_directory(&self, name: &str) -> io::Result<()>;

    /// Removes what stands under a name in here, whatever it is. Follows no link.
    fn remove_tree(&self, name: &str) -> io::Result<()>;

    /// What must be done before others may see the tree in here; says how many bytes its files have. With `sync` their content
    /// survives a power failure.
    fn finish_tree(&self, mode: Option<u32>, sync: bool) -> io::Result<u64>;

    /// Whether other users may change what is in here.
    fn may_others_write(&self) -> bool;

    /// A path that leads here whatever becomes of the name, for as long as this is held; where there are such paths.
    fn path_by_handle(&self) -> Option<PathBuf>;

    /// The names in here that are text.
    fn names(&self) -> io::Result<Listing>;

    /// Makes the names in here survive a power failure, where the file system can.
    fn sync(&self) -> io::Result<()>;
} }

contract! { impl MadeFile {
    /// Keeps a file open that this process has made.
    fn keep(file: &File) -> io::Result<MadeFile>, or unsupported();
} }

contract! { opened MadeFile {
    /// The file, to be used now: an error if the descriptor is that of another one by now.
    fn checked(&self) -> io::Result<&File>;
} }

contract! { impl Status {
    /// Of an open file.
    fn of_file(file: &File) -> io::Result<Status>, or unsupported();
} }

contract! { functions Status {
    /// What tells the file from others, in names of files; 0 where the system does not tell.
    fn number(this: &Status) -> u64;
} }

contract! { mod shared_directory {
    /// Makes the content of a file survive a power failure, where the file system can.
    fn sync_file(file: &File) -> io::Result<()>, or unsupported();

    /// Reads from the start of a file, wherever its descriptor stands.
    fn read_exact_at_start(file: &File, to: &mut [u8]) -> io::Result<()>, or unsupported();

    /// Copies a file of this length from its start, wherever its descriptor stands. It fails once the caller has cancelled it.
    fn copy(
        from: &File,
        length: u64,
        to: &MadeFile,
        is_cancelled: &AtomicBool,
    ) -> io::Result<()>, or unsupported();

    /// Whether to set the times of a file may copy all of it.
    fn copies_to_note(file: &File) -> bool, or false;
} }

/// What `LockFile` uses in its turn: its own steps are the same on every system with file locks.
#[cfg(any(unix, windows))]
mod of_lock_file {
    use super::*;
    use crate::os::file_system::{FileSystem, Keyed, Kind};
    use crate::os::platform::holders::Inode;
    // Not that of the model.
    use crate::os::platform::interrupt::Interrupt;
    use crate::os::platform::lock::Lock;
    use crate::os::platform::mount::Reach;
    use crate::os::platform::{content, file_system, open, same};
    use crate::os::turnstile::TurnstileState;
    use crate::os::{Descriptor, Opened, Question};

    contract! { functions open {
        /// Opens a lock file. Changes nothing but what `access.create` allows, and follows no link in the last name.
        fn open(at: &Location, access: Access) -> Result<Opened, Error>;

        /// What the lock file at this place is; `None` if there is none. Opens nothing.
        fn names_at(at: &Location) -> Result<Option<Names>, Error>;

        /// As `names_at`, where a server may know better than this machine's cache.
        fn names_at_server(at: &Location) -> Result<Option<Names>, Error>;

        /// What an open file is.
        fn names(file: &File, identity: Identity, keyed: Keyed) -> Names;

        /// The number that an open file has now.
        fn number_of(file: &File) -> io::Result<Identity>;

        /// Explains why an open failed.
        fn open_error(path: &Path, error: io::Error) -> Error;
    } }

    contract! { functions Descriptor {
        /// The numbers that the file had when it was opened.
        fn identity(this: &Descriptor) -> Identity;

        /// The numbers may change: from now on it is recognized by something else as well.
        fn may_change(this: &Descriptor, keyed: Keyed, names: &Names);

        /// Its number was given to another file of this crate, so other code has closed it. No system call.
        fn is_known_to_be_foreign(this: &Descriptor) -> bool;

        /// Whether it still is the descriptor of its file, and a path leads to that. One system call. Where the file system
        /// is not local, its server is asked for no less than fstat(2) asks for.
        fn standing(this: &Descriptor, is_local: bool) -> io::Result<Standing>;

        /// An error if it is not the descriptor of its file any more, or may be none. Asks no server.
        fn check(this: &Descriptor) -> io::Result<()>;
    } }

    contract! { functions Lock {
        /// The lock that stands for a region, when this process takes it.
        fn of(protocol: Protocol, region: Region, pid: u32) -> Lock;

        /// The turnstile of a region, if there is one. Where its length can carry a number, it carries this one.
        fn turnstile(protocol: Protocol, region: Region, number: u32) -> Option<Lock>;

        /// Closing any descriptor of the file releases the locks that this process has on it.
        fn closing_releases(protocol: Protocol) -> bool;

        /// Shares the lock of flock(2) for as long as the file is open, where no lock of this crate meets it.
        fn mark_in_use(file: &File);

        /// Locks, if that is possible at once.
        fn try_lock(lock: Lock, file: &File, mode: Mode) -> io::Result<()>;

        /// Blocks until the lock is there, or until the interrupt asks for an end. `Unsupported` if nothing could end the
        /// wait: then nothing has been called.
        fn wait(lock: Lock, file: &File, mode: Mode, end: &Interrupt) -> io::Result<Waited>;

        /// As `wait`, for no longer than this: `None` if the time is up. `Unsupported` also if no limit can be set.
        fn wait_for(
            lock: Lock,
            file: &File,
            mode: Mode,
            end: &Interrupt,
            limit: Duration,
        ) -> io::Result<Option<Waited>>;

        /// A wait failed with this error although the lock is only busy.
        fn did_not_wait(error: &io::Error) -> bool;

        fn unlock(lock: Lock, file: &File) -> io::Result<()>;

        /// From exclusive to shared without letting go in between; `false` where that is not possible, and then the lock is as
        /// it was.
        fn downgrade(lock: Lock, file: &File) -> bool;

        /// Whether another open file has this turnstile. `Free` if that cannot be told.
        fn check_turnstile(lock: Lock, file: &File) -> TurnstileState;

        /// As `check_turnstile`, and asks in the same call whether the lock behind this turnstile could be had: `None` if not.
        fn check_turnstile_with(turnstile: Lock, lock: Lock, file: &File, mode: Mode) -> Option<TurnstileState>;

        /// No process has the lock, exclusively or shared. For a moment this one may have it.
        fn is_free(lock: Lock, file: &File) -> io::Result<bool>;

        /// Gives a turnstile that this open file has another number.
        fn renumber(turnstile: Lock, to: Lock, file: &File, mode: Mode) -> io::Result<()>;
    } }

    contract! { functions errors {
        /// Whether a lock call that does not wait failed because another open file has the lock.
        fn is_contention(error: &io::Error, file_system: FileSystem) -> bool;
    } }

    contract! { functions file_system {
        /// Which kind of file system an open file is on.
        fn of(file: &File) -> io::Result<Kind>;
    } }

    contract! { functions Reach {
        /// What the system tells of the mount of a file that is not local.
        fn of(file: &File) -> Reach;

        /// Why locks of this protocol may exclude the programs of this machine only, if the mount says so.
        fn excludes_this_machine_only(this: &Reach, protocol: Protocol) -> Option<&'static str>;

        /// A wait in the kernel must not be given up: the server would keep the lock that then arrives.
        fn keeps_locks_given_up(this: &Reach) -> bool;
    } }

    /// Whether `same::ask` can tell: where the numbers of a file are proof, there is nothing to ask.
    const _: bool = same::CAN_ASK;

    contract! { functions same {
        /// Which of several open files one is that was just opened, as the kernel's locks show.
        fn ask(new: &File, known: &[&File]) -> Recognized;
    } }

    contract! { functions content {
        /// Reads some bytes of what the file carries besides its lock.
        fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize>;

        fn write_all_at(file: &File, content: &[u8], at: u64) -> io::Result<()>;

        /// More than one name leads to the file.
        fn has_other_names(file: &File) -> io::Result<bool>;
    } }

    contract! { functions Inode {
        /// The file, as the kernel's tables of locks name it. Asks no server.
        fn of(file: &File, identity: Identity) -> Inode;
    } }

    contract! { functions holders {
        /// The processes that hold the lock, and those whose calls wait for it.
        fn of(question: &Question<'_>, inode: &Inode, effort: Effort) -> Vec<Holder>;

        /// The kernel lists a call that waits for the lock itself, and not for the turnstile.
        fn is_lock_waited_for(question: &Question<'_>, inode: &Inode) -> bool;

        /// One of the holders that keep this process from the lock, if one system call tells.
        fn blocker(question: &Question<'_>) -> Option<Holder>;
    } }

    contract! { functions remove {
        /// Removes the name, if it leads to this file, which is locked.
        fn remove(
            location: &Location,
            file: &Descriptor,
            protocol: Protocol,
        ) -> io::Result<Option<Kept>>;
    } }
}
