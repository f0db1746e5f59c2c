//! Models of the driver, the queue, the file engine and the wait pool together.
//!
//! One body each, two uses: a plain `cargo test` runs it a number of times on real threads and
//! the real kernel; `cargo loom` runs it under loom, on `os::model`, in every interleaving, or in every
//! one up to the preemptions that the model names. docs/VERIFICATION.md names the mutant that each model
//! kills.
//!
//! A "foreign" holder stands for another process: an open file of its own that talks to the
//! kernel directly. loom counts five threads in all, the ended ones and those of the pool among
//! them.

use std::future::{Future, poll_fn};
use std::panic;
#[cfg(tokio_filelock_loom)]
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::{Outcome, Registration, Request, Tenure, try_lock};
use crate::engine::Signature;
use crate::engine::file::{Registry, Wanted};
use crate::holder::Record;
use crate::mode::Mode;
use crate::os::{
    self, Access, Interrupt, Location, LockFile, Pace, Protocol, Region, Tried, Waited,
};
use crate::queue::End;
use crate::shim::{self, Arc, AtomicBool, Ordering};
#[cfg(tokio_filelock_loom)]
use crate::wait::model_runtime;
use crate::wait::{WaitOn, block_on};

fn model(name: &str, preemptions: Option<usize>, body: fn(&Fixture)) {
    shim::model(name, preemptions, move || {
        let fixture = Fixture::new();
        body(&fixture);
        fixture.check_that_nothing_is_left();
    });
}

struct Fixture {
    registry: Arc<Registry>,
    path: Location,
    inside: Arc<Inside>,
    #[cfg(not(tokio_filelock_loom))]
    _directory: tempfile::TempDir,
}

impl Fixture {
    #[cfg(tokio_filelock_loom)]
    fn new() -> Self {
        Self {
            registry: Arc::default(),
            path: PathBuf::from("lock").into(),
            inside: Arc::default(),
        }
    }

    #[cfg(not(tokio_filelock_loom))]
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock").into();
        Self { registry: Arc::default(), path, inside: Arc::default(), _directory: directory }
    }

    fn join(&self) -> Arc<Registration> {
        Registry::join(&self.registry, &self.path, &WANTED).unwrap()
    }

    fn foreign(&self) -> Foreign {
        let file = LockFile::open(&self.path, WANTED.access).unwrap();
        Foreign { file, pace: Pace::new(shim::now()), inside: self.inside.clone() }
    }

    /// Whatever went on before: the lock is free for others, and the registry is empty.
    fn check_that_nothing_is_left(&self) {
        // Waits for a parked wait that no request wants any more, if there is one.
        self.foreign().lock();
        // Idle threads of the pool do not keep anything; parked waits are over.
        self.wait_until_empty();
    }

    fn wait_until_empty(&self) {
        while !self.registry.is_empty() {
            yield_now();
        }
    }
}

const WANTED: Wanted = Wanted {
    record: None,
    label: None,
    protocol: Protocol::Flock,
    region: Region::ONLY,
    access: Access { create: true, mode: None, read_only: false, in_use: false, patient: true },
    wait_on: WaitOn::WaitPool,
    tenure: Tenure { handovers: 1, time: Duration::from_secs(1) },
    this_machine_only: false,
};

/// Another process.
struct Foreign {
    file: LockFile,
    pace: Pace,
    inside: Arc<Inside>,
}

impl Foreign {
    fn try_lock(&self) -> bool {
        let exclusive = Mode::Exclusive;
        self.file.try_lock(WANTED.protocol, WANTED.region, exclusive).unwrap() == Tried::Acquired
    }

    fn lock(&self) {
        let (exclusive, interrupt) = (Mode::Exclusive, Interrupt::default());
        let (protocol, region) = (WANTED.protocol, WANTED.region);
        let waited = self.file.lock(protocol, region, exclusive, &self.pace, &interrupt);
        assert_eq!(waited.unwrap(), Waited::Acquired);
    }

    fn is_turnstile_taken(&self) -> bool {
        self.file.is_turnstile_taken(WANTED.protocol, WANTED.region, &self.pace)
    }

    fn unlock(&self) {
        self.file.unlock(WANTED.protocol, WANTED.region).unwrap();
    }

    /// Enters and leaves as a reader, if no writer is inside.
    fn visit_shared(&self) {
        let attempt = self.file.try_lock(WANTED.protocol, WANTED.region, Mode::Shared);
        if attempt.unwrap() == Tried::Acquired {
            self.inside.together();
            self.unlock();
        }
    }

    /// Enters and leaves, if the lock is free.
    fn visit(&self) {
        if self.try_lock() {
            self.inside.alone();
            self.unlock();
        }
    }
}

/// Sees two holders that should exclude each other.
#[derive(Default)]
struct Inside {
    writer: AtomicBool,
    reader: AtomicBool,
}

impl Inside {
    /// Under an exclusive lock.
    fn alone(&self) {
        assert!(!self.writer.swap(true, Ordering::SeqCst), "two exclusive holders");
        assert!(!self.reader.load(Ordering::SeqCst), "an exclusive and a shared holder");
        assert!(self.writer.swap(false, Ordering::SeqCst), "two exclusive holders");
    }

    /// Under a shared lock, by one reader at a time.
    fn together(&self) {
        self.reader.store(true, Ordering::SeqCst);
        assert!(!self.writer.load(Ordering::SeqCst), "a shared and an exclusive holder");
        self.reader.store(false, Ordering::SeqCst);
    }
}

fn exclusive(member: &Arc<Registration>) -> Request {
    Request::new(member.clone(), Mode::Exclusive)
}

fn shared(member: &Arc<Registration>) -> Request {
    Request::new(member.clone(), Mode::Shared)
}

fn lock_and_visit(member: &Arc<Registration>, inside: &Inside) {
    let hold = block_on(exclusive(member)).unwrap();
    inside.alone();
    drop(hold);
}

/// As `Acquire` does: the first poll joins the queue.
async fn exclusive_at_the_first_poll(member: &Arc<Registration>) -> Outcome {
    let mut request = None;
    poll_fn(|cx| {
        let begin = || Request::begin(member.clone(), Mode::Exclusive, None, cx);
        Pin::new(request.get_or_insert_with(begin)).poll(cx)
    })
    .await
}

/// Polls once, with a waker that does nothing.
fn poll_once(request: &mut Request) -> Poll<Outcome> {
    pin!(request).poll(&mut Context::from_waker(Waker::noop()))
}

#[cfg(tokio_filelock_loom)]
use loom::thread::{spawn, yield_now};
#[cfg(not(tokio_filelock_loom))]
use std::thread::{spawn, yield_now};

#[test]
fn two_exclusive_waiters() {
    model("two_exclusive_waiters", None, |fixture| {
        let member = fixture.join();
        let (other, inside) = (member.clone(), fixture.inside.clone());
        let thread = spawn(move || lock_and_visit(&other, &inside));
        lock_and_visit(&member, &fixture.inside);
        thread.join().unwrap();
        drop(member);
    });
}

/// The lock is let go around the first poll of the one that wants it, which registers the waker.
#[test]
fn first_poll_against_the_release() {
    model("first_poll_against_the_release", None, |fixture| {
        let member = fixture.join();
        let hold = block_on(exclusive(&member)).unwrap();
        let (other, inside) = (member.clone(), fixture.inside.clone());
        let thread = spawn(move || {
            let hold = block_on(exclusive_at_the_first_poll(&other)).unwrap();
            inside.alone();
            drop(hold);
        });
        drop(hold);
        thread.join().unwrap();
        drop(member);
    });
}

#[test]
fn three_exclusive_waiters() {
    model("three_exclusive_waiters", Some(3), |fixture| {
        let member = fixture.join();
        let threads = [(); 2].map(|()| {
            let (other, inside) = (member.clone(), fixture.inside.clone());
            spawn(move || lock_and_visit(&other, &inside))
        });
        lock_and_visit(&member, &fixture.inside);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(member.driver().counts().granted, 3);
        drop(member);
    });
}

#[test]
fn shared_and_exclusive() {
    model("shared_and_exclusive", Some(3), |fixture| {
        let member = fixture.join();
        let (other, inside) = (member.clone(), fixture.inside.clone());
        let writer = spawn(move || lock_and_visit(&other, &inside));
        let other = member.clone();
        let second_reader = spawn(move || drop(block_on(shared(&other)).unwrap()));
        let reader = block_on(shared(&member)).unwrap();
        fixture.inside.together();
        drop(reader);
        writer.join().unwrap();
        second_reader.join().unwrap();
        drop(member);
    });
}

/// Before, during and after the grant, as the interleaving has it.
#[test]
fn cancel_around_the_grant() {
    model("cancel_around_the_grant", None, |fixture| {
        let member = fixture.join();
        let hold = block_on(exclusive(&member)).unwrap();
        let other = member.clone();
        let thread = spawn(move || {
            let mut request = exclusive(&other);
            drop(poll_once(&mut request));
            drop(request);
        });
        drop(hold);
        thread.join().unwrap();
        drop(try_lock(&member, Mode::Exclusive).unwrap());
        drop(member);
    });
}

#[test]
fn cancel_before_the_first_poll() {
    model("cancel_before_the_first_poll", None, |fixture| {
        let member = fixture.join();
        let (other, inside) = (member.clone(), fixture.inside.clone());
        let thread = spawn(move || lock_and_visit(&other, &inside));
        drop(exclusive(&member));
        thread.join().unwrap();
        drop(member);
    });
}

/// The task that asked first gives up, before or after the lock has come and was recorded.
#[test]
fn dead_holder_is_told_to_the_first_guard() {
    model("dead_holder_is_told_to_the_first_guard", Some(3), |fixture| {
        let dead = Record::held(os::this_process(), 1, None, None);
        fixture.foreign().file.write(&dead.text(0), 0).unwrap();
        let wanted =
            Wanted { record: Some(Arc::new(Signature::new(&os::this_process(), true))), ..WANTED };
        let member = Registry::join(&fixture.registry, &fixture.path, &wanted).unwrap();
        let other = member.clone();
        let thread = spawn(move || {
            let mut request = exclusive(&other);
            drop(poll_once(&mut request));
            drop(request);
        });
        let hold = block_on(exclusive(&member)).unwrap();
        let told = hold.tenure_info().expect("records are on");
        assert_eq!(told.abandoned, Some(dead));
        drop(hold);
        thread.join().unwrap();
        let hold = block_on(exclusive(&member)).unwrap();
        let again = hold.tenure_info().expect("records are on");
        assert_eq!(again.abandoned, None);
        assert!(again.token > told.token && told.token.is_some());
        drop((hold, member));
    });
}

/// The request that the lock was acquired and recorded for gives up before it is granted.
#[test]
fn record_names_the_one_that_gets_the_lock() {
    model("record_names_the_one_that_gets_the_lock", Some(3), |fixture| {
        let record = Some(Arc::new(Signature::new(&os::this_process(), true)));
        // No handover: each holder has a tenure of its own.
        let wanted = Wanted { record, tenure: Tenure { handovers: 0, ..WANTED.tenure }, ..WANTED };
        let member = Registry::join(&fixture.registry, &fixture.path, &wanted).unwrap();
        let labelled = |member: &Arc<Registration>, label: &str| {
            Request::new(member.labelled(label.into()), Mode::Exclusive)
        };
        let foreign = fixture.foreign();
        foreign.lock();
        let (first, second) = (labelled(&member, "gives up"), labelled(&member, "stays"));
        let thread = spawn(move || drop(first));
        foreign.unlock();
        let hold = block_on(second).unwrap();
        assert_eq!(member.engine().record().unwrap().label(), Some("stays"));
        let own = member.own_holders();
        assert!(own.iter().all(|holder| holder.label() == Some("stays")), "{own:?}");
        drop(hold);
        thread.join().unwrap();
        assert!(member.own_holders().is_empty());
        drop(member);
    });
}

/// A reader behind a writer that gives up enters at once, beside the reader that holds.
#[test]
fn cancelled_writer_lets_readers_in() {
    model("cancelled_writer_lets_readers_in", None, |fixture| {
        let member = fixture.join();
        let first = block_on(shared(&member)).unwrap();
        let writer = exclusive(&member);
        let thread = spawn(move || drop(writer));
        let second = block_on(shared(&member)).unwrap();
        drop((first, second));
        thread.join().unwrap();
        drop(member);
    });
}

/// The same with wakers that panic where they are woken and dropped.
#[test]
fn wakers_that_panic() {
    model("wakers_that_panic", None, |fixture| {
        let member = fixture.join();
        let first = block_on(shared(&member)).unwrap();
        let mut writer = exclusive(&member);
        let panics = Waker::from(std::sync::Arc::new(Panics));
        assert!(Pin::new(&mut writer).poll(&mut Context::from_waker(&panics)).is_pending());
        // The queue's is the last one.
        drop(panics);
        let thread = spawn(move || drop(writer));
        let second = block_on(shared(&member)).unwrap();
        drop((first, second));
        thread.join().unwrap();
        drop(member);
    });
}

struct Panics;

impl Wake for Panics {
    fn wake(self: std::sync::Arc<Self>) {}
}

impl Drop for Panics {
    fn drop(&mut self) {
        // Not by the hook, which would report each of thousands.
        panic::resume_unwind(Box::new("a waker that panics"));
    }
}

#[test]
fn drop_after_wake_and_before_poll() {
    model("drop_after_wake_and_before_poll", Some(3), |fixture| {
        let member = fixture.join();
        let hold = block_on(exclusive(&member)).unwrap();
        let mut woken = exclusive(&member);
        let (other, inside) = (member.clone(), fixture.inside.clone());
        let behind = spawn(move || lock_and_visit(&other, &inside));
        let releaser = spawn(move || drop(hold));
        // Returns at the wake-up; the grant that came with it is never polled.
        let mut polled = false;
        block_on(poll_fn(|cx| {
            if !polled {
                polled = true;
                return pin!(&mut woken).poll(cx).map(drop);
            }
            Poll::Ready(())
        }));
        drop(woken);
        behind.join().unwrap();
        releaser.join().unwrap();
        drop(member);
    });
}

/// The unlock of one holder against the next request: on one open file the second lock call would
/// succeed before the unlock, and the unlock would then drop it.
#[test]
fn unlock_against_the_next_request() {
    model("unlock_against_the_next_request", Some(3), |fixture| {
        let member = fixture.join();
        let hold = block_on(exclusive(&member)).unwrap();
        let (other, inside) = (member.clone(), fixture.inside.clone());
        let next = spawn(move || lock_and_visit(&other, &inside));
        let foreign = fixture.foreign();
        let visitor = spawn(move || foreign.visit());
        drop(hold);
        next.join().unwrap();
        visitor.join().unwrap();
        drop(member);
    });
}

/// The only waiter goes while the OS lock is on its way.
#[test]
fn cancel_against_arrival() {
    model("cancel_against_arrival", Some(3), |fixture| {
        let member = fixture.join();
        let foreign = fixture.foreign();
        foreign.lock();
        let request = exclusive(&member);
        let releaser = spawn(move || foreign.unlock());
        drop(request);
        releaser.join().unwrap();
        // Returns only if an arriving lock is given back. The member keeps the file open, for
        // closing would give it back as well.
        let next = fixture.foreign();
        next.lock();
        drop(member);
    });
}

/// The waiter that caused a parked wait goes; the one behind gets what the wait brings.
#[test]
fn adoption_of_a_parked_wait() {
    model("adoption_of_a_parked_wait", Some(3), |fixture| {
        let member = fixture.join();
        let foreign = fixture.foreign();
        foreign.lock();
        let [first, second] = [(); 2].map(|()| exclusive(&member));
        let releaser = spawn(move || foreign.unlock());
        drop(first);
        let hold = block_on(second).unwrap();
        fixture.inside.alone();
        drop(hold);
        releaser.join().unwrap();
        drop(member);
    });
}

/// The last waiter goes, and the wait is interrupted, while a new one comes.
#[test]
fn interrupt_against_a_new_waiter() {
    model("interrupt_against_a_new_waiter", Some(3), |fixture| {
        let member = fixture.join();
        let foreign = fixture.foreign();
        foreign.lock();
        let first = exclusive(&member);
        let (other, inside) = (member.clone(), fixture.inside.clone());
        let second = spawn(move || lock_and_visit(&other, &inside));
        drop(first);
        foreign.unlock();
        second.join().unwrap();
        drop(member);
    });
}

/// No request wants the lock any more, and its holder never lets go: the parked wait ends all the
/// same, wherever the interrupt finds it.
#[cfg(tokio_filelock_loom)]
#[test]
fn interrupt_without_release() {
    shim::model("interrupt_without_release", Some(8), || {
        let fixture = Fixture::new();
        let member = fixture.join();
        os::model::hold_for_ever(&fixture.path);
        drop(exclusive(&member));
        // A thread that is still parked now is a deadlock.
    });
}

/// The runtime that was to run the parked wait drops it unrun, while the waiter that caused it
/// goes and another one, of another runtime, comes.
#[cfg(tokio_filelock_loom)]
#[test]
fn shutdown_against_adoption() {
    model("shutdown_against_adoption", Some(3), |fixture| {
        let wanted = Wanted { wait_on: WaitOn::RuntimePool, ..WANTED };
        let member = Registry::join(&fixture.registry, &fixture.path, &wanted).unwrap();
        let foreign = fixture.foreign();
        foreign.lock();
        model_runtime::start();
        let first = exclusive(&member);
        foreign.unlock();
        let (other, inside) = (member.clone(), fixture.inside.clone());
        let second = spawn(move || lock_and_visit(&other, &inside));
        let shutdown = spawn(model_runtime::shut_down);
        drop(first);
        second.join().unwrap();
        shutdown.join().unwrap();
        drop(member);
    });
}

/// A shared lock arrives for a reader that has gone; the writer behind needs a stronger one.
#[test]
fn weaker_lock_than_wanted() {
    model("weaker_lock_than_wanted", Some(3), |fixture| {
        let member = fixture.join();
        let foreign = fixture.foreign();
        foreign.lock();
        let reader = shared(&member);
        let (other, inside) = (member.clone(), fixture.inside.clone());
        let writer = spawn(move || lock_and_visit(&other, &inside));
        drop(reader);
        foreign.unlock();
        foreign.visit_shared();
        writer.join().unwrap();
        drop(member);
    });
}

/// Three in a row where one handover is the bound: the OS lock must have been let go in between.
#[test]
fn handover_at_the_bound() {
    model("handover_at_the_bound", Some(3), |fixture| {
        let member = fixture.join();
        let hold = block_on(exclusive(&member)).unwrap();
        let [second, third] = [(); 2].map(|()| exclusive(&member));
        let foreign = fixture.foreign();
        let visitor = spawn(move || foreign.visit());
        let inside = fixture.inside.clone();
        let thread = spawn(move || {
            let hold = block_on(second).unwrap();
            inside.alone();
            drop(hold);
        });
        drop(hold);
        let hold = block_on(third).unwrap();
        fixture.inside.alone();
        drop(hold);
        thread.join().unwrap();
        visitor.join().unwrap();
        let counts = member.driver().counts();
        assert!(counts.tenures >= 2, "{counts:?}");
        assert!(counts.handovers <= counts.tenures, "{counts:?}");
        drop(member);
    });
}

#[test]
fn eviction_against_open() {
    model("eviction_against_open", None, |fixture| {
        let leaving = fixture.join();
        let (registry, path) = (fixture.registry.clone(), fixture.path.clone());
        let thread = spawn(move || {
            let member = Registry::join(&registry, &path, &WANTED).unwrap();
            let again = Registry::join(&registry, &path, &WANTED).unwrap();
            assert!(member.is_same_lock(&again), "one file, two locks");
        });
        drop(leaving);
        thread.join().unwrap();
    });
}

/// Files that are opened at the same time and have one number: two paths of two files, one of which is opened
/// twice. While they ask the kernel, the first of its handles leaves.
#[cfg(tokio_filelock_loom)]
#[test]
fn two_files_of_one_number() {
    model("two_files_of_one_number", Some(3), |fixture| {
        os::model::give_one_number();
        let leaving = fixture.join();
        let (registry, path) = (fixture.registry.clone(), fixture.path.clone());
        let thread = spawn(move || {
            let member = Registry::join(&registry, &path, &WANTED).unwrap();
            let again = Registry::join(&registry, &path, &WANTED).unwrap();
            assert!(member.is_same_lock(&again), "one file, two locks");
            member
        });
        let other = PathBuf::from("other").into();
        let other = Registry::join(&fixture.registry, &other, &WANTED).unwrap();
        drop(leaving);
        let member = thread.join().unwrap();
        assert!(!member.is_same_lock(&other), "two files, one lock");
        let [one, two] = [&member, &other].map(|member| try_lock(member, Mode::Exclusive).unwrap());
        drop((one, two));
        drop((member, other));
    });
}

/// A file that is gone, and whose number the next one has. Keys of handles that have not moved on, while another one
/// opens the path anew.
#[cfg(tokio_filelock_loom)]
#[test]
fn regions_of_a_file_that_is_gone() {
    model("regions_of_a_file_that_is_gone", Some(3), |fixture| {
        os::model::give_one_number();
        let member = fixture.join();
        os::model::unlink(&fixture.path);
        assert!(matches!(try_lock(&member, Mode::Exclusive), Outcome::Moved(_)));
        let wanted = Wanted { region: Region { start: 1 << 62 }, ..WANTED };
        let (other, key) = (member.clone(), wanted.clone());
        let thread = spawn(move || Registry::join_region(&other, &key));
        let anew = fixture.join();
        assert!(!anew.is_same_lock(&member), "it is gone");
        let key = Registry::join_region(&member, &wanted);
        let same = thread.join().unwrap();
        assert!(key.is_same_lock(&same), "one descriptor, two locks");
        assert!(matches!(try_lock(&key, Mode::Exclusive), Outcome::Moved(_)));
        drop(try_lock(&anew, Mode::Exclusive).unwrap());
        drop((member, key, same, anew));
    });
}

/// Every request that waits on a file that was removed moves, none is forgotten.
#[cfg(tokio_filelock_loom)]
#[test]
fn unlinked_while_waiting() {
    model("unlinked_while_waiting", Some(3), |fixture| {
        let member = fixture.join();
        let foreign = fixture.foreign();
        foreign.lock();
        let other = member.clone();
        let thread = spawn(move || {
            assert!(matches!(block_on(exclusive(&other)), Outcome::Moved(_)));
        });
        let request = exclusive(&member);
        os::model::unlink(&fixture.path);
        foreign.unlock();
        assert!(matches!(block_on(request), Outcome::Moved(_)));
        thread.join().unwrap();
        drop(member);
    });
}

/// Requests that waited on a file that was removed come to the next one in any order, past one that came
/// to that one first: they get the lock in the order in which they asked.
#[cfg(tokio_filelock_loom)]
#[test]
fn those_who_move_keep_their_order() {
    model("those_who_move_keep_their_order", Some(3), |fixture| {
        let old = fixture.join();
        let hold = block_on(exclusive(&old)).unwrap();
        let [mut first, mut second] = [(); 2].map(|()| exclusive(&old));
        // Both are told when the tenure is over.
        os::model::unlink(&fixture.path);
        old.driver().event(|queue| queue.end_tenure(End::Seen));
        drop(hold);
        let rank = |request: &mut Request| match poll_once(request) {
            Poll::Ready(Outcome::Moved(rank)) => rank,
            other => panic!("{other:?}"),
        };
        let (second_rank, first_rank) = (rank(&mut second), rank(&mut first));
        drop((first, second));

        let new = fixture.join();
        let hold = block_on(exclusive(&new)).unwrap();
        let newcomer = exclusive(&new);
        let arrive = |rank| Request::ranked(new.clone(), Mode::Exclusive, rank);
        let second = arrive(second_rank);
        let releaser = spawn(move || drop(hold));
        let mut first = arrive(first_rank);
        let granted = new.driver().counts().granted;
        if granted == 1 {
            // It came while the lock was held: it is the next one.
            let hold = block_on(&mut first).unwrap();
            assert_eq!(new.driver().counts().granted, 2, "another one came first");
            drop(hold);
        }
        drop((first, second, newcomer));
        releaser.join().unwrap();
        drop((old, new));
    });
}

/// One lock call fails: one request learns it, the other one gets the lock.
#[cfg(tokio_filelock_loom)]
#[test]
fn error_goes_to_the_head() {
    model("error_goes_to_the_head", None, |fixture| {
        let member = fixture.join();
        os::model::fail_next(&fixture.path, 5);
        let other = member.clone();
        let thread = spawn(move || block_on(exclusive(&other)).is_granted());
        let granted = block_on(exclusive(&member)).is_granted();
        assert!(granted != thread.join().unwrap(), "one error for one request");
        drop(member);
    });
}

/// The same with the call parked: the error arrives while others wait behind.
#[cfg(tokio_filelock_loom)]
#[test]
fn error_of_a_parked_wait() {
    model("error_of_a_parked_wait", Some(3), |fixture| {
        let member = fixture.join();
        let foreign = fixture.foreign();
        foreign.lock();
        let first = exclusive(&member);
        let behind = exclusive(&member);
        os::model::fail_waiter(&fixture.path, 5);
        assert!(matches!(block_on(first), Outcome::Failed(_)));
        let releaser = spawn(move || foreign.unlock());
        drop(block_on(behind).unwrap());
        releaser.join().unwrap();
        drop(member);
    });
}

// ---- two processes: each has a registry of its own ----

impl Fixture {
    /// Another process that uses this crate.
    fn second_process(&self) -> Arc<Registry> {
        Arc::default()
    }

    fn join_in(&self, registry: &Arc<Registry>) -> Arc<Registration> {
        Registry::join(registry, &self.path, &WANTED).unwrap()
    }
}

/// A process that locks again and again does not overtake one that waits, but for the tries that begin
/// shortly after it has looked at the turnstile.
#[test]
fn turnstile_against_barging() {
    model("turnstile_against_barging", Some(2), |fixture| {
        let member = fixture.join();
        let second = fixture.second_process();
        let (other, inside) = (fixture.join_in(&second), fixture.inside.clone());
        let hold = block_on(exclusive(&member)).unwrap();
        let patient = spawn(move || lock_and_visit(&other, &inside));
        drop(hold);
        for _ in 0..3 {
            lock_and_visit(&member, &fixture.inside);
        }
        patient.join().unwrap();
        #[cfg(tokio_filelock_loom)]
        assert!(os::model::overtakings(&fixture.path) <= 1 + u64::from(os::HOT_TRIES));
        drop(member);
    });
}

/// A reader has seen that another process waits: no reader of its process joins it any more.
#[test]
fn one_look_counts_for_all() {
    model("one_look_counts_for_all", Some(3), |fixture| {
        let member = fixture.join();
        let second = fixture.second_process();
        let (other, inside) = (fixture.join_in(&second), fixture.inside.clone());
        let reader = block_on(shared(&member)).unwrap();
        // The first join looks; the others rely on it for a while.
        let joined = try_lock(&member, Mode::Shared);
        let writer = spawn(move || lock_and_visit(&other, &inside));
        if reader.is_contended() {
            assert!(!try_lock(&member, Mode::Shared).is_granted(), "past one that was seen");
        }
        drop((joined, reader));
        writer.join().unwrap();
        drop(member);
    });
}

/// Another process waits before another reader joins the first, and no handover has looked for it.
#[test]
fn first_join_looks() {
    model("first_join_looks", Some(3), |fixture| {
        let member = fixture.join();
        let second = fixture.second_process();
        let (other, inside) = (fixture.join_in(&second), fixture.inside.clone());
        let reader = block_on(shared(&member)).unwrap();
        let writer = spawn(move || lock_and_visit(&other, &inside));
        let waits = fixture.foreign().is_turnstile_taken();
        let joined = try_lock(&member, Mode::Shared);
        assert!(!waits || !joined.is_granted(), "past one that waits");
        drop((joined, reader));
        writer.join().unwrap();
        drop(member);
    });
}

/// Two processes of readers that come and go do not keep a writer out.
#[test]
fn writer_against_two_reading_processes() {
    model("writer_against_two_reading_processes", Some(3), |fixture| {
        let member = fixture.join();
        let readers = [(); 2].map(|()| {
            let reader = fixture.foreign();
            spawn(move || {
                for _ in 0..3 {
                    reader.read_in_turn();
                }
            })
        });
        lock_and_visit(&member, &fixture.inside);
        for reader in readers {
            reader.join().unwrap();
        }
        #[cfg(tokio_filelock_loom)]
        assert!(
            os::model::overtakings(&fixture.path) <= 2 * (1 + u64::from(os::HOT_TRIES)),
            "two readers"
        );
        drop(member);
    });
}

impl Foreign {
    /// As a process that uses this crate reads.
    fn read_in_turn(&self) {
        let (shared, interrupt) = (Mode::Shared, Interrupt::default());
        let (protocol, region) = (WANTED.protocol, WANTED.region);
        let tried = self.file.try_lock_in_turn(protocol, region, shared, &self.pace, false);
        if tried.unwrap() == Tried::Busy {
            let waited = self.file.lock(protocol, region, shared, &self.pace, &interrupt);
            assert_eq!(waited.unwrap(), Waited::Acquired);
        }
        self.unlock();
    }
}

/// A stopped process has the turnstile: the others get the lock all the same.
#[cfg(tokio_filelock_loom)]
#[test]
fn turnstile_that_is_never_left() {
    model("turnstile_that_is_never_left", Some(2), |fixture| {
        let member = fixture.join();
        os::model::hold_turnstile_for_ever(&fixture.path);
        let foreign = fixture.foreign();
        let visitor = spawn(move || foreign.visit());
        for _ in 0..2 {
            lock_and_visit(&member, &fixture.inside);
        }
        visitor.join().unwrap();
        drop(member);
    });
}

/// The lock becomes free after it was held for longer than a limit, and its next owner is awake: no try
/// passes it, however late the tries come and however late the owner runs.
#[cfg(tokio_filelock_loom)]
#[test]
fn a_try_passes_no_process_that_is_awake() {
    model("a_try_passes_no_process_that_is_awake", Some(3), |fixture| {
        let member = fixture.join();
        let second = fixture.second_process();
        let other = fixture.join_in(&second);
        let foreign = fixture.foreign();
        foreign.lock();
        let waiting = exclusive(&other);
        os::model::await_turnstile(&fixture.path);
        assert!(!try_lock(&member, Mode::Exclusive).is_granted(), "it is held");
        os::model::let_a_limit_pass(&fixture.path);
        foreign.unlock();
        for mode in [Mode::Exclusive, Mode::Shared] {
            drop(try_lock(&member, mode));
        }
        drop(block_on(waiting).unwrap());
        assert_eq!(os::model::overtakings(&fixture.path), 0);
        drop((member, other));
    });
}

/// A stopped process is next, and the lock is free: the limit, and one more try.
#[cfg(tokio_filelock_loom)]
#[test]
fn a_stopped_owner_is_passed_by_the_second_try() {
    model("a_stopped_owner_is_passed_by_the_second_try", Some(3), |fixture| {
        let member = fixture.join();
        os::model::hold_turnstile_for_ever(&fixture.path);
        let foreign = fixture.foreign();
        let visitor = spawn(move || foreign.visit());
        assert!(!try_lock(&member, Mode::Shared).is_granted(), "another process is next");
        os::model::let_a_limit_pass(&fixture.path);
        visitor.join().unwrap();
        assert!(!try_lock(&member, Mode::Exclusive).is_granted(), "that one has its chance now");
        drop(try_lock(&member, Mode::Exclusive).unwrap());
        drop(try_lock(&member, Mode::Shared).unwrap());
        drop(member);
    });
}

/// A tenure ends while more tasks of the process come and another process waits.
#[test]
fn tenure_end_against_arrivals() {
    model("tenure_end_against_arrivals", Some(2), |fixture| {
        let member = fixture.join();
        let second = fixture.second_process();
        let (foreign, inside) = (fixture.join_in(&second), fixture.inside.clone());
        let hold = block_on(exclusive(&member)).unwrap();
        let waiting = exclusive(&member);
        let visitor = spawn(move || lock_and_visit(&foreign, &inside));
        // As it is when the time is up: the process backs off before it asks again.
        member.driver().event(|queue| queue.end_tenure(End::Unseen));
        drop(hold);
        let arrival = exclusive(&member);
        for request in [waiting, arrival] {
            let hold = block_on(request).unwrap();
            fixture.inside.alone();
            drop(hold);
        }
        visitor.join().unwrap();
        assert!(member.driver().counts().tenures >= 2);
        drop(member);
    });
}
