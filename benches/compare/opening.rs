//! Opening a lock file that is there, and closing it.
//!
//! A process opens many files beforehand, or few: what that costs the next one is what grows.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio_filelock::FileLock;

use crate::actors::{Actor, next_line};
use crate::figures::{Contest, Figures};
use crate::{Effort, Result};

/// The clock is read once for so many files.
const BATCH: u32 = 64;

/// A round is short, so that other work on the machine disturbs few of them.
const ROUND: Duration = Duration::from_micros(500);

const FEW: usize = 10;
const MANY: usize = 8_000;

const STD: &str = "std::fs::File, read and write";
const KNOWN: &str = "this crate, a file that it has open";

pub(crate) fn measure(effort: Effort, directory: &Path, figures: &mut Figures) -> Result<()> {
    let directory = directory.join("opening");
    std::fs::create_dir(&directory)?;
    let mut contest = Contest::default();
    let path = create(&directory, "std")?;
    contest.enter(STD, move || {
        each(|| drop(File::options().read(true).write(true).open(&path).expect("it opens")))
    });
    let path = create(&directory, "known")?;
    let known = FileLock::options().blocking_open(&path)?;
    contest.enter(KNOWN, move || {
        let _known = &known;
        each(|| drop(FileLock::options().blocking_open(&path).expect("it opens")))
    });
    let beside = |count: usize| format!("this crate, beside {count} others");
    for count in [FEW, MANY] {
        let directory = directory.to_str().expect("a plain name");
        let mut actor = Actor::start(["opening", directory, &count.to_string()])?;
        actor.answer()?;
        contest.enter(beside(count), move || {
            actor.tell("")?;
            Ok(actor.answer()?[0])
        });
    }
    let outcome = contest.run(effort.of(100, 500))?;
    outcome.print("Open and close a lock file that is there", "µs");
    figures.record("open_vs_std", outcome.ratio(&beside(FEW), STD));
    figures.record("open_growth", outcome.ratio(&beside(MANY), &beside(FEW)));
    Ok(())
}

fn create(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    File::create(&path)?;
    Ok(path)
}

/// Microseconds for one of many.
fn each(mut open: impl FnMut()) -> Result<f64> {
    let (started, mut times) = (Instant::now(), 0);
    while started.elapsed() < ROUND {
        (0..BATCH).for_each(|_| open());
        times += BATCH;
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / f64::from(times))
}

/// Has so many lock files open, and measures when it is told to.
pub(crate) fn act(words: &[String]) -> Result<()> {
    let [directory, count] = words else { return Err("directory, count".into()) };
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let directory = Path::new(directory);
    let open = |name: String| FileLock::options().blocking_open(directory.join(name));
    let files = (0..count.parse::<usize>()?).map(|number| open(format!("{count} {number}")));
    let _others = files.collect::<std::result::Result<Vec<_>, _>>()?;
    let path = create(directory, &format!("beside {count}"))?;
    println!();
    while next_line()?.is_some() {
        let time = each(|| drop(FileLock::options().blocking_open(&path).expect("it opens")))?;
        println!("{time}");
    }
    Ok(())
}
