//! What a kernel does with file locks, as one table for the real kernel, for the model of it, and for the simulated machine
//! (`engine::sim::tests`).
//!
//! A scenario is a list of steps with up to four open files, [`A`] to [`D`], of one path: as many
//! programs as far as locks are concerned. A lock call that blocks runs on a thread of its own.
//! The threads meet the table on a channel, and the kernel is asked whether one is blocked: so a
//! step is over when what it names has happened.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::Protocol::{Fcntl, Flock};
use super::*;
use crate::mode::Mode::{self, Exclusive, Shared};
use Step::*;

/// Turns a test that hangs into one that fails.
const HANGS: Duration = Duration::from_secs(60);

type Name = usize;

/// Whose call has returned, and how.
type Returned = (Name, Waited);

const A: Name = 0;
const B: Name = 1;
const C: Name = 2;
const D: Name = 3;

#[derive(Debug, Clone, Copy)]
enum Step {
    Open(Name),
    Acquires(Name, Mode),
    Busy(Name, Mode),
    /// Calls the lock that blocks, and blocks.
    Blocks(Name, Mode),
    /// Calls the lock that blocks, and gets it at once.
    DoesNotBlock(Name, Mode),
    /// Of those that block, this one is the next to get the lock.
    Gets(Name),
    /// These two get the lock, one before the other.
    GetTogether(Name, Name),
    /// The call that blocks is interrupted, and returns without the lock.
    GivesUp(Name),
    /// The calls that block and have not got the lock are blocked, however often they were woken.
    StillBlocked,
    Unlock(Name),
    Close(Name),
    Unlink,
    /// A path leads to the open file.
    Linked(Name),
    Unlinked(Name),
    SameFile(Name, Name),
    OtherFile(Name, Name),
    /// The path leads to this open file.
    AtPath(Name),
    NothingAtPath,
}

struct Scenario {
    name: &'static str,
    protocols: &'static [Protocol],
    steps: &'static [Step],
}

const BOTH: &[Protocol] = &[Flock, Fcntl];

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "exclusive excludes",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            Acquires(A, Exclusive),
            Busy(B, Exclusive),
            Busy(B, Shared),
            Unlock(A),
            Acquires(B, Exclusive),
            Busy(A, Shared),
        ],
    },
    Scenario {
        name: "shared is shared, and excludes exclusive",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            Open(C),
            Acquires(A, Shared),
            Acquires(B, Shared),
            Busy(C, Exclusive),
            Unlock(A),
            Busy(C, Exclusive),
            Unlock(B),
            Acquires(C, Exclusive),
        ],
    },
    Scenario {
        name: "a try that was busy leaves nothing behind",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            Open(C),
            Acquires(A, Exclusive),
            Busy(B, Exclusive),
            Unlock(A),
            Acquires(C, Exclusive),
        ],
    },
    Scenario {
        name: "closing releases",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            Acquires(A, Exclusive),
            Busy(B, Exclusive),
            Close(A),
            Acquires(B, Exclusive),
        ],
    },
    Scenario {
        name: "closing releases one's own lock only",
        protocols: BOTH,
        steps: &[Open(A), Open(B), Open(C), Acquires(A, Shared), Close(B), Busy(C, Exclusive)],
    },
    Scenario {
        name: "unlocking releases one's own lock only",
        protocols: BOTH,
        steps: &[Open(A), Open(B), Acquires(A, Exclusive), Unlock(B), Busy(B, Shared)],
    },
    Scenario {
        name: "a second lock by the same open file succeeds, and one unlock drops both",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            Acquires(A, Exclusive),
            Acquires(A, Exclusive),
            DoesNotBlock(A, Exclusive),
            Busy(B, Shared),
            Unlock(A),
            Acquires(B, Exclusive),
        ],
    },
    Scenario {
        name: "a late unlock drops the newer lock",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            Acquires(A, Exclusive),
            // The unlock of the lock above is late: a newer one overtakes it.
            Acquires(A, Shared),
            Busy(B, Exclusive),
            Unlock(A),
            Acquires(B, Exclusive),
        ],
    },
    Scenario {
        name: "a second lock converts the first",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            Acquires(A, Exclusive),
            Acquires(A, Shared),
            Acquires(B, Shared),
            Busy(A, Exclusive),
            Unlock(B),
            Acquires(A, Exclusive),
            Busy(B, Shared),
        ],
    },
    Scenario {
        name: "a conversion of flock that fails has lost the lock",
        protocols: &[Flock],
        steps: &[
            Open(A),
            Open(B),
            Acquires(A, Shared),
            Acquires(B, Shared),
            Busy(A, Exclusive),
            Acquires(B, Exclusive),
        ],
    },
    Scenario {
        name: "a conversion of fcntl that fails has kept the lock",
        protocols: &[Fcntl],
        steps: &[
            Open(A),
            Open(B),
            Acquires(A, Shared),
            Acquires(B, Shared),
            Busy(A, Exclusive),
            Busy(B, Exclusive),
        ],
    },
    Scenario {
        name: "an unlinked file keeps its locks, and is not the file at the path",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            SameFile(A, B),
            Linked(A),
            AtPath(A),
            Acquires(A, Exclusive),
            Unlink,
            NothingAtPath,
            Unlinked(A),
            Unlinked(B),
            Busy(B, Exclusive),
            Open(C),
            OtherFile(A, C),
            AtPath(C),
            Linked(C),
            Unlinked(A),
            Acquires(C, Exclusive),
        ],
    },
    Scenario {
        name: "a free lock is taken without blocking",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            DoesNotBlock(A, Shared),
            DoesNotBlock(B, Shared),
            Unlock(A),
            Unlock(B),
            DoesNotBlock(A, Exclusive),
            Busy(B, Shared),
        ],
    },
    Scenario {
        name: "one who blocks gets the lock after the release",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            Acquires(A, Exclusive),
            Blocks(B, Shared),
            StillBlocked,
            Unlock(A),
            Gets(B),
            Busy(A, Exclusive),
            Unlock(B),
            Acquires(A, Exclusive),
        ],
    },
    Scenario {
        name: "one who blocks gets the lock after a close",
        protocols: BOTH,
        steps: &[Open(A), Open(B), Acquires(A, Shared), Blocks(B, Exclusive), Close(A), Gets(B)],
    },
    Scenario {
        name: "one who blocks gets the lock after a conversion that lets it in",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            Acquires(A, Exclusive),
            Blocks(B, Shared),
            Acquires(A, Shared),
            Gets(B),
        ],
    },
    Scenario {
        name: "one who blocks does so until the last shared holder leaves",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            Open(C),
            Acquires(A, Shared),
            Acquires(B, Shared),
            Blocks(C, Exclusive),
            Unlock(A),
            StillBlocked,
            Unlock(B),
            Gets(C),
        ],
    },
    Scenario {
        name: "exclusive ones get the lock in order of arrival",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            Open(C),
            Open(D),
            Acquires(A, Exclusive),
            Blocks(C, Exclusive),
            Blocks(B, Exclusive),
            Blocks(D, Exclusive),
            Unlock(A),
            Gets(C),
            StillBlocked,
            // Back in line, behind all others.
            Blocks(A, Exclusive),
            Unlock(C),
            Gets(B),
            StillBlocked,
            Unlock(B),
            Gets(D),
            StillBlocked,
            Unlock(D),
            Gets(A),
        ],
    },
    Scenario {
        name: "shared newcomers do not look at who blocks",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            Open(C),
            Open(D),
            Acquires(A, Shared),
            Blocks(B, Exclusive),
            Acquires(C, Shared),
            DoesNotBlock(D, Shared),
            Unlock(A),
            Unlock(C),
            StillBlocked,
            Unlock(D),
            Gets(B),
        ],
    },
    Scenario {
        name: "shared ones get in together, past an exclusive one that came in between",
        protocols: BOTH,
        steps: &[
            Open(A),
            Open(B),
            Open(C),
            Open(D),
            Acquires(A, Exclusive),
            Blocks(B, Shared),
            Blocks(C, Exclusive),
            Blocks(D, Shared),
            Unlock(A),
            GetTogether(B, D),
            StillBlocked,
            Unlock(B),
            StillBlocked,
            Unlock(D),
            Gets(C),
        ],
    },
    Scenario {
        name: "a call that is interrupted takes nothing, and no other's turn",
        protocols: &[Flock, Fcntl],
        steps: &[
            Open(A),
            Open(B),
            Open(C),
            Acquires(A, Exclusive),
            Blocks(B, Exclusive),
            Blocks(C, Exclusive),
            GivesUp(B),
            StillBlocked,
            Unlock(A),
            Gets(C),
            Unlock(C),
            Acquires(A, Exclusive),
        ],
    },
];

/// The calls that both kernels have.
pub(crate) trait Kernel: Send + Sync + Sized + 'static {
    type Interrupt: Default + Send + Sync;
    fn interrupt(end: &Self::Interrupt);
    fn open(path: &Path) -> Self;
    fn unlink(path: &Path);
    fn identity_at(path: &Path) -> Option<Identity>;
    fn identity(&self) -> Identity;
    fn is_linked(&self) -> io::Result<bool>;
    fn try_lock(&self, protocol: Protocol, mode: Mode) -> io::Result<Tried>;
    fn lock(&self, protocol: Protocol, mode: Mode, end: &Self::Interrupt) -> io::Result<Waited>;
    fn unlock(&self, protocol: Protocol) -> io::Result<()>;
    /// How many lock calls on the file at this path are blocked.
    fn blocked(path: &Path) -> usize;
}

macro_rules! kernel {
    ($file:ty, $interrupt:ty, $unlink:expr, $blocked:expr) => {
        impl Kernel for $file {
            type Interrupt = $interrupt;

            fn interrupt(end: &Self::Interrupt) {
                end.request();
            }

            fn open(path: &Path) -> Self {
                let access = Access {
                    create: true,
                    mode: None,
                    read_only: false,
                    in_use: false,
                    patient: true,
                };
                <$file>::open(&path.to_owned().into(), access).expect("open")
            }

            fn unlink(path: &Path) {
                $unlink(path);
            }

            fn identity_at(path: &Path) -> Option<Identity> {
                <$file>::names_at(&path.to_owned().into())
                    .expect("a look")
                    .map(|names| names.identity)
            }

            fn identity(&self) -> Identity {
                <$file>::identity(self)
            }

            fn is_linked(&self) -> io::Result<bool> {
                Ok(<$file>::standing(self)? == Standing::Linked)
            }

            fn try_lock(&self, protocol: Protocol, mode: Mode) -> io::Result<Tried> {
                <$file>::try_lock(self, protocol, Region::ONLY, mode)
            }

            fn lock(
                &self,
                protocol: Protocol,
                mode: Mode,
                end: &Self::Interrupt,
            ) -> io::Result<Waited> {
                <$file>::lock_out_of_turn(self, protocol, Region::ONLY, mode, end)
            }

            fn unlock(&self, protocol: Protocol) -> io::Result<()> {
                <$file>::unlock(self, protocol, Region::ONLY)
            }

            fn blocked(path: &Path) -> usize {
                $blocked(path)
            }
        }
    };
}

kernel!(
    LockFile,
    Interrupt,
    |path| std::fs::remove_file(path).expect("unlink"),
    blocked_by_the_kernel
);
kernel!(model::LockFile, model::Interrupt, model::unlink, model::blocked);

#[cfg(not(target_os = "linux"))]
fn blocked_by_the_kernel(_path: &Path) -> usize {
    unreachable!("nothing tells there, so nothing asks")
}

/// proc_locks(5): a line for each lock, and after it, with arrows, one for each call that it
/// blocks; the file as `major:minor:inode`.
///
/// The list may change while it is read, and name a lock twice or not at all. What belongs to one
/// lock is of one moment, and in a scenario one lock blocks all.
#[cfg(target_os = "linux")]
fn blocked_by_the_kernel(path: &Path) -> usize {
    let names = LockFile::names_at(&path.to_owned().into()).expect("a look");
    let identity = names.expect("a file at the path").identity;
    let inode = format!(":{} ", identity.inode);
    let locks = std::fs::read_to_string("/proc/locks").expect("the kernel lists its locks");
    let (mut most, mut blocked) = (0, 0);
    for line in locks.lines().filter(|line| line.contains(&inode)) {
        blocked = if line.contains("-> ") { blocked + 1 } else { 0 };
        most = most.max(blocked);
    }
    most
}

/// A directory, a path in it, and the open files of that path.
struct Stage<K: Kernel> {
    directory: tempfile::TempDir,
    protocol: Protocol,
    files: [Option<Arc<K>>; 4],
    /// How many calls have blocked and not returned.
    blocked: usize,
    /// What ends their calls early.
    ends: [Arc<K::Interrupt>; 4],
    got: (Sender<Returned>, Receiver<Returned>),
}

impl<K: Kernel> Stage<K> {
    fn new(protocol: Protocol) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        Self {
            directory,
            protocol,
            files: Default::default(),
            blocked: 0,
            ends: Default::default(),
            got: mpsc::channel(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("lock")
    }

    fn file(&self, name: Name) -> &Arc<K> {
        self.files[name].as_ref().expect("opened before")
    }

    fn step(&mut self, step: Step) {
        let protocol = self.protocol;
        match step {
            Open(name) => self.files[name] = Some(Arc::new(K::open(&self.path()))),
            Acquires(name, mode) => {
                let answer = self.file(name).try_lock(protocol, mode).expect("try");
                assert_eq!(answer, Tried::Acquired);
            }
            Busy(name, mode) => {
                let answer = self.file(name).try_lock(protocol, mode).expect("try");
                assert_eq!(answer, Tried::Busy);
            }
            Blocks(name, mode) => {
                self.lock_on_a_thread(name, mode);
                self.blocked += 1;
                self.until_blocked();
            }
            DoesNotBlock(name, mode) => {
                self.lock_on_a_thread(name, mode);
                assert_eq!(self.next(), name);
            }
            Gets(name) => {
                assert_eq!(self.next(), name);
                self.blocked -= 1;
            }
            GetTogether(one, other) => {
                let mut got = [self.next(), self.next()];
                got.sort_unstable();
                assert_eq!(got, [one, other]);
                self.blocked -= 2;
            }
            GivesUp(name) => {
                K::interrupt(&self.ends[name]);
                assert_eq!(self.returned(), (name, Waited::Interrupted));
                self.blocked -= 1;
            }
            StillBlocked => self.until_blocked(),
            Unlock(name) => self.file(name).unlock(protocol).expect("unlock"),
            Close(name) => {
                let file = self.files[name].take().expect("opened before");
                assert!(Arc::into_inner(file).is_some(), "closed in the middle of a call");
            }
            Unlink => K::unlink(&self.path()),
            Linked(name) => assert!(self.file(name).is_linked().expect("stat")),
            Unlinked(name) => assert!(!self.file(name).is_linked().expect("stat")),
            SameFile(one, other) => {
                assert_eq!(self.file(one).identity(), self.file(other).identity());
            }
            OtherFile(one, other) => {
                assert_ne!(self.file(one).identity(), self.file(other).identity());
            }
            AtPath(name) => {
                assert_eq!(K::identity_at(&self.path()), Some(self.file(name).identity()));
            }
            NothingAtPath => assert_eq!(K::identity_at(&self.path()), None),
        }
    }

    fn lock_on_a_thread(&self, name: Name, mode: Mode) {
        let (file, protocol, got) = (self.file(name).clone(), self.protocol, self.got.0.clone());
        let end = self.ends[name].clone();
        thread::spawn(move || {
            let answer = file.lock(protocol, mode, &end);
            // First: the thread that is told may close it.
            drop(file);
            let _ = got.send((name, answer.expect("lock")));
        });
    }

    fn returned(&self) -> Returned {
        self.got.1.recv_timeout(HANGS).expect("a call returns")
    }

    fn next(&self) -> Name {
        let (name, waited) = self.returned();
        assert_eq!(waited, Waited::Acquired);
        name
    }

    fn until_blocked(&self) {
        let started = Instant::now();
        while K::blocked(&self.path()) != self.blocked {
            // A call that was woken in vain is not blocked for a moment; one that got it, never again.
            if let Ok((name, waited)) = self.got.1.try_recv() {
                panic!("{name} returned: {waited:?}");
            }
            assert!(started.elapsed() < HANGS, "{} are not blocked", self.blocked);
            thread::yield_now();
        }
    }
}

pub(crate) fn play<K: Kernel>(protocol: Protocol) {
    let played = play_those::<K>(protocol, |_| true);
    assert_eq!(played, SCENARIOS.len() - 1, "each protocol has one that the other has not");
}

fn play_those<K: Kernel>(protocol: Protocol, chosen: impl Fn(&Scenario) -> bool) -> usize {
    let mut played = 0;
    for scenario in SCENARIOS {
        if !scenario.protocols.contains(&protocol) || !chosen(scenario) {
            continue;
        }
        let mut stage = Stage::<K>::new(protocol);
        for (number, step) in (1..).zip(scenario.steps) {
            println!("{}, step {number}: {step:?}", scenario.name);
            stage.step(*step);
        }
        played += 1;
    }
    played
}

/// The holder that locks again at once gets the lock before the one that its release has woken;
/// not always, but in one of many rounds. The other one is not forgotten for it.
fn a_release_is_not_a_hand_off<K: Kernel>(protocol: Protocol) {
    for _ in 0..1000 {
        let mut stage = Stage::<K>::new(protocol);
        [Open(A), Open(B), Acquires(A, Exclusive), Blocks(B, Exclusive), Unlock(A)]
            .into_iter()
            .for_each(|step| stage.step(step));
        let again = stage.file(A).try_lock(protocol, Exclusive).expect("try");
        if again == Tried::Acquired {
            [StillBlocked, Unlock(A), Gets(B)].into_iter().for_each(|step| stage.step(step));
            return;
        }
        stage.step(Gets(B));
    }
    panic!("a release has been a hand-off every time");
}

#[cfg(target_os = "linux")]
mod kernel {
    use super::*;

    #[test]
    fn plays_every_scenario_with_flock() {
        play::<LockFile>(Flock);
    }

    #[cfg(not(tokio_filelock_posix))] // its open files would have to be processes
    #[test]
    fn plays_every_scenario_with_fcntl() {
        play::<LockFile>(Fcntl);
    }

    #[test]
    fn does_not_hand_off_flock() {
        a_release_is_not_a_hand_off::<LockFile>(Flock);
    }

    #[cfg(not(tokio_filelock_posix))]
    #[test]
    fn does_not_hand_off_fcntl() {
        a_release_is_not_a_hand_off::<LockFile>(Fcntl);
    }
}

/// Locks of one handle are held beside each other there, what is not held cannot be unlocked, and nothing
/// tells which call is blocked. So these are played, and no others.
#[cfg(windows)]
mod kernel {
    use super::*;

    const PLAYED: [&str; 6] = [
        "exclusive excludes",
        "shared is shared, and excludes exclusive",
        "a try that was busy leaves nothing behind",
        "closing releases",
        "closing releases one's own lock only",
        "a free lock is taken without blocking",
    ];

    #[test]
    fn plays_scenarios_with_both_protocols() {
        for protocol in [Flock, Fcntl] {
            let played = play_those::<LockFile>(protocol, |one| PLAYED.contains(&one.name));
            assert_eq!(played, PLAYED.len());
        }
    }
}

mod model_kernel {
    use super::*;

    #[test]
    fn plays_every_scenario_with_flock() {
        play::<model::LockFile>(Flock);
    }

    #[test]
    fn plays_every_scenario_with_fcntl() {
        play::<model::LockFile>(Fcntl);
    }

    #[test]
    fn does_not_hand_off() {
        a_release_is_not_a_hand_off::<model::LockFile>(Flock);
    }
}
