//! What carries a lock: the contract between the queue, which asks, and an engine, which answers.
//!
//! An [`Engine`] is one lock, as what carries it knows it. Files are one ([`file`]), a simulated machine is another (`sim`).
//! The contract speaks of files in the words of `os` only, and does not know the tasks that ask.
//!
//! A call goes in, and exactly one answer comes out: [`Asked`] is consumed by its answer, given in place, or by
//! [`Later`], which an engine keeps until the answer comes, on any thread.

#[cfg(all(test, not(tokio_filelock_loom)))]
mod contract;
pub(crate) mod file;
mod locks;
mod recorded;
#[cfg(any(test, feature = "test-util"))]
pub(crate) mod sim;

use std::any::Any;
use std::fmt;
use std::io;
use std::time::Instant;

pub(crate) use recorded::Signature;

use crate::holder::{Circumstances, Holder, Label, Process, Record};
use crate::mode::Mode;
pub(crate) use crate::os::{Effort, Identity, Kept, Protocol, Region, Sameness};
use crate::queue::{self, Attempt, AttemptId, Call};
use crate::shim;
use crate::wait::WaitOn;

pub(crate) type Answer = queue::Answer<io::Error>;

/// Where a lock is, in an order that every process of the machine has. Several locks may be at one place.
pub(crate) type LockId = (Identity, Region);

/// One lock.
///
/// No call is made under a mutex of the caller. Calls come one at a time: the next one when the last was answered. The other
/// functions may be called meanwhile.
pub(crate) trait Engine: fmt::Debug + Send + Sync + 'static {
    /// Carries out a call, and answers in place if `asked` may block for so long. Otherwise it keeps
    /// [`Asked::later`], and gives nothing.
    fn submit(&self, asked: Asked<'_>) -> Option<Answered>;

    /// Makes the wait of this attempt return early, if it is under way or still to begin.
    fn interrupt(&self, of: AttemptId);

    /// All calls but waits return at once.
    fn answers_at_once(&self) -> bool;

    /// Another process waits for the lock, which this one has, as far as can be seen.
    fn is_contended(&self) -> bool;

    /// Turns the exclusive lock into a shared one without letting go, if it can. The mode that it has now.
    fn downgrade(&self) -> Mode;

    /// What other processes can see of this tenure, if anything, has this label.
    fn is_labelled(&self, label: Option<&Label>) -> bool;

    /// From now on other processes see this label. The lock is held, and no guard was given out yet.
    fn set_label(&self, label: Option<Label>);

    /// What an exclusive guard that is given out now gets to know of its tenure.
    fn tenure_info(&self) -> Option<TenureInfo>;

    /// The time, of the clock by which the engine's other limits go.
    fn now(&self) -> Instant {
        shim::now()
    }

    /// This process, as others see it.
    fn pid(&self) -> u32;

    /// One of the holders that keep this process from the lock, if one system call tells.
    fn blocker(&self) -> Option<Holder>;

    /// An error if nothing can be told about the lock any more.
    fn check(&self) -> io::Result<()>;

    /// Which processes hold the lock, and which wait for it.
    fn holders(&self, effort: Effort) -> Vec<Holder>;

    /// What the last exclusive holder has left of itself.
    fn record(&self) -> Option<Record>;

    /// This process, as records of it say. Makes some system calls.
    fn process(&self) -> Process;

    /// What can be seen of the process that has this pid. Makes system calls.
    fn look_up(&self, pid: u32) -> Circumstances;

    /// Adds what can be seen of this process, which holds the lock. Makes system calls.
    fn describe_this_process(&self, holder: &mut Holder, effort: Effort);

    /// Where no holder is seen, there is none.
    fn tells_holders(&self) -> bool;

    /// Runs a job that waits for a server, and for no holder.
    fn run(&self, job: Box<dyn FnOnce() + Send>);

    /// The same, where no other request waits for the job to end: it may stand behind others.
    fn run_queued(&self, job: Box<dyn FnOnce() + Send>);

    fn id(&self) -> LockId;

    /// A task begins to do something with the lock. In a model of a user others may come first.
    fn step(&self) {}

    fn as_any(&self) -> &dyn Any;
}

/// What an exclusive guard gets to know of its tenure.
#[derive(Debug)]
pub(crate) struct TenureInfo {
    /// `None` if it is not known.
    pub(crate) token: Option<u64>,
    pub(crate) abandoned: Option<Record>,
}

/// For what a thread that carries out a call may block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MayBlock {
    /// A worker, or any other thread of the user.
    No,
    /// For a server, and for one answer only: that of the first call.
    ForOneAnswer,
    /// For a server, not for a holder.
    ForServer,
    /// For as long as it takes.
    ForHolder,
}

/// The side that asks: it gets the answer.
pub(crate) trait Client: Send + Sync {
    /// The same, to be kept.
    fn keep(&self) -> Box<dyn Client>;

    /// What the request at the head of the line says that it does.
    fn label(&self) -> Option<Label>;

    /// Asks for the call again, on this thread.
    fn resume(&self, call: Call, attempt: Attempt, may_block: MayBlock);

    /// Goes on from this answer, on this thread, which may not block.
    fn answered(&self, answered: Answered);
}

/// A call that is to be answered.
#[must_use = "a call has exactly one answer"]
pub(crate) struct Asked<'a> {
    pub(crate) call: Call,
    pub(crate) may_block: MayBlock,
    /// Where a wait is to be parked.
    pub(crate) wait_on: WaitOn,
    attempt: Attempt,
    client: &'a dyn Client,
}

impl<'a> Asked<'a> {
    #[inline]
    pub(crate) fn new(
        call: Call,
        attempt: Attempt,
        may_block: MayBlock,
        wait_on: WaitOn,
        client: &'a dyn Client,
    ) -> Self {
        Self { call, may_block, wait_on, attempt, client }
    }

    pub(crate) fn id(&self) -> AttemptId {
        self.attempt.id()
    }

    /// What the request at the head of the line says that it does.
    pub(crate) fn label(&self) -> Option<Label> {
        self.client.label()
    }

    #[inline]
    pub(crate) fn answer(self, answer: Answer) -> Answered {
        Answered { call: self.call, attempt: self.attempt, answer }
    }

    /// To be asked again on another thread.
    pub(crate) fn later(self) -> Later {
        Later { call: self.call, attempt: self.attempt, client: self.client.keep() }
    }
}

/// A call and its answer.
#[must_use = "the client is to be told"]
pub(crate) struct Answered {
    pub(crate) call: Call,
    pub(crate) attempt: Attempt,
    pub(crate) answer: Answer,
}

/// A call that is answered later.
#[must_use = "a call has exactly one answer"]
pub(crate) struct Later {
    call: Call,
    attempt: Attempt,
    client: Box<dyn Client>,
}

impl Later {
    /// Asks for the call on this thread, which may block for so long.
    pub(crate) fn resume(self, may_block: MayBlock) {
        self.client.resume(self.call, self.attempt, may_block);
    }

    /// What the request at the head of the line says that it does.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn label(&self) -> Option<Label> {
        self.client.label()
    }

    /// On the thread that was asked, which gives the answer to the client.
    pub(crate) fn answer(self, answer: Answer) -> Answered {
        Answered { call: self.call, attempt: self.attempt, answer }
    }

    /// On any other thread, which may not block.
    pub(crate) fn answer_here(self, answer: Answer) {
        let answered = Answered { call: self.call, attempt: self.attempt, answer };
        self.client.answered(answered);
    }
}
