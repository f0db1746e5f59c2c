//! What all clones of one handle share: the lock that they lead to now, and how to find it again.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::key::{Key, KeyOrigin};
use super::{RawGuard, Registration};
use crate::engine::{Kept, Protocol, Region, Sameness};
use crate::error::{Error, Operation};
use crate::holder::Label;
use crate::os::fork::Generation;
use crate::shim::{Arc, Mutex, explorer};

/// A permit to block for a server. The job itself keeps it, also when no task waits for its answer any
/// more: one thread waits for a server that does not answer, however many handles there are and tasks give up.
pub(crate) type Permit = Box<dyn Any + Send + Sync>;

/// How one handle gets to its lock, and finds it again.
pub(crate) trait Origin: fmt::Debug + Send + Sync {
    /// Where the lock is, for people.
    fn path(&self) -> &Path;

    /// The same, for errors.
    fn shared_path(&self) -> std::sync::Arc<Path>;

    fn protocol(&self) -> Protocol;

    /// The name of the lock, where it is one of several at its path.
    fn key(&self) -> Option<&Key>;

    /// Whether each lock has to be confirmed.
    fn always_confirms(&self) -> bool;

    /// Whether this lock, which is held, has to be confirmed although that is not so.
    fn has_to_confirm(&self, held: &Registration) -> bool;

    /// Whether this lock, which is held, is the one that the handle leads to. May block for a server.
    fn confirm(&self, held: &Registration) -> Result<bool, Error>;

    /// Registers at the lock that the handle leads to, which was not done when it was made ([`Handle::of_key`]). Makes no
    /// system call.
    fn register(&self) -> Arc<Registration> {
        unreachable!("a file is registered when it is opened")
    }

    /// Registers at the lock that the handle leads to now, for it has led to this one before. Blocks for the time of some
    /// file-system calls; if patient also for a lease of another process.
    fn find_again(
        &self,
        from: &Registration,
        operation: Operation,
        patient: bool,
    ) -> Result<Arc<Registration>, Error>;

    /// Registers at the lock of this region in what carries the lock of `at`; what its requests do is said by the label, or
    /// by that of this origin. Makes no system call.
    fn join_region(
        &self,
        at: &Registration,
        region: Region,
        label: Option<&Label>,
    ) -> Arc<Registration>;

    /// Both are carried by one file.
    fn is_same_file(&self, one: &Registration, other: &Registration) -> bool;

    /// For `confirm` and `find_again`; `None` if that is not needed any more.
    fn permit<'a>(
        &'a self,
        of: &'a Registration,
        is_needed: &'a (dyn Fn() -> bool + Send + Sync),
    ) -> Pin<Box<dyn Future<Output = Option<Permit>> + Send + Sync + 'a>>;

    /// Whether both are one lock, which has to be asked. May block.
    fn is_same_lock(&self, one: &Registration, other: &Registration) -> Sameness;

    /// The same, for a handle whose requests say that they do this.
    fn labelled(&self, label: Label) -> Box<dyn Origin>;

    /// Removes what carries this lock, which is held exclusively, if the path leads to it; otherwise says why not. May block
    /// for a server.
    fn remove(&self, held: &Registration) -> Result<Option<Kept>, Error>;
}

#[derive(Debug)]
pub(crate) struct Handle {
    origin: Box<dyn Origin>,
    /// Of the origin.
    always_confirms: bool,
    /// The process that opened it, among the forked ones.
    generation: Generation,
    /// Changes when the lock has moved. `None` until it is used: of a key.
    current: Mutex<Option<Arc<Registration>>>,
    /// Guards given out, more or less: a sign of progress, for requests that follow a lock that moves.
    guards: AtomicUsize,
}

impl Handle {
    pub(crate) fn new(origin: Box<dyn Origin>, registration: Arc<Registration>) -> Self {
        Self::with(origin, Some(registration))
    }

    /// A handle of another lock at the same path, under this name. Makes no system call.
    pub(crate) fn of_key(of: &Arc<Self>, name: &[u8], region: Region) -> Self {
        let origin = KeyOrigin { key: Key::new(name), region, label: None, of: of.clone() };
        Self::with(Box::new(origin), None)
    }

    /// A handle of the same lock whose requests say that they do this. Makes no system call.
    pub(crate) fn labelled(&self, label: Label) -> Self {
        let registration = self.registration().labelled(label.clone());
        Self::new(self.origin.labelled(label), registration)
    }

    fn with(origin: Box<dyn Origin>, registration: Option<Arc<Registration>>) -> Self {
        Self {
            always_confirms: origin.always_confirms(),
            origin,
            generation: Generation::current(),
            current: Mutex::new(registration),
            guards: AtomicUsize::new(0),
        }
    }

    pub(crate) fn origin(&self) -> &dyn Origin {
        &*self.origin
    }

    /// It belongs to a process that this one was forked from. Everything of the parent is out of bounds, its mutexes first
    /// of all.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        self.generation.is_inherited()
    }

    #[inline(always)]
    pub(crate) fn registration(&self) -> Arc<Registration> {
        let current = self.current.lock().clone();
        match current {
            Some(current) => current,
            None => self.register(),
        }
    }

    #[cold]
    fn register(&self) -> Arc<Registration> {
        let found = self.origin.register();
        // Of two that come together one has found it in vain, which is dropped outside of the mutex.
        let mut current = self.current.lock();
        current.get_or_insert_with(|| found.clone()).clone()
    }

    /// See [`Registration::step`].
    #[inline(always)]
    pub(crate) fn step(&self) {
        if explorer::IS_ON {
            self.registration().step();
        }
    }

    #[inline]
    pub(crate) fn count_guard(&self) {
        // One of two that come together may be lost, at the price of none.
        let guards = self.guards.load(Ordering::Relaxed);
        self.guards.store(guards.wrapping_add(1), Ordering::Relaxed);
    }

    pub(crate) fn guards_given(&self) -> usize {
        self.guards.load(Ordering::Relaxed)
    }

    /// Whether it has to be found out if the handle leads to the lock that is held.
    #[inline]
    pub(crate) fn has_to_confirm(&self, held: &RawGuard) -> bool {
        self.always_confirms
            || !held.registration().answers_at_once()
                && self.origin.has_to_confirm(held.registration())
    }

    /// Whether the handle leads to the lock that is held, as far as that must be known.
    #[inline]
    pub(crate) fn confirm(&self, held: &RawGuard) -> Result<bool, Error> {
        if !self.has_to_confirm(held) {
            return Ok(true);
        }
        self.origin.confirm(held.registration())
    }

    /// Another request of this handle has found its lock again.
    pub(crate) fn has_moved_on(&self, from: &Registration) -> bool {
        !is_at(&self.current.lock(), from)
    }

    /// Finds the lock again, unless another request of this handle has done so. Blocks for the time of some file-system
    /// calls; if patient also for a lease of another process.
    pub(crate) fn move_on(
        &self,
        from: &Registration,
        operation: Operation,
        patient: bool,
    ) -> Result<(), Error> {
        if self.has_moved_on(from) {
            return Ok(());
        }
        let found = self.origin.find_again(from, operation, patient)?;
        // Both the registration that is not kept and the one before are dropped outside of the mutex.
        let _outside = {
            let mut current = self.current.lock();
            if is_at(&current, from) { current.replace(found) } else { Some(found) }
        };
        Ok(())
    }
}

fn is_at(current: &Option<Arc<Registration>>, lock: &Registration) -> bool {
    current.as_ref().is_some_and(|current| current.is_same_lock(lock))
}

impl RawGuard {
    /// An exclusive holder removes what carries its lock, if the path of its handle leads to it, and releases in any case.
    pub(crate) async fn remove(self, handle: Arc<Handle>) -> Result<Option<Kept>, Error> {
        let registration = self.registration().clone();
        registration.step();
        let job = move || {
            let kept = handle.origin.remove(self.registration())?;
            if kept.is_none() {
                self.set_removed();
            }
            Ok(kept)
        };
        if registration.answers_at_once() { job() } else { registration.run(job).await }
    }
}
