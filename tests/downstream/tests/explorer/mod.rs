//! Runs a model: in all orders by loom, in random ones by shuttle, and by seeds of the simulated machine otherwise. Says how many
//! executions that were, also when one of them fails.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio_filelock::sim::Machine;

pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One execution of a model.
pub struct Model {
    pub machine: Machine,
    tasks: Vec<Task>,
    end: Option<Box<dyn FnOnce()>>,
    lots: u64,
}

impl Model {
    fn new(machine: Machine, lots: u64) -> Self {
        Self { machine, tasks: Vec::new(), end: None, lots }
    }

    /// What runs side by side. loom allows four of them, and timers count.
    pub fn task(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(Box::pin(task));
    }

    /// What is checked when all of them have ended.
    pub fn at_the_end(&mut self, check: impl FnOnce() + 'static) {
        self.end = Some(Box::new(check));
    }

    /// For what a test does at a moment that the explorer chooses. loom and shuttle choose without help; on a simulated machine
    /// some turns of other tasks go by.
    pub fn any_moment(&mut self) -> impl Future<Output = ()> + Send + 'static {
        self.lots = self.lots.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let turns = (self.lots >> 33) % 12;
        async move {
            for _ in 0..turns {
                turn().await;
            }
        }
    }
}

/// Others have their turn.
pub async fn turn() {
    let mut has_been_polled = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut has_been_polled, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// Counts, and tells at the end, whatever that is.
struct Count {
    name: &'static str,
    how: &'static str,
    begun: Instant,
    executions: Arc<AtomicUsize>,
}

impl Drop for Count {
    fn drop(&mut self) {
        let outcome = if std::thread::panicking() { "FOUND in" } else { "passed" };
        println!(
            "{}: {outcome} {} executions, {}, {:.2} s",
            self.name,
            self.executions.load(Ordering::Relaxed),
            self.how,
            self.begun.elapsed().as_secs_f64()
        );
    }
}

/// Returns how many executions there were.
pub fn explore(name: &'static str, model: impl Fn(&mut Model) + Send + Sync + 'static) -> usize {
    let executions = Arc::new(AtomicUsize::new(0));
    let count = Count { name, how: HOW, begun: Instant::now(), executions: executions.clone() };
    let model = {
        let executions = executions.clone();
        move |execution: &mut Model| {
            executions.fetch_add(1, Ordering::Relaxed);
            model(execution);
        }
    };
    run(model);
    drop(count);
    executions.load(Ordering::Relaxed)
}

#[cfg(tokio_filelock_loom)]
use loom_explorer::{HOW, run};
#[cfg(tokio_filelock_shuttle)]
use shuttle_explorer::{HOW, run};
#[cfg(not(any(tokio_filelock_loom, tokio_filelock_shuttle)))]
use simulation::{HOW, run};

#[cfg(tokio_filelock_loom)]
mod loom_explorer {
    use tokio_filelock::sim::{Machine, block_on};

    use super::Model;

    pub const HOW: &str = "loom, exhaustive";

    pub fn run(model: impl Fn(&mut Model) + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.max_branches = 10_000;
        builder.check(move || {
            let mut execution = Model::new(Machine::new(), 0);
            model(&mut execution);
            let mut tasks = execution.tasks.into_iter();
            let first = tasks.next();
            let spawn = |task| loom::thread::spawn(move || block_on(task));
            let threads: Vec<_> = tasks.map(spawn).collect();
            if let Some(first) = first {
                block_on(first);
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            if let Some(end) = execution.end {
                end();
            }
        });
    }
}

#[cfg(tokio_filelock_shuttle)]
mod shuttle_explorer {
    use shuttle::rand::RngCore;
    use shuttle::scheduler::RandomScheduler;
    use tokio_filelock::sim::{Machine, block_on};

    use super::Model;

    pub const HOW: &str = "shuttle, random";

    const EXECUTIONS: usize = 2_000;

    pub fn run(model: impl Fn(&mut Model) + Send + Sync + 'static) {
        // A seed, so that a run is as the one before. Without one each run tries other orders.
        let scheduler = RandomScheduler::new_from_seed(17, EXECUTIONS);
        let runner = shuttle::Runner::new(scheduler, shuttle::Config::new());
        runner.run(move || {
            let lots = shuttle::rand::thread_rng().next_u64();
            let mut execution = Model::new(Machine::with_seed(lots), 0);
            model(&mut execution);
            let spawn = |task| shuttle::thread::spawn(move || block_on(task));
            let threads: Vec<_> = execution.tasks.into_iter().map(spawn).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            if let Some(end) = execution.end {
                end();
            }
        });
    }
}

#[cfg(not(any(tokio_filelock_loom, tokio_filelock_shuttle)))]
mod simulation {
    use std::time::Duration;

    use tokio_filelock::sim::Machine;

    use super::Model;

    pub const HOW: &str = "simulated machine, a seed each";

    pub fn run(model: impl Fn(&mut Model) + Send + Sync + 'static) {
        for seed in 0..1_000 {
            // A new one for each seed: no task is left over.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut execution = Model::new(Machine::with_seed(seed), seed);
                model(&mut execution);
                let machine = execution.machine.clone();
                let tasks: Vec<_> = execution.tasks.into_iter().map(tokio::spawn).collect();
                let all = async {
                    for task in tasks {
                        if let Err(error) = task.await {
                            std::panic::resume_unwind(error.into_panic());
                        }
                    }
                };
                // A paused clock runs to its end when all tasks wait.
                let done = tokio::time::timeout(Duration::from_secs(3600), all).await;
                assert!(done.is_ok(), "deadlock with seed {seed}:\n{machine}");
                if let Some(end) = execution.end {
                    end();
                }
            });
        }
    }
}
