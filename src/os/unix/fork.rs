//! What a forked child has of the parent's locks: nothing.
//!
//! A child inherits the open file descriptions, and with them a part in the locks: an unlock
//! there would drop the parent's lock, and an open descriptor would keep it after the parent has
//! died. So a handler that `fork` runs in the child (pthread_atfork(3)) closes the descriptor of
//! every lock file, and counts the generation up. What was made in an earlier generation is known by
//! that to be the parent's ([`Generation`]).
//!
//! The descriptors are those of a list. Opening beside a fork is `forks`.
//!
//! The handler runs in a process that may have been forked in the middle of anything, so it is
//! limited to atomics and bare system calls. None waits for a server but close(2) itself, which asks the server
//! of a FUSE file system, and on NFS writes back: there is no other way to let go. A number that
//! stands for another file by now is left alone.
//!
//! No handler runs for a bare `clone` or `_Fork`. Such a child has the descriptors until they are dropped, or
//! until it ends or execs. That it is one it knows by a page of memory that the kernel wipes in children
//! (madvise(2), `MADV_WIPEONFORK`; Linux 4.14): the mark there, from which generations are told, is 0.
//! Elsewhere it takes itself for the parent.
//!
//! A child inherits statics in the middle of whatever other threads did with them, and those threads it does not
//! have. So nothing here waits for a thread that has begun something: a second thread does it as well.
//!
//! `vfork` and `posix_spawn`, which `std::process::Command` uses, run no handlers; O_CLOEXEC closes
//! the descriptors at the exec that follows. Until then such a child shares the memory of the parent,
//! and with it the mark: it must not use the parent's locks, as little as anything else.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::iter;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use nix::libc;

use super::kernel::{descriptor_of, wiped};
use super::recognition::{Is, Lasting};
use crate::os::forks::Forks;
use crate::os::{Identity, MadeOnce};

/// What a child has anew, where a page is wiped: all zeros. It is that of the parent elsewhere.
struct Process {
    /// The number of its generation, and 1.
    mark: AtomicUsize,
    #[cfg(not(all(test, tokio_filelock_loom)))]
    forks: Forks,
}

/// The mark of a child that no handler has told.
const WIPED: usize = 0;

/// The first process, and all others where no page is wiped.
static FIRST: Process = Process {
    mark: AtomicUsize::new(1),
    #[cfg(not(all(test, tokio_filelock_loom)))]
    forks: Forks::new(),
};

static PROCESS: AtomicPtr<Process> = AtomicPtr::new((&raw const FIRST).cast_mut());

/// The highest generation that this process has heard of. Not wiped.
static LATEST: AtomicUsize = AtomicUsize::new(0);

/// Which process it is, of those that were forked from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation {
    mark: usize,
}

impl Generation {
    #[inline]
    pub(crate) fn current() -> Self {
        match mark().load(Ordering::Relaxed) {
            WIPED => Self::of_child_without_handler(),
            mark => Self { mark },
        }
    }

    /// What was made in this generation is the parent's, or a grandparent's.
    #[inline]
    pub(crate) fn is_inherited(self) -> bool {
        self.mark != mark().load(Ordering::Relaxed)
    }

    /// How many forks lie between this process and the first one of the program.
    pub(crate) fn number(self) -> usize {
        self.mark - 1
    }

    /// Sets the mark, unless another thread is faster.
    #[cold]
    fn of_child_without_handler() -> Self {
        let number = LATEST.load(Ordering::Relaxed) + 1;
        // First: a child of this one, made now, must not come to the same number.
        LATEST.fetch_max(number, Ordering::SeqCst);
        let set = mark().compare_exchange(WIPED, number + 1, Ordering::SeqCst, Ordering::SeqCst);
        Self { mark: set.err().unwrap_or(number + 1) }
    }
}

#[inline]
fn process() -> &'static Process {
    // SAFETY: it points to a static, or to a page that is never unmapped.
    unsafe { &*PROCESS.load(Ordering::Acquire) }
}

#[inline]
fn mark() -> &'static AtomicUsize {
    &process().mark
}

#[cfg(not(all(test, tokio_filelock_loom)))]
pub(super) fn forks() -> &'static Forks {
    &process().forks
}
#[cfg(all(test, tokio_filelock_loom))]
fn forks() -> &'static Forks {
    loom::lazy_static! {
        static ref FORKS: Forks = Forks::new();
    }
    &FORKS
}

/// Listens for forks. A handle that is made before the first call is not noticed to be the parent's.
///
/// Two threads that come here at once may both set up the handlers, which do nothing the second time.
pub(crate) fn listen() {
    static LISTENING: AtomicBool = AtomicBool::new(false);
    if LISTENING.load(Ordering::Acquire) {
        return;
    }
    let first = (&raw const FIRST).cast_mut();
    let is_first = PROCESS.load(Ordering::Acquire) == first;
    if let Some(page) = is_first.then(wiped::page).flatten() {
        let wiped = page.cast::<Process>().as_ptr();
        // SAFETY: a page is aligned for it, larger than it and never unmapped, and all zeros is a process.
        unsafe { &*wiped }.mark.store(FIRST.mark.load(Ordering::Relaxed), Ordering::Relaxed);
        // One that comes too late is left as it is: a page, once for a thread.
        let _ = PROCESS.compare_exchange(first, wiped, Ordering::AcqRel, Ordering::Relaxed);
    }
    // SAFETY: the handlers are async-signal-safe. Out of memory, the one error there is, leaves
    // forks unnoticed, but for those that the page shows.
    unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    LISTENING.store(true, Ordering::Release);
}

/// In this process `in_child` has run.
static TOLD: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// How many forks of this thread have begun: one that began before the handlers were set up has not.
    static BEGUN: Cell<usize> = const { Cell::new(0) };
    /// The number of the last one. 0, as if it were the first, if it had begun before that.
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

extern "C" fn before() {
    TOLD.store(false, Ordering::Relaxed);
    BEGUN.set(BEGUN.get() + 1);
    NUMBER.set(forks().begin());
}

/// Also if the fork failed.
extern "C" fn in_parent() {
    if let Some(others) = BEGUN.get().checked_sub(1) {
        BEGUN.set(others);
        forks().end();
    }
}

extern "C" fn in_child() {
    // What a handler of another library has opened since is this process's own.
    if TOLD.swap(true, Ordering::Relaxed) {
        return;
    }
    BEGUN.set(0);
    forks().forget();
    let number = LATEST.fetch_add(1, Ordering::Relaxed) + 1;
    mark().store(number + 1, Ordering::Relaxed);
    for table in BY_NUMBER.iter().filter_map(MadeOnce::get) {
        table.iter().for_each(|place| place.close(NUMBER.get()));
    }
    let beside = BESIDE.chunks().flat_map(|chunk| &chunk.places);
    beside.for_each(|place| place.close(NUMBER.get()));
}

/// Opens a descriptor that children lose, and puts it into the list by [`Listed::new`]. May call that several
/// times, with what it has opened before, and use the last answer.
pub(super) fn open_listed<T, E>(
    mut open_and_list: impl FnMut(Option<T>) -> Result<T, E>,
) -> Result<T, E> {
    listen();
    loop {
        let generation = Generation::current();
        let opened = forks().open_unseen(&mut open_and_list);
        // Otherwise a signal handler has forked, and this is the child, which shares what the parent has opened.
        if !generation.is_inherited() {
            return opened;
        }
    }
}

/// Descriptors are listed in tables that are never freed, so the child can walk them whatever the
/// other threads of the parent were doing. Each number has a place of its own there.
static BY_NUMBER: [MadeOnce<[Place; PLACES]>; TABLES] = [const { MadeOnce::new() }; TABLES];
const TABLES: usize = 4096;
const PLACES: usize = 256;

/// For numbers whose own place is not vacant, which is rare: other code has closed the descriptor that is there, or it was
/// closed while a fork was under way, or it is just about to leave. And for numbers beyond the tables.
static BESIDE: Chunk = Chunk::new();

/// How many places beside the tables are taken, or about to be.
static TAKEN_BESIDE: AtomicUsize = AtomicUsize::new(0);

/// Never freed, as the tables.
struct Chunk {
    places: [Place; 64],
    next: MadeOnce<Chunk>,
}

/// A descriptor, and the identity of the file that it was opened for, or zeros as long as that is not
/// known. By halves, as not every processor has atomics of 64 bits.
struct Place {
    descriptor: AtomicI32,
    device: [AtomicU32; 2],
    inode: [AtomicU32; 2],
    lasting: AtomicU32,
    /// The descriptor was closed while a fork was under way, which may have copied it before that: how many forks had
    /// begun by then. Those that begin later have not copied it. 0 if it was not left so.
    left: AtomicUsize,
}

/// The identity of a file that was opened a moment ago.
const NOT_KNOWN: Identity = Identity { device: 0, inode: 0 };

/// No descriptor in this place.
const VACANT: i32 = -1;
/// One is on its way into this place.
const TAKEN: i32 = -2;
/// This process was forked, and the handler has closed the descriptor.
const CLOSED: i32 = -3;
/// With a descriptor: the number was given to a file that is in another place.
const FOREIGN: i32 = 1 << 30;

impl Chunk {
    const fn new() -> Self {
        Self { places: [const { Place::new() }; 64], next: MadeOnce::new() }
    }

    /// This one and those after it.
    fn chunks(&'static self) -> impl Iterator<Item = &'static Chunk> {
        iter::successors(Some(self), |chunk| chunk.next.get())
    }
}

impl Place {
    const fn new() -> Self {
        Self {
            descriptor: AtomicI32::new(VACANT),
            device: [const { AtomicU32::new(0) }; 2],
            inode: [const { AtomicU32::new(0) }; 2],
            lasting: AtomicU32::new(0),
            left: AtomicUsize::new(0),
        }
    }

    fn take(&self, descriptor: i32) -> bool {
        let vacant =
            self.descriptor.compare_exchange(VACANT, TAKEN, Ordering::Acquire, Ordering::Relaxed);
        if vacant.is_err() && !self.is_had_after_all() {
            return false;
        }
        self.descriptor.store(TAKEN, Ordering::Relaxed);
        self.know(NOT_KNOWN);
        self.lasting.store(0, Ordering::Relaxed);
        self.descriptor.store(descriptor, Ordering::Release);
        true
    }

    /// The descriptor here, if it has this number, is another file's by now.
    fn give_away(&self, number: i32) {
        if self.descriptor.load(Ordering::Relaxed) == number {
            let (order, foreign) = (Ordering::Relaxed, number | FOREIGN);
            let _ = self.descriptor.compare_exchange(number, foreign, order, order);
        }
    }

    /// It was left, the forks of that time are over, and no other thread is faster.
    fn is_had_after_all(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        left != 0
            && forks().are_over()
            && self.left.compare_exchange(left, 0, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// The descriptor is closed.
    fn leave(&self) {
        if forks().are_over() {
            self.descriptor.store(VACANT, Ordering::Release);
        } else {
            self.left.store(forks().begun().max(1), Ordering::Release);
        }
    }

    fn know(&self, identity: Identity) {
        let set = |halves: &[AtomicU32; 2], number: u64| {
            halves[0].store(number as u32, Ordering::Relaxed);
            halves[1].store((number >> 32) as u32, Ordering::Relaxed);
        };
        set(&self.device, identity.device);
        set(&self.inode, identity.inode);
    }

    /// In the child that came of this fork.
    fn close(&self, fork: usize) {
        let descriptor = self.descriptor.load(Ordering::Acquire);
        let left = self.left.swap(0, Ordering::Relaxed);
        // What no owner has any more can be had again.
        let after = if left == 0 { CLOSED } else { VACANT };
        if left != 0 && left < fork {
            // It was closed before this fork began. Whatever has the number is the program's.
            self.descriptor.store(after, Ordering::Relaxed);
            return;
        }
        if descriptor < 0 {
            return;
        }
        let descriptor = descriptor & !FOREIGN;
        let get = |halves: &[AtomicU32; 2]| {
            let [low, high] = halves.each_ref().map(|half| half.load(Ordering::Relaxed));
            u64::from(high) << 32 | u64::from(low)
        };
        let identity = Identity { device: get(&self.device), inode: get(&self.inode) };
        // SAFETY: it is used for one call, which fails if it is not open.
        let number = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let lasting = Lasting(self.lasting.load(Ordering::Relaxed));
        // One that was opened a moment ago, by another thread, is not another file's yet.
        if identity == NOT_KNOWN || descriptor_of::is(number, identity, lasting) != Is::Other {
            // SAFETY: it is that of a lock file, and its owner sees by the place that it is closed.
            unsafe { libc::close(descriptor) };
        }
        self.descriptor.store(after, Ordering::Relaxed);
    }
}

/// A descriptor that forked children lose, for as long as this exists.
pub(super) struct Listed {
    place: &'static Place,
    is_beside: bool,
}

impl Listed {
    /// To be called at once when it has been opened.
    ///
    /// That the number was free says that another place that lists it is about to be left, or that other code has
    /// closed what is there.
    pub(super) fn new(descriptor: &impl AsRawFd) -> Self {
        let number = descriptor.as_raw_fd();
        if TAKEN_BESIDE.load(Ordering::SeqCst) > 0 {
            BESIDE
                .chunks()
                .flat_map(|chunk| &chunk.places)
                .for_each(|place| place.give_away(number));
        }
        let index = number as usize;
        let table = BY_NUMBER.get(index / PLACES);
        if let Some(table) =
            table.map(|table| table.get_or_make(|| [const { Place::new() }; PLACES]))
        {
            let place = &table[index % PLACES];
            place.give_away(number);
            if place.take(number) {
                return Self { place, is_beside: false };
            }
        }
        Self::beside(number)
    }

    #[cold]
    fn beside(number: i32) -> Self {
        TAKEN_BESIDE.fetch_add(1, Ordering::SeqCst);
        let mut chunk = &BESIDE;
        loop {
            if let Some(place) = chunk.places.iter().find(|place| place.take(number)) {
                return Self { place, is_beside: true };
            }
            chunk = chunk.next.get_or_make(Chunk::new);
        }
    }

    /// From now on a number that stands for another file is left alone.
    pub(super) fn is_of(&self, identity: Identity) {
        self.place.know(identity);
    }

    /// By what else the file is recognized.
    pub(super) fn lasts(&self, lasting: Lasting) {
        self.place.lasting.store(lasting.0, Ordering::Relaxed);
    }

    pub(super) fn lasting(&self) -> Lasting {
        Lasting(self.place.lasting.load(Ordering::Relaxed))
    }

    /// The number was given to another file of this list.
    #[inline]
    pub(super) fn is_foreign(&self) -> bool {
        let descriptor = self.place.descriptor.load(Ordering::Relaxed);
        descriptor >= 0 && descriptor & FOREIGN != 0
    }

    /// This process was forked since, and has not got it.
    pub(super) fn is_lost(&self) -> bool {
        self.place.descriptor.load(Ordering::Relaxed) == CLOSED
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.place.leave();
        if self.is_beside {
            TAKEN_BESIDE.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
