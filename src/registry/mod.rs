//! The process-wide registry: file identity -> open file -> entry.
//!
//! One open file per identity in the process, one [`Entry`] per region of it, shared by all who
//! opened the file under whatever name. Who has opened it holds a [`Membership`]; the last one to
//! go takes the entry out and closes the file.
//!
//! Invariants:
//! 1. Memberships are counted explicitly, under the registry's mutex. An entry is in the map
//!    exactly while its count is above zero, so a lookup that finds it also keeps it.
//! 2. Requests, guards and parked waits each own a reference to a membership. So when the last
//!    one goes, nobody holds, nobody waits and no OS call is under way: the phase is `Free`, and
//!    closing the file cannot drop a lock.
//! 3. Lock order: the registry's mutex before an entry's. Neither is held across a system call, a
//!    waker, or the drop of a file.

mod closing;
mod entry;
mod looks;
mod open_file;
mod recorded;
mod request;
mod tenure;

#[cfg(test)]
mod models;

use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::{LazyLock, OnceLock};

use crate::error::{Error, ErrorKind, Operation};
use crate::holder::{Holder, Record};
use crate::os::fork::{self, Generation};
use crate::os::{Access, Effort, Identity, Location, LockFile, Protocol, Region};
use crate::shim::{Arc, Mutex};
use crate::wait::{self, Pool, WaitOn};

use closing::Closing;
pub(crate) use entry::Entry;
pub(crate) use looks::look_together;
pub(crate) use open_file::OpenFile;
pub(crate) use recorded::{Signature, Told};
pub use tenure::Tenure;

pub(crate) use request::{Denied, Hold, Request, try_hold};

#[derive(Debug, Default)]
pub(crate) struct Registry {
    files: Mutex<HashMap<Identity, Registered>>,
    closing: Closing,
    pool: Pool,
}

#[derive(Debug)]
struct Registered {
    protocol: Protocol,
    file: Arc<OpenFile>,
    entries: HashMap<Region, Counted>,
}

#[derive(Debug)]
struct Counted {
    entry: Arc<Entry>,
    members: usize,
}

/// The registry of this process. A forked child begins with an empty one: the parent's describes
/// files and tasks that are not the child's, and its mutex may be locked for ever.
pub(crate) fn registry() -> &'static Arc<Registry> {
    struct OfGeneration {
        registry: LazyLock<Arc<Registry>>,
        next: OnceLock<Box<OfGeneration>>,
    }
    impl OfGeneration {
        const fn new() -> Self {
            Self { registry: LazyLock::new(Arc::default), next: OnceLock::new() }
        }
    }
    static FIRST: OfGeneration = OfGeneration::new();

    fork::listen();
    let mut of_generation = &FIRST;
    for _ in 0..Generation::current().number() {
        of_generation = of_generation.next.get_or_init(|| Box::new(OfGeneration::new()));
    }
    &of_generation.registry
}

/// What is wanted of a lock file.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) protocol: Protocol,
    pub(crate) region: Region,
    pub(crate) access: Access,
    pub(crate) wait_on: WaitOn,
    pub(crate) tenure: Tenure,
    /// What to write into the lock file, if anything.
    pub(crate) record: Option<Arc<Signature>>,
    /// A lock that excludes the programs of this machine only will do.
    pub(crate) this_machine_only: bool,
}

impl Registry {
    /// Opens the lock file at this path, or joins those who have it open. Blocks for the time of
    /// some file-system calls.
    pub(crate) fn join(
        this: &Arc<Self>,
        path: &Location,
        wanted: &Wanted,
    ) -> Result<Arc<Membership>, Error> {
        let member = Self::join_unrecorded(this, path, wanted)?;
        if let Some(signature) = &wanted.record {
            // Before others are asked to leave records as well.
            if !member.entry().file().is_writable() {
                let detail = "it can be opened for reading only, and a record is to be left in it";
                return Err(Error::found(ErrorKind::WrongAccess, Operation::Open, &**path, detail));
            }
            member.entry().record(signature.clone());
        }
        Ok(member)
    }

    fn join_unrecorded(
        this: &Arc<Self>,
        path: &Location,
        wanted: &Wanted,
    ) -> Result<Arc<Membership>, Error> {
        // Looked up before opening: where the kernel drops a process's locks when any descriptor
        // of the file is closed (POSIX record locks), a needless open would be the mistake.
        if let Some(identity) = LockFile::identity_of(path)? {
            if let Some(entry) = this.find(identity, path, wanted)? {
                let membership = Membership::new(this, entry, wanted);
                if membership.entry().file().is_writable() || wanted.access.read_only {
                    return Ok(membership);
                }
                // Known only by a read-only descriptor so far; `membership` keeps the count until
                // the better one is in.
                return this
                    .admit(LockFile::open(path, wanted.access)?, path, wanted)
                    .map(|entry| Membership::new(this, entry, wanted));
            }
        }
        let file = LockFile::open(path, wanted.access)?;
        Ok(Membership::new(this, this.admit(file, path, wanted)?, wanted))
    }

    /// Joins those who use another region of this entry's file. Makes no system call.
    fn join_region(&self, entry: &Entry, wanted: &Wanted) -> Arc<Entry> {
        match self.files.lock().get_mut(&entry.file().identity()) {
            Some(registered) if entry.is_of(&registered.file) => registered.count_in_region(wanted),
            // Taken out because the file was gone. The first lock call finds that, too.
            _ => Arc::new(entry.of_region(wanted.region)),
        }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Counts one more member of a registered file.
    fn find(
        &self,
        identity: Identity,
        path: &Location,
        wanted: &Wanted,
    ) -> Result<Option<Arc<Entry>>, Error> {
        match self.files.lock().get_mut(&identity) {
            Some(registered) if !registered.file.is_gone() => {
                registered.count_in(path, wanted).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Registers a file that was just opened, unless somebody was faster, and counts one member.
    fn admit(&self, file: LockFile, path: &Location, wanted: &Wanted) -> Result<Arc<Entry>, Error> {
        check_reach(file.excludes_this_machine_only(wanted.protocol), path, wanted)?;
        let mut files = self.files.lock();
        let identity = file.identity();
        while LockFile::closing_releases(wanted.protocol) && self.closing.is_marked(identity) {
            drop(files);
            self.closing.wait(identity);
            files = self.files.lock();
        }
        // A server may forget a file that this process has open, and give its number to the next.
        let gone = match files.get(&identity) {
            Some(registered) if registered.file.is_gone() => files.remove(&identity),
            _ => None,
        };
        let (entry, surplus) = match files.entry(identity) {
            hash_map::Entry::Occupied(mut occupied) => {
                let registered = occupied.get_mut();
                let entry = registered.count_in(path, wanted);
                let surplus = if entry.is_ok() { registered.file.offer(file) } else { Some(file) };
                let surplus = match surplus {
                    Some(file) if LockFile::closing_releases(registered.protocol) => {
                        registered.file.keep(file);
                        None
                    }
                    surplus => surplus,
                };
                (entry, surplus)
            }
            hash_map::Entry::Vacant(vacant) => {
                let registered = vacant.insert(Registered {
                    protocol: wanted.protocol,
                    file: Arc::new(OpenFile::new(file)),
                    entries: HashMap::new(),
                });
                (registered.count_in(path, wanted), None)
            }
        };
        drop(files);
        drop((surplus, gone));
        entry
    }

    /// Counts one member less. The last use of a file is returned, to be closed outside; an entry of a
    /// file that stays in use is memory, and goes here, where it cannot become the last use.
    fn leave(&self, entry: Arc<Entry>) -> Option<(Arc<Entry>, Option<Registered>)> {
        let mut files = self.files.lock();
        let entry = entry; // dropped before the mutex is let go
        let identity = entry.file().identity();
        let registered = match files.get_mut(&identity) {
            Some(registered) if entry.is_of(&registered.file) => registered,
            // Taken out because the file was gone: nobody counts, and this may be the last one.
            _ => return Some((entry, None)),
        };
        let counted = registered.entries.get_mut(&entry.region()).expect("counted in");
        counted.members -= 1;
        if counted.members > 0 {
            return None;
        }
        registered.entries.remove(&entry.region());
        if !registered.entries.is_empty() {
            return None;
        }
        let registered = files.remove(&identity);
        if registered.as_ref().is_some_and(|file| LockFile::closing_releases(file.protocol)) {
            self.closing.mark(identity);
        }
        Some((entry, registered))
    }

    /// Closes a file whose last use this was.
    fn close(&self, (entry, registered): (Arc<Entry>, Option<Registered>)) {
        let identity = entry.file().identity();
        let protocol = registered.as_ref().map(|registered| registered.protocol);
        drop((entry, registered));
        if protocol.is_some_and(LockFile::closing_releases) {
            self.closing.unmark(identity);
        }
    }

    /// How many regions of the file have members.
    #[cfg(all(test, not(tokio_filelock_loom)))]
    pub(crate) fn regions(&self, identity: Identity) -> usize {
        self.files.lock().get(&identity).map_or(0, |registered| registered.entries.len())
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.files.lock().is_empty()
    }
}

/// Never silently weaker: a lock that other machines do not see is one that was asked for.
fn check_reach(this_machine: Option<&str>, path: &Location, wanted: &Wanted) -> Result<(), Error> {
    match this_machine {
        Some(why) if !wanted.this_machine_only => {
            let detail = format!(
                "{why}: use another mount or protocol, or accept a lock that excludes this machine \
                 only (`OpenOptions::this_machine_only`)"
            );
            Err(Error::found(ErrorKind::Unsupported, Operation::Open, &**path, detail))
        }
        _ => Ok(()),
    }
}

impl Registered {
    fn count_in(&mut self, path: &Location, wanted: &Wanted) -> Result<Arc<Entry>, Error> {
        if self.protocol != wanted.protocol {
            let detail = format!(
                "it is to be locked by {:?}, and this process has it open for {:?}",
                wanted.protocol, self.protocol
            );
            return Err(Error::found(
                ErrorKind::ProtocolMismatch,
                Operation::Open,
                &**path,
                detail,
            ));
        }
        check_reach(self.file.excludes_this_machine_only(self.protocol), path, wanted)?;
        Ok(self.count_in_region(wanted))
    }

    fn count_in_region(&mut self, wanted: &Wanted) -> Arc<Entry> {
        let counted = self.entries.entry(wanted.region).or_insert_with(|| Counted {
            entry: Arc::new(Entry::new(self.file.clone(), self.protocol, wanted.region)),
            members: 0,
        });
        counted.members += 1;
        counted.entry.limit(wanted.tenure);
        counted.entry.clone()
    }
}

/// The right to use an entry: what one successful open of the lock file gives.
#[derive(Debug)]
pub(crate) struct Membership {
    registry: Arc<Registry>,
    /// `None` only while it is dropped.
    entry: Option<Arc<Entry>>,
    wait_on: WaitOn,
    /// The process that it belongs to, among the forked ones.
    generation: Generation,
}

impl Membership {
    fn new(registry: &Arc<Registry>, entry: Arc<Entry>, wanted: &Wanted) -> Arc<Self> {
        Arc::new(Self {
            registry: registry.clone(),
            entry: Some(entry),
            wait_on: wanted.wait_on,
            generation: Generation::current(),
        })
    }

    #[inline]
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        self.entry.as_ref().expect("present until dropped")
    }

    pub(crate) fn pool(&self) -> &Pool {
        self.registry.pool()
    }

    pub(crate) fn wait_on(&self) -> WaitOn {
        self.wait_on
    }

    /// It belongs to a process that this one was forked from. Its mutexes may be locked for ever,
    /// and its locks are that process's: nothing may be done with it.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        self.generation.is_past()
    }

    /// Who holds the OS lock, and whose calls wait for it, as the kernel sees it. Makes system calls.
    pub(crate) fn holders(&self, effort: Effort) -> Vec<Holder> {
        self.entry().holders(effort)
    }

    /// The record in the lock file, if there is one. Makes a system call.
    pub(crate) fn record(&self) -> Option<Record> {
        self.entry().read_record()
    }

    /// A membership of another region of the same open file, in the same protocol.
    pub(crate) fn of_region(&self, wanted: &Wanted) -> Arc<Self> {
        let entry = self.registry.join_region(self.entry(), wanted);
        Self::new(&self.registry, entry, wanted)
    }

    pub(crate) fn is_of_same_file(&self, other: &Self) -> bool {
        self.entry().is_of_same_file(other.entry())
    }

    /// What is locked. The order is the same in every process of the machine.
    pub(crate) fn place(&self) -> (Identity, Region) {
        (self.entry().file().identity(), self.entry().region())
    }

    /// Whether the path still leads to the file. Makes system calls.
    pub(crate) fn is_at(&self, path: &Location) -> Result<bool, Error> {
        let identity = if self.entry().file().is_local() {
            LockFile::identity_of(path)
        } else {
            LockFile::identity_at_server(path)
        };
        match identity {
            Ok(identity) => Ok(identity == Some(self.entry().file().identity())),
            // Something else is there now.
            Err(error) if error.kind() == ErrorKind::NotAFile => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let entry = self.entry.take().expect("dropped once");
        if self.is_inherited() {
            return;
        }
        let Some(last) = self.registry.leave(entry) else { return };
        // Closes the file outside the mutex.
        if last.0.file().is_local() {
            self.registry.close(last);
        } else {
            let registry = self.registry.clone();
            wait::errand(self.registry.pool(), move || registry.close(last));
        }
    }
}
