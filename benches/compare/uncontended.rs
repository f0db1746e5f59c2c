//! A lock that is free: lock and unlock, again and again, in one task.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;

use crate::figures::{Contest, Figures};
use crate::peers::{
    AsyncFdLock, Default, Fcntl, FdLock, Filelock, Fs4, Fslock, Ours, Peer, RawFcntlWithChecks,
    RawFlock, RawFlockWithChecks, RawFlockWithRecord, Recording, Std, TokioMutex,
};
use crate::{Effort, Result};

/// The clock is read once for so many locks.
const BATCH: u32 = 64;

/// A round is short, so that other work on the machine disturbs few of them.
const ROUND: Duration = Duration::from_micros(500);

pub(crate) fn measure(effort: Effort, directory: &Path, figures: &mut Figures) -> Result<()> {
    let mut contest = Contest::default();
    enter::<Ours<Default>>(&mut contest, directory)?;
    enter::<Ours<Fcntl>>(&mut contest, directory)?;
    enter::<Ours<Recording>>(&mut contest, directory)?;
    enter::<RawFlock>(&mut contest, directory)?;
    enter::<RawFlockWithChecks>(&mut contest, directory)?;
    enter::<RawFcntlWithChecks>(&mut contest, directory)?;
    enter::<RawFlockWithRecord>(&mut contest, directory)?;
    enter::<Std>(&mut contest, directory)?;
    enter::<AsyncFdLock>(&mut contest, directory)?;
    enter::<Fs4>(&mut contest, directory)?;
    enter::<FdLock>(&mut contest, directory)?;
    enter::<Fslock>(&mut contest, directory)?;
    enter::<Filelock>(&mut contest, directory)?;
    enter::<TokioMutex>(&mut contest, directory)?;
    let outcome = contest.run(effort.of(200, 1_000))?;
    outcome.print("Lock and unlock, uncontended", "µs");

    let ours = Ours::<Default>::NAME;
    let fcntl = Ours::<Fcntl>::NAME;
    let bare = outcome.ratio_without(ours, RawFlockWithChecks::NAME, RawFlock::NAME);
    figures.record("uncontended_bare_vs_raw", bare);
    let ratios = [
        ("uncontended_vs_raw", ours, RawFlockWithChecks::NAME),
        ("uncontended_vs_async_fd_lock", ours, AsyncFdLock::NAME),
        ("uncontended_vs_spawn_blocking", ours, Std::NAME),
        ("uncontended_fcntl_vs_raw", fcntl, RawFcntlWithChecks::NAME),
        ("record_cost", Ours::<Recording>::NAME, ours),
        ("recorded_vs_calls", Ours::<Recording>::NAME, RawFlockWithRecord::NAME),
    ];
    for (figure, one, other) in ratios {
        figures.record(figure, outcome.ratio(one, other));
    }
    // Those that do not block the worker for as long as another one holds the lock, and the one that does.
    let peers =
        [AsyncFdLock::NAME, Std::NAME, FdLock::NAME, Fslock::NAME, Filelock::NAME, Fs4::NAME];
    figures.record("uncontended_vs_best_peer", outcome.ratio_to_least(ours, &peers));
    programs(directory)
}

fn enter<P: Peer>(contest: &mut Contest, directory: &Path) -> Result<()> {
    let path = directory.join(format!("uncontended {}", P::NAME.replace('/', " ")));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut peer = P::open(&path)?;
    contest.enter(P::NAME, move || {
        Ok(runtime.block_on(async {
            let started = Instant::now();
            let mut locks = 0;
            while started.elapsed() < ROUND {
                for _ in 0..BATCH {
                    peer.exclusive(async {}).await;
                }
                locks += BATCH;
            }
            started.elapsed().as_secs_f64() * 1e6 / f64::from(locks)
        }))
    });
    Ok(())
}

/// Python's filelock, as its documentation shows it, with the time for one lock printed.
const PYTHON: &str = "
import sys, time, filelock
lock = filelock.FileLock(sys.argv[1])
started, count = time.monotonic(), 2000
for _ in range(count):
    with lock:
        pass
print((time.monotonic() - started) / count * 1e6)
";

/// Programs that are not libraries of this language, if they are installed.
fn programs(directory: &Path) -> Result<()> {
    let python =
        Command::new("python3").args(["-c", PYTHON]).arg(directory.join("python")).output();
    match python {
        Ok(answer) if answer.status.success() => {
            println!("Python's filelock: {} µs", String::from_utf8(answer.stdout)?.trim());
        }
        _ => println!("Python's filelock: not installed"),
    }
    let (started, count) = (Instant::now(), 50);
    for _ in 0..count {
        let locked = Command::new("flock").arg(directory.join("flock")).arg("true").status();
        if !locked.is_ok_and(|status| status.success()) {
            println!("flock(1): not installed");
            return Ok(());
        }
    }
    let each = started.elapsed().as_secs_f64() * 1e6 / f64::from(count);
    println!("flock(1), a process for each lock: {each:.0} µs");
    Ok(())
}
