//! Wakers that panic, wherever they are called or dropped: they take no lock away, and no wake-up of
//! another task.
#![allow(unsafe_code)]

use std::future::Future;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Wake, Waker};

use tokio_filelock::{FileLock, Protocol};

use crate::child::Role;
use crate::support::locker::Locker;
use crate::support::place::Place;
use crate::support::process::{Process, say};
use crate::support::{Mode, PATIENCE, assert_would_block, each_protocol, options, returns};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Clone,
    Wake,
    Drop,
}

/// What one waker and its clones do.
struct Spy {
    /// Panics there. The test's own waker is leaked.
    panics_at: Option<Call>,
    woken: AtomicUsize,
    /// Done by the next clone.
    at_clone: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

/// A panic's payload that panics as well.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("the payload of a waker's panic");
        }
    }
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, drop_one);

/// The spy is never freed.
fn spy_of(data: *const ()) -> &'static Spy {
    // SAFETY: made of a leaked box in `Spy::waker`.
    unsafe { &*data.cast::<Spy>() }
}

fn clone(data: *const ()) -> RawWaker {
    let spy = spy_of(data);
    let at_clone = spy.at_clone.lock().unwrap().take();
    if let Some(at_clone) = at_clone {
        at_clone();
    }
    spy.may_panic(Call::Clone);
    RawWaker::new(data, &VTABLE)
}

fn wake(data: *const ()) {
    wake_by_ref(data);
    drop_one(data);
}

fn wake_by_ref(data: *const ()) {
    let spy = spy_of(data);
    spy.woken.fetch_add(1, Ordering::SeqCst);
    spy.may_panic(Call::Wake);
}

fn drop_one(data: *const ()) {
    spy_of(data).may_panic(Call::Drop);
}

impl Spy {
    fn new(panics_at: Option<Call>) -> &'static Self {
        let (woken, at_clone) = (AtomicUsize::new(0), Mutex::default());
        Box::leak(Box::new(Self { panics_at, woken, at_clone }))
    }

    fn may_panic(&self, call: Call) {
        if self.panics_at == Some(call) && !std::thread::panicking() {
            panic_any(Bomb);
        }
    }

    fn poll<F: Future + Unpin>(&'static self, future: &mut F) -> Poll<F::Output> {
        let data: *const Spy = self;
        // SAFETY: the functions of the table ask for a spy that is never freed, and nothing else.
        let waker = unsafe { Waker::from_raw(RawWaker::new(data.cast(), &VTABLE)) };
        let waker = std::mem::ManuallyDrop::new(waker);
        std::pin::Pin::new(future).poll(&mut Context::from_waker(&waker))
    }

    fn woken(&self) -> usize {
        self.woken.load(Ordering::SeqCst)
    }
}

fn each(protocol: Protocol, test: impl Fn(FileLock, &Path)) {
    let place = Place::new();
    let lock = options(protocol).blocking_open(place.lock_file()).unwrap();
    test(lock.clone(), &place.lock_file());
    // Whatever went on before, the lock is free.
    let free = lock.clone();
    drop(returns(move || free.blocking_lock()).unwrap());
    drop(lock.try_lock().unwrap());
}

each_protocol!(#[test] fn a_free_lock_is_had_by_a_waker_whose_drop_panics);
fn a_free_lock_is_had_by_a_waker_whose_drop_panics(protocol: Protocol) {
    each(protocol, |lock, _| {
        let Poll::Ready(guard) = Spy::new(Some(Call::Drop)).poll(&mut Box::pin(lock.lock())) else {
            panic!("the lock is free")
        };
        assert_would_block(lock.try_lock());
        drop(guard.unwrap());
    });
}

each_protocol!(#[test] fn a_grant_that_comes_during_a_poll_is_not_lost_with_the_waker);
fn a_grant_that_comes_during_a_poll_is_not_lost_with_the_waker(protocol: Protocol) {
    each(protocol, |lock, _| {
        let guard = lock.try_lock().unwrap();
        let mut waiting = Box::pin(lock.lock());
        assert!(Spy::new(None).poll(&mut waiting).is_pending());
        let spy = Spy::new(Some(Call::Drop));
        *spy.at_clone.lock().unwrap() = Some(Box::new(|| drop(guard)));
        assert!(spy.poll(&mut waiting).is_ready());
    });
}

each_protocol!(#[test] fn those_behind_a_cancelled_request_are_woken_although_its_waker_panics);
fn those_behind_a_cancelled_request_are_woken_although_its_waker_panics(protocol: Protocol) {
    each(protocol, |lock, _| {
        let reader = lock.try_lock_shared().unwrap();
        let mut writer = Box::pin(lock.lock());
        assert!(Spy::new(Some(Call::Drop)).poll(&mut writer).is_pending());
        let mut second = Box::pin(lock.lock_shared());
        let spy = Spy::new(None);
        assert!(spy.poll(&mut second).is_pending());
        drop(writer);
        assert_eq!(spy.woken(), 1);
        assert!(spy.poll(&mut second).is_ready());
        drop(reader);
    });
}

each_protocol!(#[test] fn a_waker_that_is_replaced_may_panic);
fn a_waker_that_is_replaced_may_panic(protocol: Protocol) {
    each(protocol, |lock, _| {
        let guard = lock.try_lock().unwrap();
        let mut waiting = Box::pin(lock.lock());
        let spy = Spy::new(None);
        assert!(Spy::new(Some(Call::Drop)).poll(&mut waiting).is_pending());
        assert!(spy.poll(&mut waiting).is_pending());
        drop(guard);
        assert_eq!(spy.woken(), 1);
        assert!(spy.poll(&mut waiting).is_ready());
    });
}

each_protocol!(#[test] fn whoever_lets_go_learns_nothing_of_the_panics_of_those_it_wakes);
fn whoever_lets_go_learns_nothing_of_the_panics_of_those_it_wakes(protocol: Protocol) {
    for call in [Call::Wake, Call::Drop] {
        each(protocol, |lock, _| {
            let guard = lock.try_lock().unwrap();
            let mut readers: Vec<_> = (0..3).map(|_| Box::pin(lock.lock_shared())).collect();
            let spies = [Some(call), None, Some(call)].map(Spy::new);
            for (reader, spy) in readers.iter_mut().zip(spies) {
                assert!(spy.poll(reader).is_pending());
            }
            drop(guard);
            for (reader, spy) in readers.iter_mut().zip(spies) {
                assert_eq!(spy.woken(), 1);
                assert!(Spy::new(None).poll(reader).is_ready());
            }
        });
    }
}

each_protocol!(#[test] fn a_waker_whose_clone_panics_costs_its_own_poll_and_no_more);
/// The panic is the poll's, and the request goes on or goes, as its owner likes.
fn a_waker_whose_clone_panics_costs_its_own_poll_and_no_more(protocol: Protocol) {
    each(protocol, |lock, _| {
        // A free lock may be had without a clone.
        let guard = lock.try_lock().unwrap();
        let spy = Spy::new(Some(Call::Clone));
        let mut waiting = Box::pin(lock.lock());
        let poll = |waiting: &mut _| catch_unwind(AssertUnwindSafe(|| spy.poll(waiting))).err();
        let panicked = |waiting: &mut _| std::mem::forget(poll(waiting).expect("it panics"));
        panicked(&mut waiting);
        let mut waiting = Box::pin(lock.lock());
        assert!(Spy::new(None).poll(&mut waiting).is_pending());
        panicked(&mut waiting);
        let mut behind = Box::pin(lock.lock());
        let next = Spy::new(None);
        assert!(next.poll(&mut behind).is_pending());
        drop(guard);
        assert!(Spy::new(None).poll(&mut waiting).is_ready());
        assert_eq!(next.woken(), 1, "the next in line, when the guard is dropped");
        assert!(next.poll(&mut behind).is_ready());
    });
}

each_protocol!(#[test] fn a_lock_that_comes_from_another_process_is_not_lost_with_the_waker);
fn a_lock_that_comes_from_another_process_is_not_lost_with_the_waker(protocol: Protocol) {
    for call in [Call::Wake, Call::Drop] {
        each(protocol, |lock, path| {
            let holder = Locker::holding(path, lock.protocol(), Mode::Exclusive);
            let mut waiting = [Box::pin(lock.lock_shared()), Box::pin(lock.lock_shared())];
            let spies = [Some(call), None].map(Spy::new);
            for (request, spy) in waiting.iter_mut().zip(spies) {
                assert!(spy.poll(request).is_pending());
            }
            holder.finish();
            for (request, spy) in waiting.iter_mut().zip(spies) {
                crate::support::until("it is woken", || spy.woken() > 0);
                assert!(Spy::new(None).poll(request).is_ready());
            }
        });
    }
}

/// A waker runs on the thread that waits in the kernel, with the stack that std gives to every thread.
#[test]
fn a_waker_may_use_256_kilobytes_of_stack_and_panic_with_a_backtrace() {
    let place = Place::new();
    let path = place.lock_file();
    let holder = Locker::holding(&path, Protocol::Flock, Mode::Exclusive);
    let program = ["env", "-u", "RUST_MIN_STACK", "RUST_BACKTRACE=full"];
    let arguments = [path.to_str().unwrap()];
    let child = Process::in_role_under(&program, Role::WakeOnALargeStack, &arguments);
    child.expect("waiting");
    holder.finish();
    child.expect("held");
    child.finish();
}

pub(crate) fn wake_on_a_large_stack(arguments: &[String]) {
    struct Large(mpsc::Sender<()>);

    impl Wake for Large {
        fn wake(self: Arc<Self>) {
            descend(256);
            self.0.send(()).unwrap();
            panic!("with a backtrace");
        }
    }

    fn descend(kilobytes: usize) -> u8 {
        let page = black_box([1_u8; 1024]);
        if kilobytes == 0 { page[0] } else { descend(kilobytes - 1) + black_box(page[0]) - 1 }
    }

    let lock = FileLock::options().blocking_open(&arguments[0]).unwrap();
    let mut waiting = pin!(lock.lock());
    let (sender, woken) = mpsc::channel();
    let waker = Waker::from(Arc::new(Large(sender)));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    say("waiting");
    woken.recv_timeout(PATIENCE).unwrap();
    assert!(waiting.poll(&mut Context::from_waker(Waker::noop())).is_ready());
    say("held");
}
