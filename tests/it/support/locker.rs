//! A process that opens, locks and unlocks on command: the other one in most tests.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::process::{Child, ChildStdin};
use std::task::Poll;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_filelock::{
    Error, ExclusiveGuard, FileLock, LockSpace, OpenOptions, Protocol, SharedGuard, TryLockError,
};

use super::process::{Process, commands, say};
use super::{Mode, kernel, options, protocol};
use crate::child::Role;

/// The parent's side.
pub(crate) struct Locker {
    process: Process,
}

impl Locker {
    /// A process that has opened nothing so far.
    pub(crate) fn new() -> Self {
        Self { process: Process::in_role(Role::Locker, &[]) }
    }

    /// A process that has opened the lock file.
    #[track_caller]
    pub(crate) fn open(path: &Path, protocol: Protocol) -> Self {
        let mut locker = Self::new();
        assert_eq!(locker.try_open(path, protocol), "open");
        locker
    }

    /// A process that holds the lock.
    #[track_caller]
    pub(crate) fn holding(path: &Path, protocol: Protocol, mode: Mode) -> Self {
        let mut locker = Self::open(path, protocol);
        assert_eq!(locker.try_lock(mode), "held");
        locker
    }

    /// A process that holds the lock, and says so in a record with this label.
    #[track_caller]
    pub(crate) fn holding_with_record(path: &Path, protocol: Protocol, label: &str) -> Self {
        let mut locker = Self::new();
        assert_eq!(locker.try_open_recording(path, protocol, label), "open");
        assert_eq!(locker.try_lock(Mode::Exclusive), "held");
        locker
    }

    /// `open`, or the error.
    #[track_caller]
    pub(crate) fn try_open_recording(
        &mut self,
        path: &Path,
        protocol: Protocol,
        label: &str,
    ) -> String {
        let path = path.to_str().expect("told in text");
        self.ask(&format!("record {protocol:?} {path} {label}"))
    }

    /// `open`, or the error.
    #[track_caller]
    pub(crate) fn try_open(&mut self, path: &Path, protocol: Protocol) -> String {
        self.ask(&format!("open {protocol:?} {}", path.to_str().expect("told in text")))
    }

    /// A process that has the key of a lock space.
    #[track_caller]
    pub(crate) fn of_key(path: &Path, name: &str) -> Self {
        let mut locker = Self::new();
        locker.open_key(path, name);
        locker
    }

    #[track_caller]
    pub(crate) fn open_key(&mut self, path: &Path, name: &str) {
        let path = path.to_str().expect("told in text");
        assert_eq!(self.ask(&format!("key {name} {path}")), "open");
    }

    /// `held`, `would block`, or the error.
    #[track_caller]
    pub(crate) fn try_lock(&mut self, mode: Mode) -> String {
        self.ask(&format!("try {mode}"))
    }

    /// Begins to wait for a lock that is held.
    #[track_caller]
    pub(crate) fn start_to_wait(&mut self, mode: Mode) {
        self.process.tell(&format!("lock {mode}"));
        self.process.expect("waiting");
    }

    /// The wait that was started ends with the lock.
    #[track_caller]
    pub(crate) fn expect_held(&self) {
        self.process.expect("held");
    }

    /// Waits for the lock as long as it takes.
    #[track_caller]
    pub(crate) fn lock(&mut self, mode: Mode) {
        self.process.tell(&format!("lock {mode}"));
        match self.process.event().as_str() {
            "waiting" => self.expect_held(),
            answer => assert_eq!(answer, "held"),
        }
    }

    #[track_caller]
    pub(crate) fn unlock(&mut self) {
        assert_eq!(self.ask("unlock"), "unlocked");
    }

    /// Unlocks, and waits for the answer of the system.
    #[track_caller]
    #[cfg_attr(windows, allow(dead_code))] // of a test that runs on Unix
    pub(crate) fn release(&mut self) {
        assert_eq!(self.ask("release"), "released");
    }

    /// Starts tasks that wait for the exclusive lock and let it go at once.
    #[track_caller]
    pub(crate) fn crowd(&mut self, tasks: usize) {
        assert_eq!(self.ask(&format!("crowd {tasks}")), "waiting");
    }

    /// Waits until the crowd has had its turns.
    #[cfg_attr(windows, allow(dead_code))] // of a test that runs on Unix
    #[track_caller]
    pub(crate) fn disperse(&mut self) {
        assert_eq!(self.ask("disperse"), "dispersed");
    }

    /// Starts a process that lives until the pipe to the locker's stdin is closed. It reads from
    /// that pipe, so there can be no more commands.
    #[cfg(unix)]
    #[track_caller]
    pub(crate) fn start_child(&mut self) -> u32 {
        self.ask("child").parse().expect("the pid of the child")
    }

    /// Gives up the right to ignore permissions, if the process has it.
    #[cfg(unix)]
    #[track_caller]
    pub(crate) fn become_nobody(&mut self) {
        assert_eq!(self.ask("become nobody"), "nobody");
    }

    #[track_caller]
    pub(crate) fn change_directory(&mut self, path: &Path) {
        let path = path.to_str().expect("told in text");
        assert_eq!(self.ask(&format!("directory {path}")), "changed");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn kill(self) -> Option<ChildStdin> {
        self.process.kill()
    }

    #[track_caller]
    pub(crate) fn finish(self) {
        self.process.finish();
    }

    #[track_caller]
    fn ask(&mut self, command: &str) -> String {
        self.process.tell(command);
        self.process.event()
    }
}

/// Whether a process that was just started gets the lock without waiting.
#[track_caller]
pub(crate) fn is_free(path: &Path, protocol: Protocol, mode: Mode) -> bool {
    let mut locker = Locker::open(path, protocol);
    let answer = locker.try_lock(mode);
    locker.finish();
    match answer.as_str() {
        "held" => true,
        "would block" => false,
        _ => panic!("{answer}"),
    }
}

/// A holder, and so many processes that wait for it in the kernel, in this order.
#[track_caller]
pub(crate) fn holder_and_waiters(
    path: &Path,
    protocol: Protocol,
    waiters: usize,
) -> (Locker, Vec<Locker>) {
    let holder = Locker::holding(path, protocol, Mode::Exclusive);
    let waiters = (1..=waiters).map(|count| {
        let mut waiter = Locker::open(path, protocol);
        waiter.start_to_wait(Mode::Exclusive);
        kernel::await_waiting_calls(path, count);
        waiter
    });
    let waiters = waiters.collect();
    (holder, waiters)
}

/// The child's side.
pub(crate) fn serve(_: &[String]) {
    let mut server = Server {
        runtime: tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap(),
        lock: None,
        guard: None,
        crowd: Vec::new(),
        children: Vec::new(),
    };
    for command in commands() {
        let (verb, rest) = command.split_once(' ').unwrap_or((&command, ""));
        let answer = server.answer(verb, rest);
        say(&answer);
    }
}

struct Server {
    runtime: Runtime,
    lock: Option<FileLock>,
    guard: Option<Held>,
    crowd: Vec<JoinHandle<()>>,
    #[cfg_attr(windows, allow(dead_code))] // of a test that runs on Unix
    children: Vec<Child>,
}

enum Held {
    Exclusive(ExclusiveGuard),
    Shared(SharedGuard),
}

impl Server {
    fn answer(&mut self, verb: &str, rest: &str) -> String {
        match verb {
            "open" => {
                let (name, path) = rest.split_once(' ').unwrap();
                self.open(options(protocol(name)), path)
            }
            "record" => {
                let mut words = rest.splitn(3, ' ');
                let mut word = || words.next().unwrap();
                let options = options(protocol(word()));
                let path = word();
                self.open(options.record(true).label(word()), path)
            }
            "key" => {
                let (name, path) = rest.split_once(' ').unwrap();
                match self.runtime.block_on(LockSpace::open(path)) {
                    Ok(space) => {
                        self.lock = Some(space.key(name));
                        "open".to_owned()
                    }
                    Err(error) => described(&error),
                }
            }
            "try" => {
                let lock = self.lock.as_ref().unwrap();
                let tried = match rest.parse().unwrap() {
                    Mode::Exclusive => lock.try_lock().map(Held::Exclusive),
                    Mode::Shared => lock.try_lock_shared().map(Held::Shared),
                };
                match tried {
                    Ok(guard) => self.hold(guard),
                    Err(TryLockError::WouldBlock(_)) => "would block".to_owned(),
                    Err(TryLockError::Error(error)) => described(&error),
                }
            }
            "lock" => {
                let lock = self.lock.clone().unwrap();
                let locked = match rest.parse().unwrap() {
                    Mode::Exclusive => self.wait(lock.lock()).map(Held::Exclusive),
                    Mode::Shared => self.wait(lock.lock_shared()).map(Held::Shared),
                };
                match locked {
                    Ok(guard) => self.hold(guard),
                    Err(error) => described(&error),
                }
            }
            "unlock" => {
                assert!(self.guard.take().is_some(), "nothing is held");
                "unlocked".to_owned()
            }
            "release" => {
                let unlocked = match self.guard.take().expect("something is held") {
                    Held::Exclusive(guard) => self.runtime.block_on(guard.unlock()),
                    Held::Shared(guard) => self.runtime.block_on(guard.unlock()),
                };
                match unlocked {
                    Ok(()) => "released".to_owned(),
                    Err(error) => described(&error),
                }
            }
            "crowd" => {
                let lock = self.lock.clone().unwrap();
                self.crowd = self.runtime.block_on(crowd(lock, rest.parse().unwrap()));
                "waiting".to_owned()
            }
            "disperse" => {
                for task in self.crowd.drain(..) {
                    self.runtime.block_on(task).unwrap();
                }
                "dispersed".to_owned()
            }
            #[cfg(unix)]
            "child" => {
                let mut cat = std::process::Command::new("cat");
                let child = cat.stdout(std::process::Stdio::null()).spawn().unwrap();
                let pid = child.id();
                self.children.push(child);
                pid.to_string()
            }
            #[cfg(unix)]
            "become" => {
                become_nobody();
                "nobody".to_owned()
            }
            "directory" => {
                std::env::set_current_dir(rest).unwrap();
                "changed".to_owned()
            }
            _ => panic!("no command: {verb}"),
        }
    }

    fn open(&mut self, options: OpenOptions, path: &str) -> String {
        match self.runtime.block_on(options.open(path)) {
            Ok(lock) => {
                self.lock = Some(lock);
                "open".to_owned()
            }
            Err(error) => described(&error),
        }
    }

    fn hold(&mut self, guard: Held) -> String {
        self.guard = Some(guard);
        "held".to_owned()
    }

    /// Says `waiting` if the first poll does not end it.
    fn wait<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut said = false;
        self.runtime.block_on(std::future::poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            if polled.is_pending() && !std::mem::replace(&mut said, true) {
                say("waiting");
            }
            polled
        }))
    }
}

fn described(error: &Error) -> String {
    format!("{:?}: {error}", error.kind())
}

/// Returns when every task has its place in the queue.
async fn crowd(lock: FileLock, tasks: usize) -> Vec<JoinHandle<()>> {
    let (queued, mut in_queue) = mpsc::channel(tasks);
    let crowd = (0..tasks).map(|_| {
        let (lock, queued) = (lock.clone(), queued.clone());
        tokio::spawn(async move {
            let mut acquire = pin!(lock.lock());
            std::future::poll_fn(|cx| {
                assert!(acquire.as_mut().poll(cx).is_pending(), "the lock is held");
                Poll::Ready(())
            })
            .await;
            queued.send(()).await.unwrap();
            drop(acquire.await.unwrap());
        })
    });
    let crowd = crowd.collect();
    drop(queued);
    for _ in 0..tasks {
        in_queue.recv().await.expect("every task reports");
    }
    crowd
}

/// Root passes every permission check.
#[cfg(unix)]
pub(crate) fn become_nobody() {
    use nix::unistd::{Gid, Uid, geteuid, setgid, setuid};

    if geteuid().is_root() {
        setgid(Gid::from_raw(65534)).unwrap();
        setuid(Uid::from_raw(65534)).unwrap();
    }
}
