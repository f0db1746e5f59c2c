//! Walks over all values, beside a plain walk over the same files; and what memory they take.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio_filelock::CacheDir;
use tokio_filelock::cache::SyncPolicy;

use crate::{Result, median};

const FEW: usize = 10_000;
const MANY: usize = 100_000;
const ROUNDS: usize = 11;

pub(crate) fn compare() -> Result<()> {
    let place = tempfile::tempdir()?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let path = place.path().join("cache");
    let options = CacheDir::options().sync(SyncPolicy::Never);
    let filling = runtime.block_on(options.clone().open(&path))?;
    let mut memory = Vec::new();
    let mut from = 0;
    for values in [FEW, MANY] {
        runtime.block_on(insert(&filling, from..values))?;
        from = values;
        memory.push(memory_of_a_walk(&path)?);
    }
    let cache = options.max_size(1 << 40).blocking_open(&path)?;
    cache.blocking_recount()?;
    let (mut plain, mut ours) = (Vec::new(), [const { Vec::new() }; 3]);
    for _ in 0..ROUNDS {
        plain.push(time(|| Ok(plain_walk(&path)?))?);
        ours[0].push(time(|| Ok(list(&cache)?))?);
        ours[1].push(time(|| Ok(cache.blocking_prune().map(|_| MANY)?))?);
        ours[2].push(time(|| Ok(cache.blocking_recount()?.values as usize))?);
    }
    let plain = median(plain);
    println!("\n| {MANY} values | time | times a plain walk |");
    println!("|---|---|---|");
    println!("| plain walk: names, and the status of each | {plain:.1?} | |");
    for (name, times) in
        ["`entries`", "`prune` with nothing to remove", "`recount`"].iter().zip(ours)
    {
        let time = median(times);
        println!("| {name} | {time:.1?} | {:.2} |", time.as_secs_f64() / plain.as_secs_f64());
    }
    println!("\n| `entries` and `prune` | memory of the process grows by |");
    println!("|---|---|");
    for (values, memory) in [FEW, MANY].iter().zip(memory) {
        println!("| {values} values | {memory} KiB |");
    }
    Ok(())
}

async fn insert(cache: &CacheDir, keys: std::ops::Range<usize>) -> Result<()> {
    for key in keys {
        cache.insert(format!("key {key}"), b"a small value").await?;
    }
    Ok(())
}

fn time(walk: impl FnOnce() -> Result<usize>) -> Result<Duration> {
    let begun = Instant::now();
    let seen = walk()?;
    let time = begun.elapsed();
    if seen == MANY { Ok(time) } else { Err(format!("{seen} values").into()) }
}

fn plain_walk(path: &Path) -> std::io::Result<usize> {
    let mut seen = 0;
    for shard in fs::read_dir(path)? {
        let shard = shard?;
        if !shard.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(shard.path())? {
            seen += usize::from(file?.metadata()?.is_file());
        }
    }
    Ok(seen)
}

fn list(cache: &CacheDir) -> std::result::Result<usize, tokio_filelock::Error> {
    cache.blocking_entries().try_fold(0, |seen, listed| listed.map(|_| seen + 1))
}

/// In a process of its own.
fn memory_of_a_walk(path: &Path) -> Result<u64> {
    let output = Command::new(env::current_exe()?).arg("walk").arg(path).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

pub(crate) fn process(directory: &str) -> Result<()> {
    let cache = CacheDir::options().max_size(1 << 40).blocking_open(directory)?;
    cache.blocking_get("a key that is not there")?;
    let before = most_memory()?;
    list(&cache)?;
    cache.blocking_prune()?;
    println!("{}", most_memory()? - before);
    Ok(())
}

/// In KiB. Not what getrusage(2) says, which begins with that of the parent.
fn most_memory() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
