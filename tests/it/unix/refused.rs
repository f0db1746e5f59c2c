//! Lock calls that something refuses which is no file system: a security module, a sandbox. No task waits
//! for ever for a lock that is free, whichever call is refused, and however.
#![allow(clippy::disallowed_methods)]

use std::any::Any;
use std::fs::OpenOptions;
use std::path::Path;

use ErrorKind::{Io, LockServiceUnavailable, PermissionDenied, Unsupported, WouldBlock};
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::libc;
use tokio_filelock::{Error, ErrorKind, Protocol, TryLockError};

use crate::child::Role;
use crate::support::place::Place;
use crate::support::process::{Process, say};
use crate::support::seccomp::refuse;
use crate::support::{each_protocol, options, protocol, returns};

/// What is refused, and what comes of it: for those who try, for those who wait.
const TABLE: &[(i32, ErrorKind, ErrorKind)] = &[
    (libc::EACCES, PermissionDenied, PermissionDenied),
    (libc::EPERM, PermissionDenied, PermissionDenied),
    (libc::ENOSYS, Unsupported, Unsupported),
    (libc::EINVAL, Unsupported, Unsupported),
    (libc::EOPNOTSUPP, Unsupported, Unsupported),
    (libc::ENOLCK, LockServiceUnavailable, LockServiceUnavailable),
    (libc::EIO, Io, Io),
    (libc::ESTALE, Io, Io),
    (libc::ENOENT, Io, Io),
    (libc::EINTR, Io, Io),
    // What a kernel says of a lock that is held. It does not say so to those who wait.
    (libc::EAGAIN, WouldBlock, PermissionDenied),
];

/// The lock calls, as the filter sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Try,
    Wait,
    /// What looks for those who are next in turn.
    Ask,
    All,
    /// After the lock was acquired.
    Unlock,
}

const CALLS: [Call; 5] = [Call::Try, Call::Wait, Call::Ask, Call::All, Call::Unlock];

impl Call {
    fn refuse(self, protocol: Protocol, errno: i32) {
        use libc::{LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN};

        let [set, set_and_wait, get] = match cfg!(tokio_filelock_posix) {
            false => [libc::F_OFD_SETLK, libc::F_OFD_SETLKW, libc::F_OFD_GETLK],
            true => [libc::F_SETLK, libc::F_SETLKW, libc::F_GETLK],
        };
        let (flock, fcntl): (&[i32], &[i32]) = match self {
            Call::Try => (&[LOCK_EX | LOCK_NB, LOCK_SH | LOCK_NB], &[set]),
            Call::Wait => (&[LOCK_EX, LOCK_SH], &[set_and_wait]),
            Call::Unlock => (&[LOCK_UN], &[set]),
            Call::Ask => (&[], &[get]),
            Call::All => (&[], &[set, set_and_wait, get]),
        };
        // The turnstile is one of these, whatever the lock.
        refuse(libc::SYS_fcntl, fcntl, errno);
        if protocol == Protocol::Flock && self != Call::Ask {
            refuse(libc::SYS_flock, flock, errno);
        }
    }
}

each_protocol!(#[test] fn nobody_waits_for_ever_for_a_free_lock_whichever_call_is_refused);
fn nobody_waits_for_ever_for_a_free_lock_whichever_call_is_refused(protocol: Protocol) {
    for call in CALLS {
        println!("{protocol:?}: {call:?}");
        let place = Place::new();
        let (path, call) = (place.lock_file(), format!("{call:?}"));
        let arguments = [path.to_str().unwrap(), &format!("{protocol:?}"), &call];
        let child = Process::in_role(Role::LockWhatIsRefused, &arguments);
        for _ in TABLE {
            println!("{}", child.event());
        }
        child.finish();
    }
}

pub(crate) fn lock_what_is_refused(arguments: &[String]) {
    let [path, protocol_name, call_name] = arguments else { panic!("{arguments:?}") };
    let protocol = protocol(protocol_name);
    let call = *CALLS.iter().find(|call| format!("{call:?}") == *call_name).unwrap();
    let numbered = |number: usize| format!("{path}.{number}");
    let locks: Vec<_> = (0..TABLE.len())
        .map(|number| options(protocol).blocking_open(numbered(number)).unwrap())
        .collect();
    let mut guards: Vec<_> = match call {
        Call::Unlock => locks.iter().map(|lock| Some(lock.try_lock().unwrap())).collect(),
        _ => locks.iter().map(|_| None).collect(),
    };
    let mut foreign: Vec<_> = match call {
        Call::Wait => (0..TABLE.len()).map(|number| hold(&numbered(number), protocol)).collect(),
        _ => Vec::new(),
    };
    for (number, &(errno, tried, waited)) in TABLE.iter().enumerate() {
        call.refuse(protocol, errno);
        let lock = locks[number].clone();
        let wait = || {
            let lock = lock.clone();
            returns(move || lock.blocking_lock().map(drop)).map_err(Error::into)
        };
        let share = || {
            let lock = lock.clone();
            returns(move || lock.blocking_lock_shared().map(drop)).map_err(Error::into)
        };
        match call {
            Call::Ask => {
                drop(lock.try_lock().unwrap());
                drop(lock.try_lock_shared().unwrap());
                wait().unwrap();
                share().unwrap();
            }
            Call::Unlock => {
                let guard = guards[number].take().unwrap();
                let unlocked = futures::executor::block_on(guard.unlock());
                // A process that unlocks does not try either.
                refused(unlocked.map_err(Error::into), waited, lock.path());
            }
            Call::Wait => {
                // Held by another process.
                refused(wait(), waited, lock.path());
                refused(share(), waited, lock.path());
                // And then free.
                foreign[number] = Box::new(());
                drop(lock.try_lock().unwrap());
                wait().unwrap();
            }
            Call::Try | Call::All => {
                refused(lock.try_lock().map(drop), tried, lock.path());
                refused(lock.try_lock_shared().map(drop), tried, lock.path());
                if call == Call::Try && errno == libc::EAGAIN && protocol == Protocol::Flock {
                    // A lock that is had by those who wait.
                    wait().unwrap();
                } else if call == Call::All || errno != libc::EAGAIN {
                    refused(wait(), waited, lock.path());
                    refused(share(), waited, lock.path());
                }
            }
        }
        say(&format!("errno {errno}: as expected"));
    }
}

fn refused(answer: Result<(), TryLockError>, kind: ErrorKind, path: &Path) {
    let error = match answer {
        Ok(()) => panic!("not refused"),
        Err(TryLockError::WouldBlock(error) | TryLockError::Error(error)) => error,
    };
    crate::support::assert_names(&error, kind, path);
    if kind == PermissionDenied {
        assert!(error.to_string().contains("security module"), "{error}");
    }
}

/// Holds the lock through another open file of this process, which is as good as another process, until
/// it is dropped.
fn hold(path: &str, protocol: Protocol) -> Box<dyn Any> {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    if protocol == Protocol::Flock {
        return Box::new(Flock::lock(file, FlockArg::LockExclusive).unwrap());
    }
    let first_byte = libc::flock {
        l_type: libc::F_WRLCK.try_into().unwrap(),
        l_whence: libc::SEEK_SET.try_into().unwrap(),
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&first_byte)).unwrap();
    Box::new(file)
}

/// The role `LockWhereStatxIsRefused`.
pub(crate) fn lock_where_statx_is_refused(arguments: &[String]) {
    let [path, protocol_name, errno] = arguments else { panic!("{arguments:?}") };
    // Without a path, as this crate calls it: the standard library remembers that it works.
    refuse(libc::SYS_statx, &[0], errno.parse().unwrap());
    let lock = options(protocol(protocol_name)).blocking_open(path).unwrap();
    for _ in 0..2 {
        drop(lock.try_lock().unwrap());
        std::fs::remove_file(path).unwrap();
        drop(lock.try_lock().unwrap());
        assert!(Path::new(path).exists(), "the file that was removed was locked");
    }
    say("noticed");
}

each_protocol!(#[test] fn a_lock_file_that_was_removed_is_noticed_where_statx_is_refused);
fn a_lock_file_that_was_removed_is_noticed_where_statx_is_refused(protocol: Protocol) {
    // A system that does not know the call, a filter, and a system that wants a path.
    for errno in [libc::ENOSYS, libc::EPERM, libc::EFAULT] {
        let place = Place::new();
        let path = place.lock_file();
        let arguments = [path.to_str().unwrap(), &format!("{protocol:?}"), &errno.to_string()];
        let child = Process::in_role(Role::LockWhereStatxIsRefused, &arguments);
        child.expect("noticed");
        child.finish();
    }
}
