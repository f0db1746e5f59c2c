//! From the release in one process to the guard in a task of another.
//!
//! Both use the same peer. The time is read from the monotonic clock, which all processes share:
//! right before the release, and as the first thing with the lock. The releasing process is told to
//! only when the other one is blocked in the kernel.

use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};

use crate::actors::{Actor, next_line};
use crate::figures::{Contest, Figures, Samples};
use crate::kernel_waits::await_in_flock;
use crate::peers::{Default, Ours, Peer, RawFlock, Std};
use crate::{Effort, Result};

/// Wakes in a round; the value of the round is their median.
const WAKES: usize = 40;

pub(crate) fn measure(effort: Effort, directory: &Path, figures: &mut Figures) -> Result<()> {
    let mut contest = Contest::default();
    enter::<Ours<Default>>(&mut contest, directory)?;
    enter::<Std>(&mut contest, directory)?;
    enter::<RawFlock>(&mut contest, directory)?;
    let outcome = contest.run(effort.of(10, 50))?;
    outcome.print("Release in one process to lock in another (flock(2): in a bare thread)", "µs");
    let others = Std::NAME;
    figures.record("wake_vs_spawn_blocking", outcome.ratio(Ours::<Default>::NAME, others));
    let bare = outcome.ratio(RawFlock::NAME, others);
    figures.record("wake_bare_thread_vs_spawn_blocking", bare);
    Ok(())
}

fn enter<P: Peer>(contest: &mut Contest, directory: &Path) -> Result<()> {
    let path = directory.join(format!("wake {}", P::NAME));
    let mut holder = Actor::start(["wake", P::NAME, path.to_str().expect("a plain name")])?;
    holder.answer()?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut peer = Some(P::open(&path)?);
    contest.enter(P::NAME, move || {
        let mut times = Vec::new();
        for _ in 0..WAKES {
            holder.tell("lock")?;
            holder.answer()?;
            let mut waiter = peer.take().expect("given back after each wake");
            let waiting = Waiting::start(
                &runtime,
                async move {
                    let woken = waiter.exclusive(async { now() }).await;
                    (waiter, woken)
                },
                P::NAME,
            );
            await_in_flock(1);
            holder.tell("release")?;
            let released = holder.answer()?[0];
            let (waiter, woken) = waiting.end(&runtime)?;
            peer = Some(waiter);
            times.push((woken - released) * 1e6);
        }
        Ok(Samples::from(times).median())
    });
    Ok(())
}

/// A task, or for a lock that blocks its thread, a thread.
enum Waiting<T> {
    Task(tokio::task::JoinHandle<T>),
    Thread(thread::JoinHandle<T>),
}

impl<T: Send + 'static> Waiting<T> {
    fn start(
        runtime: &Runtime,
        lock: impl Future<Output = T> + Send + 'static,
        name: &str,
    ) -> Self {
        if name == RawFlock::NAME {
            Self::Thread(thread::spawn(|| futures::executor::block_on(lock)))
        } else {
            Self::Task(runtime.spawn(lock))
        }
    }

    fn end(self, runtime: &Runtime) -> Result<T> {
        match self {
            Self::Task(task) => Ok(runtime.block_on(task)?),
            Self::Thread(thread) => Ok(thread.join().expect("no panic")),
        }
    }
}

/// In seconds.
fn now() -> f64 {
    let now: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock").into();
    now.as_secs_f64()
}

/// The holder: locks and releases as it is told.
pub(crate) fn act(words: &[String]) -> Result<()> {
    let [system, path] = words else { return Err("two words".into()) };
    let act: fn(&Path) -> Result<()> = match system.as_str() {
        name if name == Ours::<Default>::NAME => act_as::<Ours<Default>>,
        name if name == Std::NAME => act_as::<Std>,
        name if name == RawFlock::NAME => act_as::<RawFlock>,
        name => return Err(format!("no system {name}").into()),
    };
    act(Path::new(path))
}

fn act_as<P: Peer>(path: &Path) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut peer = P::open(path)?;
    println!();
    while let Some(line) = next_line()? {
        assert_eq!(line, "lock");
        let released = runtime.block_on(peer.exclusive(async {
            println!();
            next_line().expect("a line");
            now()
        }));
        println!("{released}");
    }
    Ok(())
}
