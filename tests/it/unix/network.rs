//! Network file systems: two mounts of one directory stand for two hosts.
//!
//! `.ci/netfs` mounts them in a virtual machine and runs these tests, which are ignored elsewhere.
//! It gives the file system's name and the two directories in the environment; without them the
//! tests fail. What a file system is known to do differently stands in [`Traits`], and is
//! asserted as well: the table in docs/PLATFORMS.md says the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio_filelock::{ErrorKind, FileLock, LockSpace, Protocol, TryLockError};
use tokio_test::task::spawn;

use crate::child::Role;
use crate::support::foreign::{PROGRAMS, Program};
use crate::support::locker::{Locker, is_free};
use crate::support::place::Place;
use crate::support::process::{Process, gather, meet, say};
use crate::support::{
    Mode, assert_would_block, each_protocol, in_time, kernel, open, options, protocol, returns,
    until,
};

/// A directory as two hosts see it.
pub(crate) struct Hosts {
    pub(crate) traits: Traits,
    one: TempDir,
    other: PathBuf,
}

/// What is not the same on all network file systems.
#[derive(Clone, Copy)]
pub(crate) struct Traits {
    /// Locks of flock(2) and of fcntl(2) exclude each other.
    one_lock_space: bool,
    /// The exclusive `flock` is granted on a descriptor that is open for reading.
    exclusive_for_readers: bool,
    /// The same, between processes of one host.
    one_lock_space_here: bool,
    /// A file that was removed keeps its name from others until everybody has closed it.
    removed_names_stay: bool,
    pub(crate) caches: Caches,
}

/// Whether a cache directory can be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caches {
    Work,
    /// Opening is an error.
    Refused,
    /// Processes came to a standstill for a minute and more.
    Stall,
}

impl Hosts {
    pub(crate) fn new() -> Self {
        let name = variable("TOKIO_FILELOCK_TEST_FILE_SYSTEM");
        let mounts = variable("TOKIO_FILELOCK_TEST_MOUNTS");
        let (one, other) = mounts.split_once(':').expect("two directories, with a colon between");
        let directory = tempfile::tempdir_in(one).expect("a directory on the file system");
        let other = Path::new(other).join(directory.path().file_name().unwrap());
        until("the other host sees the directory", || other.is_dir());
        Self { traits: Traits::of(&name), one: directory, other }
    }

    pub(crate) fn here(&self) -> &Path {
        self.one.path()
    }

    pub(crate) fn there(&self) -> &Path {
        &self.other
    }

    /// The directory where it really is.
    pub(crate) fn on_server(&self) -> PathBuf {
        let export = variable("TOKIO_FILELOCK_TEST_EXPORT");
        Path::new(&export).join(self.one.path().file_name().unwrap())
    }

    fn one(&self) -> PathBuf {
        self.one.path().join("app.lock")
    }

    fn other(&self) -> PathBuf {
        self.other.join("app.lock")
    }
}

impl Traits {
    fn of(file_system: &str) -> Self {
        let usual = Self {
            one_lock_space: true,
            one_lock_space_here: true,
            exclusive_for_readers: true,
            removed_names_stay: false,
            caches: Caches::Work,
        };
        let apart = Self { one_lock_space: false, one_lock_space_here: false, ..usual };
        match file_system {
            "nfs 4.2" => Self { exclusive_for_readers: false, ..usual },
            "nfs 3" => usual,
            "9p" => Self { caches: Caches::Stall, ..usual },
            "nfs 3, nolock" => apart,
            "cifs" => Self { removed_names_stay: true, caches: Caches::Refused, ..usual },
            "cifs, nobrl" => Self { removed_names_stay: true, caches: Caches::Refused, ..apart },
            _ => panic!("not known: {file_system}"),
        }
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run .ci/netfs"))
}

each_protocol!(
    #[test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    fn what_one_host_holds_decides_what_another_gets
);
fn what_one_host_holds_decides_what_another_gets(protocol: Protocol) {
    let table = [
        (Mode::Exclusive, Mode::Exclusive, "would block"),
        (Mode::Exclusive, Mode::Shared, "would block"),
        (Mode::Shared, Mode::Exclusive, "would block"),
        (Mode::Shared, Mode::Shared, "held"),
    ];
    let hosts = Hosts::new();
    let mut one = Locker::open(&hosts.one(), protocol);
    let mut other = Locker::open(&hosts.other(), protocol);
    for (held, tried, answer) in table {
        assert_eq!(one.try_lock(held), "held");
        assert_eq!(other.try_lock(tried), answer, "{protocol:?}: {tried} beside {held}");
        if answer == "held" {
            other.release();
        }
        one.release();
        assert_eq!(other.try_lock(tried), "held", "{protocol:?}: {tried} after {held}");
        other.release();
    }
}

#[test]
#[ignore = "needs two mounts: run .ci/netfs"]
fn no_increment_of_two_hosts_is_lost_with_flock() {
    increment(Protocol::Flock);
}

#[test]
#[ignore = "needs two mounts: run .ci/netfs"]
fn no_increment_of_two_hosts_is_lost_with_fcntl() {
    increment(Protocol::Fcntl);
}

fn increment(protocol: Protocol) {
    let hosts = Hosts::new();
    // On a local file system: what other hosts see of data is another question.
    let place = Place::new();
    let data = place.data_file();
    fs::write(&data, "0").unwrap();
    let started = Instant::now();
    let mut processes: Vec<_> = [hosts.one(), hosts.other(), hosts.one(), hosts.other()]
        .map(|lock| {
            let arguments =
                [&format!("{protocol:?}"), lock.to_str().unwrap(), data.to_str().unwrap()];
            Process::in_role(Role::Count, &arguments)
        })
        .into();
    gather(&mut processes);
    for process in processes {
        let counters = process.event();
        println!("{protocol:?}: acquisitions, tenures, handovers: {counters}");
        assert!(counters.starts_with("1000 "), "{counters}");
        process.finish();
    }
    println!("{protocol:?}: 4 processes on 2 hosts, {:?}", started.elapsed());
    assert_eq!(fs::read_to_string(data).unwrap(), "4000");
}

each_protocol!(
    #[test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    fn a_wait_ends_with_the_lock_of_another_host
);
fn a_wait_ends_with_the_lock_of_another_host(protocol: Protocol) {
    for mode in [Mode::Exclusive, Mode::Shared] {
        let hosts = Hosts::new();
        let mut holder = Locker::holding(&hosts.one(), protocol, Mode::Exclusive);
        let mut waiter = Locker::open(&hosts.other(), protocol);
        waiter.start_to_wait(mode);
        holder.release();
        waiter.expect_held();
        assert_eq!(holder.try_lock(Mode::Exclusive), "would block");
        waiter.release();
        assert_eq!(holder.try_lock(Mode::Exclusive), "held");
        holder.release();
    }
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    async fn waits_are_woken
);
/// Prints what it takes; asserts that it ends.
async fn waits_are_woken(protocol: Protocol) {
    const ROUNDS: usize = 20;
    let hosts = Hosts::new();
    let one = open(hosts.one(), protocol).await;
    let other = open(hosts.other(), protocol).await;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let guard = in_time(one.lock()).await.unwrap();
        let lock = other.clone();
        let waiting = tokio::spawn(async move {
            let guard = lock.lock().await.unwrap();
            (guard, Instant::now())
        });
        // So that it has had the time to go to sleep; nothing depends on it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        guard.unlock().await.unwrap();
        let unlocked = Instant::now();
        let (guard, granted) = in_time(waiting).await.unwrap();
        times.push(granted.saturating_duration_since(unlocked));
        guard.unlock().await.unwrap();
    }
    times.sort();
    println!(
        "{protocol:?}: from unlocked to granted on the other host, {ROUNDS} times: \
         min {:?}, median {:?}, max {:?}",
        times[0],
        times[ROUNDS / 2],
        times[ROUNDS - 1]
    );
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    async fn a_wait_that_nobody_wants_ends
);
async fn a_wait_that_nobody_wants_ends(protocol: Protocol) {
    let hosts = Hosts::new();
    let holder = Locker::holding(&hosts.one(), protocol, Mode::Exclusive);
    let lock = open(hosts.other(), protocol).await;
    let error = lock.lock().timeout(Duration::from_millis(500)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let mut waiting = spawn(lock.lock());
    assert!(waiting.poll().is_pending());
    drop(waiting);
    // The holder holds it all the time.
    kernel::await_no_wait_threads();
    assert_would_block(lock.try_lock_shared());
    holder.finish();
    let mut next = Locker::open(&hosts.other(), protocol);
    next.lock(Mode::Exclusive);
    next.release();
    assert_eq!(lock.counters().acquisitions, 0);
}

each_protocol!(
    #[test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    fn dropping_a_runtime_ends_its_waits
);
fn dropping_a_runtime_ends_its_waits(protocol: Protocol) {
    let hosts = Hosts::new();
    let holder = Locker::holding(&hosts.one(), protocol, Mode::Exclusive);
    let lock = futures::executor::block_on(open(hosts.other(), protocol));
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.spawn(async move { lock.lock().await.map(drop) });
    runtime.block_on(tokio::task::yield_now());
    returns(|| drop(runtime));
    kernel::await_no_wait_threads();
    holder.finish();
    let mut next = Locker::open(&hosts.other(), protocol);
    next.lock(Mode::Exclusive);
    next.finish();
}

each_protocol!(
    #[test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    fn a_waiter_gets_the_lock_of_a_holder_killed_on_another_host
);
fn a_waiter_gets_the_lock_of_a_holder_killed_on_another_host(protocol: Protocol) {
    let hosts = Hosts::new();
    let holder = Locker::holding(&hosts.one(), protocol, Mode::Exclusive);
    let mut waiter = Locker::open(&hosts.other(), protocol);
    waiter.start_to_wait(Mode::Exclusive);
    let started = Instant::now();
    holder.kill();
    waiter.expect_held();
    println!("{protocol:?}: from the kill to the lock: {:?}", started.elapsed());
    assert!(!is_free(&hosts.one(), protocol, Mode::Shared));
    waiter.release();
    assert!(is_free(&hosts.one(), protocol, Mode::Exclusive));
}

each_protocol!(
    #[test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    fn a_waiter_that_is_killed_stands_in_nobodys_way
);
fn a_waiter_that_is_killed_stands_in_nobodys_way(protocol: Protocol) {
    let hosts = Hosts::new();
    let mut holder = Locker::holding(&hosts.one(), protocol, Mode::Exclusive);
    let mut victim = Locker::open(&hosts.other(), protocol);
    victim.start_to_wait(Mode::Exclusive);
    victim.kill();
    let mut waiter = Locker::open(&hosts.other(), protocol);
    waiter.start_to_wait(Mode::Exclusive);
    holder.release();
    waiter.expect_held();
    waiter.release();
    assert_eq!(holder.try_lock(Mode::Exclusive), "held");
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    async fn programs_on_another_host_exclude_us_and_are_excluded
);
async fn programs_on_another_host_exclude_us_and_are_excluded(protocol: Protocol) {
    for program in PROGRAMS {
        let hosts = Hosts::new();
        let excludes = program.protocol() == protocol || hosts.traits.one_lock_space;
        assert_excludes(&hosts.one(), protocol, &hosts.other(), program, excludes).await;
    }
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    async fn programs_on_this_host_exclude_us_and_are_excluded
);
async fn programs_on_this_host_exclude_us_and_are_excluded(protocol: Protocol) {
    for program in PROGRAMS {
        let hosts = Hosts::new();
        let excludes = program.protocol() == protocol || hosts.traits.one_lock_space_here;
        assert_excludes(&hosts.one(), protocol, &hosts.one(), program, excludes).await;
    }
}

async fn assert_excludes(
    ours: &Path,
    protocol: Protocol,
    theirs: &Path,
    program: Program,
    excludes: bool,
) {
    let lock = open(ours, protocol).await;
    let foreign = program.hold(theirs, Mode::Exclusive);
    let tried = lock.try_lock();
    let refused = matches!(tried, Err(TryLockError::WouldBlock(_)));
    foreign.finish();
    drop(tried);
    let guard = in_time(lock.lock()).await.unwrap();
    let gets = program.gets(theirs, Mode::Exclusive);
    guard.unlock().await.unwrap();
    println!("{protocol:?} and {program:?}: excluded {refused}, excludes {}", !gets);
    assert_eq!((refused, !gets), (excludes, excludes), "{protocol:?} and {program:?}");
    assert!(program.gets(theirs, Mode::Exclusive), "{program:?}");
}

#[tokio::test]
#[ignore = "needs two mounts: run .ci/netfs"]
async fn we_wait_for_programs_on_another_host() {
    for program in PROGRAMS {
        let hosts = Hosts::new();
        let lock = open(hosts.one(), program.protocol()).await;
        let foreign = program.hold(&hosts.other(), Mode::Exclusive);
        let mut waiting = spawn(lock.lock());
        assert!(waiting.poll().is_pending());
        foreign.finish();
        in_time(waiting).await.unwrap().unlock().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs two mounts: run .ci/netfs"]
async fn the_exclusive_lock_may_need_write_access() {
    let hosts = Hosts::new();
    fs::write(hosts.one(), "").unwrap();
    let lock = options(Protocol::Flock).read_only(true).open(hosts.one()).await.unwrap();
    let reader = in_time(lock.lock_shared()).await.unwrap();
    assert!(is_free(&hosts.other(), Protocol::Flock, Mode::Shared));
    assert!(!is_free(&hosts.other(), Protocol::Flock, Mode::Exclusive));
    reader.unlock().await.unwrap();
    match in_time(lock.lock()).await {
        Ok(_) => assert!(hosts.traits.exclusive_for_readers),
        Err(error) => {
            assert!(!hosts.traits.exclusive_for_readers, "{error}");
            assert_eq!(error.kind(), ErrorKind::WrongAccess, "{error}");
            assert!(error.to_string().contains("open for writing"), "{error}");
        }
    }
    // By the other protocol it always does.
    let path = hosts.one().with_extension("fcntl");
    fs::write(&path, "").unwrap();
    let lock = options(Protocol::Fcntl).read_only(true).open(path).await.unwrap();
    let error = in_time(lock.lock()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongAccess, "{error}");
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    async fn one_process_excludes_itself_on_two_mounts
);
/// A file on two mounts has two identities: the process is two hosts to itself.
async fn one_process_excludes_itself_on_two_mounts(protocol: Protocol) {
    let hosts = Hosts::new();
    let one = open(hosts.one(), protocol).await;
    let other = open(hosts.other(), protocol).await;
    let guard = in_time(one.lock()).await.unwrap();
    assert_would_block(other.try_lock());
    let mut waiting = spawn(other.lock());
    assert!(waiting.poll().is_pending());
    guard.unlock().await.unwrap();
    let guard = in_time(waiting).await.unwrap();
    assert_would_block(one.try_lock_shared());
    guard.unlock().await.unwrap();
    assert_eq!((one.counters().tenures, other.counters().tenures), (1, 1));
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    async fn a_downgrade_keeps_the_lock
);
async fn a_downgrade_keeps_the_lock(protocol: Protocol) {
    let hosts = Hosts::new();
    let lock = open(hosts.one(), protocol).await;
    let reader = in_time(lock.lock()).await.unwrap().downgrade();
    assert!(!is_free(&hosts.other(), protocol, Mode::Exclusive));
    let another = in_time(lock.lock_shared()).await.unwrap();
    drop(reader);
    another.unlock().await.unwrap();
    assert!(is_free(&hosts.other(), protocol, Mode::Exclusive));
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    async fn a_child_process_neither_drops_nor_keeps_the_lock
);
/// No descriptor of ours is inherited over `exec`, but the child has it for a moment.
async fn a_child_process_neither_drops_nor_keeps_the_lock(protocol: Protocol) {
    let hosts = Hosts::new();
    let mut parent = Locker::holding(&hosts.one(), protocol, Mode::Exclusive);
    parent.start_child();
    assert!(!is_free(&hosts.one(), protocol, Mode::Shared), "{protocol:?}, same host");
    assert!(!is_free(&hosts.other(), protocol, Mode::Shared), "{protocol:?}, other host");
    parent.finish();
    assert!(is_free(&hosts.other(), protocol, Mode::Exclusive), "{protocol:?}");
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    async fn closing_another_descriptor_releases_nothing
);
async fn closing_another_descriptor_releases_nothing(protocol: Protocol) {
    let hosts = Hosts::new();
    let lock = open(hosts.one(), protocol).await;
    let guard = in_time(lock.lock()).await.unwrap();
    drop(fs::File::open(hosts.one()).unwrap());
    drop(open(hosts.one(), protocol).await);
    assert!(!is_free(&hosts.one(), protocol, Mode::Shared), "{protocol:?}, same host");
    assert!(!is_free(&hosts.other(), protocol, Mode::Shared), "{protocol:?}, other host");
    guard.unlock().await.unwrap();
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    async fn a_lock_file_removed_on_this_host_is_left
);
async fn a_lock_file_removed_on_this_host_is_left(protocol: Protocol) {
    let hosts = Hosts::new();
    let lock = open(hosts.one(), protocol).await;
    in_time(lock.lock()).await.unwrap().unlock().await.unwrap();
    fs::remove_file(hosts.one()).unwrap();
    if hosts.traits.removed_names_stay {
        nobody_gets_what_is_removed(lock, &hosts, protocol).await;
    } else {
        await_exclusion(&lock, &hosts, protocol).await;
    }
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    async fn a_lock_file_removed_on_another_host_is_left
);
async fn a_lock_file_removed_on_another_host_is_left(protocol: Protocol) {
    let hosts = Hosts::new();
    let lock = open(hosts.one(), protocol).await;
    in_time(lock.lock()).await.unwrap().unlock().await.unwrap();
    fs::remove_file(hosts.other()).unwrap();
    if hosts.traits.removed_names_stay {
        nobody_gets_what_is_removed(lock, &hosts, protocol).await;
    } else {
        fs::write(hosts.other(), "").unwrap();
        await_exclusion(&lock, &hosts, protocol).await;
    }
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    async fn a_lock_file_removed_on_another_host_is_left_by_those_who_wait
);
async fn a_lock_file_removed_on_another_host_is_left_by_those_who_wait(protocol: Protocol) {
    let hosts = Hosts::new();
    let holder = Locker::holding(&hosts.other(), protocol, Mode::Exclusive);
    let lock = open(hosts.one(), protocol).await;
    let mut waiting = spawn(lock.lock());
    assert!(waiting.poll().is_pending());
    fs::remove_file(hosts.other()).unwrap();
    if hosts.traits.removed_names_stay {
        holder.finish();
        drop(in_time(waiting).await);
        nobody_gets_what_is_removed(lock, &hosts, protocol).await;
        return;
    }
    fs::write(hosts.other(), "").unwrap();
    holder.finish();
    let guard = in_time(waiting).await.unwrap();
    assert!(!is_free(&hosts.other(), protocol, Mode::Shared), "{protocol:?}: not excluded");
    guard.unlock().await.unwrap();
}

/// CIFS: the name of a removed file is free for no other file until the last handle is gone. Until then there is
/// an error, or a guard of the old file, which no other process can open.
async fn nobody_gets_what_is_removed(lock: FileLock, hosts: &Hosts, protocol: Protocol) {
    let locked = in_time(lock.lock()).await;
    let mut other = Locker::new();
    let answer = match other.try_open(&hosts.other(), protocol).as_str() {
        "open" => other.try_lock(Mode::Shared),
        error => error.to_owned(),
    };
    println!("{protocol:?}: here {locked:?}, there {answer}");
    assert_ne!(answer, "held");
    match locked {
        Ok(guard) => guard.unlock().await.unwrap(),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Replaced, "{error}"),
    }
    other.finish();
    drop(lock);
    kernel::await_no_wait_threads();
    let lock = open(hosts.other(), protocol).await;
    in_time(lock.lock()).await.unwrap().unlock().await.unwrap();
}

/// A guard that is given out excludes those who open the path now.
async fn await_exclusion(lock: &FileLock, hosts: &Hosts, protocol: Protocol) {
    let guard = in_time(lock.lock()).await.unwrap();
    assert!(!is_free(&hosts.one(), protocol, Mode::Shared), "{protocol:?}: same host");
    assert!(!is_free(&hosts.other(), protocol, Mode::Shared), "{protocol:?}: other host");
    guard.unlock().await.unwrap();
}

each_protocol!(
    #[tokio::test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    async fn a_refused_exclusive_try_keeps_the_shared_lock
);
async fn a_refused_exclusive_try_keeps_the_shared_lock(protocol: Protocol) {
    let hosts = Hosts::new();
    let mut other = Locker::holding(&hosts.other(), protocol, Mode::Shared);
    let lock = open(hosts.one(), protocol).await;
    let reader = lock.try_lock_shared().unwrap();
    assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock(_))));
    other.release();
    assert_eq!(other.try_lock(Mode::Exclusive), "would block");
    reader.unlock().await.unwrap();
    assert_eq!(other.try_lock(Mode::Exclusive), "held");
}

/// A circle for a server that takes all keys of a file for one owner, and none for the tasks: those who
/// wait are not those who hold.
#[tokio::test]
#[ignore = "needs two mounts: run .ci/netfs"]
async fn keys_that_two_hosts_wait_for_crosswise_are_held_and_no_more() {
    // In the same file of the space.
    const KEYS: [&str; 2] = ["x6", "x9"];
    let hosts = Hosts::new();
    let here = space(&hosts.one()).await;
    let there = space(&hosts.other()).await;
    let held_here = in_time(here.key(KEYS[0]).lock()).await.unwrap();
    let held_there = in_time(there.key(KEYS[1]).lock()).await.unwrap();
    let [waits_here, waits_there] = [here.key(KEYS[1]), there.key(KEYS[0])];
    // Far longer than it takes until both calls are with the server.
    let limit = Duration::from_secs(3);
    let (one, other) =
        tokio::join!(waits_here.lock().timeout(limit), waits_there.lock().timeout(limit));
    for waited in [one, other] {
        let error = waited.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
    let both = async { tokio::join!(waits_here.lock(), waits_there.lock()) };
    let release = async { tokio::join!(held_here.unlock(), held_there.unlock()) };
    let ((one, other), released) = in_time(async { tokio::join!(both, release) }).await;
    released.0.unwrap();
    released.1.unwrap();
    one.unwrap().unlock().await.unwrap();
    other.unwrap().unlock().await.unwrap();
}

async fn space(path: &Path) -> LockSpace {
    let this_machine_only = std::env::var_os("TOKIO_FILELOCK_TEST_THIS_MACHINE_ONLY").is_some();
    let options = LockSpace::options().this_machine_only(this_machine_only);
    options.open(path).await.expect("the lock files open")
}

each_protocol!(
    #[test]
    #[ignore = "needs two mounts: run .ci/netfs"]
    fn locks_that_were_given_up_are_free
);
/// Waits that are given up at all moments leave no lock behind, on the client or on the server.
fn locks_that_were_given_up_are_free(protocol: Protocol) {
    let hosts = Hosts::new();
    let paths = [hosts.one(), hosts.other(), hosts.one()];
    let mut processes: Vec<_> = (1..)
        .zip(&paths)
        .map(|(seed, path)| {
            let arguments = [&format!("{protocol:?}"), path.to_str().unwrap(), &seed.to_string()];
            Process::in_role(Role::GiveUpOnANetwork, &arguments)
        })
        .collect();
    gather(&mut processes);
    for process in processes {
        println!("{protocol:?}: got, gave up: {}", process.event());
        process.finish();
    }
    for path in [hosts.one(), hosts.other()] {
        assert!(is_free(&path, protocol, Mode::Exclusive), "{protocol:?}: {path:?}");
    }
}

/// Locks with limits of 0.5 to 20 ms, and holds the lock for up to 9 ms.
pub(crate) fn give_up(arguments: &[String]) {
    const ROUNDS: usize = 150;
    let [name, path, seed] = arguments else { panic!("{arguments:?}") };
    let mut random = fastrand::Rng::with_seed(seed.parse().unwrap());
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    meet();
    let (got, gave_up) = runtime.block_on(async {
        let lock = options(protocol(name)).open(path).await.unwrap();
        let (mut got, mut gave_up) = (0, 0);
        for _ in 0..ROUNDS {
            let limit = Duration::from_micros(random.u64(500..20_000));
            match in_time(lock.lock().timeout(limit)).await {
                Ok(guard) => {
                    // The load, and nothing to wait for.
                    tokio::time::sleep(Duration::from_micros(random.u64(..9_000))).await;
                    in_time(guard.unlock()).await.unwrap();
                    got += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
                    gave_up += 1;
                }
            }
        }
        (got, gave_up)
    });
    say(&format!("{got}, {gave_up}"));
}
