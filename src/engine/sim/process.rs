//! A process of the machine: its open files, and how it ends.
//!
//! One open file for each file, and one [`Lock`] with its [`Driver`](driver::Driver) for each region of it. All handles of the
//! file share them, as in the registry of the file engine. A file on the disk is never given the number of another one, so no proof is needed.
//!
//! The mutex of a process comes before that of the machine. Neither is held while a driver is told something.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc as PlainArc;
use std::task::{Context, Poll, Waker};

use super::lock::Lock;
use super::machine::{Inode, Machine, Pid, Status};
use crate::driver::{self, Registration, Tenure};
use crate::engine::Signature;
use crate::engine::locks::{self, Locks, check_protocol};
use crate::error::{Error, ErrorKind, Operation};
use crate::foreign;
use crate::holder::{self, Label, is_fit_for_a_record};
use crate::os::kernel::Description;
use crate::os::{Protocol, Region};
use crate::shim::{Arc, Mutex};
use crate::wait::WaitOn;

#[derive(Debug)]
pub(crate) struct Process {
    machine: Arc<Machine>,
    pid: Pid,
    name: String,
    files: Mutex<BTreeMap<Inode, OpenFile>>,
    /// Of the futures that run in it.
    tasks: Mutex<Tasks>,
}

#[derive(Debug, Default)]
struct Tasks {
    last: u64,
    wakers: BTreeMap<u64, Waker>,
}

#[derive(Debug)]
struct OpenFile {
    description: Description,
    protocol: Protocol,
    is_writable: bool,
    locks: Locks<Lock>,
}

type Joined = locks::Joined<Lock>;

/// What is wanted of a lock file.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) protocol: Protocol,
    pub(crate) region: Region,
    pub(crate) create: bool,
    pub(crate) read_only: bool,
    pub(crate) tenure: Tenure,
    pub(crate) record: Option<Arc<Signature>>,
    pub(crate) label: Option<Label>,
}

impl Process {
    pub(crate) fn new(machine: &Arc<Machine>, name: &str) -> Arc<Self> {
        Arc::new(Self {
            machine: machine.clone(),
            pid: machine.start_program(name),
            name: name.to_owned(),
            files: Mutex::default(),
            tasks: Mutex::default(),
        })
    }

    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn status(&self) -> Status {
        self.machine.status(self.pid)
    }

    /// What it says of itself in records.
    pub(crate) fn identity(&self) -> holder::Process {
        holder::Process {
            pid: self.pid,
            host: Some("simulated".to_owned()),
            boot: Some(format!("machine {}", self.machine.number())),
            pid_namespace: Some(1),
            time_namespace: Some(1),
            start: Some(u64::from(self.pid)),
            program: Some(self.name.clone()).filter(|name| is_fit_for_a_record(name)),
        }
    }

    /// Opens the lock file at this path, or joins the handles that have it open.
    pub(super) fn join(
        this: &Arc<Self>,
        path: &Path,
        wanted: &Wanted,
    ) -> Result<Arc<Registration>, Error> {
        let failed = |error| Error::os(ErrorKind::Io, Operation::Open, path, error);
        if this.status() == Status::Dead {
            return Err(failed(killed()));
        }
        let inode = match wanted.create && !wanted.read_only {
            true => this.machine.find_or_create(path),
            false => this.machine.find(path).map_err(failed)?,
        };
        let joined = {
            let mut files = this.files.lock();
            let file = files.entry(inode).or_insert_with(|| OpenFile {
                description: this.machine.open(inode, this.pid),
                protocol: wanted.protocol,
                is_writable: false,
                locks: Locks::new(),
            });
            check_protocol(path, file.protocol, wanted.protocol)?;
            file.is_writable |= !wanted.read_only;
            file.count_in(this, inode, wanted)
        };
        if let Some(signature) = &wanted.record {
            // First: a guard of a tenure with a record gets to know of it.
            joined.driver.expect_tenure_info();
            joined.lock.leave_records(signature.clone());
        }
        Ok(Self::register(this, joined, wanted))
    }

    /// Registers at another region of the same open file.
    pub(super) fn join_region(from: &Registration, wanted: &Wanted) -> Arc<Registration> {
        let seat = Seat::of(from);
        let (process, inode) = (&seat.process, seat.lock().inode());
        let joined = {
            let mut files = process.files.lock();
            let file = files.get_mut(&inode).expect("a file that has members is registered");
            file.count_in(process, inode, wanted)
        };
        Self::register(process, joined, wanted)
    }

    /// The lock is counted.
    fn register(this: &Arc<Self>, joined: Joined, wanted: &Wanted) -> Arc<Registration> {
        let seat = Seat { process: this.clone(), lock: Some(joined.lock) };
        Registration::new(joined.driver, Box::new(seat), WaitOn::WaitPool, wanted.label.clone())
    }

    /// A descriptor of the file may write to it.
    pub(super) fn may_write(&self, inode: Inode) -> bool {
        self.files.lock().get(&inode).is_some_and(|file| file.is_writable)
    }

    fn leave(&self, lock: PlainArc<Lock>) {
        let closed = {
            let mut files = self.files.lock();
            let file = files.get_mut(&lock.inode()).expect("a file that has members is registered");
            if file.locks.leave(lock.region()) { files.remove(&lock.inode()) } else { None }
        };
        if let Some(file) = closed {
            Machine::close(&self.machine, file.description);
        }
    }

    // ---- how it ends ----

    /// Its requests end, its guards hold nothing, its locks are free.
    pub(crate) fn kill(&self) {
        if !self.machine.kill(self.pid) {
            return;
        }
        let drivers: Vec<_> = {
            let files = self.files.lock();
            files.values().flat_map(|file| file.locks.drivers()).cloned().collect()
        };
        drivers.iter().for_each(|driver| driver.end());
        self.wake_tasks();
        Machine::run(&self.machine);
    }

    pub(crate) fn stop(&self) {
        Machine::stop(&self.machine, self.pid);
    }

    pub(crate) fn resume(&self) {
        Machine::resume(&self.machine, self.pid);
        self.wake_tasks();
    }

    fn wake_tasks(&self) {
        let wakers = std::mem::take(&mut self.tasks.lock().wakers);
        for (_, waker) in wakers {
            foreign::contained(|| waker.wake());
        }
    }
}

impl OpenFile {
    fn count_in(&mut self, process: &Arc<Process>, inode: Inode, wanted: &Wanted) -> Joined {
        let (description, protocol) = (self.description, self.protocol);
        self.locks.join(wanted.region, wanted.tenure, || {
            Lock::new(process, inode, description, protocol, wanted.region)
        })
    }
}

/// What a process that was killed answers.
pub(super) fn killed() -> io::Error {
    io::Error::other("the simulated process was killed")
}

pub(super) fn stopped() -> io::Error {
    io::Error::other("the simulated process is paused")
}

/// One member of a lock: what keeps its file open.
#[derive(Debug)]
struct Seat {
    process: Arc<Process>,
    /// `None` only while it is dropped.
    lock: Option<PlainArc<Lock>>,
}

impl Seat {
    fn of(registration: &Registration) -> &Self {
        registration.seat().as_any().downcast_ref().expect("a registration at a simulated file")
    }

    fn lock(&self) -> &PlainArc<Lock> {
        self.lock.as_ref().expect("present until dropped")
    }
}

impl driver::Seat for Seat {
    fn another(&self) -> Box<dyn driver::Seat> {
        let lock = self.lock().clone();
        let mut files = self.process.files.lock();
        let file = files.get_mut(&lock.inode()).expect("a file that has members is registered");
        file.locks.join_again(lock.region());
        Box::new(Self { process: self.process.clone(), lock: Some(lock) })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let lock = self.lock.take().expect("dropped once");
        self.process.leave(lock);
    }
}

/// A future that runs in a process: not while that is stopped, and no further when it is killed.
#[derive(Debug)]
pub(crate) struct Run<F> {
    process: Arc<Process>,
    number: u64,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Run<F> {
    pub(crate) fn new(process: &Arc<Process>, future: F) -> Self {
        let number = {
            let mut tasks = process.tasks.lock();
            tasks.last += 1;
            tasks.last
        };
        Self { process: process.clone(), number, future: Some(Box::pin(future)) }
    }
}

impl<F: Future> Future for Run<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.process.machine.step();
        let waker = cx.waker().clone();
        // First, so that what happens meanwhile is not missed.
        let before = this.process.tasks.lock().wakers.insert(this.number, waker);
        if let Some(before) = before {
            foreign::let_go(before);
        }
        if this.process.status() == Status::Awake {
            let future = this.future.as_mut().expect("polled after completion");
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                this.future = None;
                return Poll::Ready(Some(output).filter(|_| this.process.status() != Status::Dead));
            }
        }
        if this.process.status() == Status::Dead {
            this.future = None;
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

impl<F> Drop for Run<F> {
    fn drop(&mut self) {
        let waker = self.process.tasks.lock().wakers.remove(&self.number);
        if let Some(waker) = waker {
            foreign::let_go(waker);
        }
    }
}
