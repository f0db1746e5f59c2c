//! The process-wide registry: number of the file -> open files -> locks.
//!
//! One open file in the process for each that is *proved* to be one, and one [`Lock`] and its [`Driver`](driver::Driver) per region of it,
//! shared by all handles of the file, under whatever name it was opened. Each open of it holds a [`Registration`], whose
//! [`Seat`] is counted; the last one to go takes the lock out and closes the file.
//!
//! The number of a file is a name that several files may have ([`Names`]), so one number stands for
//! several open files. Where there is no proof that a file is one of these, it gets an open file of its
//! own: two of them exclude each other in the kernel, so doubt costs a queue and never exclusion.
//!
//! Invariants:
//! 1. Seats are counted explicitly, under the registry's mutex. An open file and its locks are
//!    in the map exactly while their counts are above zero: a lookup that finds one also keeps it, and there
//!    is none outside. That goes for a file that is gone, too: it is only never found by a path again.
//! 2. Requests, guards and parked waits each own a reference to a registration. So when the last
//!    one goes, no guard is held, no request waits and no OS call is under way: the phase is `Free`, and
//!    closing the file cannot drop a lock.
//! 3. Lock order: the registry's mutex before a driver's. Neither is held across a system call, a
//!    waker, or the drop of a file.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc as PlainArc;

use super::Lock;
use super::closing::Closing;
use super::open_file::OpenFile;
use crate::driver::{self, Registration, Tenure};
use crate::engine::Signature;
use crate::engine::locks::{self, Locks, check_protocol};
use crate::error::{Error, ErrorKind, Operation};
use crate::holder::Label;
use crate::os::fork::Generation;
use crate::os::{
    Access, Identity, Location, LockFile, Names, Protocol, Recognized, Region, Sameness,
};
use crate::shim::{Arc, Mutex};
use crate::wait::{Pool, WaitOn};

#[derive(Debug, Default)]
pub(crate) struct Registry {
    files: Mutex<Files>,
    closing: Closing,
    pool: Pool,
}

/// Several files may have one number.
type Files = BTreeMap<Identity, Vec<Registered>>;

#[derive(Debug)]
struct Registered {
    protocol: Protocol,
    file: Arc<OpenFile>,
    locks: Locks<Lock>,
}

type Joined = locks::Joined<Lock>;

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
    /// What requests of this registration say that they do.
    pub(crate) label: Option<Label>,
    /// A lock that excludes the programs of this machine only will do.
    pub(crate) this_machine_only: bool,
}

impl Registry {
    /// Opens the lock file at this path, or joins the handles that have it open. Blocks for the time of
    /// some file-system calls.
    pub(crate) fn join(
        this: &Arc<Self>,
        path: &Location,
        wanted: &Wanted,
    ) -> Result<Arc<Registration>, Error> {
        let registration = Self::join_unrecorded(this, path, wanted)?;
        if let Some(signature) = &wanted.record {
            let lock = Lock::of(&registration);
            // Before others are asked to leave records as well.
            if !lock.file.is_writable() {
                let detail = "it can be opened for reading only, and a record is to be left in it";
                return Err(Error::found(ErrorKind::WrongAccess, Operation::Open, &**path, detail));
            }
            // First: a guard of a tenure with a record gets to know of it.
            registration.driver().expect_tenure_info();
            lock.leave_records(signature.clone());
        }
        Ok(registration)
    }

    fn join_unrecorded(
        this: &Arc<Self>,
        path: &Location,
        wanted: &Wanted,
    ) -> Result<Arc<Registration>, Error> {
        // Looked up before opening: where the kernel drops a process's locks when any descriptor
        // of the file is closed (POSIX record locks), a needless open would be the mistake.
        if let Some(names) = LockFile::names_at(path)? {
            if let Some(joined) = this.find(&names, path, wanted)? {
                let file = &joined.lock.file;
                if wanted.access.in_use {
                    // It may have been opened for one that is not of this kind.
                    file.first.mark_in_use();
                }
                let will_do = file.is_writable() || wanted.access.read_only || file.has_kept();
                let registration = Self::register(this, joined, wanted);
                if will_do {
                    return Ok(registration);
                }
                // Known only by a read-only descriptor so far; `registration` keeps the count until
                // the better one is in.
                return this
                    .admit(LockFile::open(path, wanted.access)?, path, wanted)
                    .map(|joined| Self::register(this, joined, wanted));
            }
        }
        let file = LockFile::open(path, wanted.access)?;
        Ok(Self::register(this, this.admit(file, path, wanted)?, wanted))
    }

    /// The lock is counted.
    fn register(this: &Arc<Self>, joined: Joined, wanted: &Wanted) -> Arc<Registration> {
        let Joined { driver, lock } = joined;
        let seat = Seat::new(this.clone(), lock);
        Registration::new(driver, Box::new(seat), wanted.wait_on, wanted.label.clone())
    }

    /// Registers at another region of the same open file, in the same protocol. Makes no system call.
    pub(crate) fn join_region(from: &Registration, wanted: &Wanted) -> Arc<Registration> {
        let seat = Seat::of(from);
        let joined = {
            let mut files = seat.registry.files.lock();
            registered(&mut files, seat.lock()).count_in_region(wanted, &seat.registry.pool)
        };
        Self::register(&seat.registry, joined, wanted)
    }

    /// Counts one more member of a lock that has one. Makes no system call.
    fn join_again(&self, lock: &Lock) {
        let mut files = self.files.lock();
        registered(&mut files, lock).locks.join_again(lock.region);
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
    ) -> Result<Option<Joined>, Error> {
        let mut files = self.files.lock();
        let Some(alike) = files.get_mut(&names.identity) else { return Ok(None) };
        for registered in alike.iter_mut().filter(|registered| !registered.file.is_gone()) {
            match registered.file.names().compare(names) {
                Sameness::Same => return registered.count_in(path, wanted, &self.pool).map(Some),
                Sameness::Other => {}
                Sameness::Doubt if registered.has_to_be_the_only_one(wanted) => {
                    return Err(doubtful(path));
                }
                Sameness::Doubt => {}
            }
        }
        Ok(None)
    }

    /// Takes in a file that was just opened, unless it is one that is registered, and counts one member.
    fn admit(&self, file: LockFile, path: &Location, wanted: &Wanted) -> Result<Joined, Error> {
        check_reach(file.excludes_this_machine_only(wanted.protocol), path, wanted)?;
        let identity = file.identity();
        let mut known = Known::default();
        // A file that is not needed is closed outside of the mutex.
        let (joined, _outside) = loop {
            let mut files = self.files.lock();
            while LockFile::closing_releases(wanted.protocol) && self.closing.is_marked(identity) {
                drop(files);
                self.closing.wait(identity);
                files = self.files.lock();
            }
            let alike = files.entry(identity).or_default();
            let in_doubt = match known.compare(&file, alike) {
                Match::Found(registered) => {
                    let joined = registered.count_in(path, wanted, &self.pool);
                    let surplus = match joined {
                        Ok(_) => registered.file.offer(file),
                        Err(_) => Some(file),
                    };
                    break (joined, registered.keep_if_needed(surplus));
                }
                Match::InDoubt(in_doubt) => in_doubt,
                Match::Other => {
                    let registered = Registered {
                        protocol: wanted.protocol,
                        file: Arc::new(OpenFile::new(file)),
                        locks: Locks::new(),
                    };
                    alike.push(registered);
                    let registered = alike.last_mut().expect("pushed");
                    break (Ok(registered.count_in_region(wanted, &self.pool)), None);
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
        joined
    }

    /// Counts one member less. The last use of a file is returned, to be closed outside; a lock of a
    /// file that stays in use is memory, and goes here, where it cannot become the last use.
    fn leave(&self, lock: PlainArc<Lock>) -> Option<(PlainArc<Lock>, Registered)> {
        let mut files = self.files.lock();
        let lock = lock; // dropped before the mutex is let go
        let registered = registered(&mut files, &lock);
        if !registered.locks.leave(lock.region) {
            return None;
        }
        let identity = lock.file.identity();
        let alike = files.get_mut(&identity).expect("it was there");
        let at = alike.iter().position(|registered| lock.is_of(&registered.file));
        let registered = alike.swap_remove(at.expect("it was there"));
        if alike.is_empty() {
            files.remove(&identity);
        }
        if LockFile::closing_releases(registered.protocol) {
            self.closing.mark(identity);
        }
        Some((lock, registered))
    }

    /// Closes a file whose last use this was.
    fn close(&self, (lock, registered): (PlainArc<Lock>, Registered)) {
        let identity = lock.file.identity();
        let protocol = registered.protocol;
        drop((lock, registered));
        if LockFile::closing_releases(protocol) {
            self.closing.unmark(identity);
        }
    }

    /// How many regions of the file have members.
    #[cfg(all(test, not(tokio_filelock_loom)))]
    pub(crate) fn regions(&self, identity: Identity) -> usize {
        let files = self.files.lock();
        files.get(&identity).into_iter().flatten().map(|registered| registered.locks.count()).sum()
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

/// The open file of a lock that is counted.
fn registered<'a>(files: &'a mut Files, lock: &Lock) -> &'a mut Registered {
    let mut alike = files.get_mut(&lock.file.identity()).into_iter().flatten();
    let registered = alike.find(|registered| lock.is_of(&registered.file));
    registered.expect("a file that has members is registered")
}

/// Whether it is a file that this process has open, which must be opened once only.
fn doubtful(path: &Location) -> Error {
    let detail = "this process has a file open that may be the same, and this file system does not tell; \
                  closing one of them would release the locks of both: open it once, and clone the handle";
    Error::found(ErrorKind::Unsupported, Operation::Open, &**path, detail)
}

/// What the process knows of a file that it has just opened: which of the registered ones it is, or is not.
#[derive(Default)]
struct Known {
    same: Option<Arc<OpenFile>>,
    /// Not proved to be the same.
    others: Vec<Arc<OpenFile>>,
}

enum Match<'a> {
    Found(&'a mut Registered),
    /// It may be one of these.
    InDoubt(Vec<Arc<OpenFile>>),
    Other,
}

impl Known {
    /// Looks for the file among those that have its number now.
    fn compare<'a>(&self, file: &LockFile, alike: &'a mut [Registered]) -> Match<'a> {
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
                Sameness::Same => return Match::Found(&mut alike[at]),
                Sameness::Other => {}
                Sameness::Doubt => in_doubt.push(registered.file.clone()),
            }
        }
        if in_doubt.is_empty() { Match::Other } else { Match::InDoubt(in_doubt) }
    }

    /// Asks the kernel. Under no mutex, so these may be closed meanwhile but for the reference here: what counts
    /// is whether the file is registered when the answer is used.
    fn ask(&mut self, file: &LockFile, mut in_doubt: Vec<Arc<OpenFile>>) {
        let descriptors: Vec<_> = in_doubt.iter().map(|known| &known.first).collect();
        if let Recognized::Is(at) = file.ask(&descriptors) {
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

    fn count_in(&mut self, path: &Location, wanted: &Wanted, pool: &Pool) -> Result<Joined, Error> {
        check_protocol(path, self.protocol, wanted.protocol)?;
        check_reach(self.file.excludes_this_machine_only(self.protocol), path, wanted)?;
        Ok(self.count_in_region(wanted, pool))
    }

    fn count_in_region(&mut self, wanted: &Wanted, pool: &Pool) -> Joined {
        let (file, protocol, region) = (&self.file, self.protocol, wanted.region);
        self.locks.join(region, wanted.tenure, || {
            PlainArc::new(Lock::new(file.clone(), protocol, region, pool.clone()))
        })
    }
}

/// One member of a lock: what keeps its file open.
#[derive(Debug)]
pub(crate) struct Seat {
    registry: Arc<Registry>,
    /// `None` only while it is dropped.
    lock: Option<PlainArc<Lock>>,
    /// The process that it belongs to, among the forked ones.
    generation: Generation,
}

impl Seat {
    /// The lock is counted.
    fn new(registry: Arc<Registry>, lock: PlainArc<Lock>) -> Self {
        Self { registry, lock: Some(lock), generation: Generation::current() }
    }

    fn of(registration: &Registration) -> &Self {
        registration.seat().as_any().downcast_ref().expect("a registration at a file")
    }

    fn lock(&self) -> &PlainArc<Lock> {
        self.lock.as_ref().expect("present until dropped")
    }
}

impl driver::Seat for Seat {
    fn another(&self) -> Box<dyn driver::Seat> {
        self.registry.join_again(self.lock());
        Box::new(Self::new(self.registry.clone(), self.lock().clone()))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let lock = self.lock.take().expect("dropped once");
        if self.generation.is_inherited() {
            return;
        }
        let Some(last) = self.registry.leave(lock) else { return };
        // Closes the file outside the mutex.
        if last.0.file.is_local() {
            self.registry.close(last);
        } else {
            let registry = self.registry.clone();
            self.registry.pool().spawn(move || registry.close(last));
        }
    }
}
