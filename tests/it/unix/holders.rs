//! The process that holds the lock is named right, whichever it is and however it took the lock.

use std::fs;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures::FutureExt;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Uid, User, geteuid};
use tokio::sync::mpsc;
use tokio_filelock::{
    Error, ErrorKind, FileLock, Holder, LockSpace, Mode as Held, Protocol, Source, TryLockError,
};

use crate::child::Role;
use crate::support::foreign::{PROGRAMS, Program};
use crate::support::locker::{Locker, become_nobody, holder_and_waiters, is_free};
use crate::support::needs::{Need, lacks, unshare};
use crate::support::place::Place;
use crate::support::process::{Process, commands, say};
use crate::support::{
    Mode, each_protocol, in_time, kernel, message, open, options, protocol, until,
};

fn holders(path: &Path, protocol: Protocol) -> Vec<Holder> {
    let lock = FileLock::options().protocol(protocol).blocking_open(path).unwrap();
    lock.blocking_holders().unwrap()
}

/// Locks of this protocol belong to a process, and not to an open file: the kernel's table names it,
/// and hides the lock where it can not.
fn has_owner(protocol: Protocol) -> bool {
    protocol == Protocol::Flock || cfg!(tokio_filelock_posix)
}

/// The source of the pid of one that took the lock.
fn source(protocol: Protocol) -> Source {
    if has_owner(protocol) { Source::LockTable } else { Source::RangeLength }
}

fn comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim_end().to_owned()
}

fn parent_of(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t"));
    parent.expect("every process has one").parse().unwrap()
}

#[track_caller]
fn only(mut holders: Vec<Holder>) -> Holder {
    assert_eq!(holders.len(), 1, "{holders:?}");
    holders.remove(0)
}

each_protocol!(#[test] fn a_free_lock_has_no_holders);
fn a_free_lock_has_no_holders(protocol: Protocol) {
    let place = Place::new();
    assert_eq!(holders(&place.lock_file(), protocol), []);
}

each_protocol!(#[tokio::test] async fn a_task_of_this_process);
async fn a_task_of_this_process(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let guard = lock.lock().await.unwrap();
    let mut other = tokio_test::task::spawn(lock.lock());
    assert!(other.poll().is_pending());
    let holder = only(lock.holders().await.unwrap());
    assert!(holder.is_this_process() && !holder.is_waiting());
    assert_eq!(holder.pid(), Some(std::process::id()));
    assert_eq!(holder.mode(), Held::Exclusive);
    assert_eq!(holder.source(), Source::ThisProcess);
    assert_eq!(holder.program(), Some(comm(std::process::id()).as_str()));
    assert_eq!(holder.program_source(), Some(Source::Process));
    assert!(holder.user().is_some());
    assert_eq!(holder.to_string(), format!("this process (pid {})", std::process::id()));
    drop(guard);
}

each_protocol!(#[test] fn another_process_and_those_that_wait);
fn another_process_and_those_that_wait(protocol: Protocol) {
    let place = Place::new();
    // The first one waits for the lock, the second one for its turn.
    let (holder, waiters) = holder_and_waiters(&place.lock_file(), protocol, 2);
    let seen = holders(&place.lock_file(), protocol);
    let (waiting, holding): (Vec<_>, Vec<_>) =
        seen.into_iter().partition(|holder| holder.is_waiting());
    let holding = only(holding);
    assert_eq!(holding.pid(), Some(holder.pid()));
    assert_eq!((holding.mode(), holding.source()), (Held::Exclusive, source(protocol)));
    assert!(!holding.is_this_process());
    let mut pids: Vec<_> = waiting.iter().map(Holder::pid).collect();
    pids.sort();
    let mut expected: Vec<_> = waiters.iter().map(|waiter| Some(waiter.pid())).collect();
    expected.sort();
    assert_eq!(pids, expected, "{waiting:?}");
}

#[test]
fn programs_that_know_nothing_of_this_crate() {
    if lacks(&[Need::Program("flock"), Need::Program("python3")]) {
        return;
    }
    for program in PROGRAMS {
        let place = Place::new();
        fs::write(place.lock_file(), "").unwrap();
        for mode in [Mode::Exclusive, Mode::Shared] {
            let process = program.hold(&place.lock_file(), mode);
            let holder = only(holders(&place.lock_file(), program.protocol()));
            let pid = holder.pid().expect("the kernel names it");
            if program == Program::Flock1 {
                // The shell runs it.
                assert_eq!(parent_of(pid), process.pid());
                assert_eq!(holder.program(), Some("flock"));
            } else {
                assert_eq!(pid, process.pid());
                assert!(holder.program().unwrap().starts_with("python"), "{holder:?}");
            }
            assert_eq!(holder.source(), Source::LockTable, "{program:?}");
            assert_eq!(format!("{:?}", holder.mode()).to_lowercase(), mode.to_string());
            process.finish();
            until("it is free", || holders(&place.lock_file(), program.protocol()).is_empty());
        }
    }
}

each_protocol!(#[test] fn those_who_share);
fn those_who_share(protocol: Protocol) {
    let place = Place::new();
    let lock = FileLock::options().protocol(protocol).blocking_open(place.lock_file()).unwrap();
    let guard = lock.blocking_lock_shared().unwrap();
    let others: Vec<_> =
        (0..2).map(|_| Locker::holding(&place.lock_file(), protocol, Mode::Shared)).collect();
    let seen = lock.blocking_holders().unwrap();
    assert!(seen.iter().all(|holder| holder.mode() == Held::Shared && !holder.is_waiting()));
    let mut pids: Vec<_> = seen.iter().map(|holder| holder.pid().unwrap()).collect();
    pids.sort();
    let mut expected = vec![std::process::id(), others[0].pid(), others[1].pid()];
    expected.sort();
    assert_eq!(pids, expected);
    drop(guard);
}

/// Locks, forks, says who keeps the lock, and ends; the child keeps it to the end of its stdin.
const INHERITED: &str = "
import fcntl, os, sys
file = open(sys.argv[1], 'r+')
fcntl.flock(file, getattr(fcntl, sys.argv[2]))
child = os.fork()
if child:
    print('event:', child, flush=True)
    os._exit(0)
sys.stdin.read()
";

/// A parent that has ended, or is about to, and the child that keeps its lock.
fn inherited(path: &Path, mode: &str) -> (Process, u32) {
    fs::write(path, "").unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", INHERITED]).arg(path).arg(mode);
    let parent = Process::start("inherited", command);
    let child = parent.event().parse().unwrap();
    (parent, child)
}

#[test]
fn a_child_that_keeps_an_inherited_lock() {
    if lacks(&[Need::Program("python3")]) {
        return;
    }
    let place = Place::new();
    let (parent, child) = inherited(&place.lock_file(), "LOCK_EX");
    // Not waited for, so it keeps its pid.
    until("the parent has ended", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", parent.pid())).unwrap();
        stat.contains(") Z ")
    });
    let keeper = |gone: &str| {
        let holder = only(holders(&place.lock_file(), Protocol::Flock));
        assert_eq!(holder.pid(), Some(child), "with a parent that {gone}");
        assert_eq!(holder.source(), Source::OpenFiles, "with a parent that {gone}");
    };
    keeper("is a zombie");
    let pipe = parent.reap();
    keeper("is gone");
    drop(pipe);
    until("the child lets go", || holders(&place.lock_file(), Protocol::Flock).is_empty());
}

/// The first thread ends, by the system call, and another one keeps the lock.
const HEADLESS: &str = "
import ctypes, fcntl, os, sys, threading
file = open(sys.argv[1], 'r+')
fcntl.flock(file, fcntl.LOCK_EX)
def rest():
    while ') Z ' not in open('/proc/self/task/%d/stat' % os.getpid()).read(): pass
    print('event: held', flush=True)
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=rest).start()
ctypes.CDLL(None).syscall(int(sys.argv[2]), 0)
";

/// It is in no list of open files of its process, and the record in the file is of another one.
#[test]
fn a_process_whose_first_thread_has_ended() {
    if lacks(&[Need::Program("python3")]) {
        return;
    }
    let place = Place::new();
    let record =
        "4711\ntokio-filelock 1\nstate=held    \ntoken=1\nhost=another.example\nlabel=fetch\n";
    fs::write(place.lock_file(), record).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", HEADLESS]).arg(place.lock_file()).arg(nix::libc::SYS_exit.to_string());
    let process = Process::start("headless", command);
    process.expect("held");
    let holder = only(holders(&place.lock_file(), Protocol::Flock));
    assert_eq!((holder.pid(), holder.source()), (Some(process.pid()), Source::LockTable));
    assert_eq!(holder.label(), None, "{holder:?}");
    process.finish();
}

/// All shared locks of a file look the same in the list of a process's open files.
#[test]
fn a_child_that_keeps_an_inherited_lock_beside_others_who_share() {
    if lacks(&[Need::Program("python3")]) {
        return;
    }
    let place = Place::new();
    let (parent, child) = inherited(&place.lock_file(), "LOCK_SH");
    let pipe = parent.reap();
    let other = Locker::holding(&place.lock_file(), Protocol::Flock, Mode::Shared);
    let seen = holders(&place.lock_file(), Protocol::Flock);
    let mut seen: Vec<_> = seen.iter().map(|holder| (holder.pid(), holder.source())).collect();
    seen.sort_by_key(|&(pid, _)| pid);
    let mut expected = [(Some(child), Source::OpenFiles), (Some(other.pid()), Source::LockTable)];
    expected.sort_by_key(|&(pid, _)| pid);
    assert_eq!(seen, expected);
    drop(pipe);
}

/// Locks the second byte alone.
const SECOND_BYTE: &str = "
import fcntl, sys
file = open(sys.argv[1], 'r+')
fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)
print('event: held', flush=True)
sys.stdin.read()
";

#[test]
fn a_program_that_locks_another_part_of_the_range() {
    if lacks(&[Need::Program("python3")]) {
        return;
    }
    let place = Place::new();
    fs::write(place.lock_file(), "").unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", SECOND_BYTE]).arg(place.lock_file());
    let process = Process::start("second byte", command);
    process.expect("held");
    assert!(!is_free(&place.lock_file(), Protocol::Fcntl, Mode::Exclusive));
    let holder = only(holders(&place.lock_file(), Protocol::Fcntl));
    assert_eq!((holder.pid(), holder.source()), (Some(process.pid()), Source::LockTable));
    process.finish();
}

/// Takes a name that is no text and would clear a terminal.
const ODD_NAME: &str = r"
import fcntl, sys
open('/proc/self/comm', 'wb').write(b'caf\xe9\x1b[2J\xe2\x80\xae')
file = open(sys.argv[1], 'r+')
fcntl.flock(file, fcntl.LOCK_EX)
print('event: held', flush=True)
sys.stdin.read()
";

#[test]
fn a_program_with_an_odd_name() {
    if lacks(&[Need::Program("python3")]) {
        return;
    }
    let place = Place::new();
    fs::write(place.lock_file(), "").unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", ODD_NAME]).arg(place.lock_file());
    let process = Process::start("odd name", command);
    process.expect("held");
    let holder = only(holders(&place.lock_file(), Protocol::Flock));
    assert_eq!(holder.program(), Some("caf\u{fffd}\u{fffd}[2J\u{fffd}"));
    process.finish();
}

// ---- what is hidden ----

/// Says whom it sees without the rights of root.
pub(crate) fn look_as_nobody(arguments: &[String]) {
    become_nobody();
    look(arguments);
}

/// Shares the lock, as `nobody`, and says whom it sees.
pub(crate) fn share_and_look_as_nobody(arguments: &[String]) {
    let [name, path] = arguments else { panic!("protocol, path") };
    become_nobody();
    // Without that, a process that has given up rights can not be looked into by its like.
    nix::sys::prctl::set_dumpable(true).unwrap();
    let lock = FileLock::options().protocol(protocol(name)).blocking_open(path).unwrap();
    let _guard = lock.blocking_lock_shared().unwrap();
    look(arguments);
}

/// What a role that looks says.
fn seen_by(looking: Process) -> Vec<String> {
    let said =
        std::iter::from_fn(|| Some(looking.event()).filter(|seen| seen != "no other process"));
    let seen = said.collect();
    looking.finish();
    seen
}

/// Mounted so, `/proc` shows no processes but those of the same user.
const HIDE: [&str; 5] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mount -t proc -o hidepid=2 proc /proc && exec \"$0\" \"$@\"",
];

each_protocol!(#[test] fn a_process_of_another_user_that_is_hidden);
fn a_process_of_another_user_that_is_hidden(protocol: Protocol) {
    if lacks(&[Need::Root, Need::Mounts]) {
        return;
    }
    let place = Place::new();
    let path = place.lock_file();
    let other = Locker::holding_with_record(&path, protocol, "hidden");
    let arguments = [&format!("{protocol:?}"), path.to_str().unwrap()];
    let seen = seen_by(Process::in_role_under(&HIDE, Role::LookAsNobody, &arguments));
    let program = std::env::current_exe().unwrap();
    let program = program.file_name().unwrap().to_str().unwrap();
    let (pid, source) = (other.pid(), source(protocol));
    let expected = format!("Some({pid}) {source:?} Some({program:?}) Some(\"hidden\")");
    assert_eq!(seen, [expected], "{protocol:?}");
    other.finish();
}

each_protocol!(#[test] fn a_process_of_another_user_that_shares_the_lock_with_one_of_ours);
fn a_process_of_another_user_that_shares_the_lock_with_one_of_ours(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let other = Locker::holding(&path, protocol, Mode::Shared);
    let arguments = [&format!("{protocol:?}"), path.to_str().unwrap()];
    let looking = Process::in_role(Role::ShareAndLookAsNobody, &arguments);
    // Whose open files can not be seen may be another process of this number.
    let is_claim = !has_owner(protocol) && geteuid().is_root();
    let other_pid = other.pid();
    let others =
        if is_claim { format!("claims({other_pid})") } else { format!("Some({other_pid})") };
    let mut expected = [format!("Some({})", looking.pid()), others];
    let seen = seen_by(looking);
    let mut seen: Vec<_> = seen.iter().map(|seen| seen.split(' ').next().unwrap()).collect();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected, "{protocol:?}");
    other.finish();
}

// ---- other pid namespaces ----

/// This binary in a role, in a pid namespace of its own.
fn in_namespace(role: Role, arguments: &[&str]) -> Process {
    Process::in_role_under(&unshare(&["--pid", "--fork", "--mount-proc"]), role, arguments)
}

/// Holds the lock to the end of its stdin.
pub(crate) fn hold(arguments: &[String]) {
    let [name, path, record] = arguments else { panic!("protocol, path, record") };
    let options = FileLock::options().protocol(protocol(name)).record(record == "record");
    let lock = options.label("deep inside").blocking_open(path).unwrap();
    let _guard = lock.blocking_lock().unwrap();
    say(&format!("held by {}", std::process::id()));
    commands().for_each(drop);
}

/// Says whom it sees.
pub(crate) fn look(arguments: &[String]) {
    let [name, path] = arguments else { panic!("protocol, path") };
    for holder in holders(Path::new(path), protocol(name)) {
        let (pid, source) = (holder.pid(), holder.source());
        let pid = match (pid, holder.claimed_pid()) {
            (None, Some(claimed)) => format!("claims({claimed})"),
            _ => format!("{pid:?}"),
        };
        say(&format!("{pid} {source:?} {:?} {:?}", holder.program(), holder.label()));
    }
    say("no other process");
}

each_protocol!(#[test] fn a_process_inside_of_a_pid_namespace);
fn a_process_inside_of_a_pid_namespace(protocol: Protocol) {
    if lacks(&[Need::PidNamespace]) {
        return;
    }
    let place = Place::new();
    let path = place.lock_file();
    let name = format!("{protocol:?}");
    let process = in_namespace(Role::Hold, &[&name, path.to_str().unwrap(), "no record"]);
    let inner = process.event();
    let holder = only(holders(&path, protocol));
    let pid = holder.pid().expect("seen from outside");
    // unshare(1) waits for the child that is the first of the namespace.
    assert_eq!(parent_of(pid), process.pid(), "{inner}, {holder:?}");
    assert_eq!(holder.program(), Some(comm(pid).as_str()));
    process.finish();
}

each_protocol!(#[test] fn a_process_outside_of_the_pid_namespace);
fn a_process_outside_of_the_pid_namespace(protocol: Protocol) {
    if lacks(&[Need::PidNamespace]) {
        return;
    }
    let place = Place::new();
    let path = place.lock_file();
    let (name, path) = (format!("{protocol:?}"), path.to_str().unwrap());
    for record in ["no record", "record"] {
        let process = Process::in_role(Role::Hold, &[&name, path, record]);
        assert_eq!(process.event(), format!("held by {}", process.pid()));
        let seen = seen_by(in_namespace(Role::Look, &[&name, path]));
        let program = std::env::current_exe().unwrap();
        let program = program.file_name().unwrap().to_str().unwrap();
        let pid = process.pid();
        let expected = match (protocol, record) {
            // The kernel hides it.
            (Protocol::Flock, "no record") => vec![],
            (Protocol::Flock, _) => {
                vec![format!("claims({pid}) Record Some({program:?}) Some(\"deep inside\")")]
            }
            // The pid in the range can not be hidden, and is not of here.
            (_, "no record") => vec![format!("claims({pid}) RangeLength None None")],
            (_, _) => {
                vec![format!("claims({pid}) RangeLength Some({program:?}) Some(\"deep inside\")")]
            }
        };
        assert_eq!(seen, expected, "{protocol:?}, {record}");
        process.finish();
    }
}

/// No error is held up for more than 250 ms to find out who holds the lock, which is too short on a machine that is
/// very busy.
async fn timed_out_naming(lock: &FileLock) -> Error {
    in_time(async {
        loop {
            let error = lock.lock().timeout(Duration::ZERO).await.unwrap_err();
            if !error.holders().is_empty() {
                return error;
            }
        }
    })
    .await
}

/// A lock file, or the key of a space.
fn open_what(what: &str, path: &str) -> FileLock {
    match what {
        "key" => LockSpace::options().blocking_open(path).unwrap().key("name"),
        name => FileLock::options().protocol(protocol(name)).blocking_open(path).unwrap(),
    }
}

/// Holds the lock to the end of its stdin, and waits for it first if it must.
pub(crate) fn get_and_hold(arguments: &[String]) {
    let [what, path] = arguments else { panic!("what, path") };
    let lock = open_what(what, path);
    let mut acquire = Box::pin(lock.lock());
    let mut context = Context::from_waker(Waker::noop());
    let polled = acquire.as_mut().poll(&mut context);
    say(if polled.is_ready() { "held" } else { "waiting" });
    commands().for_each(drop);
}

/// Says whom it sees, in each way that there is.
pub(crate) fn look_in_all_ways(arguments: &[String]) {
    let [what, path] = arguments else { panic!("what, path") };
    let lock = open_what(what, path);
    let told = |holder: &Holder| {
        let (this, waits) = (holder.is_this_process(), holder.is_waiting());
        format!("{:?} {:?} this={this} waits={waits}", holder.pid(), holder.claimed_pid())
    };
    let Err(TryLockError::WouldBlock(error)) = lock.try_lock() else { panic!("not refused") };
    error.holders().iter().for_each(|holder| say(&format!("try: {}", told(holder))));
    say(&format!("message: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Of a lock of flock(2) in another namespace there is nothing to be seen.
    let time_out = async || lock.lock().timeout(Duration::ZERO).await.unwrap_err();
    let error = runtime.block_on(async {
        match what.as_str() {
            "Flock" => time_out().await,
            _ => timed_out_naming(&lock).await,
        }
    });
    let holding = error.holders().iter().filter(|holder| !holder.is_waiting());
    holding.for_each(|holder| say(&format!("timeout: {}", told(holder))));
    let seen = lock.blocking_holders().unwrap();
    seen.iter().for_each(|holder| say(&format!("holders: {}", told(holder))));
    say("no other process");
}

/// The first process of one pid namespace has, or waits for, what the first process of another one is asked
/// about: neither they nor the first process of the machine are taken for each other.
#[test]
fn processes_of_one_pid_in_two_namespaces() {
    if lacks(&[Need::PidNamespace]) {
        return;
    }
    for what in ["Flock", "Fcntl", "key"] {
        let place = Place::new();
        let path = place.lock_file();
        let arguments = [what, path.to_str().unwrap()];
        let holder = in_namespace(Role::GetAndHold, &arguments);
        holder.expect("held");
        let [waiter, last] = [0, 1].map(|_| in_namespace(Role::GetAndHold, &arguments));
        for waiter in [&waiter, &last] {
            waiter.expect("waiting");
        }
        kernel::await_waiting_calls(open_what(what, arguments[1]).path(), 2);

        let inside = seen_by(in_namespace(Role::LookInAllWays, &arguments));
        assert!(!inside.iter().any(|line| line.contains("this=true")), "{what}: {inside:?}");
        assert!(!inside.iter().any(|line| line.contains("Some(1) None")), "{what}: {inside:?}");
        let is_named = inside
            .iter()
            .any(|line| line.starts_with("holders: None Some(1)") && line.ends_with("waits=false"));
        assert_eq!(is_named, what != "Flock", "the kernel hides it: {inside:?}");

        let outside = seen_by(Process::in_role(Role::LookInAllWays, &arguments));
        assert!(!outside.iter().any(|line| line.contains("this=true")), "{what}: {outside:?}");
        assert!(!outside.iter().any(|line| line.contains("Some(1) None")), "{what}: {outside:?}");
        for way in ["timeout", "holders"] {
            let start = format!("{way}: Some(");
            // In any order: the kernel lists those who wait for the turnstile apart from the lock.
            let mut named = outside.iter().filter_map(|line| line.strip_prefix(&start));
            let pid = named
                .find_map(|named| named.strip_suffix(") None this=false waits=false"))
                .unwrap_or_else(|| panic!("{what}: {outside:?}"));
            assert_eq!(parent_of(pid.parse().unwrap()), holder.pid());
        }
        for (seen, is_inside) in [(&inside, true), (&outside, false)] {
            let message = seen.iter().find_map(|line| line.strip_prefix("message: ")).unwrap();
            let known = match what {
                "Flock" => "at once: another process holds it or waits for it; ",
                // The kernel knows whose POSIX record locks are, and tells those who can see them.
                _ if has_owner(Protocol::Fcntl) && !is_inside => "at once: held by a process (pid ",
                _ => "at once: held by a process (pid 1 in its pid namespace); ",
            };
            assert!(message.contains(known), "{message}");
        }
    }
}

/// Holds the lock, and says whether it sees itself do so.
pub(crate) fn look_at_itself(arguments: &[String]) {
    let [name, path] = arguments else { panic!("protocol, path") };
    let options = FileLock::options().protocol(protocol(name)).record(true);
    let lock = options.blocking_open(path).unwrap();
    let _guard = lock.blocking_lock().unwrap();
    say(&format!("{}", only(lock.blocking_holders().unwrap()).is_this_process()));
    assert!(commands().next().is_none());
}

each_protocol!(#[test] fn a_process_knows_itself_in_the_table_of_an_outer_pid_namespace);
/// In a pid namespace whose `/proc` is that of the outer one: a pid means another process there.
fn a_process_knows_itself_in_the_table_of_an_outer_pid_namespace(protocol: Protocol) {
    if lacks(&[Need::PidNamespace]) {
        return;
    }
    let place = Place::new();
    let path = place.lock_file();
    let arguments = [&format!("{protocol:?}"), path.to_str().unwrap()];
    let under = unshare(&["--pid", "--fork"]);
    let inner = Process::in_role_under(&under, Role::LookAtItself, &arguments);
    inner.expect("true");
    inner.finish();
}

each_protocol!(#[test] fn a_record_is_believed_only_while_the_lock_is_busy);
/// A record that says `held` names no holder once the lock is free, whatever became of its writer.
fn a_record_is_believed_only_while_the_lock_is_busy(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let text = "7\ntokio-filelock 1\nstate=held    \ntoken=3\nhost=elsewhere\nprogram=ghost\n";
    fs::write(&path, text).unwrap();
    assert_eq!(holders(&path, protocol), []);
    // Of those who hold it now, it says nothing.
    let other = Locker::holding(&path, protocol, Mode::Exclusive);
    let holder = only(holders(&path, protocol));
    assert_eq!(holder.pid(), Some(other.pid()));
    assert_ne!(holder.program(), Some("ghost"));
    assert_eq!(holder.since(), None);
}

// ---- /proc/locks is no snapshot ----

/// Takes locks of other files and lets them go again, as fast as it can, beside so many that stay.
pub(crate) fn come_and_go(arguments: &[String]) {
    let [directory, staying] = arguments else { panic!("directory, number") };
    let file =
        |name: String| FileLock::options().blocking_open(Path::new(directory).join(name)).unwrap();
    let staying =
        (0..staying.parse().unwrap()).map(|number: u32| file(format!("staying {number}")));
    let _staying: Vec<_> = staying.map(|file| file.try_lock().unwrap()).collect();
    let moving: Vec<_> = (0..20).map(|number| file(format!("moving {number}"))).collect();
    let going = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            while going.load(Ordering::Relaxed) {
                drop(moving.iter().map(|file| file.try_lock().unwrap()).collect::<Vec<_>>());
            }
        });
        say("busy");
        commands().for_each(drop);
        going.store(false, Ordering::Relaxed);
    });
}

each_protocol!(#[test] fn a_lock_that_is_held_throughout_is_always_seen);
/// However many locks come and go before it in the kernel's table, of one page or several, a lock that is
/// held throughout is seen, by `holders` and when a time is up.
fn a_lock_that_is_held_throughout_is_always_seen(protocol: Protocol) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (staying, looks) in [(0, 1000), (60, 300), (300, 60)] {
        let place = Place::new();
        let other = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
        let directory = place.lock_file().parent().unwrap().to_str().unwrap().to_owned();
        let crowd = Process::in_role(Role::ComeAndGo, &[&directory, &staying.to_string()]);
        crowd.expect("busy");
        let lock = runtime.block_on(open(place.lock_file(), protocol));
        for round in 0..looks {
            let seen = lock.blocking_holders().unwrap();
            let pids: Vec<_> = seen.iter().map(Holder::pid).collect();
            assert_eq!(pids, [Some(other.pid())], "look {round} beside {staying}");
        }
        for round in 0..looks / 10 {
            let started = Instant::now();
            let wait = lock.lock().timeout(Duration::ZERO);
            let error = runtime.block_on(wait).unwrap_err();
            if started.elapsed() > Duration::from_millis(250) {
                // For longer than that no error is held up, on a machine that is busy.
                continue;
            }
            let named = error.holders().iter().find(|holder| !holder.is_waiting());
            assert_eq!(named.and_then(Holder::pid), Some(other.pid()), "{round}: {error}");
        }
        crowd.finish();
        other.finish();
    }
}

/// Has one file locked, and so many threads that wait for another one; locks one more for each line.
pub(crate) fn lock_beside_a_crowd(arguments: &[String]) {
    let [directory, waiters] = arguments else { panic!("directory, number") };
    let lock = |name: &str| {
        let file = fs::File::create(Path::new(directory).join(name)).unwrap();
        Flock::lock(file, FlockArg::LockExclusive).unwrap()
    };
    let mut held = vec![lock("app.lock"), lock("awaited")];
    thread::scope(|scope| {
        for _ in 0..waiters.parse().unwrap() {
            scope.spawn(|| drop(lock("awaited")));
        }
        say("locked");
        for command in commands() {
            held.push(lock(&command));
            say("locked");
        }
        drop(held);
    });
}

/// The kernel shows a lock with all that wait for it, or not at all: where those do not fit, a page ends early.
#[test]
fn a_lock_beside_one_with_many_waiters_is_seen() {
    for waiters in [8, 45, 75, 200] {
        let place = Place::new();
        let directory = place.lock_file().parent().unwrap().to_str().unwrap().to_owned();
        let arguments = [directory.as_str(), &waiters.to_string()];
        let mut other = Process::in_role(Role::LockBesideACrowd, &arguments);
        other.expect("locked");
        kernel::await_waiting_calls(&Path::new(&directory).join("awaited"), waiters);
        // At last beside locks that come and go.
        let mut crowd = None;
        for number in 0..90 {
            if number == 60 {
                crowd = Some(Process::in_role(Role::ComeAndGo, &[&directory, "0"]));
                crowd.iter().for_each(|crowd| crowd.expect("busy"));
            }
            let holder = only(holders(&place.lock_file(), Protocol::Flock));
            assert_eq!(holder.pid(), Some(other.pid()), "beside {waiters} and {number}");
            other.tell(&format!("other {number}"));
            other.expect("locked");
        }
        crowd.into_iter().for_each(Process::finish);
        other.finish();
    }
}

// ---- where users meet them ----

each_protocol!(#[tokio::test] async fn a_timeout_names_the_holder);
async fn a_timeout_names_the_holder(protocol: Protocol) {
    let place = Place::new();
    let other = Locker::holding_with_record(&place.lock_file(), protocol, "index rebuild");
    let lock = open(place.lock_file(), protocol).await;
    let error = timed_out_naming(&lock).await;
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let holder = only(error.holders().iter().filter(|h| !h.is_waiting()).cloned().collect());
    assert_eq!(holder.pid(), Some(other.pid()));
    assert!(holder.since().is_some());
    let (path, name) = (place.lock_file(), comm(other.pid()));
    let message = error.to_string();
    let start = format!("could not lock `{}` within ", path.display());
    let end = format!(" ms: held by {name} (pid {}, \"index rebuild\") for ", other.pid());
    assert!(message.starts_with(&start) && message.contains(&end), "{message}");
    // It is not in the queue any more.
    other.finish();
    until("the lock is free again", || lock.try_lock().is_ok());
}

each_protocol!(#[tokio::test] async fn a_refused_try_names_the_holder);
async fn a_refused_try_names_the_holder(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let refused = |lock: &FileLock| match lock.try_lock() {
        Err(TryLockError::WouldBlock(error)) => error,
        other => panic!("{other:?}"),
    };
    let other = Locker::holding(&place.lock_file(), protocol, Mode::Shared);
    let error = refused(&lock);
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(std::io::Error::from(refused(&lock)).kind(), std::io::ErrorKind::WouldBlock);
    let known = match protocol {
        Protocol::Flock => "another process holds it or waits for it".to_owned(),
        // POSIX record locks are a process's, which the kernel names.
        _ if cfg!(tokio_filelock_posix) => format!("shared by a process (pid {})", other.pid()),
        _ => format!("shared by a process (pid {} in its pid namespace)", other.pid()),
    };
    let path = place.lock_file();
    let expected = format!(
        "could not lock `{}` at once: {known}; `FileLock::holders` tells which one",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
    let confirmed = cfg!(tokio_filelock_posix);
    let pid = if confirmed { Holder::pid } else { Holder::claimed_pid };
    let pids: Vec<_> = error.holders().iter().map(pid).collect();
    let expected = if protocol == Protocol::Flock { vec![] } else { vec![Some(other.pid())] };
    assert_eq!(pids, expected);
    assert!(error.holders().iter().all(|holder| holder.pid().is_some() == confirmed));
    other.finish();

    for shared in [false, true] {
        let guards = match shared {
            true => (None, Some(in_time(lock.lock_shared()).await.unwrap())),
            false => (Some(in_time(lock.lock()).await.unwrap()), None),
        };
        let error = refused(&lock);
        let how = if shared { "shared" } else { "held" };
        let own = format!("at once: {how} by this process (pid {})", std::process::id());
        assert!(error.to_string().ends_with(&own), "{error}");
        assert!(only(error.holders().to_vec()).is_this_process());
        drop(guards);
    }
}

each_protocol!(#[tokio::test] async fn a_wait_is_told_and_told_again_when_the_holder_changes);
async fn a_wait_is_told_and_told_again_when_the_holder_changes(protocol: Protocol) {
    let place = Place::new();
    let (mut first, mut waiters) = holder_and_waiters(&place.lock_file(), protocol, 1);
    let mut second = waiters.remove(0);
    let lock = open(place.lock_file(), protocol).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let pids = [first.pid(), second.pid()];
    let path = place.lock_file();
    let acquire = lock.lock().on_wait(Duration::from_millis(1), move |waiting| {
        assert_eq!(waiting.path(), path);
        assert!(waiting.waited() >= Duration::from_millis(1));
        let holding = waiting.holders().iter().filter(|holder| !holder.is_waiting());
        let holding: Vec<_> = holding.map(|holder| holder.pid().unwrap()).collect();
        tell.send((holding, waiting.to_string())).unwrap();
    });
    let waiting = tokio::spawn(acquire);
    let mut next = async || loop {
        // As one that is told late, see `timed_out_naming`.
        let (holding, sentence) = in_time(told.recv()).await.unwrap();
        if !holding.is_empty() {
            return (holding, sentence);
        }
    };
    let (holding, sentence) = next().await;
    assert_eq!(holding, [pids[0]]);
    let start = format!("waiting for `{}` for ", place.lock_file().display());
    let end = format!(": held by {} (pid {})", comm(pids[0]), pids[0]);
    assert!(sentence.starts_with(&start) && sentence.ends_with(&end), "{sentence}");
    kernel::await_waiting_calls(&place.lock_file(), 2);
    first.unlock();
    second.expect_held();
    let (holding, _) = next().await;
    assert_eq!(holding, [pids[1]]);
    second.unlock();
    drop(in_time(waiting).await.unwrap().unwrap());
}

/// The panic goes to the task that polls; the request keeps its place.
#[tokio::test]
async fn a_wait_survives_the_panic_of_the_function_that_is_told() {
    let place = Place::new();
    let lock = open(place.lock_file(), Protocol::Flock).await;
    let guard = lock.lock().await.unwrap();
    let tell = |_: &tokio_filelock::Waiting<'_>| panic!("on purpose");
    let mut waiting = Box::pin(lock.lock().on_wait(Duration::ZERO, tell));
    let panicked = in_time(AssertUnwindSafe(&mut waiting).catch_unwind()).await.unwrap_err();
    assert_eq!(message(&*panicked), "on purpose");
    assert!((&mut waiting).now_or_never().is_none(), "the guard holds the lock");
    drop(guard);
    drop(in_time(waiting).await.unwrap());
}

#[tokio::test]
async fn a_short_wait_is_not_told() {
    let place = Place::new();
    let lock = open(place.lock_file(), Protocol::Flock).await;
    let guard = lock.lock().await.unwrap();
    let tell = |_: &tokio_filelock::Waiting<'_>| panic!("told");
    let mut waiting = tokio_test::task::spawn(lock.lock().on_wait(Duration::from_secs(3600), tell));
    assert!(waiting.poll().is_pending());
    drop(guard);
    drop(in_time(waiting).await.unwrap());
    drop(lock.lock().on_wait(Duration::ZERO, tell).await.unwrap());
}

/// A look for the message that is not over when the time is up keeps no task from looking for the error.
#[tokio::test]
async fn waits_that_are_told_when_their_time_is_up() {
    let place = Place::new();
    let other = Locker::holding(&place.lock_file(), Protocol::Flock, Mode::Exclusive);
    let lock = open(place.lock_file(), Protocol::Flock).await;
    let after = Duration::from_millis(20);
    let wait = || lock.lock().on_wait(after, |_| {}).timeout(after);
    let (first, second, third) = tokio::join!(wait(), wait(), wait());
    for waited in [first, second, third] {
        let error = waited.unwrap_err();
        assert_eq!(error.holders().first().and_then(Holder::pid), Some(other.pid()), "{error}");
    }
    other.finish();
}

/// A thousand tasks, each with a handle of its own, whose time runs out while another process holds
/// the lock; says how many threads of the crate there were.
pub(crate) fn time_out_together(arguments: &[String]) {
    let [path, holder] = arguments else { panic!("path, pid of the holder") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut locks = Vec::new();
        for _ in 0..1000 {
            // On this thread: an open that is awaited takes a thread that may not be idle again for the next.
            locks.push(options(Protocol::Flock).blocking_open(path).unwrap());
        }
        let wait = |lock: &FileLock| tokio::spawn(lock.lock().timeout(Duration::from_millis(20)));
        let tasks: Vec<_> = locks.iter().map(wait).collect();
        for task in tasks {
            let error = task.await.unwrap().unwrap_err();
            // None on a machine that is too busy for a crowd, see `timed_out_naming`.
            let mut holding = error.holders().iter().filter(|holder| !holder.is_waiting());
            let is_named = |named: &Holder| named.pid().unwrap().to_string() == *holder;
            assert!(holding.all(is_named), "{error}");
        }
    });
    // Idle threads stay for some seconds, so these are all there were.
    let threads = kernel::threads(std::process::id());
    say(&threads.iter().filter(|name| *name == "filelock-wait").count().to_string());
}

/// One for the wait and one for the look, and one more where a look begins before the thread of the
/// last one is idle.
#[test]
fn a_thousand_timeouts_at_one_time_take_a_few_threads() {
    let place = Place::new();
    let other = Locker::holding(&place.lock_file(), Protocol::Flock, Mode::Exclusive);
    let path = place.lock_file();
    let arguments = [path.to_str().unwrap(), &other.pid().to_string()];
    let crowd = Process::in_role(Role::TimeOutTogether, &arguments);
    let threads: usize = crowd.event().parse().unwrap();
    assert!((1..10).contains(&threads), "{threads}");
    crowd.finish();
    other.finish();
}

#[tokio::test]
async fn a_user_has_a_name() {
    let place = Place::new();
    let mut other = Locker::open(&place.lock_file(), Protocol::Flock);
    fs::set_permissions(place.lock_file(), std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .unwrap();
    other.become_nobody();
    assert_eq!(other.try_lock(Mode::Exclusive), "held");
    let holder = only(holders(&place.lock_file(), Protocol::Flock));
    let uid = if geteuid().is_root() { Uid::from_raw(65534) } else { geteuid() };
    // Not every user has an entry in the list of users.
    let user = User::from_uid(uid).unwrap();
    let expected = user.map_or_else(|| uid.to_string(), |user| user.name);
    assert_eq!(holder.user(), Some(expected.as_str()));
    // Not for an error: the service that keeps the names may be slow to answer.
    let lock = FileLock::options().blocking_open(place.lock_file()).unwrap();
    let error = timed_out_naming(&lock).await;
    assert_eq!(error.holders()[0].pid(), Some(other.pid()));
    assert_eq!(error.holders()[0].user(), None);
}
