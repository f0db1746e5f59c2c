//! The right to use a lock: what one successful open of it gives.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::mpsc;

use super::Driver;
use crate::engine::Engine;
use crate::holder::{Holder, Label};
use crate::os::fork::Generation;
use crate::shim::{Arc, explorer};
use crate::wait::{self, WaitOn};

/// What keeps a lock open in its engine. Dropping gives that up.
pub(crate) trait Seat: fmt::Debug + Send + Sync {
    /// Another one at the same lock. Makes no system call.
    fn another(&self) -> Box<dyn Seat>;

    fn as_any(&self) -> &dyn Any;
}

/// The right to use a lock. Requests, guards and parked waits each own a reference to one.
#[derive(Debug)]
pub(crate) struct Registration {
    /// Before the seat: when that was the last one, nothing else uses the lock any more.
    driver: Arc<Driver>,
    seat: Box<dyn Seat>,
    wait_on: WaitOn,
    /// What its requests and holders say that they do.
    label: Option<Label>,
    /// The process that it belongs to, among the forked ones.
    generation: Generation,
}

impl Registration {
    pub(crate) fn new(
        driver: Arc<Driver>,
        seat: Box<dyn Seat>,
        wait_on: WaitOn,
        label: Option<Label>,
    ) -> Arc<Self> {
        let generation = Generation::current();
        Arc::new(Self { driver, seat, wait_on, label, generation })
    }

    /// Another one of the same lock, whose requests say that they do this.
    pub(crate) fn labelled(&self, label: Label) -> Arc<Self> {
        Arc::new(Self {
            driver: self.driver.clone(),
            seat: self.seat.another(),
            wait_on: self.wait_on,
            label: Some(label),
            generation: self.generation,
        })
    }

    #[inline]
    pub(crate) fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    #[inline]
    pub(crate) fn engine(&self) -> &dyn Engine {
        self.driver.engine()
    }

    pub(crate) fn seat(&self) -> &dyn Seat {
        &*self.seat
    }

    /// A call begins. In a model of a user others may come first.
    #[inline(always)]
    pub(crate) fn step(&self) {
        if explorer::IS_ON {
            self.engine().step();
        }
    }

    #[inline]
    pub(crate) fn label(&self) -> Option<&Label> {
        self.label.as_ref()
    }

    pub(crate) fn wait_on(&self) -> WaitOn {
        self.wait_on
    }

    /// Both are one lock, and share its queue.
    pub(crate) fn is_same_lock(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.driver, &other.driver)
    }

    /// All calls but waits return at once, so they may be made in place.
    #[inline]
    pub(crate) fn answers_at_once(&self) -> bool {
        self.driver.answers_at_once
    }

    /// It belongs to a process that this one was forked from. Its mutexes may be locked for ever,
    /// and its locks are that process's: nothing may be done with it.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        self.generation.is_inherited()
    }

    /// Another process has had the lock or was next, for this one has had to wait.
    pub(crate) fn has_waited(&self) -> bool {
        self.driver.has_waited()
    }

    /// This process, if it holds the lock: once for each thing that its tasks say that they do. Makes no
    /// system call.
    pub(crate) fn own_holders(&self) -> Vec<Holder> {
        self.driver.own_holders()
    }

    /// Runs a job that waits for a server, and for no holder; it runs also if its answer is not waited for.
    pub(crate) fn run<T, F>(&self, job: F) -> impl Future<Output = T> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (job, answered) = wait::with_answer(job);
        self.engine().run(Box::new(job));
        async { answered.await.expect("the job runs") }
    }

    /// As [`run`](Self::run), for a job that no other request waits for.
    pub(crate) fn run_queued<T, F>(&self, job: F) -> impl Future<Output = T> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (job, answered) = wait::with_answer(job);
        self.engine().run_queued(Box::new(job));
        async { answered.await.expect("the job runs") }
    }

    /// As [`run`](Self::run), and blocks this thread for the answer.
    pub(crate) fn run_blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = mpsc::sync_channel(1);
        self.engine().run(Box::new(move || drop(answer.send(job()))));
        answered.recv().expect("the job runs")
    }
}
