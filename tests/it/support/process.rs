//! Child processes that speak in lines: commands go in by their stdin, events come by their
//! stdout.
//!
//! Events carry a mark, because the test harness of a child writes to the same pipe. A child
//! ends at the end of its stdin, so none outlives the test process; one that is dropped is killed.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;

use super::PATIENCE;
use crate::child::Role;

const ROLE: &str = "TOKIO_FILELOCK_TEST_ROLE";
/// Program and arguments that run this binary, if it is made for another machine.
const RUNNER: &str = "TOKIO_FILELOCK_TEST_RUNNER";
const MARK: &str = "event: ";

/// A process that runs beside the test.
pub(crate) struct Process {
    name: String,
    child: Child,
    commands: Option<ChildStdin>,
    events: Receiver<String>,
}

impl Process {
    /// This binary again, in a role.
    pub(crate) fn in_role(role: Role, arguments: &[&str]) -> Self {
        Self::in_role_under(&[], role, arguments)
    }

    /// The same, started by another program, which may be given with its arguments.
    pub(crate) fn in_role_under(program: &[&str], role: Role, arguments: &[&str]) -> Self {
        Self::start(&role.to_string(), command_in_role(program, role, arguments))
    }

    /// Any program. Its events are lines that begin with `event: `.
    pub(crate) fn start(name: &str, mut command: Command) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{name}: {command:?}: {error}"));
        let number = STARTED.fetch_add(1, Ordering::Relaxed) + 1;
        println!("process {number}: {name}, pid {}", child.id());
        let commands = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, events) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(event) = line.strip_prefix(MARK) {
                    // The test may have lost interest.
                    let _ = sender.send(event.to_owned());
                }
            }
        });
        Self { name: name.to_owned(), child, commands, events }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn tell(&mut self, command: &str) {
        let commands = self.commands.as_mut().expect("open until the end");
        writeln!(commands, "{command}").unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// The next event.
    #[track_caller]
    pub(crate) fn event(&self) -> String {
        match self.events.recv_timeout(PATIENCE) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => panic!("{} says nothing", self.name),
            Err(RecvTimeoutError::Disconnected) => panic!("{} ended without a word", self.name),
        }
    }

    #[track_caller]
    pub(crate) fn expect(&self, event: &str) {
        assert_eq!(self.event(), event, "said by {}", self.name);
    }

    /// SIGKILL; returns when the process is gone, with the pipe to its stdin, which its children
    /// may have inherited.
    pub(crate) fn kill(mut self) -> Option<ChildStdin> {
        self.child.kill().expect("a child of ours");
        let status = self.child.wait().expect("a child of ours");
        let was_killed = if cfg!(unix) { status.code().is_none() } else { !status.success() };
        assert!(was_killed, "{} ended before it was killed: {status}", self.name);
        self.commands.take()
    }

    /// Waits for a process that ends by itself; gives the pipe to its stdin, which its children may
    /// have inherited.
    #[track_caller]
    #[cfg_attr(windows, allow(dead_code))] // of a test that runs on Unix
    pub(crate) fn reap(mut self) -> Option<ChildStdin> {
        let commands = self.commands.take();
        let status = self.child.wait().expect("a child of ours");
        assert!(status.success(), "{}: {status}", self.name);
        commands
    }

    /// Closes the process's stdin and waits for its end; panics if it failed.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.commands = None;
        let status = self.child.wait().expect("a child of ours");
        assert!(status.success(), "{}: {status}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail for a process that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs this binary in a role, started by another program, which may be given with its arguments.
pub(crate) fn command_in_role(program: &[&str], role: Role, arguments: &[&str]) -> Command {
    let mut command = this_binary_under(program);
    command.args(["--exact", "child::entry", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, [&[role.to_string().as_str()], arguments].concat().join("\n"));
    command
}

/// Runs this binary, started by another program, which may be given with its arguments.
pub(crate) fn this_binary_under(program: &[&str]) -> Command {
    let binary = std::env::current_exe().expect("the path of this binary");
    // A binary for another machine needs something that runs it; the other program is of this one.
    let runner = std::env::var(RUNNER).unwrap_or_default();
    let runner = runner.split(' ').filter(|word| !word.is_empty());
    let words = program.iter().copied().chain(runner).map(OsStr::new);
    let mut words = words.chain([binary.as_os_str()]);
    let mut command = Command::new(words.next().expect("this binary at least"));
    command.args(words);
    command
}

/// The role of this process and its arguments, if it is a child.
pub(crate) fn role() -> Option<(Role, Vec<String>)> {
    let role = std::env::var(ROLE).ok()?;
    let mut words = role.split('\n').map(str::to_owned);
    Some((words.next()?.parse().expect("a role"), words.collect()))
}

/// Tells the parent.
pub(crate) fn say(event: &str) {
    // In one piece, and on a line of its own whatever the harness has written.
    let line = format!("\n{MARK}{event}\n");
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes()).expect("the parent listens");
    stdout.flush().expect("the parent listens");
}

/// What the parent tells, until it closes the pipe.
pub(crate) fn commands() -> impl Iterator<Item = String> {
    io::stdin().lines().map(|line| line.expect("commands are text"))
}

/// Says that this process is ready, and waits for the parent's word that all are.
pub(crate) fn meet() {
    say("ready");
    assert_eq!(commands().next().as_deref(), Some("go"));
}

/// Lets processes that [`meet`] go together.
#[track_caller]
pub(crate) fn gather(processes: &mut [Process]) {
    processes.iter().for_each(|process| process.expect("ready"));
    processes.iter_mut().for_each(|process| process.tell("go"));
}
