//! The wait pool: threads for jobs that block, until another process acts or until the job ends by itself.
//!
//! A parked wait may take for ever, so a job never queues behind another one: each gets an idle
//! thread or a new one. Threads stay idle for a few seconds, because a contended file is usually
//! contended again soon and a spawn costs 9 to 30 times a reuse, and end after that.
//!
//! Invariants, under the mutex:
//! 1. `jobs.len() <= idle`: every queued job has an idle thread of its own that will take it.
//!    `submit` queues only below that bound, and a thread leaves `idle` by taking a job or, with
//!    no job queued, by ending.
//! 2. `calls` is empty unless `calling` threads, one or more, are on their way through it: a thread that adds to
//!    it becomes one of them or finds [`CALLS`] of them, and none leaves before it is empty.
//! 3. A thread that gives up waiting looks at the queue once more in the same critical section in
//!    which it leaves, so no job is handed to a thread that has gone.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Duration;

use super::NoThread;
use crate::foreign;
use crate::shim::{Arc, Condvar, Mutex, spawn_thread};

/// A job for a thread that may block. It is told where it runs: `Ok` there, or why no such thread
/// could be had.
pub(crate) type Job = Box<dyn FnOnce(io::Result<()>) + Send>;

/// How long an idle thread stays for the next wait.
const IDLE: Duration = Duration::from_secs(4);

/// Calls run on so many threads at most, as many as tokio's pool has by default; a model has one.
const CALLS: usize = if cfg!(all(test, tokio_filelock_loom)) { 1 } else { 512 };

/// The name of every thread of the pool; Linux shows 15 characters.
pub(crate) const THREAD_NAME: &str = "filelock-wait";

#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    /// Jobs that end by themselves.
    calls: VecDeque<Job>,
    /// Threads that run them.
    calling: usize,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// Runs the job on a thread of the pool, at once. Without a thread the job comes back.
    pub(crate) fn submit(&self, job: Job) -> Result<(), (Job, io::Error)> {
        let mut state = self.0.state.lock();
        if state.jobs.len() < state.idle {
            state.jobs.push_back(job);
            drop(state);
            self.0.work.notify_one();
            return Ok(());
        }
        drop(state);
        // The new thread takes the job out of the slot; if there is no thread, we take it back.
        let slot = Arc::new(Mutex::new(Some(job)));
        let (shared, first) = (self.0.clone(), slot.clone());
        let spawned = spawn_thread(THREAD_NAME, move || {
            let job = first.lock().take();
            drop(first);
            shared.work_from(job);
        });
        spawned.map_err(|error| {
            let job = slot.lock().take().expect("no thread took it");
            (job, NoThread::of(error))
        })
    }

    /// Runs a job that ends by itself: on a thread of the pool, behind others if there are very many, or on
    /// this one, together with what is added meanwhile, if no other can be had.
    pub(crate) fn call(&self, job: Job) {
        {
            let mut state = self.0.state.lock();
            state.calls.push_back(job);
            if state.calling == CALLS {
                return;
            }
            state.calling += 1;
        }
        let shared = self.0.clone();
        if let Err((job, error)) = self.submit(Box::new(move |placed| shared.run_calls(placed))) {
            job(Err(error));
        }
    }
}

impl Shared {
    /// This thread is counted in `calling`.
    fn run_calls(&self, placed: io::Result<()>) {
        loop {
            let job = {
                let mut state = self.state.lock();
                // Without a thread of its own it leaves the rest to the threads of the pool.
                let job = match placed {
                    Err(_) if state.calling > 1 => None,
                    _ => state.calls.pop_front(),
                };
                if job.is_none() {
                    state.calling -= 1;
                }
                job
            };
            let Some(job) = job else { return };
            // Not even a bug of ours may take the calls of others away.
            foreign::contained(|| job(Ok(())));
        }
    }

    fn work_from(&self, first: Option<Job>) {
        let mut next = first;
        while let Some(job) = next {
            job(Ok(()));
            next = self.next_job();
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut state = self.state.lock();
        state.idle += 1;
        let mut timed_out = false;
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.idle -= 1;
                return Some(job);
            }
            if timed_out {
                state.idle -= 1;
                return None;
            }
            (state, timed_out) = self.work.wait_timeout(state, IDLE, &self.state);
        }
    }
}

#[cfg(test)]
mod models {
    use super::*;
    use crate::shim::model;

    /// Counts the jobs that ran.
    #[derive(Default)]
    struct Ran {
        jobs: Mutex<usize>,
        more: Condvar,
    }

    /// A thread that has been idle for long enough ends while the next job is handed to it.
    #[test]
    fn idle_thread_against_the_next_job() {
        model("idle_thread_against_the_next_job", Some(3), || {
            let pool = Pool::default();
            let ran = Arc::new(Ran::default());
            for _ in 0..2 {
                let ran = ran.clone();
                let job = Box::new(move |placed: io::Result<()>| {
                    placed.unwrap();
                    *ran.jobs.lock() += 1;
                    ran.more.notify_all();
                });
                assert!(pool.submit(job).is_ok());
            }
            let mut jobs = ran.jobs.lock();
            while *jobs < 2 {
                jobs = ran.more.wait(jobs);
            }
        });
    }

    /// Two calls where one thread may run calls: whichever ends first, the other one runs.
    #[test]
    fn a_call_behind_another() {
        model("a_call_behind_another", Some(3), || {
            let pool = Pool::default();
            let ran = Arc::new(Ran::default());
            for _ in 0..2 {
                let ran = ran.clone();
                pool.call(Box::new(move |placed: io::Result<()>| {
                    placed.unwrap();
                    *ran.jobs.lock() += 1;
                    ran.more.notify_all();
                }));
            }
            let mut jobs = ran.jobs.lock();
            while *jobs < 2 {
                jobs = ran.more.wait(jobs);
            }
        });
    }
}
