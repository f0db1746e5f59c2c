//! A hundred tasks of one process and one lock.
//!
//! Exclusive: the sections are empty, and the lock is held until all have queued, so that every
//! lock but the first is a hand-over and stays one, for the task that lets go asks again at once.
//! Shared: each reader lets the others run while it reads, so that they overlap.

use std::future::Future;
use std::path::Path;
use std::time::Instant;

use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, yield_now};

use crate::figures::{Contest, Figures};
use crate::peers::{
    AsyncFdLock, Default, FdLock, Filelock, Fslock, Ours, Peer, SharingPeer, Std, TokioMutex,
    TokioRwLock,
};
use crate::{Effort, Result};

const TASKS: usize = 100;

pub(crate) fn measure(effort: Effort, directory: &Path, figures: &mut Figures) -> Result<()> {
    let (many, few) = (effort.of(200, 1_000), effort.of(5, 30));
    let [one, two] = [Workers::One, Workers::Two];

    let mut contest = Contest::default();
    exclusive::<Ours<Default>>(&mut contest, directory, one, 50)?;
    exclusive::<TokioMutex>(&mut contest, directory, one, 50)?;
    let outcome = contest.run(many)?;
    outcome.print("Hand-over among 100 tasks on one worker", "µs");
    let (ours, mutex) = (Ours::<Default>::NAME, TokioMutex::NAME);
    figures.record("tasks100_vs_tokio_mutex", outcome.ratio(ours, mutex));

    let mut contest = Contest::default();
    exclusive::<Ours<Default>>(&mut contest, directory, two, 10)?;
    exclusive::<TokioMutex>(&mut contest, directory, two, 10)?;
    exclusive::<Std>(&mut contest, directory, two, 10)?;
    exclusive::<AsyncFdLock>(&mut contest, directory, two, 10)?;
    // Not fs4: its `lock` blocks the workers, so a holder that awaits anything is never run again.
    exclusive::<FdLock>(&mut contest, directory, two, 10)?;
    exclusive::<Fslock>(&mut contest, directory, two, 10)?;
    exclusive::<Filelock>(&mut contest, directory, two, 10)?;
    let outcome = contest.run(few)?;
    outcome.print("A lock among 100 tasks on two workers", "µs");
    figures.record("tasks100_vs_spawn_blocking", outcome.ratio(ours, Std::NAME));

    let mut contest = Contest::default();
    shared::<Ours<Default>>(&mut contest, directory, 50)?;
    shared::<TokioRwLock>(&mut contest, directory, 50)?;
    let outcome = contest.run(many)?;
    outcome.print("A shared lock among 100 reading tasks on one worker", "µs");
    figures.record("shared100_vs_tokio_rwlock", outcome.ratio(ours, TokioRwLock::NAME));
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Workers {
    One,
    Two,
}

impl Workers {
    fn runtime(self) -> Result<Runtime> {
        let mut builder = match self {
            Workers::One => Builder::new_current_thread(),
            Workers::Two => Builder::new_multi_thread(),
        };
        Ok(builder.worker_threads(2).enable_all().build()?)
    }
}

fn exclusive<P: Peer>(
    contest: &mut Contest,
    directory: &Path,
    workers: Workers,
    locks: u64,
) -> Result<()> {
    let path = directory.join(format!("tasks {workers:?} {}", P::NAME.replace('/', " ")));
    let runtime = workers.runtime()?;
    contest.enter(P::NAME, move || {
        let peers = P::open_for(TASKS, &path)?;
        let tasks = peers.into_iter().map(|peer| lock_so_often(peer, locks));
        Ok(runtime.block_on(crowd(tasks, locks)))
    });
    Ok(())
}

async fn lock_so_often<P: Peer>(mut peer: P, times: u64) {
    // Until the others have queued.
    peer.exclusive(yield_now()).await;
    for _ in 1..times {
        peer.exclusive(async {}).await;
    }
}

fn shared<P: SharingPeer>(contest: &mut Contest, directory: &Path, locks: u64) -> Result<()> {
    let path = directory.join(format!("shared {}", P::NAME.replace('/', " ")));
    let runtime = Workers::One.runtime()?;
    contest.enter(P::NAME, move || {
        let peers = P::open_for(TASKS, &path)?;
        let tasks = peers.into_iter().map(|peer| read_so_often(peer, locks));
        Ok(runtime.block_on(crowd(tasks, locks)))
    });
    Ok(())
}

async fn read_so_often<P: SharingPeer>(mut peer: P, times: u64) {
    for _ in 0..times {
        peer.shared(yield_now()).await;
    }
}

/// Runs the tasks; the microseconds for each lock.
async fn crowd<F>(tasks: impl Iterator<Item = F>, locks: u64) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    let started = Instant::now();
    tasks.collect::<JoinSet<()>>().join_all().await;
    started.elapsed().as_secs_f64() * 1e6 / (TASKS as u64 * locks) as f64
}
