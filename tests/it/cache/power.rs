//! Power cuts: what a `SyncPolicy` promises is there when the machine comes back.
//!
//! A workload inserts and replaces values on a [`Disk`] and notes, for each insert, the moments of
//! the disk's log at which it began and returned. Then the power is cut at many moments of that log, and
//! each time the file system is mounted and the cache is read:
//!
//! | policy | a value whose insert had returned | any other value |
//! |---|---|---|
//! | `Inserts` | there, whole, this version or a later one | whole or absent |
//! | `Values` | whole or absent | whole or absent |
//! | `Never` with checksums, but for directories | whole or absent | whole or absent |
//! | `Never` | anything | anything |
//!
//! Under every policy the cache opens and takes new values.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio_filelock::cache::SyncPolicy;
use tokio_filelock::{CacheDir, Error};

use crate::child::Role;
use crate::support::disk::{Disk, Mounted, Recorded, in_memory};
use crate::support::needs::{Need, lacks};
use crate::support::place::Place;
use crate::support::process::{Process, say};

/// How many cuts for each policy; `.ci/nightly` asks for more.
const CUTS: &str = "TOKIO_FILELOCK_TEST_CUTS";

const POLICIES: [(&str, SyncPolicy); 3] = [
    ("Never", SyncPolicy::Never),
    ("Values", SyncPolicy::Values),
    ("Inserts", SyncPolicy::Inserts),
];

const TASKS: usize = 4;
const KEYS: usize = 6;
/// How many times each key gets a value.
const VERSIONS: usize = 4;

#[test]
fn a_power_cut_on_ext4() {
    cut("ext4", 40);
}

#[test]
fn a_power_cut_on_xfs() {
    cut("xfs", 10);
}

#[test]
fn a_power_cut_on_btrfs() {
    cut("btrfs", 10);
}

fn cut(file_system: &'static str, cuts: usize) {
    if lacks(&[Need::Root, Need::Fuse, Need::Disk(file_system)]) {
        return;
    }
    let cuts = std::env::var(CUTS).map_or(cuts, |cuts| cuts.parse().unwrap());
    println!("| file system | policy | cuts | whole | absent | torn | lost | flushes an insert |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut failed = Vec::new();
    for (policy, _) in POLICIES {
        let place = Place::new();
        let work = place.directory().to_str().unwrap();
        let seed = fastrand::u64(..).to_string();
        let arguments = [file_system, policy, &cuts.to_string(), &seed, work];
        let process =
            Process::in_role_under(&["unshare", "--mount"], Role::CutThePower, &arguments);
        loop {
            let event = process.event();
            match event.split_once(": ").unwrap_or((&event, "")) {
                ("cut", _) => {}
                ("wrong", what) => failed.push(format!("{file_system}, {policy}, {seed}: {what}")),
                ("row", row) => break println!("{row}"),
                _ => panic!("no event: {event}"),
            }
        }
        process.finish();
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// One of the two caches, and one of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    checksums: bool,
    task: usize,
    number: usize,
}

impl Item {
    fn all() -> impl Iterator<Item = Self> {
        (0..2 * TASKS * KEYS).map(|number| Self {
            checksums: number % 2 == 1,
            task: number / 2 % TASKS,
            number: number / 2 / TASKS,
        })
    }

    /// Every second key is longer than its name can be.
    fn key(self) -> String {
        let Self { task, number, .. } = self;
        match number % 2 {
            0 => format!("task-{task}-{number}"),
            _ => format!("https://registry.example.org/{task}/{number}?{}", "long".repeat(50)),
        }
    }

    /// Every third key has directories.
    fn is_directory(self) -> bool {
        self.number >= KEYS - KEYS / 3
    }

    /// A directory with the value in it, and its version, some levels down.
    fn fill(self, directory: &Path, version: usize) -> io::Result<()> {
        let below = directory.join("below/and below");
        fs::create_dir_all(&below)?;
        fs::write(directory.join("value"), self.value(version))?;
        fs::write(below.join("version"), version.to_string())?;
        symlink("below/and below/version", directory.join("link"))
    }

    /// Of what a directory holds: this version, or nothing that was ever put in.
    fn version_in(self, directory: &Path) -> Option<usize> {
        let version = fs::read_to_string(directory.join("below/and below/version")).ok()?;
        let version = version.parse().ok().filter(|version| (1..=VERSIONS).contains(version))?;
        let is_link = directory.join("link").is_symlink();
        (is_link && fs::read(directory.join("value")).ok()? == self.value(version))
            .then_some(version)
    }

    async fn insert(self, cache: &CacheDir, version: usize) {
        if self.is_directory() {
            let fill = |directory: PathBuf| async move { self.fill(&directory, version) };
            drop(cache.insert_dir(self.key(), fill).await.unwrap());
        } else {
            cache.insert(self.key(), &self.value(version)[..]).await.unwrap();
        }
    }

    /// The version that is there, if there is one, and if it is whole.
    async fn look(self, cache: &CacheDir, begun: usize) -> Result<Option<Option<usize>>, Error> {
        let value = if self.is_directory() {
            let Some(found) = cache.get_dir(self.key()).await? else { return Ok(None) };
            self.version_in(found.path()).filter(|version| *version <= begun)
        } else {
            let Some(value) = cache.read(self.key()).await? else { return Ok(None) };
            (1..=begun).rev().find(|&version| self.value(version) == value)
        };
        Ok(Some(value))
    }

    /// From nothing to some blocks.
    fn value(self, version: usize) -> Vec<u8> {
        let line = format!("{} {version}\n", self.key());
        let times = [1, 0, 40, 300][(self.number + version) % 4];
        line.repeat(times).into_bytes()
    }
}

/// One insert, in moments of the disk.
#[derive(Debug, Clone, Copy)]
struct Insert {
    item: Item,
    version: usize,
    begun: usize,
    returned: usize,
}

#[derive(Default)]
struct Seen {
    whole: usize,
    absent: usize,
    torn: usize,
    lost: usize,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whole, absent, torn, lost } = self;
        write!(f, "{whole} | {absent} | {torn} | {lost}")
    }
}

/// The role `CutThePower`.
pub(crate) fn cut_the_power(arguments: &[String]) {
    let [file_system, policy, cuts, seed, work] = arguments else { panic!("five arguments") };
    let policy = POLICIES.into_iter().find(|(name, _)| name == policy).unwrap();
    let (cuts, mut random) =
        (cuts.parse::<usize>().unwrap(), Rng::with_seed(seed.parse().unwrap()));
    let work = Path::new(work);
    in_memory(work);
    let disk = Arc::new(Disk::new(file_system, work));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let first = disk.moment();
    let inserts = runtime.block_on(workload(&disk, policy.1));
    let last = disk.moment();
    let mut recorded = Arc::into_inner(disk).unwrap().record(last);

    let mut moments: Vec<usize> =
        (0..cuts).map(|_| random.usize(first..=recorded.moments())).collect();
    moments.sort_unstable();
    let (image, at) = (work.join("after"), work.join("again"));
    fs::create_dir(&at).unwrap();
    let mut seen = Seen::default();
    for moment in moments {
        recorded.cut(moment, &mut random, &image);
        let mounted = Mounted::new(&image, &at);
        let found = runtime.block_on(check(&at, policy.1, &inserts, moment, &mut seen));
        found.iter().for_each(|wrong| say(&format!("wrong: at {moment} of {last}: {wrong}")));
        drop(mounted);
        say("cut");
    }
    say(&format!("row: {}", row(file_system, policy.0, cuts, &seen, &inserts, &recorded)));
}

fn row(
    file_system: &str,
    policy: &str,
    cuts: usize,
    seen: &Seen,
    inserts: &[Insert],
    recorded: &Recorded,
) -> String {
    let flushes = recorded.flushes(0, recorded.moments()) as f64 / inserts.len() as f64;
    format!("| {file_system} | {policy} | {cuts} | {seen} | {flushes:.2} |")
}

fn cache_at(mounted: &Path, checksums: bool) -> PathBuf {
    mounted.join(if checksums { "with checksums" } else { "plain" })
}

async fn open(mounted: &Path, policy: SyncPolicy, checksums: bool) -> CacheDir {
    let options = CacheDir::options().sync(policy).checksums(checksums);
    options.open(cache_at(mounted, checksums)).await.unwrap()
}

/// Tasks that insert and replace values, each in its own keys.
async fn workload(disk: &Arc<Disk>, policy: SyncPolicy) -> Vec<Insert> {
    let caches = [open(disk.path(), policy, false).await, open(disk.path(), policy, true).await];
    let inserts = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (caches, disk, inserts) = (caches.clone(), disk.clone(), inserts.clone());
        tasks.spawn(async move {
            for version in 1..=VERSIONS {
                for item in Item::all().filter(|item| item.task == task) {
                    let begun = disk.moment();
                    let cache = &caches[usize::from(item.checksums)];
                    item.insert(cache, version).await;
                    let returned = disk.moment();
                    let insert = Insert { item, version, begun, returned };
                    inserts.lock().unwrap().push(insert);
                }
                // What nothing is asked of is written some time, too. This disk only: a sync of all would wait for
                // the disks of other tests.
                disk.sync();
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    drop(caches);
    Arc::into_inner(inserts).unwrap().into_inner().unwrap()
}

/// What is wrong with the caches after a cut at this moment.
async fn check(
    mounted: &Path,
    policy: SyncPolicy,
    inserts: &[Insert],
    moment: usize,
    seen: &mut Seen,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for checksums in [false, true] {
        let cache = open(mounted, policy, checksums).await;
        for item in Item::all().filter(|item| item.checksums == checksums) {
            let of_item = || inserts.iter().filter(|insert| insert.item == item);
            let begun = of_item().filter(|insert| insert.begun <= moment);
            let begun = begun.map(|insert| insert.version).max().unwrap_or(0);
            let returned = of_item().filter(|insert| insert.returned <= moment);
            let returned = returned.map(|insert| insert.version).max().unwrap_or(0);
            let there = match item.look(&cache, begun).await {
                Ok(there) => there,
                Err(error) => {
                    wrong.push(format!("{item:?}: {error}"));
                    continue;
                }
            };
            match there {
                Some(Some(_)) => seen.whole += 1,
                Some(None) => seen.torn += 1,
                None => seen.absent += 1,
            }
            let is_checked = checksums && !item.is_directory();
            if there == Some(None) && (policy != SyncPolicy::Never || is_checked) {
                wrong.push(format!("{item:?}: torn"));
            }
            let is_lost = there.flatten().unwrap_or(0) < returned;
            if is_lost && policy == SyncPolicy::Inserts {
                seen.lost += 1;
                wrong.push(format!("{item:?}: version {returned} was in, found {there:?}"));
            }
        }
        let value = b"after the cut".to_vec();
        match cache.insert("new", &value[..]).await {
            Ok(_) if cache.read("new").await.unwrap() == Some(value) => {}
            inserted => wrong.push(format!("a new value: {inserted:?}")),
        }
    }
    wrong
}
