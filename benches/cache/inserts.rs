//! Inserts of distinct keys by several processes with many tasks each, beside the crate `cacache`. Nothing is
//! asked of the disk: `cacache` never does.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
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

const SIDES: [(&str, &str); 5] = [
    ("cacache", "cacache"),
    ("unlimited", "cache"),
    ("large", "cache, `max_size` not reached"),
    ("small", "cache, `max_size` of a quarter"),
    ("cacache", "cacache again"),
];

/// A round of one side.
#[derive(Debug, Clone, Copy)]
struct Round {
    time: Duration,
    cpu: Duration,
    /// Of one insert: in the middle, and the longest.
    waits: [Duration; 2],
}

pub(crate) fn compare() -> Result<()> {
    let mut rounds = [const { Vec::new() }; SIDES.len()];
    for _ in 0..ROUNDS {
        for (rounds, (side, _)) in rounds.iter_mut().zip(SIDES) {
            rounds.push(round(side)?);
        }
    }
    println!(
        "\n| {PROCESSES} processes x {TASKS} tasks insert, {BYTES} bytes | inserts/s | times cacache | least, most | CPU time of one | median wait | longest wait | longest / median |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (of_side, (_, name)) in rounds.iter().zip(SIDES) {
        let number = (PROCESSES * TASKS * INSERTS) as f64;
        let times = of_side.iter().zip(&rounds[0]);
        let mut times: Vec<_> =
            times.map(|(ours, peer)| peer.time.as_secs_f64() / ours.time.as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        let time = median(of_side.iter().map(|round| round.time).collect());
        let cpu = median(of_side.iter().map(|round| round.cpu).collect()).div_f64(number);
        let [middle, longest] =
            [0, 1].map(|which| median(of_side.iter().map(|round| round.waits[which]).collect()));
        println!(
            "| {name} | {:.0} | {:.2} | {:.2}, {:.2} | {cpu:.1?} | {middle:.1?} | {longest:.1?} | {:.1} |",
            number / time.as_secs_f64(),
            times[times.len() / 2],
            times[0],
            times[times.len() - 1],
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
    let longest = waits.iter().max().copied().unwrap_or_default();
    Ok(Round { time, cpu, waits: [median(waits), longest] })
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
}

impl Side {
    async fn insert(&self, key: &str, value: Vec<u8>) {
        match self {
            Side::Cacache(directory) => {
                cacache::write(directory, key, value).await.expect("it is written");
            }
            Side::Cache(cache) => drop(cache.insert(key, value).await.expect("it is inserted")),
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
    let side = match side {
        "cacache" => Side::Cacache(Path::new(directory).into()),
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
