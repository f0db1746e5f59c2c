//! How a handle of a simulated process finds its lock file, also when that was removed or replaced.

use std::future::{self, Future};
use std::path::Path;
use std::pin::Pin;

use super::lock::Lock;
use super::process::{Process, Wanted};
use crate::driver::{self, Handle, Key, Permit, Registration};
use crate::error::{Error, Operation};
use crate::holder::Label;
use crate::os::{Kept, Protocol, Region, Sameness};
use crate::shim::Arc;

/// Where the lock of a handle is.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    process: Arc<Process>,
    path: std::sync::Arc<Path>,
    wanted: Wanted,
    verify_path: bool,
}

impl Origin {
    /// A handle of the lock file at this path.
    pub(crate) fn open(
        process: &Arc<Process>,
        path: &Path,
        wanted: Wanted,
        verify_path: bool,
    ) -> Result<Handle, Error> {
        let registration = Process::join(process, path, &wanted)?;
        let origin = Self { process: process.clone(), path: path.into(), wanted, verify_path };
        Ok(Handle::new(Box::new(origin), registration))
    }
}

/// The lock of a registration that was made here.
fn lock_of(registration: &Registration) -> &Lock {
    find_lock(registration).expect("a registration at a simulated file")
}

fn find_lock(registration: &Registration) -> Option<&Lock> {
    registration.engine().as_any().downcast_ref()
}

impl driver::Origin for Origin {
    fn path(&self) -> &Path {
        &self.path
    }

    fn shared_path(&self) -> std::sync::Arc<Path> {
        self.path.clone()
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

    fn has_to_confirm(&self, _held: &Registration) -> bool {
        false
    }

    fn confirm(&self, held: &Registration) -> Result<bool, Error> {
        Ok(self.process.machine().is_at(lock_of(held).inode(), &self.path))
    }

    fn find_again(
        &self,
        _from: &Registration,
        operation: Operation,
        _patient: bool,
    ) -> Result<Arc<Registration>, Error> {
        Process::join(&self.process, &self.path, &self.wanted)
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
        Process::join_region(at, &wanted)
    }

    fn is_same_file(&self, one: &Registration, other: &Registration) -> bool {
        lock_of(one).inode() == lock_of(other).inode()
    }

    /// Nothing blocks here.
    fn permit<'a>(
        &'a self,
        _of: &'a Registration,
        is_needed: &'a (dyn Fn() -> bool + Send + Sync),
    ) -> Pin<Box<dyn Future<Output = Option<Permit>> + Send + Sync + 'a>> {
        let permit = is_needed().then(|| Box::new(()) as Permit);
        Box::pin(future::ready(permit))
    }

    fn is_same_lock(&self, one: &Registration, other: &Registration) -> Sameness {
        let [Some(one), Some(other)] = [one, other].map(find_lock) else { return Sameness::Other };
        let is_same_file = one.inode() == other.inode()
            && Arc::ptr_eq(one.process().machine(), other.process().machine());
        match is_same_file && one.region() == other.region() {
            false => Sameness::Other,
            true if Arc::ptr_eq(one.process(), other.process()) => Sameness::Same,
            // A task that has both would wait for itself.
            true => Sameness::Doubt,
        }
    }

    fn labelled(&self, label: Label) -> Box<dyn driver::Origin> {
        let wanted = Wanted { label: Some(label), ..self.wanted.clone() };
        Box::new(Self { wanted, ..self.clone() })
    }

    fn remove(&self, held: &Registration) -> Result<Option<Kept>, Error> {
        Ok(lock_of(held).remove_file(&self.path))
    }
}
