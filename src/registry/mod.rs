//! The process-wide registry: number of the file -> open files -> entries.
//!
//! One open file in the process for each that is *proved* to be one, and one [`Entry`] per region of it,
//! shared by all who opened the file under whatever name. Who has opened it holds a [`Membership`]; the last
//! one to go takes the entry out and closes the file.
//!
//! The number of a file is a name that several files may have ([`Names`]), so one number stands for
//! several open files. Where there is no proof that a file is one of these, it gets an open file of its
//! own: two of them exclude each other in the kernel, so doubt costs a queue and never exclusion.
//!
//! Invariants:
//! 1. Memberships are counted explicitly, under the registry's mutex. An open file and its entries are
//!    in the map exactly while their counts are above zero: a lookup that finds one also keeps it, and there
//!    is none outside. That goes for a file that is gone, too: it is only never found by a path again.
//! 2. Requests, guards and parked waits each own a reference to a membership. So when the last
//!    one goes, nobody holds, nobody waits and no OS call is under way: the phase is `Free`, and
//!    closing the file cannot drop a lock.
//! 3. Lock order: the registry's mutex before an entry's. Neither is held across a system call, a
//!    waker, or the drop of a file.

mod closing;
mod entry;
mod labels;
mod looks;
mod open_file;
mod recorded;
mod request;
mod tenure;

#[cfg(test)]
mod models;

use std::collections::HashMap;
use std::io;
use std::sync::{LazyLock, OnceLock};

use crate::error::{Error, ErrorKind, Operation};
use crate::holder::{Holder, Label, Record};
use crate::os::fork::{self, Generation};
use crate::os::{
    Access, Answer, Effort, Identity, Location, LockFile, Names, Protocol, Region, Sameness,
};
use crate::shim::{Arc, Mutex};
use crate::wait::{self, Pool, WaitOn};

use closing::Closing;
pub(crate) use entry::Entry;
pub(crate) use looks::look_together;
pub(crate) use open_file::OpenFile;
pub(crate) use recorded::{Signature, Told};
pub use tenure::Tenure;

pub(crate) use request::{Denied, Hold, Request, new_rank, try_hold};

#[derive(Debug, Default)]
pub(crate) struct Registry {
    files: Mutex<Files>,
    closing: Closing,
    pool: Pool,
}

/// Several files may have one number.
type Files = HashMap<Identity, Vec<Registered>>;

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
    /// What requests of this member say that they do.
    pub(crate) label: Option<Label>,
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
        if let Some(names) = LockFile::look(path)? {
            if let Some(entry) = this.find(&names, path, wanted)? {
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
        registered(&mut self.files.lock(), entry).count_in_region(wanted)
    }

    /// Counts one more member of an entry that has one. Makes no system call.
    fn join_again(&self, entry: &Arc<Entry>) -> Arc<Entry> {
        let mut files = self.files.lock();
        let counted = registered(&mut files, entry).entries.get_mut(&entry.region());
        counted.expect("counted in").members += 1;
        entry.clone()
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Counts one more member of a registered file, if these names prove that it is this one.
    fn find(
        &self,
        names: &Names,
        path: &Location,
        wanted: &Wanted,
    ) -> Result<Option<Arc<Entry>>, Error> {
        let mut files = self.files.lock();
        let Some(alike) = files.get_mut(&names.identity) else { return Ok(None) };
        for registered in alike.iter_mut().filter(|registered| !registered.file.is_gone()) {
            match registered.file.names().compare(names) {
                Sameness::Same => return registered.count_in(path, wanted).map(Some),
                Sameness::Other => {}
                Sameness::Doubt if registered.has_to_be_the_only_one(wanted) => {
                    return Err(doubtful(path));
                }
                Sameness::Doubt => {}
            }
        }
        Ok(None)
    }

    /// Registers a file that was just opened, unless it is one that is registered, and counts one member.
    fn admit(&self, file: LockFile, path: &Location, wanted: &Wanted) -> Result<Arc<Entry>, Error> {
        check_reach(file.excludes_this_machine_only(wanted.protocol), path, wanted)?;
        let identity = file.identity();
        let mut known = Known::default();
        let (entry, surplus) = loop {
            let mut files = self.files.lock();
            while LockFile::closing_releases(wanted.protocol) && self.closing.is_marked(identity) {
                drop(files);
                self.closing.wait(identity);
                files = self.files.lock();
            }
            let alike = files.entry(identity).or_default();
            let in_doubt = match known.look(&file, alike) {
                Looked::Found(registered) => {
                    let entry = registered.count_in(path, wanted);
                    let surplus = match entry {
                        Ok(_) => registered.file.offer(file),
                        Err(_) => Some(file),
                    };
                    break (entry, registered.keep_if_needed(surplus));
                }
                Looked::InDoubt(in_doubt) => in_doubt,
                Looked::Other => {
                    let registered = Registered {
                        protocol: wanted.protocol,
                        file: Arc::new(OpenFile::new(file)),
                        entries: HashMap::new(),
                    };
                    alike.push(registered);
                    let registered = alike.last_mut().expect("pushed");
                    break (Ok(registered.count_in_region(wanted)), None);
                }
            };
            let only = alike.iter_mut().find(|registered| {
                registered.has_to_be_the_only_one(wanted)
                    && in_doubt.iter().any(|file| Arc::ptr_eq(file, &registered.file))
            });
            if let Some(registered) = only {
                registered.file.keep(file);
                break (Err(doubtful(path)), None);
            }
            drop(files);
            known.ask(&file, in_doubt);
        };
        drop(surplus);
        entry
    }

    /// Counts one member less. The last use of a file is returned, to be closed outside; an entry of a
    /// file that stays in use is memory, and goes here, where it cannot become the last use.
    fn leave(&self, entry: Arc<Entry>) -> Option<(Arc<Entry>, Registered)> {
        let mut files = self.files.lock();
        let entry = entry; // dropped before the mutex is let go
        let registered = registered(&mut files, &entry);
        let counted = registered.entries.get_mut(&entry.region()).expect("counted in");
        counted.members -= 1;
        if counted.members > 0 {
            return None;
        }
        registered.entries.remove(&entry.region());
        if !registered.entries.is_empty() {
            return None;
        }
        let identity = entry.file().identity();
        let alike = files.get_mut(&identity).expect("it was there");
        let at = alike.iter().position(|registered| entry.is_of(&registered.file));
        let registered = alike.swap_remove(at.expect("it was there"));
        if alike.is_empty() {
            files.remove(&identity);
        }
        if LockFile::closing_releases(registered.protocol) {
            self.closing.mark(identity);
        }
        Some((entry, registered))
    }

    /// Closes a file whose last use this was.
    fn close(&self, (entry, registered): (Arc<Entry>, Registered)) {
        let identity = entry.file().identity();
        let protocol = registered.protocol;
        drop((entry, registered));
        if LockFile::closing_releases(protocol) {
            self.closing.unmark(identity);
        }
    }

    /// How many regions of the file have members.
    #[cfg(all(test, not(tokio_filelock_loom)))]
    pub(crate) fn regions(&self, identity: Identity) -> usize {
        let files = self.files.lock();
        files.get(&identity).into_iter().flatten().map(|registered| registered.entries.len()).sum()
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

/// The open file of an entry that is counted.
fn registered<'a>(files: &'a mut Files, entry: &Entry) -> &'a mut Registered {
    let mut alike = files.get_mut(&entry.file().identity()).into_iter().flatten();
    let registered = alike.find(|registered| entry.is_of(&registered.file));
    registered.expect("a file that has members is registered")
}

/// Whether it is a file that this process has open, which must be opened once only.
fn doubtful(path: &Location) -> Error {
    let detail = "this process has a file open that may be the same, and this file system does not tell; \
                  closing one of them would release the locks of both: open it once, and clone the handle";
    Error::found(ErrorKind::Unsupported, Operation::Open, &**path, detail)
}

/// What is known of a file that was just opened: which of the registered ones it is, or is not.
#[derive(Default)]
struct Known {
    same: Option<Arc<OpenFile>>,
    /// Not proved to be the same.
    others: Vec<Arc<OpenFile>>,
}

enum Looked<'a> {
    Found(&'a mut Registered),
    /// It may be one of these.
    InDoubt(Vec<Arc<OpenFile>>),
    Other,
}

impl Known {
    /// Looks for the file among those that have its number now.
    fn look<'a>(&self, file: &LockFile, alike: &'a mut [Registered]) -> Looked<'a> {
        let mut in_doubt = Vec::new();
        for (at, registered) in alike.iter().enumerate() {
            let is = |known: &Arc<OpenFile>| Arc::ptr_eq(known, &registered.file);
            // A server may forget a file that this process has open, and give its number to the next.
            if registered.file.is_gone() || self.others.iter().any(is) {
                continue;
            }
            let same = match &self.same {
                Some(same) if is(same) => Sameness::Same,
                _ => registered.file.names().compare(file.names()),
            };
            match same {
                Sameness::Same => return Looked::Found(&mut alike[at]),
                Sameness::Other => {}
                Sameness::Doubt => in_doubt.push(registered.file.clone()),
            }
        }
        if in_doubt.is_empty() { Looked::Other } else { Looked::InDoubt(in_doubt) }
    }

    /// Asks the kernel. Under no mutex, so these may be closed meanwhile but for the reference here: what counts
    /// is whether the file is registered when the answer is used.
    fn ask(&mut self, file: &LockFile, mut in_doubt: Vec<Arc<OpenFile>>) {
        let descriptors: Vec<_> = in_doubt.iter().map(|known| &known.first).collect();
        if let Answer::Is(at) = file.ask(&descriptors) {
            self.same = Some(in_doubt.swap_remove(at));
        }
        self.others.append(&mut in_doubt);
    }
}

impl Registered {
    /// To open the file a second time is a mistake (see `closing`).
    fn has_to_be_the_only_one(&self, wanted: &Wanted) -> bool {
        [self.protocol, wanted.protocol].into_iter().any(LockFile::closing_releases)
    }

    /// Keeps what was opened in vain and must not be closed.
    fn keep_if_needed(&self, surplus: Option<LockFile>) -> Option<LockFile> {
        if LockFile::closing_releases(self.protocol) {
            surplus.into_iter().for_each(|file| self.file.keep(file));
            return None;
        }
        surplus
    }

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
    /// What its requests and holders say that they do.
    label: Option<Label>,
    /// The process that it belongs to, among the forked ones.
    generation: Generation,
}

impl Membership {
    fn new(registry: &Arc<Registry>, entry: Arc<Entry>, wanted: &Wanted) -> Arc<Self> {
        Arc::new(Self {
            registry: registry.clone(),
            entry: Some(entry),
            wait_on: wanted.wait_on,
            label: wanted.label.clone(),
            generation: Generation::current(),
        })
    }

    /// Another member of the same entry, whose requests say that they do this.
    pub(crate) fn labelled(&self, label: Label) -> Arc<Self> {
        let entry = self.registry.join_again(self.entry());
        Arc::new(Self {
            registry: self.registry.clone(),
            entry: Some(entry),
            wait_on: self.wait_on,
            label: Some(label),
            generation: self.generation,
        })
    }

    #[inline]
    pub(crate) fn label(&self) -> Option<&Label> {
        self.label.as_ref()
    }

    #[inline]
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        self.entry.as_ref().expect("present until dropped")
    }

    pub(crate) fn pool(&self) -> &Pool {
        self.registry.pool()
    }

    /// Another process has had the lock or was next, for this one has had to wait.
    pub(crate) fn has_waited(&self) -> bool {
        self.entry().has_waited()
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

    /// This process, if it holds the OS lock: once for each thing that its tasks say that they do. Makes no
    /// system call.
    pub(crate) fn own_holders(&self) -> Vec<Holder> {
        self.entry().own_holders()
    }

    /// One of those who keep this process from the OS lock, if that can be had in one system call.
    pub(crate) fn blocker(&self) -> Option<Holder> {
        self.entry().blocker()
    }

    /// An error if the descriptor does not stand for the file any more. Makes a system call.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.entry().check()
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

    /// Whether the other one is of the same file, asked now. Makes lock calls.
    pub(crate) fn ask_whether_it_is(&self, other: &Self) -> Sameness {
        self.entry().file().ask_whether_it_is(other.entry().file())
    }

    /// Where the lock is, which is its place in an order that every process of the machine has. Where
    /// several files have one number, so have several locks.
    pub(crate) fn place(&self) -> (Identity, Region) {
        (self.entry().file().identity(), self.entry().region())
    }

    /// Whether the path still leads to the file. Makes system calls.
    pub(crate) fn is_at(&self, path: &Location) -> Result<bool, Error> {
        self.entry().file().is_at(path)
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
