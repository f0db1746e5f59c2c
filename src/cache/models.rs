//! Models of one fill per key: `find_or_fill` over the driver's lock, with a variable for the value. And of
//! pins: `pin` and `unless_pinned`, with a variable for the directory. And of room in the books: `Room`, with
//! variables for the books and for what there is.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
#[cfg(tokio_filelock_loom)]
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::fill::{Found, find_or_fill};
use super::pin::{pin, unless_pinned};
use super::store::{Amount, Books, Room, Taken};
use crate::driver::{Outcome, RawGuard, Registration, Request, Tenure, try_lock};
use crate::engine::file::{Registry, Wanted};
use crate::mode::Mode;
use crate::os::{Access, Location, Protocol, Region};
use crate::shim::{Arc, AtomicBool, Mutex, Ordering, model};
use crate::wait::{WaitOn, block_on};

#[cfg(tokio_filelock_loom)]
use loom::thread::spawn;
#[cfg(not(tokio_filelock_loom))]
use std::thread::spawn;

/// A key of the cache, and its value.
struct Key {
    path: Location,
    value: Mutex<Option<u32>>,
    is_filled_now: AtomicBool,
    #[cfg(not(tokio_filelock_loom))]
    _directory: tempfile::TempDir,
}

impl Key {
    #[cfg(tokio_filelock_loom)]
    fn new() -> Arc<Self> {
        let (value, is_filled_now) = (Mutex::new(None), AtomicBool::new(false));
        Arc::new(Self { path: PathBuf::from("lock").into(), value, is_filled_now })
    }

    #[cfg(not(tokio_filelock_loom))]
    fn new() -> Arc<Self> {
        let _directory = tempfile::tempdir().unwrap();
        let path = _directory.path().join("lock").into();
        let (value, is_filled_now) = (Mutex::new(None), AtomicBool::new(false));
        Arc::new(Self { path, value, is_filled_now, _directory })
    }

    /// A task's registration; another registry is another process.
    fn join(&self, process: &Arc<Registry>) -> Arc<Registration> {
        let wanted = Wanted {
            protocol: Protocol::Fcntl,
            region: Region::ONLY,
            access: Access {
                create: true,
                mode: None,
                read_only: false,
                in_use: false,
                patient: true,
            },
            wait_on: WaitOn::WaitPool,
            tenure: Tenure::default(),
            record: None,
            label: None,
            this_machine_only: false,
        };
        Registry::join(process, &self.path, &wanted).unwrap()
    }

    /// As `CacheDir::get_or_insert_with`.
    async fn get_or_fill(&self, member: &Arc<Registration>, new: u32) -> Found<u32> {
        let look = || async { Ok::<_, Infallible>(*self.value.lock()) };
        let lock = async { Ok(Request::new(member.clone(), Mode::Exclusive).await.unwrap()) };
        let fill = |guard| self.fill(guard, new);
        find_or_fill::<_, _, _, Infallible, _>(look(), lock, look(), fill).await.unwrap()
    }

    /// Comes back pending once: there it can be cancelled.
    async fn fill(&self, guard: RawGuard, new: u32) -> Result<u32, Infallible> {
        let filling = Filling::begin(self);
        let mut is_ready = false;
        poll_fn(|context| {
            if std::mem::replace(&mut is_ready, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        let before = self.value.lock().replace(new);
        assert_eq!(before, None, "filled twice");
        drop(filling);
        drop(guard);
        Ok(new)
    }
}

struct Filling<'a>(&'a Key);

impl<'a> Filling<'a> {
    fn begin(key: &'a Key) -> Self {
        assert!(!key.is_filled_now.swap(true, Ordering::SeqCst), "two fill at the same time");
        Self(key)
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        self.0.is_filled_now.store(false, Ordering::SeqCst);
    }
}

/// Two tasks want a value, and a third one that is cancelled on its way: in line, or in its fill.
#[test]
fn one_fill_with_a_cancelled_filler() {
    model("one_fill_with_a_cancelled_filler", Some(3), || {
        let (key, process) = (Key::new(), Arc::default());
        let tasks = [1, 2].map(|new| {
            let (key, member) = (key.clone(), key.join(&process));
            spawn(move || block_on(key.get_or_fill(&member, new)))
        });
        let member = key.join(&process);
        let polled = {
            let mut cancelled = pin!(key.get_or_fill(&member, 3));
            cancelled.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        let found = tasks.map(|task| task.join().unwrap());
        check(&key, found, polled);
    });
}

/// The same in two processes.
#[cfg(not(tokio_filelock_posix))] // POSIX record locks would take them for the one that they are
#[test]
fn one_fill_among_processes() {
    model("one_fill_among_processes", Some(2), || {
        let (key, process, other) = (Key::new(), Arc::default(), Arc::default());
        let task = {
            let (key, member) = (key.clone(), key.join(&other));
            spawn(move || block_on(key.get_or_fill(&member, 1)))
        };
        let member = key.join(&process);
        let polled = {
            let mut cancelled = pin!(key.get_or_fill(&member, 3));
            cancelled.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        let found = block_on(key.get_or_fill(&member, 2));
        check(&key, [task.join().unwrap(), found], polled);
    });
}

/// One of the two has filled, and both have that value; so has the third one, if it got so far.
fn check(key: &Key, found: [Found<u32>; 2], polled: Poll<Found<u32>>) {
    let value = key.value.lock().expect("filled");
    let is_filler = |found: &Found<u32>| *found == Found::Filled(value);
    assert_eq!(found.iter().filter(|found| is_filler(found)).count(), 1, "{found:?}");
    let polled = match polled {
        Poll::Ready(found) => Some(found),
        Poll::Pending => None,
    };
    for found in found.into_iter().chain(polled) {
        let (Found::Present(got) | Found::Awaited(got) | Found::Filled(got)) = found;
        assert_eq!(got, value);
    }
}

/// A directory that is there, or was deleted.
struct Generation {
    key: Arc<Key>,
    is_there: AtomicBool,
}

impl Generation {
    fn new() -> Arc<Self> {
        Arc::new(Self { key: Key::new(), is_there: AtomicBool::new(true) })
    }

    /// As `Dir::pin`; what is pinned is looked at for as long as that lasts.
    async fn use_pinned(&self, member: &Arc<Registration>) {
        let lock = async { Ok(Request::new(member.clone(), Mode::Shared).await.unwrap()) };
        let is_there = async { Ok::<_, Infallible>(self.is_there.load(Ordering::SeqCst)) };
        if let Some(hold) = pin(lock, is_there).await.unwrap() {
            assert!(self.is_there.load(Ordering::SeqCst), "deleted while it was pinned");
            drop(hold);
        }
    }

    /// As `Store::remove_garbage`; whether it could be deleted.
    fn delete(&self, member: &Arc<Registration>) -> bool {
        let lock = match try_lock(member, Mode::Exclusive) {
            Outcome::Granted(guard) => Some(guard),
            _ => None,
        };
        unless_pinned(lock, || self.is_there.store(false, Ordering::SeqCst)).is_some()
    }
}

/// Two tasks pin a directory, and another process deletes it, or leaves it.
#[cfg(not(tokio_filelock_posix))] // POSIX record locks would take them for the one that they are
#[test]
fn pins_against_a_deletion() {
    model("pins_against_a_deletion", Some(3), || {
        let (directory, process, other) = (Generation::new(), Arc::default(), Arc::default());
        let deleter = {
            let (directory, member) = (directory.clone(), directory.key.join(&other));
            spawn(move || directory.delete(&member))
        };
        let pinner = {
            let (directory, member) = (directory.clone(), directory.key.join(&process));
            spawn(move || block_on(directory.use_pinned(&member)))
        };
        let member = directory.key.join(&process);
        block_on(directory.use_pinned(&member));
        pinner.join().unwrap();
        let is_deleted = deleter.join().unwrap();
        assert_eq!(directory.is_there.load(Ordering::SeqCst), !is_deleted);
    });
}

/// A cache with a limit: its books, and the bytes of all values.
struct Limited {
    key: Arc<Key>,
    books: Mutex<Books>,
    bytes: Mutex<u64>,
}

impl Limited {
    const MOST: u64 = 64;
    /// Of a value: room for one is put down beside it.
    const VALUE: u64 = 2;

    fn new() -> Arc<Self> {
        let books = Books { count: 1, ..Books::default() };
        Arc::new(Self { key: Key::new(), books: Mutex::new(books), bytes: Mutex::new(0) })
    }

    fn comes(&self, bytes: u64) {
        let mut all = self.bytes.lock();
        *all += bytes;
        assert!(*all <= Self::MOST, "{} bytes", *all);
    }

    /// As `CacheDir::publish` beside others; whether the room was good still.
    fn insert_beside_others(&self, member: &Arc<Registration>, room: Taken) -> bool {
        let guard = block_on(Request::new(member.clone(), Mode::Shared)).unwrap();
        let books = *self.books.lock();
        let is_good = room.is_of(&books);
        if is_good {
            self.comes(Self::VALUE);
            room.used(Amount::default());
        }
        drop(guard);
        is_good
    }

    /// As an insert that finds that a count is due, and then there is no room left.
    fn count_and_fill(&self, member: &Arc<Registration>) {
        let guard = block_on(Request::new(member.clone(), Mode::Exclusive)).unwrap();
        let there = *self.bytes.lock();
        *self.books.lock() = Books { bytes: Self::MOST, values: 1, stored: 0, count: 2 };
        self.comes(Self::MOST - there);
        drop(guard);
    }
}

/// One process has room in the books for the value of a task, and another one counts.
#[cfg(not(tokio_filelock_posix))] // POSIX record locks would take them for the one that they are
#[test]
fn room_against_a_count() {
    model("room_against_a_count", Some(3), || {
        let (cache, process, other) = (Limited::new(), Arc::default(), Arc::default());
        let room = std::sync::Arc::new(Room::default());
        let wanted = room.want(Limited::VALUE);
        let mut books = *cache.books.lock();
        let put_down = room.put_down(&mut books, Limited::VALUE, Limited::MOST);
        *cache.books.lock() = books;
        let first = put_down.written();
        cache.comes(Limited::VALUE);
        first.used(Amount::default());
        let taken = wanted.take(Limited::MOST).expect("it was waited for");
        drop(wanted);
        let counter = {
            let (cache, member) = (cache.clone(), cache.key.join(&other));
            spawn(move || cache.count_and_fill(&member))
        };
        let member = cache.key.join(&process);
        let is_inserted = cache.insert_beside_others(&member, taken);
        counter.join().unwrap();
        assert_eq!(*cache.bytes.lock(), Limited::MOST);
        let again = room.take(Limited::VALUE, Limited::MOST);
        let is_good = again.is_some_and(|room| room.is_of(&cache.books.lock()));
        assert!(!is_good, "used, or lost: {is_inserted}");
    });
}
