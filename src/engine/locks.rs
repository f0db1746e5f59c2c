//! What the engines of files have in common: the locks of an open file, each with its driver and the number of its members, and
//! the wait that is parked at a lock.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc as PlainArc;

use super::Engine;
use crate::driver::{Driver, Tenure};
use crate::error::{Error, ErrorKind, Operation};
use crate::os::{Protocol, Region};
use crate::queue::AttemptId;
use crate::shim::Arc;

/// The locks of one open file. A lock is here exactly while it has members.
#[derive(Debug)]
pub(super) struct Locks<L>(BTreeMap<Region, Counted<L>>);

#[derive(Debug)]
struct Counted<L> {
    joined: Joined<L>,
    members: usize,
}

/// A lock, and its queue.
#[derive(Debug)]
pub(super) struct Joined<L> {
    pub(super) driver: Arc<Driver>,
    pub(super) lock: PlainArc<L>,
}

impl<L: Engine> Locks<L> {
    pub(super) fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Counts one more member of the lock of this region, and makes the lock for the first one.
    pub(super) fn join(
        &mut self,
        region: Region,
        tenure: Tenure,
        lock: impl FnOnce() -> PlainArc<L>,
    ) -> Joined<L> {
        let counted = self.0.entry(region).or_insert_with(|| {
            let lock = lock();
            let driver = Arc::new(Driver::new(lock.clone()));
            Counted { joined: Joined { driver, lock }, members: 0 }
        });
        counted.members += 1;
        let Joined { driver, lock } = &counted.joined;
        driver.limit(tenure);
        Joined { driver: driver.clone(), lock: lock.clone() }
    }

    /// Counts one more member of a lock that has one.
    pub(super) fn join_again(&mut self, region: Region) {
        self.counted(region).members += 1;
    }

    /// Counts one member less. The last one takes its lock out; `true` if no lock is left.
    pub(super) fn leave(&mut self, region: Region) -> bool {
        let counted = self.counted(region);
        counted.members -= 1;
        if counted.members > 0 {
            return false;
        }
        self.0.remove(&region);
        self.0.is_empty()
    }

    fn counted(&mut self, region: Region) -> &mut Counted<L> {
        self.0.get_mut(&region).expect("a lock that has members is here")
    }

    /// How many locks have members.
    #[cfg(all(test, not(tokio_filelock_loom)))]
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    #[cfg(any(test, feature = "test-util"))]
    pub(super) fn drivers(&self) -> impl Iterator<Item = &Arc<Driver>> {
        self.0.values().map(|counted| &counted.joined.driver)
    }
}

/// A process locks a file by one protocol.
pub(super) fn check_protocol(path: &Path, open: Protocol, wanted: Protocol) -> Result<(), Error> {
    if open == wanted {
        return Ok(());
    }
    let detail =
        format!("it is to be locked by {wanted:?}, and this process has it open for {open:?}");
    Err(Error::found(ErrorKind::ProtocolMismatch, Operation::Open, path, detail))
}

/// The wait that is parked at a lock, if there is one, and the `E` that ends it.
#[derive(Debug, Default)]
pub(super) struct Waits<E> {
    parked: Option<(AttemptId, E)>,
    /// The last one that no request wants any more.
    interrupted: Option<AttemptId>,
}

impl<E: Clone> Waits<E> {
    /// From here on the wait can be ended by this.
    pub(super) fn park(&mut self, of: AttemptId, end: E) {
        self.parked = Some((of, end));
    }

    /// The wait has ended.
    pub(super) fn unpark(&mut self) {
        self.parked = None;
    }

    pub(super) fn is_interrupted(&self, of: AttemptId) -> bool {
        self.interrupted == Some(of)
    }

    /// Gives what ends the wait, if that is parked. One that is only on its way to be parked finds that it is interrupted; one
    /// that has ended needs nothing.
    pub(super) fn interrupt(&mut self, of: AttemptId) -> Option<E> {
        self.interrupted = Some(of);
        let (parked, end) = self.parked.as_ref()?;
        (*parked == of).then(|| end.clone())
    }
}
