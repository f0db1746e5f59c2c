//! How a handle finds its lock file, also when that was removed or replaced.

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
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    registry: Arc<Registry>,
    /// So that the file can be found again after the current directory has changed.
    path: Location,
    wanted: Wanted,
    verify_path: bool,
}

impl Origin {
    /// A handle of the lock file at this path. Blocks for the time of some file-system calls.
    pub(crate) fn open(path: Location, wanted: Wanted, verify_path: bool) -> Result<Handle, Error> {
        let registry = process::registry().clone();
        let registration = Registry::join(&registry, &path, &wanted)?;
        let origin = Self { registry, path, wanted, verify_path };
        Ok(Handle::new(Box::new(origin), registration))
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
        None
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
        _from: &Registration,
        operation: Operation,
        patient: bool,
    ) -> Result<Arc<Registration>, Error> {
        let mut wanted = self.wanted.clone();
        wanted.access.patient = patient;
        Registry::join(&self.registry, &self.path, &wanted)
            .map_err(|error| error.met_while_reopening(operation))
    }

    fn join_region(
        &self,
        at: &Registration,
        region: Region,
        label: Option<&Label>,
    ) -> Arc<Registration> {
        let label = label.or(self.wanted.label.as_ref()).cloned();
        // Records lie where the keys do.
        let wanted = Wanted { region, record: None, label, ..self.wanted.clone() };
        Registry::join_region(at, &wanted)
    }

    fn is_same_file(&self, one: &Registration, other: &Registration) -> bool {
        Lock::of(one).is_of(&Lock::of(other).file)
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

    fn labelled(&self, label: Label) -> Box<dyn driver::Origin> {
        let wanted = Wanted { label: Some(label), ..self.wanted.clone() };
        Box::new(Self { wanted, ..self.clone() })
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
        assert_eq!(regions(), 1, "it was not used");
        drop(kept.try_lock().unwrap());
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
