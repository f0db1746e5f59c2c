//! Who gets the lock, and when: this crate with several tenures, plain flock(2) in threads, and
//! `spawn_blocking(flock)`, in one run.
//!
//! `cargo bench --bench turns` prints a Markdown table for each load; `-- --quick` runs shorter.
//! Every actor is a process of its own (this program again). All of a load start together and run
//! for the same time.
#![allow(clippy::disallowed_methods)] // the rivals lock by themselves

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs2::FileExt;
use tokio::runtime::{Builder, Runtime};
use tokio_filelock::{ExclusiveGuard, FileLock, SharedGuard, Tenure};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const READERS: usize = 16;
const TASKS: usize = 100;
/// Plain locks wait in threads; a hundred of them would measure the scheduler.
const THREADS: usize = 8;
const WARM_UP: Duration = Duration::from_millis(100);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, marker, system, role, path, milliseconds] = &arguments[..] {
        if marker == "actor" {
            let time = Duration::from_millis(milliseconds.parse()?);
            return act(System::named(system), role, Path::new(path), time);
        }
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let time = Duration::from_millis(if quick { 400 } else { 1_500 });
    println!("load average before: {}", fs::read_to_string("/proc/loadavg")?.trim());
    let directory = tempfile::tempdir()?;
    for load in LOADS {
        println!("\n{}, {} ms each\n", load.name, time.as_millis());
        println!(
            "| system | {} |\n|---{}|",
            load.columns,
            "|---".repeat(load.columns.matches('|').count() + 1)
        );
        for (number, system) in load.systems.iter().enumerate() {
            let path = directory.path().join(format!("{}{number}.lock", load.roles[0]));
            println!("| {} | {} |", system.name(), measure(load, *system, &path, time)?);
        }
    }
    println!("\nload average after: {}", fs::read_to_string("/proc/loadavg")?.trim());
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum System {
    Default,
    /// So many handovers in a tenure.
    Handovers(u32),
    /// flock(2), a thread for each that waits.
    Plain,
    SpawnBlocking,
}

use System::{Default, Handovers, Plain, SpawnBlocking};

impl System {
    fn name(self) -> String {
        match self {
            Default => "this crate".into(),
            Handovers(most) => format!("this crate, {most} handovers"),
            Plain => "flock in threads".into(),
            SpawnBlocking => "spawn_blocking(flock)".into(),
        }
    }

    fn named(name: &str) -> Self {
        let handovers = [0, 1, 16, 64, 1024].map(Handovers);
        let all = handovers.into_iter().chain([Default, Plain, SpawnBlocking]);
        all.into_iter().find(|system| system.name() == name).expect("a system")
    }
}

struct Load {
    name: &'static str,
    /// What there is one of, and what there are several of; the first is the one that waits.
    roles: [&'static str; 2],
    others: usize,
    systems: &'static [System],
    columns: &'static str,
}

const LOADS: &[Load] = &[
    Load {
        name: "One writer against 16 processes of readers that hold for 2 ms",
        roles: ["writer", "reader"],
        others: READERS,
        systems: &[Default, Plain, SpawnBlocking],
        columns: "writes | wait p50 / p99 / max, ms | reads/s",
    },
    Load {
        name: "One process that thinks for 1 ms against one that locks again at once",
        roles: ["thinker", "hot"],
        others: 1,
        systems: &[Default, Plain, SpawnBlocking],
        columns: "locks | wait p50 / p99 / max, ms | locks/s of the other",
    },
    Load {
        name: "Two processes of 100 tasks (8 threads for plain flock) with sections of 50 µs",
        roles: ["crowd", "crowd"],
        others: 1,
        systems: &[
            Default,
            Handovers(1),
            Handovers(16),
            Handovers(64),
            Handovers(1024),
            Plain,
            SpawnBlocking,
        ],
        columns: "locks of one | wait p50 / p99 / max, ms | locks/s of the other | locks/s of both | Jain | OS tenures of both",
    },
    Load {
        name: "One foreign process (plain flock, thinks for 2 ms) against one of 100 tasks with empty sections",
        roles: ["foreigner", "empty crowd"],
        others: 1,
        systems: &[
            Default,
            Handovers(1),
            Handovers(16),
            Handovers(64),
            Handovers(1024),
            Plain,
            SpawnBlocking,
        ],
        columns: "locks | wait p50 / p99 / max, ms | locks/s of the other",
    },
];

// ---- the parent ----

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    locks: f64,
    tenures: f64,
    p50: f64,
    p99: f64,
    max: f64,
}

fn measure(load: &Load, system: System, path: &Path, time: Duration) -> Result<String> {
    File::create(path)?;
    let start = |role: &str| -> Result<Child> {
        let mut actor = Command::new(std::env::current_exe()?);
        actor.args(["actor", &system.name(), role]).arg(path).arg(time.as_millis().to_string());
        Ok(actor.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
    };
    let mut actors = vec![start(load.roles[0])?];
    for _ in 0..load.others {
        actors.push(start(load.roles[1])?);
    }
    let mut outputs = Vec::new();
    for actor in &mut actors {
        let mut output = BufReader::new(actor.stdout.take().expect("piped"));
        output.read_line(&mut String::new())?;
        outputs.push(output);
    }
    for actor in &mut actors {
        writeln!(actor.stdin.as_mut().expect("piped"))?;
    }
    let mut seen = Vec::new();
    for (mut actor, mut output) in actors.into_iter().zip(outputs) {
        let mut line = String::new();
        output.read_line(&mut line)?;
        assert!(actor.wait()?.success());
        let figures: Vec<f64> =
            line.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?;
        let [locks, tenures, p50, p99, max] = figures[..] else { return Err(line.into()) };
        seen.push(Seen { locks, tenures, p50, p99, max });
    }
    let one = seen[0];
    let others: f64 = seen[1..].iter().map(|seen| seen.locks).sum();
    let seconds = time.as_secs_f64();
    let mut row = format!(
        "{} | {:.2} / {:.2} / {:.1} | {:.0}",
        one.locks,
        one.p50,
        one.p99,
        one.max,
        others / seconds
    );
    if load.roles[0] == load.roles[1] {
        let both = one.locks + others;
        let jain = both * both / (2.0 * (one.locks * one.locks + others * others));
        let tenures: f64 = seen.iter().map(|seen| seen.tenures).sum();
        row += &format!(" | {:.0} | {jain:.3} | {tenures:.0}", both / seconds);
    }
    Ok(row)
}

// ---- the actors ----

fn act(system: System, role: &str, path: &Path, time: Duration) -> Result<()> {
    let system = if role == "foreigner" { Plain } else { system };
    let workers = if role.ends_with("crowd") { 2 } else { 1 };
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(512)
        .enable_all()
        .build()?;
    let lock = Lock::open(system, path)?;
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    let until = Instant::now() + WARM_UP + time;
    let job = Job { role: role.to_owned(), from: until - time, until };
    let Waits { locks, mut waits } = match (role.ends_with("crowd"), system) {
        (true, Plain) => {
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    let (path, job) = (path.to_owned(), job.clone());
                    std::thread::spawn(move || {
                        let lock = Lock::open(Plain, &path).expect("it opens");
                        futures::executor::block_on(job.run(&lock))
                    })
                })
                .collect();
            Waits::of_all(threads.into_iter().map(|thread| thread.join().expect("no panic")))
        }
        (true, _) => crowd(&runtime, &lock, &job),
        (false, _) => runtime.block_on(job.run(&lock)),
    };
    waits.sort_unstable_by(f64::total_cmp);
    let at = |part: usize| {
        waits.get(waits.len().saturating_sub(1) * part / 100).copied().unwrap_or(f64::NAN)
    };
    let tenures = lock.tenures().unwrap_or(locks);
    println!("{locks} {tenures} {} {} {}", at(50), at(99), at(100));
    Ok(())
}

fn crowd(runtime: &Runtime, lock: &Lock, job: &Job) -> Waits {
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..TASKS {
            let (lock, job) = (lock.clone(), job.clone());
            tasks.spawn(async move { job.run(&lock).await });
        }
        Waits::of_all(tasks.join_all().await)
    })
}

#[derive(Clone)]
struct Job {
    role: String,
    /// After the warm-up.
    from: Instant,
    until: Instant,
}

impl Job {
    /// Locks until the time is up. A wait that goes on after that is a wait, but no lock of this
    /// run.
    async fn run(&self, lock: &Lock) -> Waits {
        let mut seen = Waits::default();
        while Instant::now() < self.until {
            let asked = Instant::now();
            let held = match self.role.as_str() {
                "reader" => lock.shared().await,
                _ => lock.exclusive().await,
            };
            let now = Instant::now();
            if now >= self.from {
                seen.waits.push((now - asked).as_secs_f64() * 1e3);
                seen.locks += u64::from(now < self.until);
            }
            match self.role.as_str() {
                "reader" => std::thread::sleep(Duration::from_millis(2)),
                "crowd" | "hot" => while now.elapsed() < Duration::from_micros(50) {},
                _ => {}
            }
            drop(held);
            match self.role.as_str() {
                "thinker" | "writer" => std::thread::sleep(Duration::from_millis(1)),
                "foreigner" => std::thread::sleep(Duration::from_millis(2)),
                _ => {}
            }
        }
        seen
    }
}

#[derive(Default)]
struct Waits {
    locks: u64,
    /// In milliseconds.
    waits: Vec<f64>,
}

impl Waits {
    fn of_all(many: impl IntoIterator<Item = Waits>) -> Self {
        many.into_iter().fold(Self::default(), |mut all, one| {
            all.locks += one.locks;
            all.waits.extend(one.waits);
            all
        })
    }
}

#[derive(Clone)]
enum Lock {
    Ours(FileLock),
    /// A descriptor for each that locks: locks of one exclude nobody.
    Plain(Arc<File>),
    SpawnBlocking(PathBuf),
}

/// Released when it is dropped.
enum Held {
    Exclusive { _guard: ExclusiveGuard },
    Shared { _guard: SharedGuard },
    Plain(Arc<File>),
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Held::Plain(file) = self {
            FileExt::unlock(&**file).expect("unlock");
        }
    }
}

impl Lock {
    fn open(system: System, path: &Path) -> Result<Self> {
        let options = FileLock::options();
        Ok(match system {
            Default => Lock::Ours(options.blocking_open(path)?),
            Handovers(most) => {
                let tenure = Tenure::default().handovers(most);
                Lock::Ours(options.tenure(tenure).blocking_open(path)?)
            }
            Plain => Lock::Plain(File::open(path)?.into()),
            SpawnBlocking => Lock::SpawnBlocking(path.into()),
        })
    }

    async fn exclusive(&self) -> Held {
        match self {
            Lock::Ours(lock) => Held::Exclusive { _guard: lock.lock().await.expect("lock") },
            _ => self.plain(FileExt::lock_exclusive).await,
        }
    }

    async fn shared(&self) -> Held {
        match self {
            Lock::Ours(lock) => Held::Shared { _guard: lock.lock_shared().await.expect("lock") },
            _ => self.plain(FileExt::lock_shared).await,
        }
    }

    async fn plain(
        &self,
        lock: impl FnOnce(&File) -> std::io::Result<()> + Send + 'static,
    ) -> Held {
        match self {
            Lock::Plain(file) => {
                lock(file).expect("lock");
                Held::Plain(file.clone())
            }
            Lock::SpawnBlocking(path) => {
                let path = path.clone();
                let call = move || {
                    let file = File::open(path).expect("open");
                    lock(&file).expect("lock");
                    Held::Plain(file.into())
                };
                tokio::task::spawn_blocking(call).await.expect("no panic")
            }
            Lock::Ours(_) => unreachable!("not a plain lock"),
        }
    }

    fn tenures(&self) -> Option<u64> {
        match self {
            Lock::Ours(lock) => Some(lock.counters().tenures),
            _ => None,
        }
    }
}
