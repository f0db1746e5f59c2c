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
use super::{directory, options, temporary_files, tree, value};
use crate::child::Role;
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
        Process::in_role(Role::StormACache, &arguments)
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

/// The same with directories, and pins; and without wipes, which respect no pin.
#[test]
fn directories_are_not_torn_lost_or_left_behind() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let place = Place::new();
    let (directory, log) = (directory(&place), place.at("log"));
    let mut number = 0;
    let mut start = || {
        number += 1;
        let seed = (seed ^ number).to_string();
        let arguments = [directory.to_str().unwrap(), log.to_str().unwrap(), &seed, "directories"];
        Process::in_role(Role::StormACache, &arguments)
    };
    let mut processes: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
    let mut killed = BTreeSet::new();
    let (mut looks, mut fullest) = (0, 0);
    for _ in 0..EVENTS / 2 {
        let process = &mut processes[random.usize(..PROCESSES)];
        process.expect("tick");
        if random.bool() {
            killed.insert(process.pid());
            std::mem::replace(process, start()).kill();
        } else {
            let size = size_while_stopped(&directory, &processes);
            assert!(size <= MAX_SIZE, "{size} bytes");
            fullest = fullest.max(size);
            looks += 1;
        }
    }
    processes.into_iter().for_each(Process::finish);
    let (fills, deaths) = check_fills(&log, &killed);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directories = runtime.block_on(check_rest(&directory));
    println!(
        "{} killed, {looks} looks at the size: at most {fullest} of {MAX_SIZE} bytes, {fills} fills, \
         {deaths} of them ended by SIGKILL, {directories} directories at the end",
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
    let of_files: u64 =
        values(directory).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    let of_directories: u64 = pointers(directory).iter().map(|pointer| pointer.bytes).sum();
    all(Signal::SIGCONT);
    of_files + of_directories
}

/// What the file says that names the directory of a key.
struct Pointer {
    directory: String,
    bytes: u64,
}

fn pointers(directory: &Path) -> Vec<Pointer> {
    let mut pointers = Vec::new();
    for name in beside_values(directory, |name| name.ends_with(".dir")) {
        let text = fs::read_to_string(&name).unwrap();
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let (_, number) = lines.next().unwrap();
        let (_, bytes) = lines.next().unwrap();
        let hash = &name.file_name().unwrap().to_str().unwrap()[..40];
        let directory = format!("{hash}-{number}");
        pointers.push(Pointer { directory, bytes: bytes.parse().unwrap() });
    }
    pointers
}

/// The files that are values.
pub(super) fn values(directory: &Path) -> Vec<PathBuf> {
    beside_values(directory, |name| name.as_bytes()[40] == b'-')
}

fn beside_values(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for shard in fs::read_dir(directory).into_iter().flatten() {
        let shard = shard.unwrap().path();
        if shard.is_dir() && !shard.ends_with("tmp") && !shard.ends_with("dirs") {
            let names = names(&shard).into_iter().filter(|name| is_wanted(name));
            found.extend(names.map(|name| shard.join(name)));
        }
    }
    found
}

/// No process began to fill a key while another one was at it, unless that one had been killed.
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

/// How many directories there are.
async fn check_rest(directory: &Path) -> usize {
    let cache = options().max_size(MAX_SIZE).open(directory).await.unwrap();
    assert_eq!(temporary_files(directory), [""; 0]);
    let mut entries = cache.entries();
    let mut found = BTreeSet::new();
    while let Some(listed) = entries.next().await.unwrap() {
        let key = String::from_utf8(listed.key).unwrap();
        if listed.is_directory {
            tree::number(&key, &listed.path);
        } else {
            value::number(&key, &fs::read(&listed.path).unwrap());
        }
        found.insert(listed.path);
    }
    // A wipe may take the key from beside a value, and then the value is absent.
    for path in values(directory).into_iter().filter(|path| !found.contains(path)) {
        let hash = &path.file_name().unwrap().to_str().unwrap()[..40];
        assert!(!path.with_file_name(format!("{hash}.key")).exists(), "{path:?} is not listed");
    }
    // The books never say less than there is, and exactly that after a recount.
    let reader = options().read_only(true).open(directory).await.unwrap();
    let stats = reader.recount().await.unwrap();
    if let Some((bytes, values)) = books(directory) {
        assert!(bytes >= stats.bytes && values >= stats.values, "{bytes} {values} {stats:?}");
    }
    cache.prune().await.unwrap();
    assert_eq!(books(directory), Some((stats.bytes, stats.values)));
    // Every directory is one that a key has: what was pinned went with its pin, or at the latest now.
    let named = pointers(directory).into_iter().map(|pointer| pointer.directory);
    let mut named: Vec<_> = named.collect();
    named.sort();
    assert_eq!(tree::all(directory), named);
    named.len()
}

fn books(directory: &Path) -> Option<(u64, u64)> {
    let books = fs::read_to_string(directory.join("books")).ok()?;
    let mut numbers = books.split_whitespace().filter_map(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// The role `StormACache`.
pub(crate) fn storm(arguments: &[String]) {
    let [directory, log, seed, rest @ ..] = arguments else { panic!("three arguments, or more") };
    let with_directories = !rest.is_empty();
    let seed: u64 = seed.parse().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let cache = options().max_size(MAX_SIZE).open(directory).await.unwrap();
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let random = fastrand::Rng::with_seed(seed.wrapping_mul(TASKS).wrapping_add(task));
            tasks.spawn(work(cache.clone(), log.into(), with_directories, random));
        }
        let end = tokio::task::spawn_blocking(|| commands().for_each(drop));
        tokio::select! {
            () = async { end.await.unwrap() } => {}
            failed = tasks.join_next() => panic!("a task ended: {failed:?}"),
        }
        tasks.shutdown().await;
    });
}

async fn work(cache: CacheDir, log: PathBuf, with_directories: bool, mut random: fastrand::Rng) {
    loop {
        for _ in 0..TICK {
            if with_directories && random.u32(..3) > 0 {
                operate_on_directories(&cache, &log, &mut random).await;
            } else {
                operate(&cache, &log, &mut random).await;
            }
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
        _ => drop(cache.recount().await.unwrap()),
    }
}

/// The same keys, so that the one replaces the other.
async fn operate_on_directories(cache: &CacheDir, log: &Path, random: &mut fastrand::Rng) {
    let key = random.u32(..KEYS);
    let key = format!("{key}/{}", "k".repeat(key as usize * 4));
    let number = u64::from(random.u32(..));
    match random.u32(..10) {
        0..4 => {
            let Some(dir) = cache.get_dir(&key).await.unwrap() else { return };
            let Some(pin) = dir.pin().await.unwrap() else { return };
            let number = tree::number(&key, pin.path());
            for _ in 0..random.u32(..20) {
                tokio::task::yield_now().await;
            }
            assert_eq!(tree::number(&key, pin.path()), number);
        }
        4..8 => {
            let fill = |dir: PathBuf| async {
                let (dir, _logged) = (dir, Logged::begin(log, &key));
                tokio::task::yield_now().await;
                tree::fill(&dir, &key, number).unwrap();
                tokio::task::yield_now().await;
                if number % 10 == 0 { Err("failed") } else { Ok(()) }
            };
            let filled = cache.get_or_insert_dir_with(&key, fill);
            let patience = Duration::from_micros(random.u64(..20_000));
            match tokio::time::timeout(patience, filled).await {
                Ok(Ok(dir)) => {
                    if let Some(pin) = dir.pin().await.unwrap() {
                        tree::number(&key, pin.path());
                    }
                }
                Ok(Err(error)) => assert_eq!(error.to_string(), "failed"),
                Err(_) => {}
            }
        }
        _ => {
            let fill = |dir: PathBuf| {
                let key = key.clone();
                async move { tree::fill(&dir, &key, number) }
            };
            let dir = cache.insert_dir(&key, fill).await.unwrap();
            assert_eq!(tree::number(&key, dir.path()), number);
        }
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
