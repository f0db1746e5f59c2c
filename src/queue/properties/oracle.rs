//! With an OS that grants at once, and handovers without a bound, the queue is a fair lock for
//! readers and writers, and so is tokio's `RwLock`.
//!
//! Where the two differ, and what the steps leave out for it:
//! - A request is in line from the moment it is made; a future of tokio's from its first poll.
//!   Here every future is polled as soon as it is made.
//! - Tenures, their bound and their end exist here only.
//! - tokio's guards tell nothing of the mode that the OS is left in by a downgrade. Both modes
//!   are played, and must not make a difference.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio_test::task::{self, Spawn};

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Lock(Mode),
    TryLock(Mode),
    Poll(Index),
    Cancel(Index),
    Release(Index),
    Downgrade(Index, Mode),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => mode().prop_map(Step::Lock),
        1 => mode().prop_map(Step::TryLock),
        3 => any::<Index>().prop_map(Step::Poll),
        1 => any::<Index>().prop_map(Step::Cancel),
        3 => any::<Index>().prop_map(Step::Release),
        1 => (any::<Index>(), mode()).prop_map(|(holder, os)| Step::Downgrade(holder, os)),
    ]
}

enum Guard {
    Shared(#[expect(dead_code, reason = "held")] OwnedRwLockReadGuard<()>),
    Exclusive(OwnedRwLockWriteGuard<()>),
}

struct Waiter {
    ticket: Ticket,
    task: Spawn<Pin<Box<dyn Future<Output = Guard>>>>,
}

struct Pair {
    queue: Queue<(), ()>,
    lock: Arc<RwLock<()>>,
    /// In line, or granted and not polled since.
    waiters: Vec<Waiter>,
    holders: Vec<Guard>,
}

impl Pair {
    fn new() -> Self {
        let queue = Queue::new(|| panic!("the file is where it was"));
        Self { queue, lock: Arc::default(), waiters: Vec::new(), holders: Vec::new() }
    }

    fn step(&mut self, step: &Step) {
        let waiters = self.waiters.len();
        let holders = self.holders.len();
        match *step {
            Step::Lock(mode) => self.lock(mode),
            Step::TryLock(mode) => self.try_lock(mode),
            Step::Poll(at) if waiters > 0 => self.poll(at.index(waiters)),
            Step::Cancel(at) if waiters > 0 => {
                let Waiter { ticket, task } = self.waiters.swap_remove(at.index(waiters));
                drop(task);
                let mut effects = Effects::default();
                self.queue.cancel(ticket, &mut effects);
                self.grant_at_once(effects);
            }
            Step::Release(at) if holders > 0 => {
                drop(self.holders.swap_remove(at.index(holders)));
                let mut effects = Effects::default();
                self.queue.release(&mut effects);
                self.grant_at_once(effects);
            }
            Step::Downgrade(at, os) if holders > 0 => {
                let mut guard = self.holders.swap_remove(at.index(holders));
                if let Guard::Exclusive(exclusive) = guard {
                    guard = Guard::Shared(exclusive.downgrade());
                    let mut effects = Effects::default();
                    self.queue.downgrade(os, &mut effects);
                    self.grant_at_once(effects);
                }
                self.holders.push(guard);
            }
            Step::Poll(_) | Step::Cancel(_) | Step::Release(_) | Step::Downgrade(..) => {}
        }
        for Waiter { ticket, task } in &self.waiters {
            let granted = self.queue.waiters.outcome(ticket).is_ok();
            assert_eq!(granted, task.is_woken(), "granted here, and granted by tokio");
        }
    }

    fn lock(&mut self, mode: Mode) {
        let lock = self.lock.clone();
        let mut task: Spawn<Pin<Box<dyn Future<Output = Guard>>>> =
            task::spawn(Box::pin(async move {
                match mode {
                    Mode::Shared => Guard::Shared(lock.read_owned().await),
                    Mode::Exclusive => Guard::Exclusive(lock.write_owned().await),
                }
            }));
        let expected = task.poll();
        match self.request(mode, Patience::Wait) {
            Answered::Granted => match expected {
                std::task::Poll::Ready(guard) => self.holders.push(guard),
                std::task::Poll::Pending => panic!("granted here, and not by tokio"),
            },
            Answered::Waits(ticket) => {
                assert!(expected.is_pending(), "granted by tokio, and not here");
                self.waiters.push(Waiter { ticket, task });
            }
            Answered::Refused => panic!("it would have waited"),
        }
    }

    fn try_lock(&mut self, mode: Mode) {
        let lock = self.lock.clone();
        let expected = match mode {
            Mode::Shared => lock.try_read_owned().map(Guard::Shared),
            Mode::Exclusive => lock.try_write_owned().map(Guard::Exclusive),
        };
        match self.request(mode, Patience::Try) {
            Answered::Granted => self.holders.push(expected.expect("granted here")),
            Answered::Waits(_) => panic!("it would not wait"),
            Answered::Refused => assert!(expected.is_err(), "granted by tokio, and not here"),
        }
    }

    fn request(&mut self, mode: Mode, patience: Patience) -> Answered {
        let mut effects = Effects::default();
        let answer = self.queue.request(mode, patience, None, &mut effects);
        self.grant_at_once(effects);
        match answer {
            Requested::Now(Outcome::Granted(())) => Answered::Granted,
            Requested::Now(Outcome::Refused) => Answered::Refused,
            Requested::Now(other) => panic!("{other:?}"),
            Requested::Queued(ticket) => {
                let mut ticket = Some(ticket);
                match self.queue.poll(&mut ticket) {
                    None => Answered::Waits(ticket.expect("it waits")),
                    Some(outcome) => {
                        assert_eq!(outcome, Outcome::Granted(()));
                        Answered::Granted
                    }
                }
            }
        }
    }

    fn poll(&mut self, at: usize) {
        let Waiter { ticket, mut task } = self.waiters.swap_remove(at);
        let mut ticket = Some(ticket);
        match (self.queue.poll(&mut ticket), task.poll()) {
            (Some(Outcome::Granted(())), std::task::Poll::Ready(guard)) => {
                self.holders.push(guard);
            }
            (None, std::task::Poll::Pending) => {
                self.waiters.push(Waiter { ticket: ticket.expect("it waits"), task });
            }
            (here, there) => panic!("{here:?} here, ready by tokio: {}", there.is_ready()),
        }
    }

    fn grant_at_once(&mut self, mut effects: Effects<()>) {
        while let Some(ask) = effects.ask.take() {
            let (answer, attempt) = match ask {
                Ask::Call(Call::Try(_), attempt) => (Answer::Acquired, attempt),
                Ask::Call(Call::Unlock, attempt) => (Answer::Released(Ok(())), attempt),
                other => panic!("{other:?} of an OS that is never busy"),
            };
            effects = Effects::default();
            self.queue.answer(attempt, answer, &mut effects);
        }
    }
}

enum Answered {
    Granted,
    Waits(Ticket),
    Refused,
}

proptest! {
    #[test]
    fn the_queue_grants_what_tokio_grants(steps in vec(step(), 0..80)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step);
        }
    }
}
