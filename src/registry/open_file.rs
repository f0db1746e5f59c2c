//! The open file of an identity: one for all locks of the process in it.

use std::sync::OnceLock;

use crate::os::{Identity, LockFile, Protocol};
use crate::shim::{AtomicBool, Mutex, Ordering};

/// The open file of an identity.
///
/// A second descriptor is kept if the first is read-only and a later opener may write: locks that
/// need write access (fcntl(2)) are then taken through that one.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(super) first: LockFile,
    pub(super) writable: OnceLock<LockFile>,
    /// No path leads to the file any more.
    gone: AtomicBool,
    /// Opened in vain, and not closed before the others (see `closing`).
    kept: Mutex<Vec<LockFile>>,
}

impl OpenFile {
    pub(super) fn new(file: LockFile) -> Self {
        let gone = AtomicBool::new(false);
        Self { first: file, writable: OnceLock::new(), kept: Mutex::default(), gone }
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

    /// Known to be removed. A server may have given its identity to another file meanwhile.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub(super) fn excludes_this_machine_only(&self, protocol: Protocol) -> Option<&'static str> {
        self.first.excludes_this_machine_only(protocol)
    }
}
