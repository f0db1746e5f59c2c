//! Inserts of distinct keys by several processes with many tasks each, beside the crate `cacache`, and beside plain
//! files. Nothing is asked of the disk: `cacache` never does.
//!
//! `cacache` has no limit, and removes nothing. What a limit that is reached must cost at the least is the side that writes
//! plain files, and removes one of its own for each, with no lock, no books and no word to the other processes.

use std::collections::VecDeque;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio_filelock::CacheDir;
use tokio_filelock::cache::SyncPolicy;

use crate::{Result, cpu_time, median};

const PROCESSES: usize = 4;
const TASKS: usize = 50;
/// By a task, in a round.
const INSERTS: usize = 20;
const BYTES: usize = 4096;
const ROUNDS: usize = 7;

/// More than all values come to.
const LARGE: u64 = 1 << 30;
/// A quarter of what they come to.
const SMALL: u64 = (PROCESSES * TASKS * INSERTS * BYTES / 4) as u64;

const SIDES: [(&str, &str); 7] = [
    ("cacache", "cacache"),
    ("unlimited", "cache"),
    ("large", "cache, `max_size` not reached"),
    ("small", "cache, `max_size` of a quarter"),
    ("plain", "plain files"),
    (FLOOR, "plain files, a quarter is kept"),
    ("cacache", "cacache again"),
];

/// What removes one for each, too, and does nothing else.
const FLOOR: &str = "rotated";

/// A round of one side.
#[derive(Debug, Clone, Copy)]
struct Round {
    time: Duration,
    cpu: Duration,
    /// Of one insert: in the middle, so long that one of 100 waits longer, the longest, and the longest without the first
    /// insert of each task, when all begin at once.
    waits: [Duration; 4],
}

pub(crate) fn compare() -> Result<()> {
    let mut rounds = [const { Vec::new() }; SIDES.len()];
    for _ in 0..ROUNDS {
        for (rounds, (side, _)) in rounds.iter_mut().zip(SIDES) {
            rounds.push(round(side)?);
        }
    }
    println!(
        "\n| {PROCESSES} processes x {TASKS} tasks insert, {BYTES} bytes | inserts/s | times cacache | least, most | times the floor | CPU time of one | median wait | 1 of 100 | longest | not the first | longest / median |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let floor = SIDES.iter().position(|(side, _)| *side == FLOOR).expect("it is one of them");
    for (of_side, (_, name)) in rounds.iter().zip(SIDES) {
        let number = (PROCESSES * TASKS * INSERTS) as f64;
        let [times, of_floor] = [0, floor].map(|peer| {
            let times = of_side.iter().zip(&rounds[peer]);
            let mut times: Vec<_> = times
                .map(|(ours, peer)| peer.time.as_secs_f64() / ours.time.as_secs_f64())
                .collect();
            times.sort_by(f64::total_cmp);
            times
        });
        let time = median(of_side.iter().map(|round| round.time).collect());
        let cpu = median(of_side.iter().map(|round| round.cpu).collect()).div_f64(number);
        let [middle, most, longest, later] = [0, 1, 2, 3]
            .map(|which| median(of_side.iter().map(|round| round.waits[which]).collect()));
        println!(
            "| {name} | {:.0} | {:.2} | {:.2}, {:.2} | {:.2} | {cpu:.1?} | {middle:.1?} | {most:.1?} | {longest:.1?} | {later:.1?} | {:.1} |",
            number / time.as_secs_f64(),
            times[times.len() / 2],
            times[0],
            times[times.len() - 1],
            median(of_floor),
            longest.as_secs_f64() / middle.as_secs_f64(),
        );
    }
    Ok(())
}

/// All processes begin together; the time is that until the last one has ended.
fn round(side: &str) -> Result<Round> {
    let place = tempfile::tempdir()?;
    let directory = place.path().join("cache");
    let mut processes = Vec::new();
    for number in 0..PROCESSES {
        let mut process = Command::new(env::current_exe()?)
            .args(["insert", side])
            .arg(&directory)
            .arg(number.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut says = BufReader::new(process.stdout.take().expect("piped"));
        expect(&mut says, "ready")?;
        processes.push((process, says));
    }
    let begun = Instant::now();
    for (process, _) in &mut processes {
        process.stdin.take().expect("piped").write_all(b"go\n")?;
    }
    let (mut waits, mut cpu) = (Vec::new(), Duration::ZERO);
    for (_, says) in &mut processes {
        expect(says, "done")?;
    }
    let time = begun.elapsed();
    for (mut process, mut says) in processes {
        let mut numbers = String::new();
        says.read_to_string(&mut numbers)?;
        let mut numbers = numbers.lines().map(|line| line.parse().map(Duration::from_nanos));
        cpu += numbers.next().ok_or("no CPU time")??;
        waits.extend(numbers.collect::<std::result::Result<Vec<_>, _>>()?);
        ended(&mut process)?;
    }
    let later = waits.iter().enumerate().filter(|(at, _)| at % INSERTS > 0);
    let later = later.map(|(_, wait)| *wait).max().unwrap_or_default();
    waits.sort();
    let of_all = |part: usize| waits[(waits.len() * part / 100).min(waits.len() - 1)];
    Ok(Round { time, cpu, waits: [of_all(50), of_all(99), of_all(100), later] })
}

fn expect(says: &mut impl BufRead, word: &str) -> Result<()> {
    let mut line = String::new();
    says.read_line(&mut line)?;
    if line.trim() == word { Ok(()) } else { Err(format!("not `{word}`: `{line}`").into()) }
}

fn ended(process: &mut Child) -> Result<()> {
    let status = process.wait()?;
    if status.success() { Ok(()) } else { Err(status.to_string().into()) }
}

#[derive(Clone)]
enum Side {
    Cacache(Arc<Path>),
    Cache(CacheDir),
    Plain(Arc<Plain>),
}

/// Files that a process writes, and of which it keeps so many, the latest.
struct Plain {
    directory: PathBuf,
    process: String,
    most: usize,
    next: AtomicUsize,
    written: Mutex<VecDeque<PathBuf>>,
}

impl Plain {
    fn new(directory: &Path, process: &str, most: usize) -> Result<Self> {
        for name in (0..=u8::MAX).map(|byte| format!("{byte:02x}")).chain(["tmp".into()]) {
            fs::create_dir_all(directory.join(name))?;
        }
        let (next, written) = (AtomicUsize::new(0), Mutex::default());
        Ok(Self { directory: directory.into(), process: process.into(), most, next, written })
    }

    fn insert(&self, key: &str, value: &[u8]) -> std::io::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", self.process);
        let temporary = self.directory.join("tmp").join(name);
        fs::write(&temporary, value)?;
        let shard = format!("{:02x}", number as u8);
        let path = self.directory.join(shard).join(key);
        fs::rename(temporary, &path)?;
        let last = {
            let mut written = self.written.lock().expect("not poisoned");
            written.push_back(path);
            if written.len() > self.most { written.pop_front() } else { None }
        };
        last.map_or(Ok(()), fs::remove_file)
    }
}

impl Side {
    async fn insert(&self, key: &str, value: Vec<u8>) {
        match self {
            Side::Cacache(directory) => {
                cacache::write(directory, key, value).await.expect("it is written");
            }
            Side::Cache(cache) => drop(cache.insert(key, value).await.expect("it is inserted")),
            Side::Plain(plain) => {
                let (plain, key) = (plain.clone(), key.to_owned());
                let inserted = tokio::task::spawn_blocking(move || plain.insert(&key, &value));
                inserted.await.expect("it does not panic").expect("it is written");
            }
        }
    }
}

pub(crate) fn process(side: &str, directory: &str, number: &str) -> Result<()> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let options = CacheDir::options().sync(SyncPolicy::Never);
    let options = match side {
        "large" => options.max_size(LARGE),
        "small" => options.max_size(SMALL),
        _ => options,
    };
    let plain = |most| Plain::new(Path::new(directory), number, most).map(Arc::new);
    let side = match side {
        "cacache" => Side::Cacache(Path::new(directory).into()),
        "plain" => Side::Plain(plain(usize::MAX)?),
        FLOOR => Side::Plain(plain(TASKS * INSERTS / 4)?),
        _ => Side::Cache(runtime.block_on(options.open(directory))?),
    };
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    let cpu = cpu_time();
    let tasks = (0..TASKS).map(|task| {
        let (side, first) = (side.clone(), format!("{number} {task}"));
        runtime.spawn(async move {
            let mut waits = Vec::with_capacity(INSERTS);
            for insert in 0..INSERTS {
                let key = format!("{first} {insert}");
                // The peer keeps equal values once.
                let mut value = key.clone().into_bytes();
                value.resize(BYTES, 0);
                let begun = Instant::now();
                side.insert(&key, value).await;
                waits.push(begun.elapsed());
            }
            waits
        })
    });
    let mut waits = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        waits.extend(runtime.block_on(task)?);
    }
    println!("done");
    println!("{}", (cpu_time() - cpu).as_nanos());
    for wait in waits {
        println!("{}", wait.as_nanos());
    }
    Ok(())
}
