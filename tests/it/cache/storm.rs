//! Many tasks in four processes do what they like, are killed, and the directory is wiped under them:
//! no value is torn or another key's, no two fill one key, no limit is passed, and nothing stays behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinSet;
use tokio_filelock::CacheDir;

use super::random::seed;
use super::{directory, options, temporary_files, value};
use crate::support::kernel::await_stop;
use crate::support::place::{Place, names};
use crate::support::process::{Process, commands, say};

const PROCESSES: usize = 4;
const TASKS: u64 = 8;
const KEYS: u32 = 40;
const EVENTS: usize = 80;
/// Less than all values together, more than the largest.
const MAX_SIZE: u64 = 800_000;
/// A task tells the parent after so many operations.
const TICK: usize = 40;

#[test]
fn nothing_is_torn_lost_or_left_behind() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let place = Place::new();
    let (directory, log) = (directory(&place), place.at("log"));
    let mut number = 0;
    let mut start = || {
        number += 1;
        let seed = (seed ^ number).to_string();
        let arguments = [directory.to_str().unwrap(), log.to_str().unwrap(), &seed];
        Process::in_role("storm a cache", &arguments)
    };
    let mut processes: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
    let mut killed = BTreeSet::new();
    let (mut wipes, mut looks, mut fullest) = (0, 0, 0);
    for _ in 0..EVENTS {
        let process = &mut processes[random.usize(..PROCESSES)];
        process.expect("tick");
        match random.u32(..10) {
            0..3 => {
                killed.insert(process.pid());
                std::mem::replace(process, start()).kill();
            }
            3..6 => {
                wipe(&directory, &mut random);
                wipes += 1;
            }
            _ => {
                let size = size_while_stopped(&directory, &processes);
                assert!(size <= MAX_SIZE, "{size} bytes");
                fullest = fullest.max(size);
                looks += 1;
            }
        }
    }
    // They stop at the end of their stdin.
    processes.into_iter().for_each(Process::finish);
    let (fills, deaths) = check_fills(&log, &killed);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(check_rest(&directory));
    println!(
        "{} killed, {wipes} wipes, {looks} looks at the size: at most {fullest} of {MAX_SIZE} bytes, \
         {fills} fills, {deaths} of them ended by SIGKILL",
        killed.len(),
    );
}

/// As `rm -rf` does it, while others go on: what comes in between makes it fail, and that is all right.
fn wipe(directory: &Path, random: &mut fastrand::Rng) {
    match random.u32(..3) {
        0 => drop(fs::remove_dir_all(directory)),
        1 => {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
            }
        }
        _ => drop(fs::remove_dir_all(directory.join("tmp"))),
    }
}

/// The bytes of all values at one moment.
fn size_while_stopped(directory: &Path, processes: &[Process]) -> u64 {
    let all = |signal| {
        for process in processes {
            kill(Pid::from_raw(process.pid() as i32), signal).unwrap();
        }
    };
    all(Signal::SIGSTOP);
    processes.iter().for_each(|process| await_stop(process.pid()));
    let bytes = values(directory).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    all(Signal::SIGCONT);
    bytes
}

/// The files that are values.
fn values(directory: &Path) -> Vec<PathBuf> {
    let mut values = Vec::new();
    for shard in fs::read_dir(directory).into_iter().flatten() {
        let shard = shard.unwrap().path();
        if shard.is_dir() && !shard.ends_with("tmp") {
            let names = names(&shard).into_iter().filter(|name| name.as_bytes()[40] == b'-');
            values.extend(names.map(|name| shard.join(name)));
        }
    }
    values
}

/// Nobody began to fill a key while another one was at it, unless that one had been killed.
fn check_fills(log: &Path, killed: &BTreeSet<u32>) -> (usize, usize) {
    let mut filling = BTreeMap::<&str, &str>::new();
    let (mut fills, mut deaths) = (0, 0);
    let is_killed = |who: &str| killed.contains(&who.parse().unwrap());
    let log = fs::read_to_string(log).unwrap();
    for line in log.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["begin", key, who] => {
                fills += 1;
                if let Some(other) = filling.insert(key, who) {
                    assert!(is_killed(other), "two fill {key}: {other} and {who}");
                    deaths += 1;
                }
            }
            ["end", key, who] => assert_eq!(filling.remove(key), Some(who), "{key}"),
            _ => panic!("{line}"),
        }
    }
    assert!(filling.values().all(|who| is_killed(who)), "{filling:?}");
    assert!(fills > 100, "{fills} fills");
    (fills, deaths + filling.len())
}

async fn check_rest(directory: &Path) {
    let cache = options().max_size(MAX_SIZE).open(directory).await.unwrap();
    assert_eq!(temporary_files(directory), [""; 0]);
    let mut entries = cache.entries();
    let mut found = BTreeSet::new();
    while let Some(listed) = entries.next().await.unwrap() {
        let key = String::from_utf8(listed.key).unwrap();
        value::number(&key, &fs::read(&listed.path).unwrap());
        found.insert(listed.path);
    }
    // A wipe may take the key from beside a value, and then the value is absent.
    for path in values(directory).into_iter().filter(|path| !found.contains(path)) {
        let hash = &path.file_name().unwrap().to_str().unwrap()[..40];
        assert!(!path.with_file_name(format!("{hash}.key")).exists(), "{path:?} is not listed");
    }
    // The books never say less than there is, and exactly that after somebody has counted.
    let stats = cache.stats().await.unwrap();
    if let Some((bytes, values)) = books(directory) {
        assert!(bytes >= stats.bytes && values >= stats.values, "{bytes} {values} {stats:?}");
    }
    cache.prune().await.unwrap();
    assert_eq!(books(directory), Some((stats.bytes, stats.values)));
}

fn books(directory: &Path) -> Option<(u64, u64)> {
    let books = fs::read_to_string(directory.join("books")).ok()?;
    let mut numbers = books.split_whitespace().filter_map(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// The role `storm a cache`.
pub(crate) fn storm(arguments: &[String]) {
    let [directory, log, seed] = arguments else { panic!("three arguments") };
    let seed: u64 = seed.parse().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let cache = options().max_size(MAX_SIZE).open(directory).await.unwrap();
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let random = fastrand::Rng::with_seed(seed.wrapping_mul(TASKS).wrapping_add(task));
            tasks.spawn(work(cache.clone(), log.into(), random));
        }
        let end = tokio::task::spawn_blocking(|| commands().for_each(drop));
        tokio::select! {
            () = async { end.await.unwrap() } => {}
            failed = tasks.join_next() => panic!("a task ended: {failed:?}"),
        }
        tasks.shutdown().await;
    });
}

async fn work(cache: CacheDir, log: PathBuf, mut random: fastrand::Rng) {
    loop {
        for _ in 0..TICK {
            operate(&cache, &log, &mut random).await;
        }
        say("tick");
    }
}

async fn operate(cache: &CacheDir, log: &Path, random: &mut fastrand::Rng) {
    // Some of them too long for their file names.
    let key = random.u32(..KEYS);
    let key = format!("{key}/{}", "k".repeat(key as usize * 4));
    let large = if random.u32(..30) == 0 { value::LARGE } else { 0 };
    let bytes = value::of(&key, large + u64::from(random.u32(..)));
    match random.u32(..100) {
        0..40 => {
            if let Some(bytes) = cache.read(&key).await.unwrap() {
                value::number(&key, &bytes);
            }
        }
        40..80 => {
            let fill = || async {
                let _logged = Logged::begin(log, &key);
                tokio::task::yield_now().await;
                if bytes.len() % 10 == 0 { Err("failed") } else { Ok(&bytes[..]) }
            };
            let filled = cache.get_or_insert_with(&key, fill);
            let patience = Duration::from_micros(random.u64(..20_000));
            match tokio::time::timeout(patience, filled).await {
                Ok(Ok(entry)) => drop(value::number(&key, &entry.read().await.unwrap())),
                Ok(Err(error)) => assert_eq!(error.to_string(), "failed"),
                Err(_) => {}
            }
        }
        80..93 => {
            let entry = cache.insert(&key, &bytes[..]).await.unwrap();
            assert!(entry.read().await.unwrap() == bytes, "{key}");
        }
        93..97 => drop(cache.remove(&key).await.unwrap()),
        97 => drop(cache.clear().await.unwrap()),
        98 => drop(cache.prune().await.unwrap()),
        _ => drop(cache.stats().await.unwrap()),
    }
}

/// A fill of this process, in the log until it is dropped.
struct Logged<'a> {
    log: &'a Path,
    key: &'a str,
}

impl<'a> Logged<'a> {
    fn begin(log: &'a Path, key: &'a str) -> Self {
        write(log, "begin", key);
        Self { log, key }
    }
}

impl Drop for Logged<'_> {
    fn drop(&mut self) {
        write(self.log, "end", self.key);
    }
}

fn write(log: &Path, what: &str, key: &str) {
    let line = format!("{what} {key} {}\n", std::process::id());
    let mut log = OpenOptions::new().append(true).create(true).open(log).unwrap();
    log.write_all(line.as_bytes()).unwrap();
}
