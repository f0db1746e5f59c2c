//! What every engine has to do, as one table of scenarios: run on the file engine with both protocols, and on the simulation.
//!
//! A scenario is a list of steps with up to four peers, [`A`] to [`D`]: four processes that have opened one lock file. They
//! speak to their engines as a driver does, one call at a time, and each call has exactly one answer. A step is over when
//! what it names has happened: an answer has come, or the kernel shows that a call waits.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use super::file::{Registry, Wanted};
use super::{Answer, Answered, Asked, Client, MayBlock, sim};
use crate::driver::{Registration, Tenure};
use crate::holder::Label;
use crate::mode::Mode::{self, Exclusive, Shared};
use crate::os::Protocol::{Fcntl, Flock};
use crate::os::{Access, Protocol, Region};
use crate::queue::{Attempt, AttemptId, Call};
use crate::shim::Arc;
use crate::wait::WaitOn;
use Step::*;

/// Turns a test that hangs into one that fails.
const HANGS: Duration = Duration::from_secs(60);

type Name = usize;

const A: Name = 0;
const B: Name = 1;
const C: Name = 2;
const D: Name = 3;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A try is answered `Acquired`.
    Acquires(Name, Mode),
    /// A try is answered `Busy`.
    Busy(Name, Mode),
    /// Begins to wait, and waits.
    Waits(Name, Mode),
    /// The same, in the way of a process that backs off.
    BacksOff(Name, Mode),
    /// Waits for a lock that is free, and has it.
    DoesNotWait(Name, Mode),
    /// The wait is answered `Acquired`; those of all others go on.
    Gets(Name),
    /// The waits of these two are, one before the other.
    GetTogether(Name, Name),
    /// The wait is interrupted, and answered so.
    GivesUp(Name),
    /// The same, at once after it was begun.
    WaitsAndGivesUp(Name, Mode),
    /// The wait is interrupted while this one unlocks: it has the lock and gives it back, or it has not.
    GivesUpAgainstUnlock(Name, Name),
    /// The last wait is interrupted that is over already.
    IsInterruptedLate(Name),
    Unlock(Name),
    /// Exclusive becomes shared, if the engine can do that.
    Downgrade(Name),
    Contended(Name, bool),
    /// The path of the file is removed.
    Unlink,
    /// A try is answered `Gone`.
    TryGone(Name, Mode),
    /// The wait is answered `Gone`.
    WaitGone(Name),
}

struct Scenario {
    name: &'static str,
    steps: &'static [Step],
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "exclusive excludes",
        steps: &[
            Acquires(A, Exclusive),
            Busy(B, Exclusive),
            Busy(C, Shared),
            Unlock(A),
            Acquires(B, Exclusive),
            Busy(A, Shared),
            Unlock(B),
        ],
    },
    Scenario {
        name: "shared is shared, and excludes exclusive",
        steps: &[
            Acquires(A, Shared),
            Acquires(B, Shared),
            Busy(C, Exclusive),
            Unlock(A),
            Busy(C, Exclusive),
            Unlock(B),
            Acquires(C, Exclusive),
            Unlock(C),
        ],
    },
    Scenario {
        name: "a free lock is not waited for",
        steps: &[
            DoesNotWait(A, Shared),
            DoesNotWait(B, Shared),
            Unlock(A),
            Unlock(B),
            DoesNotWait(C, Exclusive),
            Busy(A, Shared),
            Unlock(C),
        ],
    },
    Scenario {
        name: "processes that wait have the lock in their order",
        steps: &[
            Acquires(A, Exclusive),
            Contended(A, false),
            Waits(B, Exclusive),
            Contended(A, true),
            Waits(C, Exclusive),
            Unlock(A),
            Gets(B),
            Waits(A, Exclusive),
            Unlock(B),
            Gets(C),
            Unlock(C),
            Gets(A),
            Contended(A, false),
            Unlock(A),
        ],
    },
    Scenario {
        name: "a try overtakes no process that is next",
        steps: &[
            Acquires(A, Shared),
            Waits(B, Exclusive),
            Busy(C, Shared),
            Busy(D, Exclusive),
            Unlock(A),
            Gets(B),
            Unlock(B),
            Acquires(C, Shared),
            Unlock(C),
        ],
    },
    Scenario {
        name: "readers behind a writer that holds get in together",
        steps: &[
            Acquires(A, Exclusive),
            Waits(B, Shared),
            Waits(C, Shared),
            Unlock(A),
            GetTogether(B, C),
            Busy(A, Exclusive),
            Unlock(B),
            Unlock(C),
        ],
    },
    Scenario {
        name: "one that backs off comes after those that wait",
        steps: &[
            Acquires(A, Exclusive),
            Waits(B, Exclusive),
            Unlock(A),
            Gets(B),
            BacksOff(A, Exclusive),
            Unlock(B),
            Gets(A),
            Unlock(A),
        ],
    },
    Scenario {
        name: "a wait for the lock that is given up",
        steps: &[
            Acquires(A, Exclusive),
            Waits(B, Exclusive),
            GivesUp(B),
            Contended(A, false),
            Unlock(A),
            Acquires(C, Exclusive),
            Unlock(C),
        ],
    },
    Scenario {
        name: "a wait for the turn that is given up",
        steps: &[
            Acquires(A, Exclusive),
            Waits(B, Exclusive),
            Waits(C, Exclusive),
            GivesUp(C),
            Unlock(A),
            Gets(B),
            Contended(B, false),
            Unlock(B),
        ],
    },
    Scenario {
        name: "the next in turn gives up, and the one behind it is next",
        steps: &[
            Acquires(A, Exclusive),
            Waits(B, Exclusive),
            Waits(C, Exclusive),
            GivesUp(B),
            Unlock(A),
            Gets(C),
            Unlock(C),
        ],
    },
    Scenario {
        name: "a wait that is given up before it has begun",
        steps: &[
            Acquires(A, Exclusive),
            WaitsAndGivesUp(B, Exclusive),
            WaitsAndGivesUp(B, Shared),
            Unlock(A),
            Acquires(C, Exclusive),
            Unlock(C),
        ],
    },
    Scenario {
        name: "a wait that is given up while the lock arrives",
        steps: &[
            Acquires(A, Exclusive),
            Waits(B, Exclusive),
            GivesUpAgainstUnlock(B, A),
            Acquires(C, Exclusive),
            Unlock(C),
        ],
    },
    Scenario {
        name: "an interrupt that is late ends no other wait",
        steps: &[
            Acquires(A, Exclusive),
            Waits(B, Exclusive),
            GivesUp(B),
            IsInterruptedLate(B),
            Waits(B, Exclusive),
            IsInterruptedLate(B),
            Unlock(A),
            Gets(B),
            IsInterruptedLate(B),
            Busy(A, Exclusive),
            Unlock(B),
        ],
    },
    Scenario {
        name: "a downgrade lets no writer in between",
        steps: &[
            Acquires(A, Exclusive),
            Downgrade(A),
            Busy(B, Exclusive),
            Unlock(A),
            Acquires(B, Exclusive),
            Unlock(B),
        ],
    },
    Scenario {
        name: "a file that is removed is gone, and its lock is not kept",
        steps: &[
            Acquires(A, Exclusive),
            Waits(B, Exclusive),
            Unlink,
            Unlock(A),
            WaitGone(B),
            TryGone(C, Shared),
            TryGone(D, Exclusive),
        ],
    },
];

/// What a scenario is played with.
trait Place {
    /// Another process that has the lock file open.
    fn peer(&self) -> Arc<Registration>;
    fn unlink(&self);
    /// How many calls wait in the kernel.
    fn waiting(&self) -> usize;
}

/// Each peer has a registry of its own, so an open file of its own: another process, as far as locks are concerned.
struct Files {
    path: PathBuf,
    protocol: Protocol,
    _directory: tempfile::TempDir,
}

impl Files {
    fn new(protocol: Protocol) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { path: directory.path().join("lock"), protocol, _directory: directory }
    }
}

const ACCESS: Access =
    Access { create: true, mode: None, read_only: false, in_use: false, patient: true };

impl Place for Files {
    fn peer(&self) -> Arc<Registration> {
        let wanted = Wanted {
            protocol: self.protocol,
            region: Region::ONLY,
            access: ACCESS,
            wait_on: WaitOn::WaitPool,
            tenure: Tenure::default(),
            record: None,
            label: None,
            this_machine_only: false,
        };
        Registry::join(&Arc::default(), &self.path.clone().into(), &wanted).unwrap()
    }

    fn unlink(&self) {
        std::fs::remove_file(&self.path).unwrap();
    }

    /// proc_locks(5): a line with an arrow for each call that waits.
    fn waiting(&self) -> usize {
        let names = crate::os::LockFile::names_at(&self.path.clone().into()).unwrap();
        let inode = format!(":{} ", names.expect("a file at the path").identity.inode);
        let locks = std::fs::read_to_string("/proc/locks").expect("the kernel lists its locks");
        locks.lines().filter(|line| line.contains(&inode) && line.contains("-> ")).count()
    }
}

struct Simulated {
    machine: Arc<sim::Machine>,
    protocol: Protocol,
}

impl Simulated {
    fn new(protocol: Protocol, seed: Option<u64>) -> Self {
        Self { machine: sim::Machine::new(seed), protocol }
    }
}

impl Place for Simulated {
    fn peer(&self) -> Arc<Registration> {
        let wanted = sim::Wanted {
            protocol: self.protocol,
            region: Region::ONLY,
            create: true,
            read_only: false,
            tenure: Tenure::default(),
            record: None,
            label: None,
        };
        let process = sim::Process::new(&self.machine, "peer");
        let handle = sim::Origin::open(&process, Path::new("/lock"), wanted, false).unwrap();
        handle.registration()
    }

    fn unlink(&self) {
        assert!(self.machine.unlink(Path::new("/lock")));
    }

    fn waiting(&self) -> usize {
        self.machine.waiting(Path::new("/lock"))
    }
}

/// What stands in for the driver of a peer.
#[derive(Clone)]
struct Asker {
    registration: Arc<Registration>,
    answers: Sender<(AttemptId, Answer)>,
}

impl Client for Asker {
    fn keep(&self) -> Box<dyn Client> {
        Box::new(self.clone())
    }

    fn label(&self) -> Option<Label> {
        None
    }

    fn resume(&self, call: Call, attempt: Attempt, may_block: MayBlock) {
        let asked = Asked::new(call, attempt, may_block, WaitOn::WaitPool, self);
        if let Some(answered) = self.registration.engine().submit(asked) {
            self.answered(answered);
        }
    }

    fn answered(&self, Answered { attempt, answer, .. }: Answered) {
        self.answers.send((attempt.id(), answer)).expect("the peer lives as long as its calls");
    }
}

struct Peer {
    asker: Asker,
    answers: Receiver<(AttemptId, Answer)>,
    /// So many calls were made: the number of the last one.
    calls: u64,
}

impl Peer {
    fn new(registration: Arc<Registration>) -> Self {
        let (sender, answers) = mpsc::channel();
        Self { asker: Asker { registration, answers: sender }, answers, calls: 0 }
    }

    fn begin(&mut self, call: Call) {
        self.calls += 1;
        self.asker.resume(call, Attempt::numbered(self.calls), MayBlock::No);
    }

    /// The one answer to the last call.
    fn answer(&self) -> Answer {
        let (of, answer) = self.answers.recv_timeout(HANGS).expect("a call is answered");
        assert_eq!(of, Attempt::numbered(self.calls).id(), "an answer to another call");
        answer
    }

    fn ask(&mut self, call: Call) -> Answer {
        self.begin(call);
        self.answer()
    }

    fn interrupt(&self) {
        let last = Attempt::numbered(self.calls).id();
        self.asker.registration.engine().interrupt(last);
    }

    fn unlock(&mut self) {
        let answer = self.ask(Call::Unlock);
        assert!(matches!(answer, Answer::Released(Ok(()))), "{answer:?}");
    }
}

struct Stage<'a> {
    place: &'a dyn Place,
    peers: Vec<Peer>,
    waiting: Vec<Name>,
}

impl<'a> Stage<'a> {
    fn new(place: &'a dyn Place) -> Self {
        let peers = (A..=D).map(|_| Peer::new(place.peer())).collect();
        Self { place, peers, waiting: Vec::new() }
    }

    fn is_answered(&mut self, name: Name, is: impl Fn(&Answer) -> bool) {
        let answer = self.peers[name].answer();
        assert!(is(&answer), "{answer:?}");
        self.waiting.retain(|waiting| *waiting != name);
    }

    fn begin_to_wait(&mut self, name: Name, call: Call) {
        self.peers[name].begin(call);
        self.waiting.push(name);
        self.until_all_wait();
    }

    /// The calls that wait are seen in the kernel, and none is answered.
    fn until_all_wait(&self) {
        let started = Instant::now();
        while self.place.waiting() != self.waiting.len() {
            self.no_wait_is_answered();
            assert!(started.elapsed() < HANGS, "{} do not wait", self.waiting.len());
            std::thread::yield_now();
        }
        self.no_wait_is_answered();
    }

    fn no_wait_is_answered(&self) {
        for name in &self.waiting {
            let answered = self.peers[*name].answers.try_recv();
            assert!(answered.is_err(), "{name} was answered: {answered:?}");
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Acquires(name, mode) => {
                let answer = self.peers[name].ask(Call::Try(mode));
                assert!(matches!(answer, Answer::Acquired), "{answer:?}");
            }
            Busy(name, mode) => {
                let answer = self.peers[name].ask(Call::Try(mode));
                assert!(matches!(answer, Answer::Busy), "{answer:?}");
            }
            TryGone(name, mode) => {
                let answer = self.peers[name].ask(Call::Try(mode));
                assert!(matches!(answer, Answer::Gone), "{answer:?}");
            }
            Waits(name, mode) => self.begin_to_wait(name, Call::Wait(mode)),
            BacksOff(name, mode) => self.begin_to_wait(name, Call::BackOff(mode)),
            DoesNotWait(name, mode) => {
                let answer = self.peers[name].ask(Call::Wait(mode));
                assert!(matches!(answer, Answer::Acquired), "{answer:?}");
            }
            Gets(name) => {
                self.is_answered(name, |answer| matches!(answer, Answer::Acquired));
                self.until_all_wait();
            }
            GetTogether(one, other) => {
                for name in [one, other] {
                    self.is_answered(name, |answer| matches!(answer, Answer::Acquired));
                }
            }
            WaitGone(name) => self.is_answered(name, |answer| matches!(answer, Answer::Gone)),
            GivesUp(name) => {
                self.peers[name].interrupt();
                self.is_answered(name, |answer| matches!(answer, Answer::Interrupted));
                self.until_all_wait();
            }
            WaitsAndGivesUp(name, mode) => {
                self.peers[name].begin(Call::Wait(mode));
                self.peers[name].interrupt();
                self.is_answered(name, |answer| matches!(answer, Answer::Interrupted));
            }
            GivesUpAgainstUnlock(name, holder) => {
                let (engine, last) = {
                    let Peer { asker, calls, .. } = &self.peers[name];
                    (asker.registration.clone(), Attempt::numbered(*calls).id())
                };
                let interrupts = std::thread::spawn(move || engine.engine().interrupt(last));
                self.peers[holder].unlock();
                interrupts.join().unwrap();
                let answer = self.peers[name].answer();
                self.waiting.retain(|waiting| *waiting != name);
                match answer {
                    Answer::Acquired => self.peers[name].unlock(),
                    Answer::Interrupted => {}
                    other => panic!("{other:?}"),
                }
            }
            IsInterruptedLate(name) => {
                // Of the call before the one that is under way, or of one that is over.
                let peer = &self.peers[name];
                let is_under_way = self.waiting.contains(&name);
                let late = Attempt::numbered(peer.calls - u64::from(is_under_way)).id();
                peer.asker.registration.engine().interrupt(late);
                self.until_all_wait();
            }
            Unlock(name) => self.peers[name].unlock(),
            Downgrade(name) => {
                let engine = self.peers[name].asker.registration.engine();
                let is_shared = engine.downgrade() == Shared;
                let answer = self.peers[D].ask(Call::Try(Shared));
                match answer {
                    Answer::Acquired if is_shared => self.peers[D].unlock(),
                    Answer::Busy if !is_shared => {}
                    other => panic!("{other:?}"),
                }
            }
            Contended(name, is_contended) => {
                let engine = self.peers[name].asker.registration.engine();
                assert_eq!(engine.is_contended(), is_contended);
            }
            Unlink => self.place.unlink(),
        }
    }

    /// Each call has had its one answer.
    fn end(self) {
        assert!(self.waiting.is_empty());
        for Peer { asker, answers, .. } in self.peers {
            drop(asker);
            // The calls are over, so nothing keeps the other end any more.
            assert_eq!(
                answers.recv_timeout(HANGS).err(),
                Some(mpsc::RecvTimeoutError::Disconnected)
            );
        }
    }
}

fn play<P: Place>(place: impl Fn() -> P) {
    for Scenario { name, steps } in SCENARIOS {
        let place = place();
        let mut stage = Stage::new(&place);
        for (number, step) in (1..).zip(*steps) {
            println!("{name}, step {number}: {step:?}");
            stage.step(*step);
        }
        stage.end();
    }
}

// Elsewhere nothing tells which process waits. With POSIX record locks two open files of a process do not exclude each other, so the
// peers of a turnstile would have to be processes.
#[cfg(all(target_os = "linux", not(tokio_filelock_posix)))]
#[test]
fn files_with_flock() {
    play(|| Files::new(Flock));
}

#[cfg(all(target_os = "linux", not(tokio_filelock_posix)))] // as above
#[test]
fn files_with_fcntl() {
    play(|| Files::new(Fcntl));
}

#[test]
fn simulation_with_flock() {
    play(|| Simulated::new(Flock, None));
}

#[test]
fn simulation_with_fcntl() {
    play(|| Simulated::new(Fcntl, None));
}

#[test]
fn simulation_with_seeds() {
    for seed in 0..100 {
        for protocol in [Flock, Fcntl] {
            play(|| Simulated::new(protocol, Some(seed)));
        }
    }
}
