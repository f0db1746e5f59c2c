//! Models of the bank and of its locks, the same for loom, for shuttle and for the simulated machine.
//!
//! ```sh
//! cargo test --test models -- --nocapture
//! RUSTFLAGS='--cfg tokio_filelock_loom' cargo test --release --target-dir target/loom --test models -- --nocapture
//! RUSTFLAGS='--cfg tokio_filelock_shuttle' cargo test --release --target-dir target/shuttle --test models -- --nocapture
//! ```

mod explorer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio_filelock::FileLock;
use tokio_filelock_downstream::{Bank, Books};

use explorer::{Model, explore, turn};

/// How often something came out one way, and how often the other, in all executions.
#[derive(Debug, Clone, Default)]
struct Outcomes(Arc<[AtomicUsize; 2]>);

impl Outcomes {
    fn count(&self, outcome: bool) {
        self.0[usize::from(outcome)].fetch_add(1, Ordering::Relaxed);
    }

    /// Both came, or some of the orders were not explored.
    fn assert_both(&self, name: &str, words: [&str; 2]) {
        let [no, yes] = self.0.each_ref().map(|count| count.load(Ordering::Relaxed));
        println!("{name}: {} {no} times, {} {yes} times", words[0], words[1]);
        assert!(no > 0 && yes > 0, "{name}: only one of the two was seen");
    }
}

fn bank(model: &Model, process: &str, books: &Books) -> Bank {
    let space = model.machine.process(process).space("/accounts.lock").unwrap();
    Bank::new(space, books.clone())
}

#[test]
fn two_tasks_of_a_process() {
    let executions = explore("two_tasks_of_a_process", |model| {
        let lock = model.machine.process("bank").open("/bank.lock").unwrap();
        let is_held = Arc::new(AtomicBool::new(false));
        for _ in 0..2 {
            let (lock, is_held) = (lock.clone(), is_held.clone());
            model.task(async move {
                let guard = lock.lock().await.unwrap();
                assert!(!is_held.swap(true, Ordering::Relaxed), "two guards at one time");
                turn().await;
                is_held.store(false, Ordering::Relaxed);
                drop(guard);
            });
        }
        model.at_the_end(move || assert!(lock.try_lock().is_ok()));
    });
    assert!(executions > 1);
}

#[test]
fn two_processes() {
    explore("two_processes", |model| {
        let books = Books::default();
        for name in ["one", "other"] {
            let bank = bank(model, name, &books);
            model.task(async move { bank.deposit("anna", 1).await.unwrap() });
        }
        model.at_the_end(move || assert_eq!(books.read("anna"), 2));
    });
}

/// More than loom has threads for.
#[cfg(not(tokio_filelock_loom))]
#[test]
fn many_processes() {
    explore("many_processes", |model| {
        let books = Books::default();
        for number in 0..6 {
            let bank = bank(model, &format!("bank {number}"), &books);
            model.task(async move {
                bank.deposit("anna", 1).await.unwrap();
                bank.transfer("anna", "bert", 1).await.unwrap();
            });
        }
        model.at_the_end(move || assert_eq!((books.read("anna"), books.read("bert")), (0, 6)));
    });
}

/// The worker dies before it has the lock, with its work half done, with all of it done, after it has let go, or not at all.
#[test]
fn a_process_is_killed_at_every_step() {
    let outcomes = Outcomes::default();
    let counted = outcomes.clone();
    explore("a_process_is_killed_at_every_step", move |model| {
        let options = FileLock::options().record(true);
        let (worker, heir) = (model.machine.process("worker"), model.machine.process("heir"));
        let its = worker.open_with(options.clone(), "/index.lock").unwrap();
        let lock = heir.open_with(options, "/index.lock").unwrap();
        let (is_half_done, counted) = (Arc::new(AtomicBool::new(false)), counted.clone());

        let work = {
            let is_half_done = is_half_done.clone();
            async move {
                let guard = its.lock().await.unwrap();
                is_half_done.store(true, Ordering::Relaxed);
                turn().await;
                is_half_done.store(false, Ordering::Relaxed);
                guard.unlock().await.unwrap();
            }
        };
        let works = worker.run(work);
        model.task(async move {
            works.await;
        });
        let moment = model.any_moment();
        model.task(async move {
            moment.await;
            worker.kill();
        });
        let moment = model.any_moment();
        model.task(async move {
            moment.await;
            let guard = lock.lock().await.unwrap();
            let is_half_done = is_half_done.load(Ordering::Relaxed);
            if is_half_done {
                let dead = guard.abandoned().expect("it died with the lock");
                assert_eq!(dead.program(), Some("worker"));
            }
            counted.count(is_half_done);
        });
    });
    let words = ["work was done, or not begun,", "half done"];
    outcomes.assert_both("a_process_is_killed_at_every_step", words);
}

/// By `lock_all`: no two of them wait for each other.
#[test]
fn transfers_in_both_directions() {
    explore("transfers_in_both_directions", |model| {
        let books = Books::default();
        books.write("anna", 10);
        books.write("bert", 10);
        let (one, other) = (bank(model, "one", &books), bank(model, "other", &books));
        model.task(async move { one.transfer("anna", "bert", 3).await.unwrap() });
        model.task(async move { other.transfer("bert", "anna", 4).await.unwrap() });
        model.at_the_end(move || assert_eq!((books.read("anna"), books.read("bert")), (11, 9)));
    });
}

#[test]
#[should_panic(expected = "an update was lost")]
fn a_planted_lost_update() {
    explore("a_planted_lost_update", |model| {
        let books = Books::default();
        for name in ["one", "other"] {
            let bank = bank(model, name, &books);
            model.task(async move { bank.deposit_with_a_gap("anna", 1).await.unwrap() });
        }
        model.at_the_end(move || assert_eq!(books.read("anna"), 2, "an update was lost"));
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_planted_deadlock_of_two_keys() {
    explore("a_planted_deadlock_of_two_keys", |model| {
        let books = Books::default();
        let (one, other) = (bank(model, "one", &books), bank(model, "other", &books));
        model.task(async move { one.transfer_one_by_one("anna", "bert", 3).await.unwrap() });
        model.task(async move { other.transfer_one_by_one("bert", "anna", 4).await.unwrap() });
    });
}

/// An assertion that fails in a task, with guards held, requests in line and a panic that drops them all.
#[test]
#[should_panic(expected = "of a task")]
fn a_failing_assertion_of_a_task() {
    explore("a_failing_assertion_of_a_task", |model| {
        let lock = model.machine.process("one").open("/app.lock").unwrap();
        let other = model.machine.process("other").open("/app.lock").unwrap();
        model.task(async move {
            let waits = lock.lock();
            let guard = other.lock().await.unwrap();
            assert!(lock.try_lock().is_ok(), "an assertion of a task");
            drop((guard, waits));
        });
        let third = model.machine.process("third").open("/app.lock").unwrap();
        model.task(async move { drop(third.lock().await.unwrap()) });
    });
}

/// In a model a limit runs out at any moment: before the lock is there, or after.
#[cfg(any(tokio_filelock_loom, tokio_filelock_shuttle))]
mod limits {
    use std::time::Duration;

    use tokio_filelock::ErrorKind;
    use tokio_filelock::sim::block_on;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_timeout_at_every_step() {
        let outcomes = Outcomes::default();
        let counted = outcomes.clone();
        explore("a_timeout_at_every_step", move |model| {
            let lock = model.machine.process("one").open("/app.lock").unwrap();
            let other = model.machine.process("other").open("/app.lock").unwrap();
            let (counted, after) = (counted.clone(), lock.clone());
            model.task(async move { drop(other.lock().await.unwrap()) });
            model.task(async move {
                let locked = lock.lock().timeout(HOUR).await;
                let is_up = locked.as_ref().err().map(|error| error.kind());
                assert!(matches!(is_up, None | Some(ErrorKind::TimedOut)), "{is_up:?}");
                counted.count(locked.is_ok());
            });
            // Not at once: a lock that arrives in vain is given back by then.
            model.at_the_end(move || drop(block_on(after.lock()).unwrap()));
        });
        outcomes.assert_both("a_timeout_at_every_step", ["the time was up", "the lock was there"]);
    }

    #[test]
    fn a_deadline_at_every_step() {
        let outcomes = Outcomes::default();
        let counted = outcomes.clone();
        explore("a_deadline_at_every_step", move |model| {
            let lock = model.machine.process("one").open("/app.lock").unwrap();
            let held = lock.try_lock().unwrap();
            let (counted, at) = (counted.clone(), tokio::time::Instant::now() + HOUR);
            model.task(async move { drop(held) });
            model.task(async move { counted.count(lock.lock().deadline(at).await.is_ok()) });
        });
        outcomes.assert_both("a_deadline_at_every_step", ["the time was up", "the lock was there"]);
    }

    #[test]
    fn a_message_at_every_step() {
        let outcomes = Outcomes::default();
        let counted = outcomes.clone();
        explore("a_message_at_every_step", move |model| {
            let lock = model.machine.process("one").open("/app.lock").unwrap();
            let held =
                model.machine.process("other").open("/app.lock").unwrap().try_lock().unwrap();
            let (counted, is_told) = (counted.clone(), Arc::new(AtomicBool::new(false)));
            let tells = is_told.clone();
            model.task(async move { drop(held) });
            model.task(async move {
                let told = lock.lock().on_wait(HOUR, move |_| tells.store(true, Ordering::Relaxed));
                drop(told.await.unwrap());
            });
            model.at_the_end(move || counted.count(is_told.load(Ordering::Relaxed)));
        });
        outcomes.assert_both("a_message_at_every_step", ["no message", "a message"]);
    }
}
