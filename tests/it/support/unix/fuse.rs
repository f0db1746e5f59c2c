//! A FUSE file system whose lock calls are answered as the test says, in a process of its own: a
//! server that hangs can be killed.
//!
//! It has any number of lock files, `a.lock` to `z.lock` and `a.lock.1` to `z.lock.9`, all empty and without memory: a lock that
//! is granted is not kept.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyLock, Request,
};
use nix::libc;
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;
use tokio_filelock::Protocol;

use crate::child::Role;
use crate::support::process::{Process, commands, say};

/// The mounted file system. Killed and unmounted when dropped.
pub(crate) struct FuseServer {
    /// `None` when it was killed.
    process: Option<Process>,
    mountpoint: TempDir,
}

/// What the server does with lock calls from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Grant,
    /// An errno.
    Refuse(i32),
    /// An errno so many times, then a grant.
    RefuseTimes(i32, u32),
    /// No answer, ever.
    Hang,
}

impl FuseServer {
    #[track_caller]
    pub(crate) fn new() -> Self {
        let mountpoint = tempfile::tempdir().expect("a temporary directory");
        let process = Self::serve_at(mountpoint.path());
        Self { process: Some(process), mountpoint }
    }

    #[track_caller]
    fn serve_at(mountpoint: &Path) -> Process {
        let path = mountpoint.to_str().expect("told in text");
        let process = Process::in_role(Role::ServeAFuseFileSystem, &[path]);
        process.expect("mounted");
        process
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.mountpoint.path().join(name)
    }

    /// One for each protocol: an errand of the last test may still have its file open.
    pub(crate) fn lock_file(&self, protocol: Protocol) -> PathBuf {
        self.at(match protocol {
            Protocol::Flock => "a.lock",
            _ => "b.lock",
        })
    }

    #[track_caller]
    pub(crate) fn answer_locks(&mut self, answer: Answer) {
        self.answer("lock", answer);
    }

    #[track_caller]
    pub(crate) fn answer_unlocks(&mut self, answer: Answer) {
        self.answer("unlock", answer);
    }

    /// What looking names up and opening is answered with.
    #[track_caller]
    pub(crate) fn answer_lookups(&mut self, answer: Answer) {
        self.answer("lookup", answer);
    }

    #[track_caller]
    fn answer(&mut self, call: &str, answer: Answer) {
        let answer = match answer {
            Answer::Grant => "0 0".to_owned(),
            Answer::Refuse(errno) => format!("{errno} {}", u32::MAX),
            Answer::RefuseTimes(errno, times) => format!("{errno} {times}"),
            Answer::Hang => "hang".to_owned(),
        };
        assert_eq!(self.ask(&format!("{call} {answer}")), "changed");
    }

    /// Answers the call that hangs, and must be there, with an errno.
    #[track_caller]
    pub(crate) fn answer_the_hanging(&mut self, errno: i32) {
        assert_eq!(self.ask(&format!("answer {errno}")), "answered");
    }

    /// The lock calls so far: `set 0..9223372036854775807 exclusive`, or `get` and `wait`.
    #[track_caller]
    pub(crate) fn calls(&mut self) -> Vec<String> {
        let calls = self.ask("calls");
        calls.split(';').filter(|call| !call.is_empty()).map(str::to_owned).collect()
    }

    #[track_caller]
    fn ask(&mut self, command: &str) -> String {
        let process = self.process.as_mut().expect("not killed so far");
        process.tell(command);
        process.event()
    }

    /// The calls that hang fail now.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("killed once").kill();
    }

    /// Mounts again at the same place, after it was killed.
    #[track_caller]
    pub(crate) fn start_anew(&mut self) {
        assert!(self.process.is_none(), "killed before");
        umount2(self.mountpoint.path(), MntFlags::MNT_DETACH).expect("it was mounted");
        self.process = Some(Self::serve_at(self.mountpoint.path()));
    }

    /// From now on all files have one inode number, for all that ask by `stat`. The kernel tells them apart.
    #[track_caller]
    pub(crate) fn give_one_number(&mut self) {
        assert_eq!(self.ask("one-number"), "changed");
    }

    /// From now on each look at a file shows another inode number.
    #[track_caller]
    pub(crate) fn change_numbers(&mut self) {
        assert_eq!(self.ask("change-numbers"), "changed");
    }

    /// What a look at an open file is answered with.
    #[track_caller]
    pub(crate) fn answer_looks(&mut self, answer: Answer) {
        self.answer("look", answer);
    }

    /// From now on each name leads to the file that the next name led to.
    #[track_caller]
    pub(crate) fn shift_names(&mut self) {
        assert_eq!(self.ask("shift"), "changed");
    }
}

impl Drop for FuseServer {
    fn drop(&mut self) {
        // First, so that nothing hangs in the file system that is unmounted.
        self.process = None;
        umount2(self.mountpoint.path(), MntFlags::MNT_DETACH).expect("it was mounted");
    }
}

/// The role `TryFuse`: mounts, and ends well if that works.
pub(crate) fn probe(_: &[String]) {
    let mountpoint = tempfile::tempdir().expect("a temporary directory");
    if let Err(error) = mount(mountpoint.path(), Arc::default()) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn mount(mountpoint: &Path, state: Arc<Mutex<State>>) -> io::Result<fuser::BackgroundSession> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("tokio-filelock-tests".to_owned())];
    fuser::spawn_mount(Server { state }, mountpoint, &config)
}

/// The server's side. The process has no other threads that use the file system.
pub(crate) fn serve(arguments: &[String]) {
    let [mountpoint] = arguments else { panic!("one argument") };
    let state = Arc::<Mutex<State>>::default();
    let _session = mount(Path::new(mountpoint), state.clone()).expect("it mounts");
    say("mounted");
    for command in commands() {
        let mut state = state.lock().unwrap();
        let (verb, rest) = command.split_once(' ').unwrap_or((&command, ""));
        let rule = match verb {
            "calls" => {
                say(&state.calls.join(";"));
                continue;
            }
            "answer" => {
                let hanging = state.hanging.pop().expect("a call hangs");
                assert!(state.hanging.is_empty(), "one call hangs");
                hanging.error(Errno::from_i32(rest.parse().unwrap()));
                say("answered");
                continue;
            }
            "one-number" => {
                state.one_number = true;
                say("changed");
                continue;
            }
            "change-numbers" => {
                state.changed_numbers = Some(1);
                say("changed");
                continue;
            }
            "shift" => {
                state.shifted += 1;
                say("changed");
                continue;
            }
            "lock" => &mut state.lock,
            "unlock" => &mut state.unlock,
            "lookup" => &mut state.lookup,
            "look" => &mut state.look,
            _ => panic!("no command: {verb}"),
        };
        *rule = match rest.split_once(' ') {
            None => Rule { hang: true, ..Rule::default() },
            Some((errno, times)) => {
                Rule { hang: false, errno: errno.parse().unwrap(), times: times.parse().unwrap() }
            }
        };
        say("changed");
    }
}

#[derive(Default)]
struct State {
    lock: Rule,
    unlock: Rule,
    lookup: Rule,
    look: Rule,
    one_number: bool,
    /// How many numbers were shown, if they change.
    changed_numbers: Option<u64>,
    shifted: u64,
    calls: Vec<String>,
    /// Lock calls that are answered when the test says so.
    hanging: Vec<ReplyEmpty>,
    /// Requests that are never answered; to drop one is an answer.
    unanswered: Vec<Box<dyn Send>>,
}

#[derive(Default)]
struct Rule {
    hang: bool,
    errno: i32,
    times: u32,
}

enum Now {
    Grant,
    Refuse(Errno),
    Hang,
}

impl Rule {
    fn now(&mut self) -> Now {
        if self.hang {
            return Now::Hang;
        }
        match self.times {
            0 => return Now::Grant,
            u32::MAX => {}
            _ => self.times -= 1,
        }
        Now::Refuse(Errno::from_i32(self.errno))
    }
}

struct Server {
    state: Arc<Mutex<State>>,
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let locks = InitFlags::FUSE_POSIX_LOCKS | InitFlags::FUSE_FLOCK_LOCKS;
        config.add_capabilities(locks).map_err(|_| std::io::ErrorKind::Unsupported.into())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.state.lock().unwrap();
        match state.lookup.now() {
            Now::Hang => state.unanswered.push(Box::new(reply)),
            Now::Refuse(errno) => reply.error(errno),
            Now::Grant => match inode_of(name).filter(|_| parent == INodeNo::ROOT) {
                Some(inode) => {
                    let attributes = attributes(INodeNo(inode + state.shifted));
                    reply.entry(&Duration::ZERO, &attributes, Generation(0));
                }
                None => reply.error(Errno::ENOENT),
            },
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let mut attributes = attributes(inode);
        if inode != INodeNo::ROOT {
            let mut state = self.state.lock().unwrap();
            match state.look.now() {
                Now::Grant => {}
                Now::Refuse(errno) => return reply.error(errno),
                Now::Hang => return state.unanswered.push(Box::new(reply)),
            }
            if state.one_number {
                attributes.ino = INodeNo(2000);
            }
            if let Some(changed) = &mut state.changed_numbers {
                *changed += 1;
                attributes.ino = INodeNo(2000 + *changed);
            }
        }
        reply.attr(&Duration::ZERO, &attributes);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        _: u32,
        reply: ReplyLock,
    ) {
        let call = format!("get {start}..{end} {}", name_of(kind));
        self.state.lock().unwrap().calls.push(call);
        reply.locked(start, end, libc::F_UNLCK, 0);
    }

    fn setlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        _: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state.lock().unwrap();
        let verb = if sleep { "wait" } else { "set" };
        state.calls.push(format!("{verb} {start}..{end} {}", name_of(kind)));
        let rule = if kind == libc::F_UNLCK { &mut state.unlock } else { &mut state.lock };
        match rule.now() {
            Now::Grant => reply.ok(),
            Now::Refuse(errno) => reply.error(errno),
            Now::Hang => state.hanging.push(reply),
        }
    }
}

/// `a.lock` to `z.lock`, and `a.lock.1` to `z.lock.9`.
fn inode_of(name: &OsStr) -> Option<u64> {
    let [letter @ b'a'..=b'z', rest @ ..] = name.as_encoded_bytes() else { return None };
    let number = match rest.strip_prefix(b".lock")? {
        [] => 0,
        [b'.', digit @ b'1'..=b'9'] => digit - b'0',
        _ => return None,
    };
    Some(2 + u64::from(letter - b'a') + 100 * u64::from(number))
}

fn name_of(kind: i32) -> &'static str {
    match kind {
        libc::F_RDLCK => "shared",
        libc::F_WRLCK => "exclusive",
        libc::F_UNLCK => "unlock",
        _ => "unknown",
    }
}

fn attributes(inode: INodeNo) -> FileAttr {
    FileAttr {
        ino: inode,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if inode == INodeNo::ROOT { FileType::Directory } else { FileType::RegularFile },
        perm: 0o777,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: 512,
    }
}
