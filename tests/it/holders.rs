//! Who holds the lock is named right, whoever it is and however it took the lock.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio_filelock::{ErrorKind, FileLock, Holder, Mode as Held, Protocol, Source, TryLockError};

use crate::support::foreign::{PROGRAMS, Program};
use crate::support::locker::{Locker, holder_and_waiters};
use crate::support::place::Place;
use crate::support::process::{Process, commands, say};
use crate::support::{Mode, PROTOCOLS, in_time, kernel, message, open, protocol, until};

fn holders(path: &Path, protocol: Protocol) -> Vec<Holder> {
    let lock = FileLock::options().protocol(protocol).blocking_open(path).unwrap();
    lock.blocking_holders().unwrap()
}

/// The source of the pid where the kernel names the process that took the lock.
fn source(protocol: Protocol) -> Source {
    match protocol {
        Protocol::Fcntl => Source::RangeLength,
        _ => Source::LockTable,
    }
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

#[test]
fn a_free_lock_has_no_holders() {
    for protocol in PROTOCOLS {
        let place = Place::new();
        assert_eq!(holders(&place.lock_file(), protocol), []);
    }
}

#[tokio::test]
async fn a_task_of_this_process() {
    for protocol in PROTOCOLS {
        let place = Place::new();
        let lock = open(place.lock_file(), protocol).await;
        let guard = lock.lock().await.unwrap();
        let mut other = tokio_test::task::spawn(lock.lock());
        assert!(other.poll().is_pending());
        let holder = only(lock.holders().await.unwrap());
        assert!(holder.is_this_process() && !holder.is_waiting());
        assert_eq!(holder.pid(), Some(std::process::id()));
        assert_eq!(holder.mode(), Held::Exclusive);
        assert_eq!(holder.source(), source(protocol));
        assert_eq!(holder.program(), Some(comm(std::process::id()).as_str()));
        assert_eq!(holder.program_source(), Some(Source::Process));
        assert!(holder.user().is_some());
        assert_eq!(holder.to_string(), format!("this process (pid {})", std::process::id()));
        drop(guard);
    }
}

#[test]
fn another_process_and_those_that_wait() {
    for protocol in PROTOCOLS {
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
}

#[test]
fn programs_that_know_nothing_of_this_crate() {
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

#[test]
fn those_who_share() {
    for protocol in PROTOCOLS {
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
}

/// Locks, forks, says who keeps the lock, and ends; the child keeps it to the end of its stdin.
const INHERITED: &str = "
import fcntl, os, sys
file = open(sys.argv[1], 'r+')
fcntl.flock(file, fcntl.LOCK_EX)
child = os.fork()
if child:
    print('event:', child, flush=True)
    os._exit(0)
sys.stdin.read()
";

#[test]
fn a_child_that_keeps_an_inherited_lock() {
    let place = Place::new();
    fs::write(place.lock_file(), "").unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", INHERITED]).arg(place.lock_file());
    let parent = Process::start("inherited", command);
    let child: u32 = parent.event().parse().unwrap();
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

// ---- other pid namespaces ----

/// This binary in a role, in a pid namespace of its own.
fn in_namespace(role: &str, arguments: &[&str]) -> Process {
    Process::in_role_under(&["unshare", "--pid", "--fork", "--mount-proc"], role, arguments)
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
        say(&format!("{pid:?} {source:?} {:?} {:?}", holder.program(), holder.label()));
    }
    say("nobody else");
}

#[test]
fn a_process_inside_of_a_pid_namespace() {
    for protocol in PROTOCOLS {
        let place = Place::new();
        let path = place.lock_file();
        let name = format!("{protocol:?}");
        let process = in_namespace("hold", &[&name, path.to_str().unwrap(), "no record"]);
        let inner = process.event();
        let holder = only(holders(&path, protocol));
        let pid = holder.pid().expect("seen from outside");
        // unshare(1) waits for the child that is the first of the namespace.
        assert_eq!(parent_of(pid), process.pid(), "{inner}, {holder:?}");
        assert_eq!(holder.program(), Some(comm(pid).as_str()));
        process.finish();
    }
}

#[test]
fn a_process_outside_of_the_pid_namespace() {
    for protocol in PROTOCOLS {
        let place = Place::new();
        let path = place.lock_file();
        let (name, path) = (format!("{protocol:?}"), path.to_str().unwrap());
        for record in ["no record", "record"] {
            let process = Process::in_role("hold", &[&name, path, record]);
            assert_eq!(process.event(), format!("held by {}", process.pid()));
            let looking = in_namespace("look", &[&name, path]);
            let mut seen = Vec::new();
            loop {
                match looking.event().as_str() {
                    "nobody else" => break,
                    holder => seen.push(holder.to_owned()),
                }
            }
            looking.finish();
            let program = std::env::current_exe().unwrap();
            let program = program.file_name().unwrap().to_str().unwrap();
            let expected = match (protocol, record) {
                // The kernel hides it.
                (Protocol::Flock, "no record") => vec![],
                (Protocol::Flock, _) => vec![format!(
                    "Some({}) Record Some({program:?}) Some(\"deep inside\")",
                    process.pid()
                )],
                // OFD locks have no pid that could be hidden; the one in the range is not of here.
                (_, "no record") => vec!["None LockTable None None".to_owned()],
                (_, _) => vec![format!("None LockTable Some({program:?}) Some(\"deep inside\")")],
            };
            assert_eq!(seen, expected, "{protocol:?}, {record}");
            process.finish();
        }
    }
}

/// A record that says `held` names nobody once the lock is free, whatever became of its writer.
#[test]
fn a_record_is_believed_only_while_the_lock_is_busy() {
    for protocol in PROTOCOLS {
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
}

// ---- where users meet them ----

#[tokio::test]
async fn a_timeout_names_the_holder() {
    for protocol in PROTOCOLS {
        let place = Place::new();
        let other = Locker::holding_with_record(&place.lock_file(), protocol, "index rebuild");
        let lock = open(place.lock_file(), protocol).await;
        let error = lock.lock().timeout(Duration::ZERO).await.unwrap_err();
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
}

#[tokio::test]
async fn a_refused_try_names_the_holder() {
    for protocol in PROTOCOLS {
        let place = Place::new();
        let lock = open(place.lock_file(), protocol).await;
        let refused = |lock: &FileLock| match lock.try_lock() {
            Err(TryLockError::WouldBlock(error)) => error,
            other => panic!("{other:?}"),
        };
        let others: Vec<_> =
            (0..2).map(|_| Locker::holding(&place.lock_file(), protocol, Mode::Shared)).collect();
        let error = refused(&lock);
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert_eq!(std::io::Error::from(refused(&lock)).kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!(error.holders().len(), 2, "{error}");
        let start = format!("could not lock `{}` at once: shared by ", place.lock_file().display());
        assert!(error.to_string().starts_with(&start), "{error}");
        others.into_iter().for_each(Locker::finish);

        let guard = in_time(lock.lock()).await.unwrap();
        let own = format!("at once: held by this process (pid {})", std::process::id());
        let error = refused(&lock);
        assert!(error.to_string().ends_with(&own), "{error}");
        drop(guard);
    }
}

#[tokio::test]
async fn a_wait_is_told_and_told_again_when_the_holder_changes() {
    for protocol in PROTOCOLS {
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
        let (holding, sentence) = in_time(told.recv()).await.unwrap();
        assert_eq!(holding, [pids[0]]);
        let start = format!("waiting for `{}` for ", place.lock_file().display());
        let end = format!(": held by {} (pid {})", comm(pids[0]), pids[0]);
        assert!(sentence.starts_with(&start) && sentence.ends_with(&end), "{sentence}");
        kernel::await_waiting_calls(&place.lock_file(), 2);
        first.unlock();
        second.expect_held();
        let (holding, _) = in_time(told.recv()).await.unwrap();
        assert_eq!(holding, [pids[1]]);
        second.unlock();
        drop(in_time(waiting).await.unwrap().unwrap());
    }
}

/// The panic goes to whoever polls; the request keeps its place.
#[tokio::test]
async fn a_wait_survives_the_panic_of_the_function_that_is_told() {
    let place = Place::new();
    let lock = open(place.lock_file(), Protocol::Flock).await;
    let guard = lock.lock().await.unwrap();
    let tell = |_: &tokio_filelock::Waiting<'_>| panic!("on purpose");
    let mut waiting = Box::pin(lock.lock().on_wait(Duration::ZERO, tell));
    let panicked = in_time(AssertUnwindSafe(&mut waiting).catch_unwind()).await.unwrap_err();
    assert_eq!(message(&*panicked), "on purpose");
    assert!((&mut waiting).now_or_never().is_none(), "somebody holds the lock");
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

/// A look for the message that is not over when the time is up keeps nobody from looking for the error.
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
            locks.push(open(path, Protocol::Flock).await);
        }
        let wait = |lock: &FileLock| tokio::spawn(lock.lock().timeout(Duration::from_millis(20)));
        let tasks: Vec<_> = locks.iter().map(wait).collect();
        for task in tasks {
            let error = task.await.unwrap().unwrap_err();
            let holding = error.holders().iter().filter(|holder| !holder.is_waiting());
            let pids: Vec<_> = holding.map(|holder| holder.pid().unwrap().to_string()).collect();
            assert_eq!(pids, [holder.as_str()], "{error}");
        }
    });
    // Idle threads stay for some seconds, so these are all there were.
    let threads = kernel::threads(std::process::id());
    say(&threads.iter().filter(|name| *name == "filelock-wait").count().to_string());
}

/// One for the wait and one for the look.
#[test]
fn a_thousand_timeouts_at_one_time_take_two_threads() {
    let place = Place::new();
    let other = Locker::holding(&place.lock_file(), Protocol::Flock, Mode::Exclusive);
    let path = place.lock_file();
    let arguments = [path.to_str().unwrap(), &other.pid().to_string()];
    let crowd = Process::in_role("time out together", &arguments);
    let threads: usize = crowd.event().parse().unwrap();
    assert!((1..=2).contains(&threads), "{threads}");
    crowd.finish();
    other.finish();
}

#[test]
fn a_user_has_a_name() {
    let place = Place::new();
    let mut other = Locker::open(&place.lock_file(), Protocol::Flock);
    fs::set_permissions(place.lock_file(), std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .unwrap();
    other.become_nobody();
    assert_eq!(other.try_lock(Mode::Exclusive), "held");
    let holder = only(holders(&place.lock_file(), Protocol::Flock));
    let id = fs::metadata(format!("/proc/{}/fdinfo", other.pid())).unwrap().uid();
    println!("{:?} is {id}", holder.user());
    assert!(holder.user().is_some());
}
