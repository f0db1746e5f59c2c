//! The simulated machine by itself: its kernel against the table of scenarios, its seeds, what becomes of processes.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{LazyLock, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::machine::{Inode, Machine, Target, Woken};
use crate::mode::Mode::{self, Exclusive, Shared};
use crate::os::kernel::{Description, Slot};
use crate::os::scenarios::{self, Kernel};
use crate::os::{Identity, Protocol, Region, Tried, Waited};
use crate::shim::{Arc, Mutex};
use crate::sim::{Machine as Simulated, Process};
use crate::{ErrorKind, FileLock, Source, Tenure, TryLockError, lock_all};

/// `EIO` of Unix, `ERROR_IO_DEVICE` of Windows.
const IO_ERROR: i32 = if cfg!(windows) { 1117 } else { 5 };

const PROTOCOLS: [Protocol; 2] = [Protocol::Flock, Protocol::Fcntl];

/// Polls once, with a waker that does nothing.
fn poll_once<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// A future that has to wait.
#[track_caller]
fn pending<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    assert!(poll_once(&mut future).is_pending());
    future
}

// ---- the kernel, by the table of the real one ----

/// One disk for all scenarios, which have paths of their own.
static DISK: LazyLock<Arc<Machine>> = LazyLock::new(|| Machine::new(None));

struct OnDisk {
    inode: Inode,
    description: Description,
}

impl OnDisk {
    fn target(&self, protocol: Protocol, mode: Mode) -> Target {
        Target { description: self.description, slot: Slot::of(protocol, Region::ONLY), mode }
    }
}

fn identity(inode: Inode) -> Identity {
    Identity::simulated(0, inode)
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        Machine::close(&DISK, self.description);
    }
}

impl Kernel for OnDisk {
    type Interrupt = Mutex<Option<u64>>;

    fn interrupt(end: &Self::Interrupt) {
        DISK.interrupt(end.lock().expect("it waits"));
        Machine::run(&DISK);
    }

    fn open(path: &Path) -> Self {
        let inode = DISK.find_or_create(path);
        Self { inode, description: DISK.open(inode, DISK.start_program("scenario")) }
    }

    fn unlink(path: &Path) {
        assert!(DISK.unlink(path));
    }

    fn identity_at(path: &Path) -> Option<Identity> {
        DISK.find(path).ok().map(identity)
    }

    fn identity(&self) -> Identity {
        identity(self.inode)
    }

    fn is_linked(&self) -> std::io::Result<bool> {
        Ok(DISK.is_linked(self.inode))
    }

    fn try_lock(&self, protocol: Protocol, mode: Mode) -> std::io::Result<Tried> {
        let tried = DISK.try_lock(self.target(protocol, mode));
        Machine::run(&DISK);
        tried
    }

    fn lock(
        &self,
        protocol: Protocol,
        mode: Mode,
        end: &Self::Interrupt,
    ) -> std::io::Result<Waited> {
        let (answer, answered) = mpsc::channel();
        let number = DISK.new_number();
        *end.lock() = Some(number);
        let then = Box::new(move |woken| drop(answer.send(woken)));
        DISK.wait(number, self.target(protocol, mode), None, then);
        Machine::run(&DISK);
        match answered.recv().expect("a wait goes on") {
            Woken::Acquired => Ok(Waited::Acquired),
            Woken::Interrupted => Ok(Waited::Interrupted),
            Woken::TimedOut => unreachable!("it has no limit"),
            Woken::Failed(error) => Err(error),
        }
    }

    fn unlock(&self, protocol: Protocol) -> std::io::Result<()> {
        DISK.unlock(self.target(protocol, Shared));
        Machine::run(&DISK);
        Ok(())
    }

    fn blocked(path: &Path) -> usize {
        DISK.waiting(path)
    }
}

#[test]
fn plays_every_scenario_with_flock() {
    scenarios::play::<OnDisk>(Protocol::Flock);
}

#[test]
fn plays_every_scenario_with_fcntl() {
    scenarios::play::<OnDisk>(Protocol::Fcntl);
}

/// With some seeds a newcomer has the lock before the one that was woken; with some it has not.
#[tokio::test]
async fn a_release_with_a_seed_is_not_always_a_hand_off() {
    let mut seen = HashSet::new();
    for seed in 0..64 {
        let machine = Simulated::with_seed(seed);
        let one = machine.foreign("one", Protocol::Flock, "/lock");
        let other = machine.foreign("other", Protocol::Flock, "/lock");
        assert!(one.try_lock(Exclusive).unwrap());
        let mut waits = pending(other.lock(Exclusive));
        one.unlock();
        let again = one.try_lock(Exclusive).unwrap();
        seen.insert(again);
        if again {
            assert!(poll_once(&mut waits).is_pending());
            one.unlock();
        }
        waits.await.unwrap();
    }
    assert_eq!(seen.len(), 2);
}

// ---- seeds ----

/// Three processes of two tasks each count under one lock, with readers and with requests that are given up; one process is
/// killed, one is stopped for a while. What the machine did.
async fn run_a_seed(seed: u64) -> Vec<String> {
    let machine = Simulated::with_seed(seed);
    let count = Rc::new(Cell::new(0));
    let mut tasks = Vec::new();
    let tasks_of = |process: &Process| {
        let lock = process.open_with(FileLock::options().record(true), "/count.lock").unwrap();
        let key = process.space("/space.lock").unwrap().key("key");
        [0, 1].map(|number| {
            let (lock, key, count) = (lock.clone(), key.clone(), count.clone());
            tokio::task::spawn_local(process.run(async move {
                for round in 0..3 {
                    if (number + round) % 3 == 0 {
                        let _guard = lock.lock_shared().await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    if (number + round) % 3 == 1 {
                        // Gives up, in line or with the lock.
                        let mut given_up = Box::pin(lock.lock());
                        let _ = poll_once(&mut given_up);
                        tokio::task::yield_now().await;
                    }
                    let guard = lock.lock().await.unwrap();
                    let seen = count.get();
                    let _key = key.lock().await.unwrap();
                    tokio::task::yield_now().await;
                    assert_eq!(count.replace(seen + 1), seen, "another one was inside");
                    guard.unlock().await.unwrap();
                }
            }))
        })
    };
    let processes = ["a", "b", "c"].map(|name| machine.process(name));
    processes.iter().for_each(|process| tasks.extend(tasks_of(process)));
    for _ in 0..seed % 16 {
        tokio::task::yield_now().await;
    }
    processes[0].kill();
    processes[1].pause();
    for _ in 0..seed % 8 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(seed % 100)).await;
    processes[1].resume();
    let mut finished = 0;
    for task in tasks {
        finished += u32::from(task.await.unwrap().is_some());
    }
    assert!(finished >= 4, "{machine}");
    assert_eq!(machine.to_string(), "", "nothing is left");
    machine.trace()
}

/// In a current-thread runtime of its own, with its clock paused.
fn run_paused<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

#[test]
fn a_thousand_seeds_give_the_same_twice() {
    let mut different = HashSet::new();
    for seed in 0..1_000 {
        let [one, other] = [(); 2].map(|()| run_paused(run_a_seed(seed)));
        assert_eq!(one, other, "seed {seed}");
        assert!(!one.is_empty());
        different.insert(one);
    }
    println!("1000 seeds twice, {} different traces", different.len());
    assert!(different.len() > 500, "{} different traces", different.len());
}

/// Reads under one lock, and writes under the next.
async fn count_with_a_mistake(machine: &Simulated, count: &Cell<u32>, name: &str) {
    let lock = machine.process(name).open("/count.lock").unwrap();
    let seen = {
        let _reads = lock.lock().await.unwrap();
        count.get()
    };
    let _writes = lock.lock().await.unwrap();
    count.set(seen + 1);
}

#[test]
fn a_planted_lost_update_is_found() {
    let lost = |seed| {
        run_paused(async {
            let (machine, count) = (Simulated::with_seed(seed), Cell::new(0));
            let counts = |name| count_with_a_mistake(&machine, &count, name);
            futures_join(counts("one"), counts("other")).await;
            count.get() < 2
        })
    };
    let found: Vec<_> = (0..100).filter(|seed| lost(*seed)).collect();
    println!("a lost update with {} of 100 seeds, the first is {:?}", found.len(), found.first());
    assert!(!found.is_empty());
}

async fn lock_two_keys(machine: &Simulated, name: &str, keys: [&str; 2], in_order: bool) {
    let space = machine.process(name).space("/keys.lock").unwrap();
    let [first, second] = keys.map(|key| space.key(key));
    if in_order {
        drop(lock_all([first, second]).await.unwrap());
    } else {
        let _first = first.lock().await.unwrap();
        let _second = second.lock().await.unwrap();
    }
}

/// When all tasks wait the paused clock runs to the limit.
fn seeds_with_a_deadlock(in_order: bool) -> usize {
    let is_stuck = |seed: &u64| {
        run_paused(async {
            let machine = Simulated::with_seed(*seed);
            let both = futures_join(
                lock_two_keys(&machine, "one", ["a", "b"], in_order),
                lock_two_keys(&machine, "other", ["b", "a"], in_order),
            );
            tokio::time::timeout(Duration::from_secs(3600), both).await.is_err()
        })
    };
    (0..100).filter(is_stuck).count()
}

#[test]
fn a_planted_deadlock_of_two_keys_is_found() {
    let found = seeds_with_a_deadlock(false);
    println!("a deadlock with {found} of 100 seeds");
    assert!(found > 0);
    assert_eq!(seeds_with_a_deadlock(true), 0, "lock_all takes them in order");
}

async fn futures_join(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::join!(one, other);
}

// ---- processes ----

#[tokio::test(start_paused = true)]
async fn a_killed_process_is_gone() {
    for protocol in PROTOCOLS {
        let machine = Simulated::new();
        let options = || FileLock::options().protocol(protocol).record(true);
        let [one, other] = ["one", "other"].map(|name| machine.process(name));
        let dying = one.open_with(options(), "/lock").unwrap();
        let lock = other.open_with(options(), "/lock").unwrap();
        let guard = dying.lock().label("import 17").await.unwrap();
        let mut in_line = pending(dying.lock());
        let next = pending(lock.lock());

        one.kill();
        let got = next.await.unwrap();
        let dead = got.abandoned().expect("it died with the lock");
        assert_eq!((dead.pid(), dead.label()), (one.pid(), Some("import 17")));
        assert_eq!(got.token(), Some(2));
        // Nothing of the dead process does anything any more.
        assert!(poll_once(&mut in_line).is_pending());
        drop(in_line);
        guard.unlock().await.unwrap();
        assert!(poll_once(&mut Box::pin(dying.lock())).is_pending());
        assert!(matches!(dying.try_lock(), Err(TryLockError::WouldBlock(_))));
        assert_eq!(one.open("/other").unwrap_err().kind(), ErrorKind::Io);
        assert!(dying.holders().await.is_err());
        assert!(!one.is_alive());
        drop(got);
        assert!(lock.try_lock().unwrap().abandoned().is_none());
        assert_eq!(machine.to_string(), "");
    }
}

/// Another process may have the lock by then.
#[tokio::test(start_paused = true)]
async fn the_guard_of_a_process_that_is_gone_or_stopped_removes_nothing() {
    for is_gone in [true, false] {
        let machine = Simulated::new();
        let process = machine.process("holds");
        let guard = process.open("/lock").unwrap().lock().await.unwrap();
        if is_gone {
            process.kill()
        } else {
            process.pause()
        }
        assert!(guard.remove_file().await.is_err(), "gone: {is_gone}");
        assert!(machine.exists("/lock"));
    }
}

/// The conversion fails, and the record is that of a holder still.
#[tokio::test(start_paused = true)]
async fn a_downgrade_that_fails_leaves_the_record_of_a_holder() {
    let machine = Simulated::new();
    let options = || FileLock::options().protocol(Protocol::Fcntl).record(true);
    let [one, other] = ["one", "other"].map(|name| machine.process(name));
    let guard = one.open_with(options(), "/lock").unwrap().lock().await.unwrap();
    machine.fail_next("/lock", IO_ERROR);
    let guard = guard.downgrade();
    let lock = other.open_with(options(), "/lock").unwrap();
    assert!(lock.try_lock_shared().is_err(), "it is exclusive still");
    one.kill();
    assert_eq!(lock.lock().await.unwrap().abandoned().unwrap().pid(), one.pid());
    drop(guard);
}

/// A task that was granted the lock and was not polled since is not told so after the kill.
#[tokio::test(start_paused = true)]
async fn a_grant_that_was_not_seen_dies_with_the_process() {
    let machine = Simulated::new();
    let process = machine.process("dies");
    let lock = process.open("/lock").unwrap();
    let guard = lock.lock().await.unwrap();
    let mut waits = [pending(lock.lock()), pending(lock.lock())];
    drop(guard);
    process.kill();
    waits.iter_mut().for_each(|wait| assert!(poll_once(wait).is_pending()));
    drop(waits);
    assert!(machine.process("next").open("/lock").unwrap().try_lock().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_kill_frees_locks_in_order() {
    let machine = Simulated::new();
    let order = Rc::new(RefCell::new(Vec::new()));
    let first = machine.process("first");
    let held = first.open("/lock").unwrap().lock().await.unwrap();
    let local = tokio::task::LocalSet::new();
    for name in ["second", "third", "fourth"] {
        let process = machine.process(name);
        let (lock, order) = (process.open("/lock").unwrap(), order.clone());
        local.spawn_local(async move {
            let _guard = lock.lock().await.unwrap();
            order.borrow_mut().push(name);
        });
    }
    local.run_until(tokio::task::yield_now()).await;
    assert!(held.contended(), "{machine}");
    first.kill();
    local.await;
    assert_eq!(*order.borrow(), ["second", "third", "fourth"]);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_process_keeps_its_lock_and_makes_no_call() {
    for protocol in PROTOCOLS {
        let machine = Simulated::new();
        let options = || FileLock::options().protocol(protocol);
        let [one, other] = ["one", "other"].map(|name| machine.process(name));
        let lock = other.open_with(options(), "/lock").unwrap();
        let stopped = one.open_with(options(), "/lock").unwrap();
        let guard = stopped.lock().await.unwrap();
        one.pause();
        drop(guard);
        assert!(matches!(stopped.try_lock(), Err(TryLockError::WouldBlock(_))));
        let limited = lock.lock().timeout(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(limited.kind(), ErrorKind::TimedOut);
        assert_eq!(limited.holders()[0].pid(), Some(one.pid()));
        let waits = pending(lock.lock());
        one.resume();
        drop(waits.await.unwrap());
        drop(stopped.lock().await.unwrap());
    }
}

/// The next in turn is stopped, and the lock is free: it is passed after its chance, by the paused clock.
#[tokio::test(start_paused = true)]
async fn a_stopped_owner_of_the_turnstile_is_passed() {
    for protocol in PROTOCOLS {
        let machine = Simulated::new();
        let open = |name| {
            let process = machine.process(name);
            let options = FileLock::options().protocol(protocol);
            (process.clone(), process.open_with(options, "/lock").unwrap())
        };
        let [(_, holds), (next, asleep), (_, waits)] = ["holds", "next", "waits"].map(open);
        let guard = holds.lock().await.unwrap();
        let in_turn = pending(asleep.lock());
        next.pause();
        drop(guard);
        assert!(matches!(waits.try_lock(), Err(TryLockError::WouldBlock(_))), "its turn");
        let begun = tokio::time::Instant::now();
        let guard = waits.lock().timeout(Duration::from_millis(60)).await.unwrap();
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_millis(20), "it had its chance: {waited:?}");
        drop(guard);
        assert!(waits.try_lock().is_ok(), "it is ignored for a second");
        next.resume();
        drop(in_turn.await.unwrap());
    }
}

/// The same without a runtime, by the machine's own clock.
#[test]
fn time_passes_by_hand() {
    let machine = Simulated::new();
    let [holds, asleep, tries] = ["holds", "next", "tries"].map(|name| machine.process(name));
    let [first, second, third] =
        [&holds, &asleep, &tries].map(|process| process.open("/lock").unwrap());
    let guard = first.try_lock().unwrap();
    let _in_turn = pending(second.lock());
    asleep.pause();
    drop(guard);
    assert!(third.try_lock().is_err());
    machine.advance(Duration::from_millis(60));
    let tried = third.try_lock().or_else(|_| third.try_lock());
    assert!(tried.is_ok(), "{}", machine.trace().join("\n"));
}

// ---- what the real one has ----

#[tokio::test(start_paused = true)]
async fn processes_take_turns() {
    for protocol in PROTOCOLS {
        let machine = Simulated::new();
        let options = || FileLock::options().protocol(protocol);
        let [hot, cold] = ["hot", "cold"]
            .map(|name| machine.process(name).open_with(options(), "/lock").unwrap());
        let guard = hot.lock().await.unwrap();
        let turn = pending(cold.lock());
        assert!(guard.contended());
        let mut own = pending(hot.lock());
        drop(guard);
        let guard = turn.await.unwrap();
        assert!(poll_once(&mut own).is_pending());
        drop(guard);
        drop(own.await.unwrap());
        assert_eq!((hot.counters().handovers, hot.counters().tenures), (0, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenure_hands_over_without_the_kernel() {
    let machine = Simulated::new();
    let lock = machine.process("one").open("/lock").unwrap();
    let guard = lock.lock().await.unwrap();
    let waits: Vec<_> = (0..10).map(|_| tokio::spawn(lock.lock())).collect();
    tokio::task::yield_now().await;
    drop(guard);
    for wait in waits {
        drop(wait.await.unwrap().unwrap());
    }
    assert_eq!((lock.counters().tenures, lock.counters().handovers), (1, 10));

    let single = FileLock::options().tenure(Tenure::single());
    let lock = machine.process("single").open_with(single, "/other").unwrap();
    let guard = lock.lock().await.unwrap();
    let wait = tokio::spawn(lock.lock());
    tokio::task::yield_now().await;
    drop(guard);
    drop(wait.await.unwrap().unwrap());
    assert_eq!((lock.counters().tenures, lock.counters().handovers), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn records_count_tenures_and_stay_in_the_file() {
    for protocol in PROTOCOLS {
        let machine = Simulated::new();
        let options = || FileLock::options().protocol(protocol).record(true).label("nightly");
        let [one, other] = ["one", "other"]
            .map(|name| machine.process(name).open_with(options(), "/lock").unwrap());
        assert_eq!(one.lock().await.unwrap().token(), Some(1));
        let guard = other.lock().await.unwrap();
        assert_eq!(guard.token(), Some(2));
        let text = String::from_utf8(machine.read("/lock").unwrap()).unwrap();
        assert!(text.contains("state=held") && text.contains("label=nightly"), "{text}");
        let holders = one.holders().await.unwrap();
        assert_eq!(holders.len(), 1);
        assert_eq!(holders[0].program(), Some("other"));
        assert_eq!(holders[0].label(), Some("nightly"));
        assert!(!holders[0].is_this_process() && holders[0].since().is_some());
        drop(guard);
        let text = String::from_utf8(machine.read("/lock").unwrap()).unwrap();
        assert!(text.contains("state=released"), "{text}");
    }
    let machine = Simulated::new();
    machine.write("/data", vec![b'x'; 5_000]);
    let required = FileLock::options().record(true).require_record(true);
    let lock = machine.process("one").open_with(required, "/data").unwrap();
    assert!(lock.lock().await.is_err(), "it is no lock file");
    assert_eq!(machine.read("/data").unwrap().len(), 5_000);
}

#[tokio::test(start_paused = true)]
async fn holders_are_named() {
    let machine = Simulated::new();
    let process = machine.process("service");
    let lock = process.open("/lock").unwrap();
    assert!(lock.holders().await.unwrap().is_empty());
    let guard = lock.lock().label("sync").await.unwrap();
    let flock = machine.foreign("flock", Protocol::Flock, "/lock");
    let waits = pending(flock.lock(Exclusive));
    let holders = lock.blocking_holders().unwrap();
    let [own, foreign] = &holders[..] else { panic!("{holders:?}") };
    assert!(own.is_this_process() && own.label() == Some("sync"));
    assert_eq!((own.program(), own.pid()), (Some("service"), Some(process.pid())));
    assert!(foreign.is_waiting() && foreign.program() == Some("flock"));
    assert_eq!(foreign.source(), Source::LockTable);
    drop(guard);
    waits.await.unwrap();
    let mut told = Vec::new();
    let (tell, told_of) = mpsc::channel();
    let waits = lock
        .lock()
        .on_wait(Duration::from_secs(1), move |waiting| {
            tell.send(waiting.to_string()).unwrap();
        })
        .timeout(Duration::from_secs(3));
    assert_eq!(waits.await.unwrap_err().kind(), ErrorKind::TimedOut);
    told.extend(told_of.try_iter());
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("held by flock (pid "), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_foreign_program_that_gives_up_has_nothing() {
    let machine = Simulated::new();
    let lock = machine.process("service").open("/lock").unwrap();
    let flock = machine.foreign("flock", Protocol::Flock, "/lock");
    let guard = lock.lock().await.unwrap();
    let waits = pending(flock.lock(Exclusive));
    drop(guard);
    drop(waits); // It was granted and did not look.
    assert!(lock.try_lock().is_ok());
    assert!(flock.try_lock(Shared).unwrap());
    assert!(lock.try_lock_shared().is_ok() && lock.try_lock().is_err());
    drop(flock);
    assert!(lock.try_lock().is_ok());
    let lockf = machine.foreign("lockf", Protocol::Fcntl, "/lock");
    assert!(lockf.try_lock(Exclusive).unwrap());
    assert!(lock.try_lock().is_ok(), "flock(2) does not see it");
}

/// The same where it is told later, as the seed says: what it locks meanwhile stays locked.
#[tokio::test(start_paused = true)]
async fn a_foreign_program_that_gives_up_loses_nothing_that_it_locks_then() {
    for seed in 0..100 {
        let machine = Simulated::with_seed(seed);
        let [one, other] = [0, 1].map(|_| machine.foreign("flock", Protocol::Flock, "/lock"));
        let mut waits = Box::pin(one.lock(Exclusive));
        let _ = poll_once(&mut waits);
        drop(waits);
        assert!(one.try_lock(Exclusive).unwrap(), "seed {seed}");
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!other.try_lock(Exclusive).unwrap(), "seed {seed}");
        let mut waits = Box::pin(other.lock(Exclusive));
        let _ = poll_once(&mut waits);
        drop(waits);
        drop(one);
        drop(other);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lock_files_are_removed_and_replaced() {
    for protocol in PROTOCOLS {
        let machine = Simulated::new();
        let options = || FileLock::options().protocol(protocol);
        let [one, other] = ["one", "other"]
            .map(|name| machine.process(name).open_with(options(), "/lock").unwrap());
        let guard = one.lock().await.unwrap();
        let waits: Vec<_> = (0..3).map(|_| tokio::spawn(other.lock())).collect();
        tokio::task::yield_now().await;
        machine.replace("/lock");
        drop(guard);
        for wait in waits {
            drop(wait.await.unwrap().unwrap());
        }
        let guard = other.lock().await.unwrap();
        guard.remove_file().await.unwrap();
        assert!(!machine.exists("/lock"));
        let guard = one.lock().await.unwrap();
        assert!(machine.exists("/lock"));
        assert!(other.try_lock().is_err());
        assert!(machine.unlink("/lock") && !machine.unlink("/lock"));
        drop(guard);

        let verified = options().verify_path(true).create(false);
        let process = machine.process("third");
        let error = process.open_with(verified.clone(), "/lock").unwrap_err();
        assert_eq!(error.os_error().unwrap().kind(), std::io::ErrorKind::NotFound);
        machine.replace("/lock");
        let lock = process.open_with(verified, "/lock").unwrap();
        let guard = lock.lock().await.unwrap();
        let waits = pending(lock.lock());
        machine.replace("/lock");
        drop(guard);
        drop(waits.await.unwrap());
        assert!(lock.try_lock().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_different_locks() {
    let machine = Simulated::new();
    let [one, other] = ["one", "other"].map(|name| machine.process(name).space("/s").unwrap());
    let a = one.key("a").lock().await.unwrap();
    assert_eq!(a.file_lock().key(), Some(&b"a"[..]));
    assert!(other.key("a").try_lock().is_err());
    let b = other.key("b").lock().await.unwrap();
    let waits = pending(one.key("b").lock());
    assert!(b.contended() && !a.contended());
    drop(b);
    drop(waits.await.unwrap());
    drop(a);
    let labelled = other.key("a").with_label("look").unwrap();
    let guard = labelled.try_lock().unwrap();
    assert_eq!(labelled.holders().await.unwrap()[0].label(), Some("look"));
    drop(guard);
    let [error, missing] = ["one", "two"].map(|name| {
        let options = FileLock::options().protocol(Protocol::Flock).create(false);
        machine.process(name).open_with(options, format!("/{name}")).unwrap_err()
    });
    assert_eq!((error.kind(), missing.kind()), (ErrorKind::Io, ErrorKind::Io));
}

#[tokio::test(start_paused = true)]
async fn faults_and_access_are_errors() {
    let machine = Simulated::new();
    let process = machine.process("one");
    let lock = process.open("/lock").unwrap();
    machine.fail_next("/lock", IO_ERROR);
    let error = lock.try_lock().unwrap_err();
    assert!(matches!(&error, TryLockError::Error(error) if error.kind() == ErrorKind::Io));
    let other = machine.process("other").open("/lock").unwrap();
    let guard = other.lock().await.unwrap();
    let waits = pending(lock.lock());
    drop(guard);
    drop(waits.await.unwrap());

    let reads = FileLock::options().protocol(Protocol::Fcntl);
    let error = process.open_with(reads.clone(), "/lock").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProtocolMismatch);
    machine.write("/read", "");
    let lock = process.open_with(reads.read_only(true), "/read").unwrap();
    assert!(lock.lock_shared().await.is_ok());
    #[cfg(unix)]
    assert_eq!(lock.lock().await.unwrap_err().kind(), ErrorKind::WrongAccess);
    #[cfg(not(unix))]
    assert!(lock.lock().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_downgrade_lets_readers_in() {
    for (protocol, at_once) in [(Protocol::Fcntl, true), (Protocol::Flock, false)] {
        let machine = Simulated::new();
        let options = || FileLock::options().protocol(protocol);
        let [one, other] = ["one", "other"]
            .map(|name| machine.process(name).open_with(options(), "/lock").unwrap());
        let reader = one.lock().await.unwrap().downgrade();
        assert_eq!(other.try_lock_shared().is_ok(), at_once);
        drop(reader);
        assert!(other.try_lock().is_ok());
    }
}

/// Both kinds of locks in one set.
#[tokio::test]
async fn real_and_simulated_locks_side_by_side() {
    let directory = tempfile::tempdir().unwrap();
    let machine = Simulated::new();
    let simulated = machine.process("one").open("/lock").unwrap();
    let real = FileLock::open(directory.path().join("lock")).await.unwrap();
    let guards = lock_all([&simulated, &real]).await.unwrap();
    assert_eq!(guards.len(), 2);
    assert!(real.try_lock().is_err() && simulated.try_lock().is_err());
    drop(guards);
    assert!(real.try_lock().is_ok() && simulated.try_lock().is_ok());
    // Of two processes: a task that has both would wait for itself.
    let other = machine.process("other").open("/lock").unwrap();
    let error = lock_all([&simulated, &other]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// A runtime that ends with a step in its hands loses nothing.
#[test]
fn a_runtime_that_ends_leaves_the_machine_going() {
    for seed in 0..64 {
        let machine = Simulated::with_seed(seed);
        let [one, other] =
            ["one", "other"].map(|name| machine.process(name).open("/lock").unwrap());
        let guard = futures::executor::block_on(one.lock()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let waits;
        {
            let _in_it = runtime.enter();
            waits = pending(other.lock());
            drop(guard);
        }
        drop(runtime);
        drop(futures::executor::block_on(waits).unwrap());
    }
}

/// What runs in a process stands still with it.
#[tokio::test(start_paused = true)]
async fn what_runs_in_a_stopped_process_stands_still() {
    let machine = Simulated::new();
    let process = machine.process("worker");
    let steps = std::sync::Arc::new(std::sync::Mutex::new(0));
    let counted = steps.clone();
    let works = tokio::spawn(process.run(async move {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            *counted.lock().unwrap() += 1;
        }
        "done"
    }));
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    process.pause();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*steps.lock().unwrap(), 3);
    process.resume();
    assert_eq!(works.await.unwrap(), Some("done"));
    assert_eq!(process.run(async { 7 }).await, Some(7));
    process.kill();
    assert_eq!(process.run(async { 7 }).await, None);
}
