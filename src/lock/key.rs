//! One of several locks in one file: what makes the handle of a key different from that of a file.
//!
//! A key locks a region of its own in a file that a `LockSpace` has open. It has no path to open:
//! when the lock file is replaced, it goes where the handle of the file goes, so the file is opened
//! anew once, however many keys follow.

use std::sync::atomic::AtomicUsize;

use super::{FileLock, Handle};
use crate::error::Error;
use crate::holder::Shown;
use crate::mode::Mode;
use crate::os::Region;
use crate::registry::{Membership, Wanted};
use crate::shim::{Arc, Mutex};

/// A longer name is cut in messages, after so many characters.
const LONGEST_NAME: usize = 80;

#[derive(Clone)]
pub(super) struct Key {
    name: Box<[u8]>,
    region: Region,
    /// The handle of the file, which locks nothing.
    file: FileLock,
}

impl FileLock {
    /// The lock of a region of this file, under this name. Makes no system call.
    pub(crate) fn of_key(&self, name: &[u8], region: Region) -> FileLock {
        let handle = &*self.handle;
        if handle.generation.is_past() {
            // The parent's mutexes are out of bounds. Whoever tries to lock is told so.
            return self.clone();
        }
        let key = Key { name: name.into(), region, file: self.clone() };
        let member = self.member().of_region(&key.wanted());
        let handle = Handle {
            path: handle.path.clone(),
            options: handle.options.clone(),
            signature: None,
            key: Some(key),
            generation: handle.generation,
            registry: handle.registry.clone(),
            current: Mutex::new(member),
            guards: AtomicUsize::new(0),
        };
        FileLock { handle: Arc::new(handle) }
    }
}

impl Key {
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// The name for people.
    pub(super) fn text(&self) -> String {
        let name = String::from_utf8_lossy(&self.name);
        let mut characters = name.chars();
        let mut text: String = characters.by_ref().take(LONGEST_NAME).collect();
        if characters.next().is_some() {
            text.push('…');
        }
        Shown(text.as_bytes()).to_string()
    }

    fn wanted(&self) -> Wanted {
        Wanted { region: self.region, ..self.file.handle.options.wanted(None) }
    }

    /// Where the key is now that it is not in the file of `from` any more. Blocks for the time of
    /// some file-system calls; if patient also for a lease of another process.
    pub(super) fn follow(
        &self,
        from: &Membership,
        mode: Mode,
        patient: bool,
    ) -> Result<Arc<Membership>, Error> {
        let member = self.file.member();
        if member.is_of_same_file(from) {
            self.file.move_on(&member, mode, patient)?;
        }
        Ok(self.file.member().of_region(&self.wanted()))
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;
    use crate::Protocol;

    /// Names are endless; what the process remembers is not.
    #[test]
    fn a_key_that_nobody_has_leaves_nothing_in_the_registry() {
        let directory = tempfile::tempdir().unwrap();
        let options = FileLock::options().protocol(Protocol::Fcntl);
        let file = options.blocking_open(directory.path().join("app.lock")).unwrap();
        let (identity, _) = file.member().place();
        let regions = || file.handle.registry.regions(identity);
        // Where keys are: on Windows all that is below stands for one byte.
        let key = |number: u64| file.of_key(b"name", Region { start: (1 << 62) + (number << 23) });

        let kept = key(1);
        let guard = key(2).blocking_lock().unwrap();
        for number in 1..10_000 {
            drop(key(number));
            drop(key(number + 2).try_lock().unwrap());
            let mut waiting = Box::pin(key(2).lock());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(waiting.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(regions(), 3);
        drop((kept, guard));
        assert_eq!(regions(), 1);
        let registry = file.handle.registry.clone();
        drop(file);
        assert_eq!(registry.regions(identity), 0);
    }
}
