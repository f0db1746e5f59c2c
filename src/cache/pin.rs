//! Pins: which directories may not be deleted, because a process uses them.
//!
//! Each generation of a directory has a lock of its own, a range of the first lock file. Who uses the
//! generation shares it; who deletes the generation has it exclusively, and never waits for it. A pin is
//! had in this order: lock, then look whether the generation is still there. Who deletes locks, and gives the
//! generation another name before it lets go. So what a pin has found stays, and what is deleted is never
//! found.

use std::future::Future;
use std::sync::OnceLock;

use crate::lock::{ExclusiveGuard, FileLock};
use crate::os::Region;
use crate::os::wire::{FIRST_PIN, PIN_BITS, SLOT_LENGTH_BITS};

/// The lock file with the pins' locks, of who may delete.
#[derive(Debug, Default)]
pub(super) struct Pins(OnceLock<FileLock>);

impl Pins {
    pub(super) fn are_in(&self, file: &FileLock) {
        let _ = self.0.set(file.clone());
    }

    /// The lock of a generation that no process pins. Blocks for the time of a lock call.
    pub(super) fn try_alone(&self, generation: &str, number: u64) -> Option<ExclusiveGuard> {
        lock_of(self.0.get()?, generation, number).try_lock().ok()
    }
}

pub(super) fn lock_of(file: &FileLock, generation: &str, number: u64) -> FileLock {
    // Two generations of one slot are a strange chance, and then a pin of the one keeps the other.
    let slot = number & ((1 << PIN_BITS) - 1);
    let start = FIRST_PIN + (slot << SLOT_LENGTH_BITS);
    file.of_key(generation.as_bytes(), Region { start })
}

/// Pins what is there: `None` if it is not.
pub(super) async fn pin<G, E>(
    lock: impl Future<Output = Result<G, E>>,
    is_there: impl Future<Output = Result<bool, E>>,
) -> Result<Option<G>, E> {
    let guard = lock.await?;
    Ok(is_there.await?.then_some(guard))
}

/// Does to a generation what may be done only while no process pins it.
pub(super) fn unless_pinned<G, T>(lock: Option<G>, job: impl FnOnce() -> T) -> Option<T> {
    let _guard = lock?;
    Some(job())
}
