//! Exclusive excludes everybody, shared excludes exclusive: in every task of every process.
//!
//! The counters are read, and written back after other tasks had their chance, and writing
//! truncates first: two that are inside together lose an update or read half a file.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::task::{JoinSet, yield_now};
use tokio_filelock::{FileLock, Protocol};

use crate::child::Role;
use crate::support::locker::{self, Locker};
use crate::support::place::Place;
use crate::support::process::{Process, gather, meet, say};
use crate::support::{Mode, assert_would_block, each_protocol, open, protocol};

const PROCESSES: usize = 6;
const TASKS: usize = 20;
/// Fewer on Windows: in wine one server makes the file calls of all processes.
const ROUNDS: usize = if cfg!(windows) { 10 } else { 50 };

/// What one process counts.
pub(crate) const COUNTED: usize = TASKS * ROUNDS;

/// Of the tasks of [`read_and_write`], one in so many writes.
const READERS_AND_A_WRITER: usize = 4;

#[test]
fn no_increment_of_six_processes_is_lost_with_flock() {
    increment(Protocol::Flock);
}

#[test]
fn no_increment_of_six_processes_is_lost_with_fcntl() {
    increment(Protocol::Fcntl);
}

fn increment(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.data_file(), "0").unwrap();
    run_processes(Role::Count, &place, protocol);
    let counted = fs::read_to_string(place.data_file()).unwrap();
    assert_eq!(counted, (PROCESSES * TASKS * ROUNDS).to_string());
}

#[test]
fn readers_and_writers_of_six_processes_never_meet_with_flock() {
    mix(Protocol::Flock);
}

#[test]
fn readers_and_writers_of_six_processes_never_meet_with_fcntl() {
    mix(Protocol::Fcntl);
}

fn mix(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.data_file(), "0 0").unwrap();
    run_processes(Role::ReadAndWrite, &place, protocol);
    let writes = PROCESSES * TASKS / READERS_AND_A_WRITER * ROUNDS;
    assert_eq!(fs::read_to_string(place.data_file()).unwrap(), format!("{writes} {writes}"));
}

/// Runs the processes together, and counts that every round of every task got a lock.
fn run_processes(role: Role, place: &Place, protocol: Protocol) {
    let (lock_file, data_file) = (place.lock_file(), place.data_file());
    let arguments =
        [&format!("{protocol:?}"), lock_file.to_str().unwrap(), data_file.to_str().unwrap()];
    let mut processes: Vec<_> =
        (0..PROCESSES).map(|_| Process::in_role(role, &arguments)).collect();
    gather(&mut processes);
    let mut sum = [0; 3];
    for process in processes {
        for (sum, count) in sum.iter_mut().zip(process.event().split(' ')) {
            *sum += count.parse::<usize>().unwrap();
        }
        process.finish();
    }
    let [acquisitions, tenures, handovers] = sum;
    println!(
        "{role}, {protocol:?}: {PROCESSES} processes, {acquisitions} acquisitions, \
         {tenures} tenures, {handovers} handovers"
    );
    assert_eq!(acquisitions, PROCESSES * TASKS * ROUNDS);
    assert_eq!(fs::read(lock_file).unwrap(), b"", "the lock file carries nothing");
}

/// The role `Count`: tasks that increment a number in a file.
pub(crate) fn count(arguments: &[String]) {
    run_tasks(arguments, |lock, data, _| async move {
        let guard = lock.lock().await.unwrap();
        let count: usize = fs::read_to_string(&data).unwrap().parse().unwrap();
        yield_now().await;
        fs::write(&data, (count + 1).to_string()).unwrap();
        drop(guard);
    });
}

/// The role `ReadAndWrite`: writers keep two numbers equal, and readers see them so.
pub(crate) fn read_and_write(arguments: &[String]) {
    run_tasks(arguments, |lock, data, task| async move {
        if task % READERS_AND_A_WRITER > 0 {
            let guard = lock.lock_shared().await.unwrap();
            let seen = equal_numbers(&data);
            yield_now().await;
            assert_eq!(equal_numbers(&data), seen, "written while it was read");
            drop(guard);
            return;
        }
        let guard = lock.lock().await.unwrap();
        let (old, new) = (equal_numbers(&data), equal_numbers(&data) + 1);
        fs::write(&data, format!("{new} {old}")).unwrap();
        yield_now().await;
        fs::write(&data, format!("{new} {new}")).unwrap();
        // As a reader it still finds what it wrote.
        let guard = guard.downgrade();
        yield_now().await;
        assert_eq!(equal_numbers(&data), new, "written between writing and reading");
        drop(guard);
    });
}

fn equal_numbers(data: &Path) -> usize {
    let text = fs::read_to_string(data).unwrap();
    let (one, other) = text.split_once(' ').expect("two numbers");
    assert_eq!(one, other, "read while it was written");
    one.parse().unwrap()
}

fn run_tasks<F: Future<Output = ()> + Send + 'static>(
    arguments: &[String],
    round: impl Fn(FileLock, PathBuf, usize) -> F + Copy + Send + 'static,
) {
    let [name, lock_file, data_file] = arguments else { panic!("three arguments") };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let lock = open(lock_file, protocol(name)).await;
        meet();
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let (lock, data) = (lock.clone(), PathBuf::from(data_file));
            tasks.spawn(async move {
                for _ in 0..ROUNDS {
                    round(lock.clone(), data.clone(), task).await;
                }
            });
        }
        tasks.join_all().await;
        let counters = lock.counters();
        say(&format!("{} {} {}", counters.acquisitions, counters.tenures, counters.handovers));
    });
}

each_protocol!(#[test] fn what_one_process_holds_decides_what_another_gets);
fn what_one_process_holds_decides_what_another_gets(protocol: Protocol) {
    let table = [
        (Mode::Exclusive, Mode::Exclusive, "would block"),
        (Mode::Exclusive, Mode::Shared, "would block"),
        (Mode::Shared, Mode::Exclusive, "would block"),
        (Mode::Shared, Mode::Shared, "held"),
    ];
    let place = Place::new();
    let mut one = Locker::open(&place.lock_file(), protocol);
    let mut other = Locker::open(&place.lock_file(), protocol);
    for (held, tried, answer) in table {
        assert_eq!(one.try_lock(held), "held");
        assert_eq!(other.try_lock(tried), answer, "{protocol:?}: {tried} beside {held}");
        if answer == "held" {
            other.unlock();
        }
        one.unlock();
        assert_eq!(other.try_lock(tried), "held", "{protocol:?}: {tried} after {held}");
        other.unlock();
    }
}

each_protocol!(#[tokio::test] async fn what_one_task_holds_decides_what_another_gets);
async fn what_one_task_holds_decides_what_another_gets(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;

    let writer = lock.try_lock().unwrap();
    assert_would_block(lock.try_lock());
    assert_would_block(lock.try_lock_shared());
    drop(writer);

    let reader = lock.try_lock_shared().unwrap();
    let another = lock.try_lock_shared().unwrap();
    assert_would_block(lock.try_lock());
    drop(reader);
    assert_would_block(lock.try_lock());
    drop(another);
    assert!(lock.try_lock().is_ok());
}

each_protocol!(#[tokio::test] async fn a_refused_exclusive_try_keeps_the_shared_lock);
/// With flock(2) a try that failed on the same open file would lose the shared lock.
async fn a_refused_exclusive_try_keeps_the_shared_lock(protocol: Protocol) {
    let place = Place::new();
    let other = Locker::holding(&place.lock_file(), protocol, Mode::Shared);
    let lock = open(place.lock_file(), protocol).await;
    let reader = lock.try_lock_shared().unwrap();
    assert_would_block(lock.try_lock());
    other.finish();
    assert!(!locker::is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");
    drop(reader);
    assert!(locker::is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");
}

each_protocol!(
    #[tokio::test]
    async fn closing_another_descriptor_of_the_lock_file_releases_nothing
);
/// POSIX record locks would be gone.
/// But where byte ranges are POSIX record locks.
async fn closing_another_descriptor_of_the_lock_file_releases_nothing(protocol: Protocol) {
    if cfg!(tokio_filelock_posix) && protocol == Protocol::Fcntl {
        return;
    }
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let guard = lock.lock().await.unwrap();
    drop(fs::File::open(place.lock_file()).unwrap());
    drop(open(place.lock_file(), protocol).await);
    assert!(!locker::is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");
    drop(guard);
}

each_protocol!(#[tokio::test] async fn locks_of_different_files_have_nothing_to_do_with_each_other);
async fn locks_of_different_files_have_nothing_to_do_with_each_other(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.at("a.lock"), protocol).await;
    let other = open(place.at("b.lock"), protocol).await;
    let _guard = lock.lock().await.unwrap();
    assert!(other.try_lock().is_ok());
    assert!(locker::is_free(&place.at("b.lock"), protocol, Mode::Exclusive));
}
