//! Turns between processes: a process that waits gets in, however busy the others are. What is counted
//! are locks and their order, never time.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio_filelock::{FileLock, Protocol, Tenure, TryLockError};

use crate::child::Role;
use crate::support::foreign::Program;
use crate::support::locker::{Locker, is_free};
use crate::support::needs::{Need, lacks};
use crate::support::place::Place;
use crate::support::process::{Process, commands, gather, meet, say};
use crate::support::{
    Mode, PATIENCE, assert_would_block, each_protocol, in_time, kernel, open, protocol,
};

// ---- readers and a writer ----

const READERS: usize = 16;
const WRITES: usize = 20;

each_protocol!(#[test] fn a_writer_gets_in_among_sixteen_processes_of_readers);
fn a_writer_gets_in_among_sixteen_processes_of_readers(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.data_file(), "0 0").unwrap();
    let arguments = arguments(&place, protocol);
    let readers: Vec<_> =
        (0..READERS).map(|_| Process::in_role(Role::ReadUntilTold, &as_str(&arguments))).collect();
    // Each holds the shared lock for 2 ms, again and again, so they overlap.
    readers.iter().for_each(|reader| reader.expect("reading"));
    let writer = Process::in_role(Role::Write, &as_str(&arguments));
    writer.expect("written");
    writer.finish();
    let reads: u64 = readers.into_iter().map(stopped).sum();
    assert!(reads > 0, "the readers went on");
    println!("{protocol:?}: {WRITES} writes among {READERS} processes, {reads} reads");
}

/// The counts of a process that is told to stop.
fn stopped(mut process: Process) -> u64 {
    process.tell("stop");
    let count = process.event().parse().unwrap();
    process.finish();
    count
}

pub(crate) fn read_until_told(arguments: &[String]) {
    let (lock, data) = opened(arguments);
    let stop = told_to_stop();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let reads = runtime.block_on(async {
        let mut reads = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let guard = in_time(lock.lock_shared()).await.unwrap();
            let text = fs::read_to_string(&data).unwrap();
            let (one, other) = text.split_once(' ').unwrap();
            assert_eq!(one, other, "a writer is in here");
            // The load, and nothing to wait for.
            tokio::time::sleep(Duration::from_millis(2)).await;
            drop(guard);
            reads += 1;
            if reads == 1 {
                say("reading");
            }
        }
        reads
    });
    say(&reads.to_string());
}

pub(crate) fn write(arguments: &[String]) {
    let (lock, data) = opened(arguments);
    for count in 1..=WRITES {
        let guard = lock.blocking_lock().unwrap();
        fs::write(&data, count.to_string()).unwrap();
        std::thread::yield_now();
        fs::write(&data, format!("{count} {count}")).unwrap();
        drop(guard);
    }
    say("written");
}

// ---- busy processes ----

const TURNS: u64 = 50;

each_protocol!(#[test] fn one_that_waits_gets_its_turns_beside_one_that_locks_again_at_once);
fn one_that_waits_gets_its_turns_beside_one_that_locks_again_at_once(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.data_file(), 0_u64.to_le_bytes()).unwrap();
    let arguments = arguments(&place, protocol);
    let hot = Process::in_role(Role::CountUntilTold, &as_str(&arguments));
    hot.expect("counting");
    let waiter = Process::in_role(Role::TakeTurns, &as_str(&arguments));
    let overtaken: u64 = waiter.event().parse().unwrap();
    waiter.finish();
    let locks = stopped(hot);
    println!("{protocol:?}: {TURNS} turns, overtaken {overtaken} times by one with {locks} locks");
    // A smoke test: the waiter locks again without a pause, too, so it passes without turns. The
    // tests of readers, stopped owners and holders below do not.
    assert!(overtaken < TURNS * 100, "overtaken {overtaken} times in {TURNS} turns");
}

/// Counts in the data file, under the lock, with no pause.
pub(crate) fn count_until_told(arguments: &[String]) {
    let (lock, data) = opened(arguments);
    let stop = told_to_stop();
    let mut locks = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let guard = lock.blocking_lock().unwrap();
        let count = read_count(&data);
        fs::write(&data, (count + 1).to_le_bytes()).unwrap();
        drop(guard);
        locks += 1;
        if locks == 1 {
            say("counting");
        }
    }
    say(&locks.to_string());
}

/// How far the count has got from each request to its lock.
pub(crate) fn take_turns(arguments: &[String]) {
    let (lock, data) = opened(arguments);
    let mut overtaken = 0;
    for _ in 0..TURNS {
        let before = read_count(&data);
        let guard = lock.blocking_lock().unwrap();
        overtaken += read_count(&data).saturating_sub(before);
        drop(guard);
    }
    say(&overtaken.to_string());
}

/// The file is written in one call of eight bytes after it was truncated: empty counts as before.
fn read_count(data: &Path) -> u64 {
    loop {
        if let Ok(bytes) = fs::read(data).unwrap().try_into() {
            return u64::from_le_bytes(bytes);
        }
    }
}

const TASKS: usize = 100;
const ROUNDS: usize = 20;

each_protocol!(#[test] fn two_processes_of_a_hundred_tasks_change_turns_and_lose_no_increment);
fn two_processes_of_a_hundred_tasks_change_turns_and_lose_no_increment(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.data_file(), "").unwrap();
    let arguments = arguments(&place, protocol);
    let mut processes = [(); 2].map(|()| Process::in_role(Role::Sign, &as_str(&arguments)));
    gather(&mut processes);
    processes.iter().for_each(|process| process.expect("signed"));
    processes.into_iter().for_each(Process::finish);
    let signatures = fs::read_to_string(place.data_file()).unwrap();
    let owners: Vec<&str> = signatures.lines().collect();
    assert_eq!(owners.len(), 2 * TASKS * ROUNDS);
    let changes = owners.windows(2).filter(|pair| pair[0] != pair[1]).count();
    println!("{protocol:?}: {} locks, {changes} changes of the process", owners.len());
    assert!(changes >= 4, "one process went first, and the other one after it");
}

/// Appends the pid, read and written back as a whole: what is lost is seen.
pub(crate) fn sign(arguments: &[String]) {
    let (lock, data) = opened(arguments);
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    meet();
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let (lock, data) = (lock.clone(), data.clone());
            tasks.spawn(async move {
                for _ in 0..ROUNDS {
                    let guard = in_time(lock.lock()).await.unwrap();
                    let mut text = fs::read_to_string(&data).unwrap();
                    text += &format!("{}\n", std::process::id());
                    fs::write(&data, text).unwrap();
                    drop(guard);
                }
            });
        }
        in_time(tasks.join_all()).await;
    });
    say("signed");
}

#[test]
fn flock_1_in_a_loop_gets_in_among_a_hundred_busy_tasks() {
    if lacks(&[Need::Program("flock")]) {
        return;
    }
    let place = Place::new();
    fs::write(place.data_file(), "").unwrap();
    let arguments = arguments(&place, Protocol::Flock);
    let busy = Process::in_role(Role::KeepAHundredTasksBusy, &as_str(&arguments));
    busy.expect("busy");
    let mut flock = Command::new("sh");
    flock.args(["-c", "for i in $(seq 20); do flock \"$0\" echo \"event: $i\"; done"]);
    flock.arg(place.lock_file());
    let flock = Process::start("flock(1) in a loop", flock);
    for turn in 1..=20 {
        flock.expect(&turn.to_string());
    }
    flock.finish();
    println!("20 turns of flock(1) among {} locks", stopped(busy));
}

pub(crate) fn keep_a_hundred_tasks_busy(arguments: &[String]) {
    let (lock, _) = opened(arguments);
    let stop = told_to_stop();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..100 {
            let (lock, stop) = (lock.clone(), stop.clone());
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    drop(in_time(lock.lock()).await.unwrap());
                }
            });
        }
        say("busy");
        tasks.join_all().await;
    });
    say(&lock.counters().acquisitions.to_string());
}

// ---- an owner of the turnstile that does not go on ----

/// The lock is free, and a process that is stopped has the turnstile.
struct Stopped {
    next: Locker,
}

impl Stopped {
    fn before(path: &Path, protocol: Protocol) -> Self {
        let mut holder = Locker::holding(path, protocol, Mode::Exclusive);
        let mut next = Locker::open(path, protocol);
        next.start_to_wait(Mode::Exclusive);
        kernel::await_waiting_calls(path, 1);
        let this = Self { next };
        this.signal(Signal::SIGSTOP);
        kernel::await_stop(this.next.pid());
        holder.unlock();
        this
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.next.pid().try_into().unwrap()), signal).unwrap();
    }

    /// It goes on, and has its turn.
    fn go_on(self) {
        self.signal(Signal::SIGCONT);
        self.next.expect_held();
        self.next.finish();
    }
}

/// docs/FAIRNESS.md: how long the turnstile is seen with one owner before that one is passed.
const LIMIT: Duration = Duration::from_millis(50);

/// Tries until one is granted. How many were refused that began after the limit, which runs from the look of the
/// first one: that is over when the first one is.
#[track_caller]
fn refused_after_the_limit<G>(mut attempt: impl FnMut() -> Result<G, TryLockError>) -> u32 {
    let mut first: Option<Instant> = None;
    let mut refused = 0;
    loop {
        let late = first.is_some_and(|first| first.elapsed() > LIMIT);
        match attempt() {
            Ok(_) => return refused,
            Err(TryLockError::WouldBlock(_)) => refused += u32::from(late),
            Err(error) => panic!("{error}"),
        }
        let first = *first.get_or_insert_with(Instant::now);
        assert!(first.elapsed() < PATIENCE, "never granted");
    }
}

each_protocol!(#[test] fn a_stopped_process_that_is_next_does_not_keep_the_others_out);
fn a_stopped_process_that_is_next_does_not_keep_the_others_out(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let stopped = Stopped::before(&path, protocol);

    // The lock is free now, and stays so but for the others: the one who is next is stopped.
    let mut other = Locker::open(&path, protocol);
    assert_eq!(
        other.try_lock(Mode::Exclusive),
        "would block",
        "as long as another process is next"
    );
    for _ in 0..3 {
        other.lock(Mode::Exclusive);
        other.unlock();
    }
    stopped.go_on();
    assert!(is_free(&path, protocol, Mode::Exclusive));
}

each_protocol!(#[test] fn a_stopped_process_that_is_next_costs_a_try_the_limit_and_one_more);
fn a_stopped_process_that_is_next_costs_a_try_the_limit_and_one_more(protocol: Protocol) {
    for read_only in [false, true] {
        let place = Place::new();
        let stopped = Stopped::before(&place.lock_file(), protocol);
        let options = FileLock::options().protocol(protocol).read_only(read_only);
        let lock = options.blocking_open(place.lock_file()).unwrap();
        let refused = refused_after_the_limit(|| lock.try_lock_shared());
        assert!(refused <= 1, "{protocol:?}, read-only {read_only}: {refused} refused");
        // One owner that does not go on is waited for once in a second.
        drop(lock.try_lock_shared().unwrap());
        stopped.go_on();
    }
}

each_protocol!(#[test] fn the_second_of_two_late_tries_is_granted);
/// The tries are so far apart that there are two only.
fn the_second_of_two_late_tries_is_granted(protocol: Protocol) {
    let place = Place::new();
    let stopped = Stopped::before(&place.lock_file(), protocol);
    let lock = FileLock::options().protocol(protocol);
    let lock = lock.blocking_open(place.lock_file()).unwrap();
    assert_would_block(lock.try_lock());
    std::thread::sleep(LIMIT);
    assert_would_block(lock.try_lock());
    drop(lock.try_lock().expect("the limit, and one more try"));
    stopped.go_on();
}

each_protocol!(
    #[tokio::test]
    async fn waits_that_are_given_up_again_and_again_get_a_lock_that_nobody_holds
);
async fn waits_that_are_given_up_again_and_again_get_a_lock_that_nobody_holds(protocol: Protocol) {
    for (read_only, patience) in [(false, 1), (false, 20), (true, 1), (true, 20)] {
        let place = Place::new();
        let stopped = Stopped::before(&place.lock_file(), protocol);
        let options = FileLock::options().protocol(protocol).read_only(read_only);
        let lock = options.open(place.lock_file()).await.unwrap();
        let patience = Duration::from_millis(patience);
        let begun = tokio::time::Instant::now();
        let mut given_up = 0_u128;
        loop {
            let late = begun.elapsed() > LIMIT * 2;
            if tokio::time::timeout(patience, lock.lock_shared()).await.is_ok() {
                break;
            }
            given_up += u128::from(late);
            assert!(begun.elapsed() < PATIENCE, "never granted");
        }
        // One that comes late itself, and those within the time that the owner has after it.
        let most = 1 + 40 / patience.as_millis();
        assert!(given_up <= most, "{protocol:?}, {read_only}, {patience:?}: {given_up}");
        stopped.go_on();
    }
}

each_protocol!(#[test] fn a_process_that_is_next_and_awake_is_not_passed_by_tries);
/// However often others try: the one that is next and awake has the lock before them.
fn a_process_that_is_next_and_awake_is_not_passed_by_tries(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let mut holder = Locker::open(&path, protocol);
    let mut next = Locker::open(&path, protocol);
    let lock = FileLock::options().protocol(protocol).blocking_open(&path).unwrap();
    let mut tries = 0_u64;
    for _ in 0..10 {
        holder.lock(Mode::Exclusive);
        next.start_to_wait(Mode::Exclusive);
        kernel::await_waiting_calls(&path, 1);
        // It has been seen for longer than the limit when the lock becomes free.
        assert_would_block(lock.try_lock());
        std::thread::sleep(LIMIT);
        let held = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (holder, next) = (&mut holder, &mut next);
            let held = &held;
            scope.spawn(move || {
                holder.unlock();
                next.expect_held();
                held.store(true, Ordering::Relaxed);
            });
            while !held.load(Ordering::Relaxed) {
                assert_would_block(lock.try_lock());
                tries += 1;
            }
        });
        next.unlock();
    }
    println!("{protocol:?}: {tries} tries");
}

#[test]
fn a_lock_on_the_whole_file_by_others_is_no_turnstile() {
    if lacks(&[Need::Program("python3")]) {
        return;
    }
    let place = Place::new();
    let path = place.lock_file();
    fs::write(&path, "").unwrap();
    let whole_file = Program::PythonLockf.hold(&path, Mode::Exclusive);
    let mut first = Locker::holding(&path, Protocol::Flock, Mode::Exclusive);
    let mut second = Locker::open(&path, Protocol::Flock);
    second.start_to_wait(Mode::Exclusive);
    first.unlock();
    second.expect_held();
    second.unlock();
    assert!(is_free(&path, Protocol::Flock, Mode::Exclusive), "and no process seems to wait");
    whole_file.finish();
}

/// A reader that holds, a writer that is next, and another reader.
fn reader_and_writer(path: &Path, protocol: Protocol) -> (Locker, Locker) {
    let reader = Locker::holding(path, protocol, Mode::Shared);
    let mut writer = Locker::open(path, protocol);
    writer.start_to_wait(Mode::Exclusive);
    kernel::await_waiting_calls(path, 1);
    (reader, writer)
}

each_protocol!(
    #[tokio::test]
    async fn readers_pass_a_writer_that_is_stopped_and_wait_for_one_that_is_awake
);
/// Nothing shows whether a writer would take a lock that others read, but whether its call waits.
async fn readers_pass_a_writer_that_is_stopped_and_wait_for_one_that_is_awake(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let (mut reader, mut writer) = reader_and_writer(&path, protocol);
    let lock = open(&path, protocol).await;
    let mut other = Box::pin(lock.lock_shared());
    // Longer than one owner of the turnstile is waited for that does not seem to be awake.
    assert!(tokio::time::timeout(Duration::from_secs(2), &mut other).await.is_err());
    kill(Pid::from_raw(writer.pid().try_into().unwrap()), Signal::SIGSTOP).unwrap();
    kernel::await_stop(writer.pid());
    drop(in_time(&mut other).await.unwrap());
    for _ in 0..10 {
        drop(in_time(lock.lock_shared()).await.unwrap());
    }
    kill(Pid::from_raw(writer.pid().try_into().unwrap()), Signal::SIGCONT).unwrap();
    reader.unlock();
    writer.expect_held();
    writer.unlock();
}

/// What strangers do with the bytes of the turnstile while the lock is free.
#[cfg(not(tokio_filelock_posix))] // its locks are the process's
mod strangers {
    use std::fs::File;
    use std::sync::mpsc;

    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    use super::*;

    /// docs/WIRE.md.
    fn turnstile(protocol: Protocol) -> i64 {
        match protocol {
            Protocol::Flock => 1 << 61,
            _ => 1 << 22,
        }
    }

    fn opened_again(place: &Place) -> File {
        File::options().read(true).write(true).open(place.lock_file()).unwrap()
    }

    #[allow(clippy::disallowed_methods)] // a program that knows nothing of this crate
    #[allow(clippy::useless_conversion)] // offsets have 32 bits on some systems
    fn set(file: &File, kind: i32, start: i64, length: i64) {
        let lock = libc::flock {
            l_type: kind.try_into().unwrap(),
            l_whence: libc::SEEK_SET.try_into().unwrap(),
            // Of 32 bits where offsets are.
            l_start: start.try_into().unwrap(),
            l_len: length.try_into().unwrap(),
            l_pid: 0,
        };
        fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).expect("no process has it");
    }

    async fn every_kind_of_request_is_granted(lock: &FileLock) {
        assert!(refused_after_the_limit(|| lock.try_lock()) <= 1);
        assert!(refused_after_the_limit(|| lock.try_lock_shared()) <= 1);
        drop(in_time(lock.lock()).await.unwrap());
        drop(in_time(lock.lock_shared()).await.unwrap());
    }

    each_protocol!(#[tokio::test] async fn one_that_keeps_the_turnstile_keeps_the_lock_from_nobody);
    async fn one_that_keeps_the_turnstile_keeps_the_lock_from_nobody(protocol: Protocol) {
        for kind in [libc::F_WRLCK, libc::F_RDLCK] {
            // As long as it would be for a pid; one byte; up to the end.
            for length in [4712, 1, 0] {
                let place = Place::new();
                let lock = open(place.lock_file(), protocol).await;
                let stranger = opened_again(&place);
                set(&stranger, kind, turnstile(protocol), length);
                every_kind_of_request_is_granted(&lock).await;
            }
        }
    }

    each_protocol!(#[tokio::test] async fn one_that_covers_the_turnstile_delays_nobody);
    /// A lock that begins elsewhere is not one on the turnstile.
    async fn one_that_covers_the_turnstile_delays_nobody(protocol: Protocol) {
        let place = Place::new();
        let lock = open(place.lock_file(), protocol).await;
        let stranger = opened_again(&place);
        set(&stranger, libc::F_WRLCK, turnstile(protocol) - 1, 0);
        for _ in 0..100 {
            drop(lock.try_lock().unwrap());
            drop(in_time(lock.lock_shared()).await.unwrap());
        }
    }

    each_protocol!(#[test] fn one_that_takes_turn_after_turn_keeps_the_lock_from_nobody);
    /// Another turn at every look, and never the lock.
    fn one_that_takes_turn_after_turn_keeps_the_lock_from_nobody(protocol: Protocol) {
        let place = Place::new();
        let lock = FileLock::options().protocol(protocol);
        let lock = lock.blocking_open(place.lock_file()).unwrap();
        let stranger = opened_again(&place);
        let start = turnstile(protocol);
        set(&stranger, libc::F_WRLCK, start, 1);
        let (stop, stopped) = mpsc::channel::<()>();
        let turns = std::thread::spawn(move || {
            let mut length = 1;
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                // The first byte is locked all the time.
                length = length % 1000 + 1;
                set(&stranger, libc::F_WRLCK, start, length);
                set(&stranger, libc::F_UNLCK, start + length, 2000);
                std::thread::yield_now();
            }
            stranger
        });
        drop(lock.blocking_lock().unwrap());
        let begun = Instant::now();
        while lock.try_lock().is_err() {
            assert!(begun.elapsed() < PATIENCE, "never granted");
        }
        drop(stop);
        turns.join().unwrap();
    }
}

// ---- tenures ----

each_protocol!(#[tokio::test] async fn a_tenure_is_as_long_as_the_strictest_handle_allows);
async fn a_tenure_is_as_long_as_the_strictest_handle_allows(protocol: Protocol) {
    let place = Place::new();
    let options = FileLock::options().protocol(protocol);
    let lock = options.clone().open(place.lock_file()).await.unwrap();
    hand_over(&lock, 100).await;
    let by_default = lock.counters();
    assert!(by_default.tenures < 50, "{by_default:?}");

    let single = options.tenure(Tenure::single()).open(place.lock_file()).await.unwrap();
    hand_over(&lock, 100).await;
    let strict = lock.counters();
    assert_eq!(strict.tenures - by_default.tenures, 100, "{strict:?}");
    assert_eq!(strict.handovers, by_default.handovers);
    drop(single);
}

/// So many exclusive locks, of which all but the first wait in line.
async fn hand_over(lock: &FileLock, locks: usize) {
    let guard = lock.lock().await.unwrap();
    let mut tasks = JoinSet::new();
    for _ in 1..locks {
        let lock = lock.clone();
        tasks.spawn(async move { drop(lock.lock().await.unwrap()) });
    }
    tokio::task::yield_now().await;
    drop(guard);
    in_time(tasks.join_all()).await;
}

each_protocol!(
    #[tokio::test]
    async fn readers_that_always_overlap_let_a_writer_of_another_process_in
);
/// A stream of shared guards in one process, none of which waits for another.
async fn readers_that_always_overlap_let_a_writer_of_another_process_in(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let mut reader = lock.lock_shared().await.unwrap();
    let mut writer = Locker::open(&place.lock_file(), protocol);
    writer.start_to_wait(Mode::Exclusive);
    kernel::await_waiting_calls(&place.lock_file(), 1);
    let mut joined = 0;
    // The next one comes before the last one goes, until one has to wait.
    let waiting = loop {
        let mut next = tokio_test::task::spawn(lock.lock_shared());
        match next.poll() {
            std::task::Poll::Ready(guard) => reader = guard.unwrap(),
            std::task::Poll::Pending => break next,
        }
        joined += 1;
        // Far more than fit into the 50 µs in which no process looks.
        assert!(joined <= 10_000, "the writer is not seen");
    };
    drop(reader);
    writer.expect_held();
    writer.unlock();
    drop(in_time(waiting).await.unwrap());
}

each_protocol!(#[tokio::test] async fn readers_do_not_join_one_that_has_seen_a_writer_wait);
/// The holder has been told that another process waits. Requests of its own tasks do not join it then,
/// however soon they come.
async fn readers_do_not_join_one_that_has_seen_a_writer_wait(protocol: Protocol) {
    for joins_before in [0, 1, 5] {
        let place = Place::new();
        let lock = open(place.lock_file(), protocol).await;
        let reader = lock.lock_shared().await.unwrap();
        for _ in 0..joins_before {
            drop(lock.lock_shared().await.unwrap());
        }
        let mut writer = Locker::open(&place.lock_file(), protocol);
        writer.start_to_wait(Mode::Exclusive);
        in_time(reader.until_contended()).await;
        let mut newcomers = [(); 3].map(|()| tokio_test::task::spawn(lock.lock_shared()));
        for newcomer in &mut newcomers {
            assert!(newcomer.poll().is_pending(), "past the writer that was seen");
        }
        assert_would_block(lock.try_lock_shared());
        drop(reader);
        writer.expect_held();
        writer.unlock();
        for newcomer in newcomers {
            drop(in_time(newcomer).await.unwrap());
        }
    }
}

each_protocol!(#[tokio::test] async fn the_first_to_join_looks_whether_a_writer_waits);
/// No task has looked since the tenure began: the first one that would join does.
async fn the_first_to_join_looks_whether_a_writer_waits(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let reader = lock.lock_shared().await.unwrap();
    let mut writer = Locker::open(&place.lock_file(), protocol);
    writer.start_to_wait(Mode::Exclusive);
    kernel::await_waiting_calls(&place.lock_file(), 1);
    let mut newcomer = tokio_test::task::spawn(lock.lock_shared());
    assert!(newcomer.poll().is_pending(), "past a writer that waits");
    drop(reader);
    writer.expect_held();
    writer.unlock();
    drop(in_time(newcomer).await.unwrap());
}

each_protocol!(#[tokio::test] async fn readers_join_readers_whatever_the_bounds_of_the_tenure);
/// No task writes, and none waits to: the bounds of a tenure are none for readers, one of whom may
/// wait for another one.
async fn readers_join_readers_whatever_the_bounds_of_the_tenure(protocol: Protocol) {
    let place = Place::new();
    let tenure = Tenure::single().time(Duration::ZERO);
    let options = FileLock::options().protocol(protocol).tenure(tenure);
    let lock = options.open(place.lock_file()).await.unwrap();
    let _reader = lock.lock_shared().await.unwrap();
    for _ in 0..100 {
        let _other = in_time(lock.lock_shared()).await.unwrap();
        drop(lock.try_lock_shared().unwrap());
    }
    assert_eq!(lock.counters().tenures, 1);
    // A writer of this process that gives up leaves no reader out, either.
    let mut writer = tokio_test::task::spawn(lock.lock());
    assert!(writer.poll().is_pending());
    let mut behind = tokio_test::task::spawn(lock.lock_shared());
    assert!(behind.poll().is_pending());
    drop(writer);
    drop(in_time(behind).await.unwrap());
}

// ---- asking the holder ----

each_protocol!(#[tokio::test] async fn a_holder_sees_who_waits);
async fn a_holder_sees_who_waits(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let guard = lock.lock().await.unwrap();
    assert!(!guard.contended());
    let mut local = tokio_test::task::spawn(lock.lock());
    assert!(local.poll().is_pending());
    assert!(guard.contended());
    in_time(guard.until_contended()).await;
    drop(local);
    assert!(!guard.contended());

    let mut other = Locker::open(&place.lock_file(), protocol);
    other.start_to_wait(Mode::Exclusive);
    in_time(guard.until_contended()).await;
    assert!(guard.contended());
    drop(guard);
    other.expect_held();
    // No process waits any more, but a task that tries is not let in.
    assert_would_block(lock.try_lock());
    other.unlock();
    let reader = in_time(lock.lock_shared()).await.unwrap();
    assert!(!reader.contended());
    other.start_to_wait(Mode::Exclusive);
    in_time(reader.until_contended()).await;
    // It is the writer's turn: a new reader does not overtake it, nor does one that tries.
    kernel::await_waiting_calls(&place.lock_file(), 1);
    let newcomer = Locker::open(&place.lock_file(), protocol);
    let mut newcomer = newcomer;
    assert_eq!(newcomer.try_lock(Mode::Shared), "would block");
    drop(reader);
    other.expect_held();
    other.finish();
    assert_eq!(newcomer.try_lock(Mode::Shared), "held");
    newcomer.finish();
}

// ---- what the roles share ----

fn arguments(place: &Place, protocol: Protocol) -> [String; 3] {
    let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    [text(place.lock_file()), format!("{protocol:?}"), text(place.data_file())]
}

fn as_str(arguments: &[String; 3]) -> [&str; 3] {
    arguments.each_ref().map(String::as_str)
}

fn opened(arguments: &[String]) -> (FileLock, std::path::PathBuf) {
    let [path, name, data] = arguments else { panic!("{arguments:?}") };
    let lock = FileLock::options().protocol(protocol(name)).blocking_open(path).unwrap();
    (lock, data.into())
}

/// Becomes true when the parent says so.
fn told_to_stop() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    std::thread::spawn(move || {
        assert!(commands().next().is_none_or(|command| command == "stop"));
        told.store(true, Ordering::Relaxed);
    });
    stop
}
