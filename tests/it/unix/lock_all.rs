//! Several locks at once: no circle of those who wait, all or nothing, each lock once.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::Duration;

use fastrand::Rng;
use futures::future::FusedFuture;
use tokio::task::{JoinSet, yield_now};
use tokio_filelock::{
    ErrorKind, FileLock, LockSpace, Protocol, blocking_lock_all, blocking_lock_all_shared,
    lock_all, lock_all_shared,
};
use tokio_test::task::spawn;

use crate::child::Role;
use crate::support::locker::{Locker, become_nobody, is_free};
use crate::support::place::Place;
use crate::support::process::{Process, commands, gather, meet, say};
use crate::support::{Mode, assert_names, assert_would_block, in_time, kernel, message, open};
use crate::unix::space::COLLIDING;

/// A lock of every kind.
async fn one_of_each(directory: &Path) -> Vec<FileLock> {
    let space = LockSpace::open(directory.join("space.lock")).await.unwrap();
    vec![
        space.key("one"),
        open(directory.join("flock.lock"), Protocol::Flock).await,
        space.key("other"),
        open(directory.join("fcntl.lock"), Protocol::Fcntl).await,
    ]
}

#[tokio::test]
async fn all_of_every_kind_are_held_and_released() {
    let place = Place::new();
    let locks = one_of_each(place.directory()).await;
    let guards = lock_all(&locks).await.unwrap();
    assert_eq!(guards.len(), locks.len());
    locks.iter().for_each(|lock| assert_would_block(lock.try_lock_shared()));
    drop(guards);
    let guards = lock_all_shared(&locks).await.unwrap();
    for lock in &locks {
        assert_would_block(lock.try_lock());
        assert!(lock.try_lock_shared().is_ok());
    }
    for guard in guards {
        guard.unlock().await.unwrap();
    }
    locks.iter().for_each(|lock| assert!(lock.try_lock().is_ok()));
}

#[tokio::test]
async fn no_locks_are_had_at_once() {
    let none: [FileLock; 0] = [];
    let mut all = spawn(lock_all(none));
    assert!(!all.is_terminated());
    let Poll::Ready(guards) = all.poll() else { panic!("nothing to wait for") };
    assert!(guards.unwrap().is_empty());
    assert!(all.is_terminated());
}

#[test]
fn code_outside_of_async_takes_all_and_tasks_are_told_not_to() {
    let place = Place::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let locks = runtime.block_on(one_of_each(place.directory()));
    let guards = blocking_lock_all(&locks).unwrap();
    locks.iter().for_each(|lock| assert_would_block(lock.try_lock_shared()));
    drop(guards);
    let guards = blocking_lock_all_shared(&locks).unwrap();
    assert_eq!(guards.len(), locks.len());
    drop(guards);
    runtime.block_on(async {
        let call = AssertUnwindSafe(|| blocking_lock_all(&locks));
        let panic = catch_unwind(call).unwrap_err();
        assert!(message(&*panic).contains("from within a runtime"), "{}", message(&*panic));
    });
}

/// However a lock is named, and however often: it does not wait for itself.
#[tokio::test]
async fn one_lock_under_many_names_is_taken_once() {
    let place = Place::new();
    let lock = open(place.lock_file(), Protocol::Flock).await;
    fs::hard_link(place.lock_file(), place.at("linked.lock")).unwrap();
    let space = LockSpace::open(place.at("space.lock")).await.unwrap();
    let again = LockSpace::open(place.at("./space.lock")).await.unwrap();
    let [one, other] = COLLIDING;
    let locks = [
        space.key(one),
        lock,
        again.key(other),
        open(place.at("linked.lock"), Protocol::Flock).await,
        space.key(other),
        space.key("another"),
        again.key(one),
    ];
    let guards = in_time(lock_all(&locks)).await.unwrap();
    assert_eq!(guards.len(), 3);
    locks.iter().for_each(|lock| assert_would_block(lock.try_lock()));
    drop(guards);
    assert_eq!(in_time(lock_all_shared(&locks)).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_timeout_says_which_lock_was_waited_for_and_releases_the_others() {
    let place = Place::new();
    let locks = one_of_each(place.directory()).await;
    for held in &locks {
        let _guard = held.lock().await.unwrap();
        let error = lock_all(&locks).timeout(Duration::from_millis(10)).await.unwrap_err();
        assert_names(&error, ErrorKind::TimedOut, held.path());
        let deadline = tokio::time::Instant::now();
        let error = lock_all_shared(&locks).deadline(deadline).await.unwrap_err();
        assert_names(&error, ErrorKind::TimedOut, held.path());
        for lock in locks.iter().filter(|lock| lock.path() != held.path()) {
            assert!(lock.try_lock().is_ok(), "{lock:?} is held without {held:?}");
        }
    }
    // Free locks are taken even with a time of zero, and one that is too long for the clock is none.
    drop(lock_all(&locks).timeout(Duration::ZERO).await.unwrap());
    drop(lock_all(&locks).timeout(Duration::MAX).await.unwrap());
}

#[tokio::test]
async fn dropped_at_any_point_it_leaves_nothing_locked() {
    let place = Place::new();
    let locks = one_of_each(place.directory()).await;
    let free = || locks.iter().filter(|lock| lock.try_lock().is_ok()).count();
    drop(lock_all(&locks));
    assert_eq!(free(), locks.len());
    for held in &locks {
        let guard = held.lock().await.unwrap();
        let mut waiting = spawn(lock_all(&locks));
        assert!(waiting.poll().is_pending());
        drop(waiting);
        assert_eq!(free(), locks.len() - 1);

        // Granted the lock that it waited for, and not polled since.
        let mut waiting = spawn(lock_all(&locks));
        assert!(waiting.poll().is_pending());
        drop(guard);
        assert!(waiting.is_woken());
        assert_would_block(held.try_lock());
        drop(waiting);
        assert_eq!(free(), locks.len());
    }
}

/// An exclusive range lock needs write access.
#[test]
fn one_that_cannot_be_had_leaves_nothing_locked() {
    let process = Process::in_role(Role::LockWhatIsNotOurs, &[]);
    process.finish();
}

/// The role `LockWhatIsNotOurs`.
pub(crate) fn lock_what_is_not_ours(_: &[String]) {
    let place = Place::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let names = ["a.lock", "b.lock", "c.lock"];
        names.iter().for_each(|name| fs::write(place.at(name), "").unwrap());
        fs::set_permissions(place.at("b.lock"), PermissionsExt::from_mode(0o444)).unwrap();
        for name in ["a.lock", "c.lock"] {
            fs::set_permissions(place.at(name), PermissionsExt::from_mode(0o666)).unwrap();
        }
        become_nobody();
        let [a, b, c] = names.map(|name| place.at(name));
        let [a, b, c] = [
            open(a, Protocol::Fcntl).await,
            open(b, Protocol::Fcntl).await,
            open(c, Protocol::Fcntl).await,
        ];
        let error = lock_all([&a, &b, &c]).await.unwrap_err();
        assert_names(&error, ErrorKind::WrongAccess, b.path());
        assert!(a.try_lock().is_ok() && c.try_lock().is_ok());
        assert_eq!(lock_all_shared([&a, &b, &c]).await.unwrap().len(), 3);
    });
}

#[tokio::test]
async fn polled_after_completion_it_panics() {
    let place = Place::new();
    let locks = one_of_each(place.directory()).await;
    let mut all = spawn(lock_all(&locks));
    assert!(all.poll().is_ready());
    let panic = catch_unwind(AssertUnwindSafe(|| all.poll())).unwrap_err();
    assert_eq!(message(&*panic), "`AcquireAll` polled after completion");
}

/// A lock file that is replaced gets another place in the order. A task that follows it with locks in
/// hand waits the wrong way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lock_file_that_is_replaced_is_not_waited_for_with_locks_in_hand() {
    let place = Place::new();
    let path = |number: usize| place.at(&format!("{number}.lock"));
    let mut files = Vec::new();
    for number in 0..3 {
        files.push((open(path(number), Protocol::Flock).await, path(number)));
    }
    // In the order of their inodes, which is the order in which they are taken.
    files.sort_by_key(|(_, path)| MetadataExt::ino(&fs::metadata(path).unwrap()));
    let [(first, first_path), (second, _), (third, third_path)] =
        files.try_into().expect("three files");

    let other = Locker::holding(&third_path, Protocol::Flock, Mode::Exclusive);
    let first_guard = first.lock().await.unwrap();
    let mut both = spawn(lock_all([&third, &second]));
    assert!(both.poll().is_pending());
    kernel::await_waiting_calls(&third_path, 1);
    assert_would_block(second.try_lock());
    // Who holds the first may wait for the second.
    let mut against = spawn(second.lock());
    assert!(against.poll().is_pending());
    // Now the third is where the first was.
    fs::rename(&first_path, &third_path).unwrap();
    other.finish();

    let both = tokio::spawn(both.into_inner());
    let second_guard = in_time(against).await.unwrap();
    drop((first_guard, second_guard));
    let guards = in_time(both).await.unwrap().unwrap();
    assert_eq!(guards.len(), 2);
    assert!(!is_free(&third_path, Protocol::Flock, Mode::Shared));
    assert_would_block(second.try_lock());
}

/// More of them than one request follows.
#[tokio::test]
async fn all_of_the_lock_files_are_replaced_at_once() {
    let place = Place::new();
    let space = LockSpace::open(place.at("space.lock")).await.unwrap();
    let mut locks: Vec<_> = (0..100).map(|number| space.key(format!("{number}"))).collect();
    for number in 0..50 {
        locks.push(open(place.at(&format!("{number}.lock")), Protocol::Flock).await);
    }
    for _ in 0..2 {
        drop(lock_all(&locks).await.unwrap());
        for name in place.names() {
            fs::remove_file(place.at(&name)).unwrap();
        }
    }
    let guards = lock_all(&locks).await.unwrap();
    assert_eq!(guards.len(), locks.len());
    assert!(!is_free(&place.at("49.lock"), Protocol::Flock, Mode::Shared));
    let in_first_file = locks.iter().filter(|lock| lock.path() == space.path()).count();
    assert_eq!(kernel::range_locks_by_descriptor(space.path()), [in_first_file]);
}

const PROCESSES: usize = 4;
const TASKS: usize = 10;
const ROUNDS: usize = 40;
const ACCOUNTS: usize = 7;
const BALANCE: i64 = 1_000;

/// Transfers between accounts that are locked in whatever order, by people who lose patience, and
/// auditors who look at all accounts at once.
#[test]
fn many_processes_take_many_locks_in_any_order() {
    let place = Place::new();
    for account in 0..ACCOUNTS {
        fs::write(place.at(&format!("{account}")), format!("{BALANCE} 0")).unwrap();
    }
    let directory = place.directory().to_str().unwrap();
    let mut processes: Vec<_> = (0..PROCESSES)
        .map(|seed| Process::in_role(Role::Transfer, &[directory, &seed.to_string()]))
        .collect();
    gather(&mut processes);
    let mut sum = [0; 4];
    for process in processes {
        for (sum, count) in sum.iter_mut().zip(process.event().split(' ')) {
            *sum += count.parse::<usize>().unwrap();
        }
        process.finish();
    }
    let [transfers, entries, audits, lost_patience] = sum;
    println!(
        "{PROCESSES} processes: {transfers} transfers with {entries} entries, {audits} audits, \
         {lost_patience} cancelled"
    );
    assert_eq!(transfers + audits + lost_patience, PROCESSES * TASKS * ROUNDS);
    assert!(transfers > 0 && audits > 0 && lost_patience > 0);
    assert_eq!(Books::read(place.directory()).totals(), (BALANCE * ACCOUNTS as i64, entries));
}

/// The role `Transfer`.
pub(crate) fn transfer(arguments: &[String]) {
    let [directory, seed] = arguments else { panic!("two arguments") };
    let directory = PathBuf::from(directory);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let space = LockSpace::open(directory.join("space.lock")).await.unwrap();
        let mut locks = one_of_each(&directory).await;
        let [one, other] = COLLIDING;
        locks.extend([one, other, "three"].map(|name| space.key(name)));
        assert_eq!(locks.len(), ACCOUNTS);
        meet();
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let (locks, directory) = (locks.clone(), directory.clone());
            let random = Rng::with_seed(seed.parse::<u64>().unwrap() * TASKS as u64 + task as u64);
            tasks.spawn(keep_accounts(locks, directory, random));
        }
        let mut sum = [0; 4];
        for counts in in_time(tasks.join_all()).await {
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        say(&sum.map(|count| count.to_string()).join(" "));
        commands().for_each(drop);
    });
}

async fn keep_accounts(locks: Vec<FileLock>, directory: PathBuf, mut random: Rng) -> [usize; 4] {
    let [mut transfers, mut entries, mut audits, mut lost_patience] = [0; 4];
    for _ in 0..ROUNDS {
        if random.u64(..8) == 0 {
            let guards = lock_all_shared(&locks).await.unwrap();
            let seen = Books::read(&directory);
            assert_eq!(seen.totals().0, BALANCE * ACCOUNTS as i64, "looked at in the middle");
            yield_now().await;
            assert_eq!(Books::read(&directory), seen, "changed while it was looked at");
            drop(guards);
            audits += 1;
            continue;
        }
        // In any order, and some of them twice.
        let accounts: Vec<_> =
            (0..2 + random.u64(..4)).map(|_| random.u64(..ACCOUNTS as u64) as usize).collect();
        let mut acquire = Box::pin(lock_all(accounts.iter().map(|&account| &locks[account])));
        if random.u64(..3) == 0 {
            let patience = Duration::from_micros(random.u64(..2_000));
            let Ok(guards) = tokio::time::timeout(patience, &mut acquire).await else {
                lost_patience += 1;
                continue;
            };
            entries += book(&directory, &accounts).await;
            drop(guards);
        } else {
            let guards = acquire.await.unwrap();
            entries += book(&directory, &accounts).await;
            drop(guards);
        }
        transfers += 1;
    }
    [transfers, entries, audits, lost_patience]
}

/// The balance of every account, and how many entries it has.
#[derive(Debug, PartialEq)]
struct Books(Vec<(i64, usize)>);

impl Books {
    fn read(directory: &Path) -> Self {
        Self((0..ACCOUNTS).map(|account| read(directory, account)).collect())
    }

    fn totals(&self) -> (i64, usize) {
        let Self(accounts) = self;
        (accounts.iter().map(|account| account.0).sum(), accounts.iter().map(|a| a.1).sum())
    }
}

fn read(directory: &Path, account: usize) -> (i64, usize) {
    let text = fs::read_to_string(directory.join(account.to_string())).unwrap();
    let (balance, entries) = text.split_once(' ').expect("written whole");
    (balance.parse().unwrap(), entries.parse().unwrap())
}

/// One pays the others.
async fn book(directory: &Path, accounts: &[usize]) -> usize {
    let mut accounts = accounts.to_vec();
    accounts.sort();
    accounts.dedup();
    let before: Vec<_> = accounts.iter().map(|&account| read(directory, account)).collect();
    let others = accounts.len() as i64 - 1;
    for (place, (account, (balance, entries))) in accounts.iter().zip(before).enumerate() {
        yield_now().await;
        let change = if place == 0 { -others } else { 1 };
        let line = format!("{} {}", balance + change, entries + 1);
        fs::write(directory.join(account.to_string()), line).unwrap();
    }
    accounts.len()
}
