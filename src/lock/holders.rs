//! The holders of a lock: what this process knows and what the kernel sees, explained by the record in the lock
//! file.
//!
//! The kernel's word is the truth, but for what this process holds, which it knows better. A record is believed where it speaks
//! of a holder that the kernel names as well. Where the kernel names none (on another host, or outside of this pid namespace),
//! it is believed only while the lock is busy, and unless its writer is proved dead.

use std::io;
use std::time::Duration;

use super::FileLock;
use crate::driver::{Outcome, Registration, query_together, try_lock};
use crate::error::{Error, ErrorKind, Operation};
use crate::holder::{Fate, Holder, Holders, Process, Record, Source, fate};
use crate::mode::Mode;
use crate::os::{self, Effort};
use crate::shim::Arc;
use crate::wait::timer;

/// An error, or a message, is not held up for longer than this by the query for the holders:
/// the lock file may be on a server that does not answer.
const QUERY_LIMIT: Duration = Duration::from_millis(250);

impl FileLock {
    /// Who holds the lock, and who waits for it in the kernel: in this process, in others that use
    /// this crate, and in programs that know nothing of it.
    ///
    /// What tasks of this process hold is known. Other holders are asked for: first the kernel (on Linux
    /// `/proc/locks`, and the open files of all processes if the process that took a lock does not keep it any
    /// more), and then the [`record`](crate::OpenOptions::record)
    /// in the lock file. Processes on other hosts, and outside of this pid namespace, are known by
    /// their records only. Where the kernel shows no holder and a record names one, the lock is
    /// tried, shared, to see whether that is so.
    ///
    /// The answer is a snapshot: it may be out of date when it arrives. It is about the file that this
    /// handle has open; after that was replaced, the new one is looked at from the next lock on.
    /// Tasks that wait in this process are not in it, nor is the one wait that this process makes for
    /// all of them told apart from the wait of a program.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time; the query goes on for some seconds at most, on a thread of this crate.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child,
    /// [`ErrorKind::ForeignDescriptor`](crate::ErrorKind::ForeignDescriptor) if the lock file is not open
    /// any more, [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where neither the
    /// operating system nor a record tells (docs/PLATFORMS.md).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let lock = tokio_filelock::FileLock::open(directory.path().join("app.lock")).await?;
    /// assert!(lock.holders().await?.is_empty());
    ///
    /// let guard = lock.lock().await?;
    /// let holders = lock.holders().await?;
    /// assert_eq!(holders[0].pid(), Some(std::process::id()));
    /// assert!(holders[0].is_this_process());
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn holders(&self) -> Result<Vec<Holder>, Error> {
        self.check_owner(Operation::FindHolders)?;
        self.handle.step();
        let registration = self.registration();
        let asking = registration.clone();
        let all = registration.run_queued(move || all_holders(&asking)).await;
        self.told(&registration, all)
    }

    /// [`holders`](FileLock::holders) for code outside of async: makes the system calls on the
    /// calling thread.
    ///
    /// # Errors
    ///
    /// As [`holders`](FileLock::holders).
    pub fn blocking_holders(&self) -> Result<Vec<Holder>, Error> {
        self.check_owner(Operation::FindHolders)?;
        self.handle.step();
        let registration = self.registration();
        self.told(&registration, all_holders(&registration))
    }

    /// No holder is an answer only where one would have been seen.
    fn told(
        &self,
        registration: &Registration,
        holders: io::Result<Vec<Holder>>,
    ) -> Result<Vec<Holder>, Error> {
        let holders = holders.map_err(|error| {
            let kind = os::lock_error_kind(&error);
            self.named(Error::os(kind, Operation::FindHolders, self.path(), error))
        })?;
        if holders.is_empty() && !registration.engine().tells_holders() {
            let detail = "this operating system does not tell, and no record in the lock file does";
            let operation = Operation::FindHolders;
            return Err(Error::found(ErrorKind::Unsupported, operation, self.path(), detail));
        }
        Ok(holders)
    }

    /// The holders that keep this process waiting; empty if that does not become known soon.
    pub(super) async fn query_holders(self) -> Holders {
        let registration = self.registration();
        let asking = registration.clone();
        let query = query_together(&registration, move || holders(&asking, Effort::Search));
        timer::timeout(QUERY_LIMIT, query).await.unwrap_or_default()
    }
}

/// An error if the lock file is not open any more.
fn all_holders(registration: &Arc<Registration>) -> io::Result<Vec<Holder>> {
    registration.engine().check()?;
    Ok(holders(registration, Effort::Thorough))
}

/// Makes system calls.
fn holders(registration: &Arc<Registration>, effort: Effort) -> Vec<Holder> {
    // Before the others: a process that shares the lock with it then is seen afterwards.
    let mut own = registration.own_holders();
    let engine = registration.engine();
    let mut holders = engine.holders(effort);
    if let Some(first) = own.first() {
        // What the kernel shows may be another moment: beside an exclusive holder there is none.
        let is_alone = first.mode == Mode::Exclusive;
        holders.retain(|holder| holder.waits || !(is_alone || holder.is_this_process));
        own.iter_mut().for_each(|own| engine.describe_this_process(own, effort));
        holders.splice(..0, own);
    }
    let record = engine.record();
    let Some(record) = record.filter(Record::is_held) else { return holders };
    let here = engine.process();
    let is_alive = || fate(&record, &here, |pid| engine.look_up(pid)) == Fate::Alive;
    if holders.iter().all(Holder::is_waiting) {
        let is_busy = || effort == Effort::Search || is_busy(registration);
        if is_alive() && is_busy() {
            holders.insert(0, recorded(&record, &here));
        }
    } else {
        explain(&mut holders, &record, &here, is_alive);
    }
    holders
}

/// It is of this host, boot and pid namespace, so its pid means here what it means there.
fn is_of_here(record: &Record, here: &Process) -> bool {
    let there = &record.process;
    there.host == here.host && there.boot == here.boot && there.pid_namespace == here.pid_namespace
}

/// What a record says of a holder that the kernel does not show.
fn recorded(record: &Record, here: &Process) -> Holder {
    let mut holder = Holder::new(Mode::Exclusive, false, None, Source::Record);
    let pid = Some(record.pid());
    if is_of_here(record, here) {
        holder.pid = pid
    } else {
        holder.claimed = pid
    }
    holder.explain(record);
    if record.process.host != here.host {
        holder.elsewhere = record.host().map(str::to_owned);
    }
    holder
}

/// Adds what the record says to the holder that wrote it, if it is there.
fn explain(holders: &mut [Holder], record: &Record, here: &Process, is_alive: impl Fn() -> bool) {
    let is_of_here = is_of_here(record, here);
    let holder = holders.iter_mut().find(|holder| !holder.waits && holder.mode == Mode::Exclusive);
    let Some(holder) = holder else { return };
    let given = holder.pid.or(holder.claimed);
    if given.is_some_and(|pid| pid != record.pid()) {
        return;
    }
    let wrote_it = match (holder.pid, holder.claimed) {
        (Some(_), _) => is_of_here && is_alive(),
        // This process would know.
        (None, Some(pid)) if is_of_here => pid != here.pid && is_alive(),
        // It can not be seen from here, and the record is of one that can not either.
        (None, Some(_)) => !is_of_here,
        (None, None) => false,
    };
    if wrote_it {
        if is_of_here {
            // Two that do not know of each other say the same.
            holder.pid = given;
            holder.claimed = None;
        } else if record.process.host != here.host {
            holder.elsewhere = record.host().map(str::to_owned);
        }
        holder.explain(record);
    }
}

fn is_busy(registration: &Arc<Registration>) -> bool {
    matches!(try_lock(registration, Mode::Shared), Outcome::Refused | Outcome::Busy)
}
