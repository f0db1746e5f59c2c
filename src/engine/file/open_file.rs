//! An open file: one for all locks of the process in it.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::Notify;

use crate::error::Error;
use crate::os::{Identity, Location, LockFile, Names, Protocol, Recognized, Sameness};
use crate::shim::{self, AtomicBool, AtomicUsize, Mutex, Ordering};

/// A path led to the file, the last time that one was looked for.
const IN_USE: usize = 0;
/// No path leads to the file any more.
const GONE: usize = 1;
/// Other code of the process has taken a descriptor away.
const FOREIGN: usize = 2;
/// The same, and one request has failed with that.
const FOREIGN_AND_TOLD: usize = 3;

/// An open file.
///
/// A second descriptor is kept if the first is read-only and a later opener may write: locks that
/// need write access (fcntl(2)) are then taken through that one.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(super) first: LockFile,
    pub(super) writable: OnceLock<LockFile>,
    /// Before any lock of it was made.
    pub(super) opened: Instant,
    /// One of those below.
    state: AtomicUsize,
    /// Opened in vain, and not closed before the others (see `closing`).
    kept: Mutex<Vec<LockFile>>,
    errands: Arc<Errands>,
}

/// One errand at a time, for all handles of the file. A task that is polled takes the permit and sets out at once. The permit is
/// kept for no task that waits for it, so a future that is not polled any more is in no other one's way.
#[derive(Debug)]
struct Errands {
    is_under_way: AtomicBool,
    over: Notify,
}

/// Keeps other errands of the file from setting out. Dropping it wakes the tasks that wait for it.
#[derive(Debug)]
pub(super) struct Permit(Arc<Errands>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.is_under_way.store(false, Ordering::Release);
        self.0.over.notify_waiters();
    }
}

impl OpenFile {
    pub(super) fn new(file: LockFile) -> Self {
        let state = AtomicUsize::new(IN_USE);
        Self {
            first: file,
            writable: OnceLock::new(),
            opened: shim::now(),
            kept: Mutex::default(),
            state,
            errands: Arc::new(Errands {
                is_under_way: AtomicBool::new(false),
                over: Notify::new(),
            }),
        }
    }

    /// The permit to have a path looked at by another thread; `None` if that is not needed any more. The errand
    /// itself keeps it, also when no task waits for its answer any more: one thread waits for a server that does
    /// not answer, however many handles there are and tasks give up.
    pub(super) async fn permit(&self, is_needed: impl Fn() -> bool) -> Option<Permit> {
        let Errands { is_under_way, over } = &*self.errands;
        let mut is_over = pin!(over.notified());
        loop {
            // First, so that an end is not missed.
            is_over.as_mut().enable();
            if !is_needed() {
                return None;
            }
            if !is_under_way.swap(true, Ordering::AcqRel) {
                return Some(Permit(self.errands.clone()));
            }
            is_over.as_mut().await;
            is_over.set(over.notified());
        }
    }

    /// Takes the descriptor if it allows more than those there are; otherwise gives it back.
    pub(super) fn offer(&self, file: LockFile) -> Option<LockFile> {
        if self.is_writable() || !file.is_writable() {
            return Some(file);
        }
        self.writable.set(file).err()
    }

    /// Keeps a descriptor that must not be closed before the lock is gone.
    pub(super) fn keep(&self, file: LockFile) {
        self.kept.lock().push(file);
    }

    /// It was opened once more, in vain. Where that descriptor has to be kept, another one would be as well.
    pub(super) fn has_kept(&self) -> bool {
        !self.kept.lock().is_empty()
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.first.is_writable() || self.writable.get().is_some()
    }

    #[inline]
    pub(crate) fn is_local(&self) -> bool {
        self.first.is_local()
    }

    pub(super) fn identity(&self) -> Identity {
        self.first.identity()
    }

    pub(super) fn names(&self) -> &Names {
        self.first.names()
    }

    /// Makes lock calls.
    pub(super) fn ask_whether_it_is(&self, other: &Self) -> Sameness {
        let sameness = self.names().compare(other.names());
        // Elsewhere the locks that are held here may be in the way, or be lost.
        if sameness != Sameness::Doubt || !self.is_local() {
            return sameness;
        }
        match self.first.ask(&[&other.first]) {
            Recognized::Is(_) => Sameness::Same,
            Recognized::None => Sameness::Other,
            Recognized::Doubt => Sameness::Doubt,
        }
    }

    /// Whether the path still leads to the file. Makes system calls.
    pub(super) fn is_at(&self, path: &Location) -> Result<bool, Error> {
        self.first.is_at(path)
    }

    /// Out of use: a handle that wants the lock opens the path anew. Either the file is known to be removed, and a
    /// server may have given its identity to another file meanwhile; or a descriptor is foreign.
    pub(super) fn is_gone(&self) -> bool {
        self.state.load(Ordering::Acquire) != IN_USE
    }

    pub(super) fn set_gone(&self) {
        self.change(IN_USE, GONE);
    }

    /// A descriptor does not stand for the file any more.
    pub(super) fn set_foreign(&self) {
        if !self.change(IN_USE, FOREIGN) {
            self.change(GONE, FOREIGN);
        }
    }

    pub(super) fn is_foreign(&self) -> bool {
        matches!(self.state.load(Ordering::Acquire), FOREIGN | FOREIGN_AND_TOLD)
    }

    /// A descriptor is foreign, and this is the first request to be told.
    pub(super) fn tell_foreign(&self) -> bool {
        self.change(FOREIGN, FOREIGN_AND_TOLD)
    }

    fn change(&self, from: usize, to: usize) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn excludes_this_machine_only(&self, protocol: Protocol) -> Option<&'static str> {
        self.first.excludes_this_machine_only(protocol)
    }
}
