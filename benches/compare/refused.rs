//! A try that is refused: another process holds the lock, and no other waits for it.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio_filelock::{FileLock, Protocol, TryLockError};

use crate::actors::{Actor, next_line};
use crate::figures::{Contest, Figures};
use crate::peers::try_byte;
use crate::{Effort, Result};

/// The clock is read once for so many tries.
const BATCH: u32 = 64;

/// A round is short, so that other work on the machine disturbs few of them.
const ROUND: Duration = Duration::from_micros(500);

const STD: &str = "std::fs::File::try_lock";
const FLOCK: &str = "try_lock, Flock";
const RAW: &str = "F_OFD_SETLK";
const FCNTL: &str = "try_lock, Fcntl";

pub(crate) fn measure(effort: Effort, directory: &Path, figures: &mut Figures) -> Result<()> {
    let mut contest = Contest::default();
    let (flock, fcntl) = (directory.join("refused flock"), directory.join("refused fcntl"));
    let mut holders = Vec::new();
    for (path, protocol) in [(&flock, "flock"), (&fcntl, "fcntl")] {
        let path = path.to_str().expect("a plain name");
        let mut holder = Actor::start(["refused", path, protocol])?;
        holder.answer()?;
        holders.push(holder);
    }
    let file = File::open(&flock)?;
    enter(&mut contest, STD, move || file.try_lock().is_err());
    let lock = open(&flock, "flock")?;
    enter(&mut contest, FLOCK, move || is_refused(&lock));
    let file = File::options().read(true).write(true).open(&fcntl)?;
    enter(&mut contest, RAW, move || !try_byte(&file));
    let lock = open(&fcntl, "fcntl")?;
    enter(&mut contest, FCNTL, move || is_refused(&lock));
    let outcome = contest.run(effort.of(200, 1_000))?;
    outcome.print("A try at a lock that another process holds", "µs");
    figures.record("refused_try_vs_raw", outcome.ratio(FLOCK, STD));
    figures.record("refused_try_fcntl_vs_raw", outcome.ratio(FCNTL, RAW));
    holders.into_iter().try_for_each(Actor::dismiss)
}

fn open(path: &Path, protocol: &str) -> Result<FileLock> {
    let protocol = if protocol == "flock" { Protocol::Flock } else { Protocol::Fcntl };
    Ok(FileLock::options().protocol(protocol).blocking_open(path)?)
}

fn is_refused(lock: &FileLock) -> bool {
    matches!(lock.try_lock(), Err(TryLockError::WouldBlock(_)))
}

fn enter(
    contest: &mut Contest,
    name: &'static str,
    mut is_refused: impl FnMut() -> bool + 'static,
) {
    contest.enter(name, move || {
        let started = Instant::now();
        let mut tries = 0;
        while started.elapsed() < ROUND {
            for _ in 0..BATCH {
                assert!(is_refused(), "the other process holds it");
            }
            tries += BATCH;
        }
        Ok(started.elapsed().as_secs_f64() * 1e6 / f64::from(tries))
    });
}

/// Holds the lock to the end of its input.
pub(crate) fn act(words: &[String]) -> Result<()> {
    let [path, protocol] = words else { return Err("path, protocol".into()) };
    let lock = open(Path::new(path), protocol)?;
    let _guard = lock.blocking_lock()?;
    println!();
    while next_line()?.is_some() {}
    Ok(())
}
