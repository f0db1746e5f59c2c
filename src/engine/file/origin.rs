//! How a handle finds its lock file, also when that was removed or replaced; and how a key finds the file of its space.
//!
//! A key locks a region of its own in a file that a handle has open. It has no path to open: when the lock file is replaced,
//! it goes where the handle of the file goes, so the file is opened anew once, however many keys follow.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;

use super::{Lock, Registry, Wanted};
use crate::driver::{self, Handle, Key, Permit, Registration};
use crate::error::{Error, Operation};
use crate::holder::Label;
use crate::os::{Kept, Location, Protocol, Region, Sameness};
use crate::process;
use crate::shim::Arc;

/// Where the lock of a handle is.
#[derive(Debug)]
pub(crate) struct Origin {
    registry: Arc<Registry>,
    /// So that the file can be found again after the current directory has changed.
    path: Location,
    wanted: Wanted,
    verify_path: bool,
    /// Set where the lock is one of several in the file.
    key: Option<KeyOfFile>,
}

#[derive(Debug, Clone)]
struct KeyOfFile {
    key: Key,
    /// The handle of the file.
    file: Arc<Handle>,
}

impl Origin {
    /// A handle of the lock file at this path. Blocks for the time of some file-system calls.
    pub(crate) fn open(path: Location, wanted: Wanted, verify_path: bool) -> Result<Handle, Error> {
        let registry = process::registry().clone();
        let registration = Registry::join(&registry, &path, &wanted)?;
        let origin = Self { registry, path, wanted, verify_path, key: None };
        Ok(Handle::new(Box::new(origin), registration))
    }

    fn open_again(&self, operation: Operation, patient: bool) -> Result<Arc<Registration>, Error> {
        let mut wanted = self.wanted.clone();
        wanted.access.patient = patient;
        Registry::join(&self.registry, &self.path, &wanted)
            .map_err(|error| error.met_while_reopening(operation))
    }
}

impl driver::Origin for Origin {
    fn path(&self) -> &Path {
        &self.path
    }

    fn shared_path(&self) -> std::sync::Arc<Path> {
        self.path.shared()
    }

    fn protocol(&self) -> Protocol {
        self.wanted.protocol
    }

    fn key(&self) -> Option<&Key> {
        self.key.as_ref().map(|of| &of.key)
    }

    fn always_confirms(&self) -> bool {
        self.verify_path
    }

    /// Once in a tenure, on a file system that is not local.
    fn has_to_confirm(&self, held: &Registration) -> bool {
        let lock = Lock::of(held);
        !lock.file.is_local() && !lock.was_seen_at_path()
    }

    fn confirm(&self, held: &Registration) -> Result<bool, Error> {
        let lock = Lock::of(held);
        let there = lock.file.is_at(&self.path)?;
        if there {
            lock.saw_at_path();
        }
        Ok(there)
    }

    fn find_again(
        &self,
        from: &Registration,
        operation: Operation,
        patient: bool,
    ) -> Result<Arc<Registration>, Error> {
        let Some(KeyOfFile { file, .. }) = &self.key else {
            return self.open_again(operation, patient);
        };
        let current = file.registration();
        if Lock::of(&current).is_of(&Lock::of(from).file) {
            file.move_on(&current, operation, patient)?;
        }
        Ok(Registry::join_region(&file.registration(), &self.wanted))
    }

    fn permit<'a>(
        &'a self,
        of: &'a Registration,
        is_needed: &'a (dyn Fn() -> bool + Send + Sync),
    ) -> Pin<Box<dyn Future<Output = Option<Permit>> + Send + Sync + 'a>> {
        let permit = Lock::of(of).file.permit(is_needed);
        Box::pin(async { permit.await.map(|permit| Box::new(permit) as Permit) })
    }

    fn is_same_lock(&self, one: &Registration, other: &Registration) -> Sameness {
        match [one, other].map(Lock::of_file) {
            [Some(one), Some(other)] => one.file.ask_whether_it_is(&other.file),
            _ => Sameness::Other,
        }
    }

    /// Of a region of the same file.
    fn of_key(&self, handle: &Arc<Handle>, name: &[u8], region: Region) -> Handle {
        // Records lie where the keys do.
        let wanted = Wanted { region, record: None, ..self.wanted.clone() };
        let registration = Registry::join_region(&handle.registration(), &wanted);
        let origin = Self {
            registry: self.registry.clone(),
            path: self.path.clone(),
            wanted,
            verify_path: self.verify_path,
            key: Some(KeyOfFile { key: Key::new(name), file: handle.clone() }),
        };
        Handle::new(Box::new(origin), registration)
    }

    fn labelled(&self, handle: &Handle, label: Label) -> Handle {
        let registration = handle.registration().labelled(label.clone());
        let origin = Self {
            registry: self.registry.clone(),
            path: self.path.clone(),
            wanted: Wanted { label: Some(label), ..self.wanted.clone() },
            verify_path: self.verify_path,
            key: self.key.clone(),
        };
        Handle::new(Box::new(origin), registration)
    }

    fn remove(&self, held: &Registration) -> Result<Option<Kept>, Error> {
        Lock::of(held).remove_file(&self.path)
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::*;
    use crate::{FileLock, Protocol};

    /// Names are endless; what the process remembers is not.
    #[test]
    fn a_key_that_no_handle_has_leaves_nothing_in_the_registry() {
        let directory = tempfile::tempdir().unwrap();
        let options = FileLock::options().protocol(Protocol::Fcntl);
        let file = options.blocking_open(directory.path().join("app.lock")).unwrap();
        let registry = process::registry();
        let (identity, _) = file.handle().registration().engine().id();
        let regions = || registry.regions(identity);
        // Where keys are: on Windows all that is below stands for one byte.
        let key = |number: u64| file.of_key(b"name", Region { start: (1 << 62) + (number << 23) });

        let kept = key(1);
        let guard = key(2).blocking_lock().unwrap();
        for number in 1..10_000 {
            drop(key(number));
            drop(key(number + 2).try_lock().unwrap());
            let mut waiting = Box::pin(key(2).lock());
            let mut context = Context::from_waker(Waker::noop());
            assert!(waiting.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(regions(), 3);
        drop((kept, guard));
        assert_eq!(regions(), 1);
        drop(file);
        assert_eq!(registry.regions(identity), 0);
    }
}
