//! Files whose locks go when any descriptor of theirs is closed (POSIX record locks, fcntl(2)).
//!
//! Two rules keep a close from dropping a lock:
//! 1. A descriptor that was opened in vain is kept by the file that was opened already
//!    ([`OpenFile::keep`](super::OpenFile::keep)), and closed with it.
//! 2. A file that is on its way to being closed is marked, from the critical section in which the
//!    registry forgets it until it is closed. No handle registers the same file in between, so no guard has a
//!    lock on it that the close could drop.

use crate::os::Identity;
use crate::shim::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(super) struct Closing {
    marked: Mutex<Vec<Identity>>,
    changed: Condvar,
}

impl Closing {
    pub(super) fn mark(&self, identity: Identity) {
        self.marked.lock().push(identity);
    }

    pub(super) fn is_marked(&self, identity: Identity) -> bool {
        self.marked.lock().contains(&identity)
    }

    /// The file is closed.
    pub(super) fn unmark(&self, identity: Identity) {
        let mut marked = self.marked.lock();
        // One of several files that have this number.
        if let Some(at) = marked.iter().position(|marked| *marked == identity) {
            marked.swap_remove(at);
        }
        drop(marked);
        self.changed.notify_all();
    }

    /// Blocks for the time of a close.
    pub(super) fn wait(&self, identity: Identity) {
        let mut marked = self.marked.lock();
        while marked.contains(&identity) {
            marked = self.changed.wait(marked);
        }
    }
}
