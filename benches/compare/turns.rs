//! Who gets the lock, and when: loads of several processes.
//!
//! All actors of a load start together and run for the same time. A wait that has not ended when
//! the time is up counts as long as it lasted.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio_filelock::{FileLock, OpenOptions, Tenure};

use crate::actors::{Actor, next_line};
use crate::figures::{Figures, Samples};
use crate::peers::{Default, Options, Ours, Peer, RawFlock, SharingPeer, Std};
use crate::{Effort, Result};

const WARM_UP: Duration = Duration::from_millis(100);

/// This crate with so many handovers in a tenure.
struct Handovers<const MOST: u32>;

impl<const MOST: u32> Options for Handovers<MOST> {
    const NAME: &'static str = match MOST {
        0 => "this crate, Tenure::single()",
        1 => "this crate, 1 handover",
        16 => "this crate, 16 handovers",
        64 => "this crate, 64 handovers",
        _ => "this crate, more handovers",
    };

    fn options() -> OpenOptions {
        FileLock::options().tenure(Tenure::default().handovers(MOST))
    }
}

/// What an actor does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Role {
    /// Writes, then thinks for 1 ms.
    Writer,
    /// Reads for 2 ms, again and again.
    Reader,
    /// Locks again at once, with sections of 50 µs.
    Hot,
    /// The same with sections of 20 µs.
    Brisk,
    /// So many of those in tasks, or in threads.
    Tasks(usize),
    Threads(usize),
    /// A hundred tasks with empty sections.
    EmptyTasks,
    /// Plain flock(2) whatever the others do, and thinks for 2 ms.
    Foreigner,
}

use Role::{Brisk, EmptyTasks, Foreigner, Hot, Reader, Tasks, Threads, Writer};

struct Load {
    name: &'static str,
    one: &'static str,
    others: &'static str,
    /// Name, system, what there is one of, what there are so many of.
    contestants: Vec<(String, &'static str, Role, Role, usize)>,
}

const OURS: &str = Ours::<Default>::NAME;

fn loads() -> Vec<Load> {
    let systems = |one: Role, other: Role, count: usize| {
        [OURS, RawFlock::NAME, Std::NAME]
            .map(|system| (system.to_owned(), system, one, other, count))
            .to_vec()
    };
    let with_tenures = |one: Role, other: Role| {
        let tenures = [
            Ours::<Handovers<0>>::NAME,
            Ours::<Handovers<1>>::NAME,
            Ours::<Handovers<16>>::NAME,
            Ours::<Handovers<64>>::NAME,
        ];
        let systems = [OURS].into_iter().chain(tenures).chain([Std::NAME]);
        systems.map(|system| (system.to_owned(), system, one, other, 1)).collect::<Vec<_>>()
    };
    let threads = |count: usize, each: &str| {
        (format!("flock(2), {each} each"), RawFlock::NAME, Threads(count), Threads(count), 1)
    };
    let mut crowds = with_tenures(Tasks(100), Tasks(100));
    crowds.extend([threads(1, "a thread"), threads(8, "8 threads")]);
    let mut foreigner = with_tenures(Foreigner, EmptyTasks);
    foreigner.push(("flock(2), 8 threads".into(), RawFlock::NAME, Foreigner, Threads(8), 1));
    vec![
        Load {
            name: "One writer against 16 processes of readers that hold for 2 ms",
            one: "the writer",
            others: "the readers",
            contestants: systems(Writer, Reader, 16),
        },
        Load {
            name: "One process that thinks for 1 ms against one that locks again at once for 50 µs",
            one: "the thinker",
            others: "the hot one",
            contestants: systems(Writer, Hot, 1),
        },
        Load {
            name: "Four processes that lock again at once for 20 µs",
            one: "one of four",
            others: "the others",
            contestants: systems(Brisk, Brisk, 3),
        },
        Load {
            name: "Two processes of 100 tasks with sections of 50 µs",
            one: "one",
            others: "the other",
            contestants: crowds,
        },
        Load {
            name: "One process with plain flock(2) that thinks for 2 ms against 100 tasks with empty sections",
            one: "the foreigner",
            others: "the tasks",
            contestants: foreigner,
        },
    ]
}

// ---- the parent ----

pub(crate) fn measure(effort: Effort, directory: &Path, figures: &mut Figures) -> Result<()> {
    let time = Duration::from_millis(effort.of(400, 1_000));
    for (number, load) in loads().into_iter().enumerate() {
        let mut runs = vec![Vec::new(); load.contestants.len()];
        for round in 0..effort.of(1, 3) {
            for (runs, (_, system, one, other, count)) in runs.iter_mut().zip(&load.contestants) {
                let path = directory.join(format!("turns {number} {round} {}", runs.len()));
                runs.push(run(system, *one, (*other, *count), &path, time)?);
            }
        }
        print(&load, &runs);
        match load.one {
            "the writer" => figures.record("writer_max_wait", worst(&runs[0], |run| run.max)),
            "one of four" => record_four(&runs, figures),
            "one" => record_crowds(&runs, figures),
            _ => {}
        }
    }
    Ok(())
}

fn record_four(runs: &[Vec<Run>], figures: &mut Figures) {
    let ratios = runs[0].iter().zip(&runs[1]).map(|(ours, plain)| ours.both() / plain.both());
    figures.record("procs4_throughput_vs_raw", ratios.collect::<Vec<_>>());
    figures.record("procs4_max_wait", worst(&runs[0], |run| run.max.max(run.max_of_others)));
}

fn record_crowds(runs: &[Vec<Run>], figures: &mut Figures) {
    let threads = &runs[runs.len() - 2];
    let ratios = runs[0].iter().zip(threads).map(|(ours, plain)| ours.both() / plain.both());
    figures.record("procs2_throughput_vs_raw", ratios.collect::<Vec<_>>());
    figures.record("procs2_max_wait", worst(&runs[0], |run| run.max.max(run.max_of_others)));
    figures.record("procs2_jain", -worst(&runs[0], |run| -run.jain()));
}

fn worst(runs: &[Run], figure: impl Fn(&Run) -> f64) -> f64 {
    runs.iter().map(figure).fold(f64::NEG_INFINITY, f64::max)
}

fn print(load: &Load, runs: &[Vec<Run>]) {
    let Load { name, one, others, .. } = load;
    println!(
        "\n{name}\n\n| contestant | locks/s of {one} | its wait p50 / p99 / max, ms | locks/s of {others} | kernel locks/s |\n|---|---|---|---|---|"
    );
    for ((name, ..), runs) in load.contestants.iter().zip(runs) {
        let median = |figure: fn(&Run) -> f64| {
            Samples::from(runs.iter().map(figure).collect::<Vec<_>>()).median()
        };
        println!(
            "| {name} | {:.0} | {:.2} / {:.2} / {:.1} | {:.0} | {:.0} |",
            median(|run| run.one),
            median(|run| run.p50),
            median(|run| run.p99),
            worst(runs, |run| run.max),
            median(|run| run.others),
            median(|run| run.tenures),
        );
    }
    println!();
}

/// What one run of a load came to. Rates are those of a second, waits are in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Run {
    one: f64,
    others: f64,
    tenures: f64,
    p50: f64,
    p99: f64,
    max: f64,
    max_of_others: f64,
}

impl Run {
    fn both(&self) -> f64 {
        self.one + self.others
    }

    fn jain(&self) -> f64 {
        let squares = self.one * self.one + self.others * self.others;
        self.both() * self.both() / (2.0 * squares)
    }
}

fn run(
    system: &str,
    one: Role,
    (other, count): (Role, usize),
    path: &Path,
    time: Duration,
) -> Result<Run> {
    std::fs::File::create(path)?;
    let path = path.to_str().expect("a temporary directory has a plain name");
    let milliseconds = time.as_millis().to_string();
    let roles = [one].into_iter().chain(std::iter::repeat_n(other, count));
    let mut actors = Vec::new();
    for role in roles {
        let role = role.as_word();
        actors.push(Actor::start(["turns", system, &role, path, &milliseconds])?);
    }
    for actor in &mut actors {
        actor.answer()?;
    }
    for actor in &mut actors {
        actor.tell("")?;
    }
    let mut answers = Vec::new();
    for mut actor in actors {
        answers.push(actor.answer()?);
        actor.dismiss()?;
    }
    let rates = |at: usize| answers.iter().map(move |answer| answer[at] / time.as_secs_f64());
    Ok(Run {
        one: rates(0).next().expect("there is one"),
        others: rates(0).skip(1).sum(),
        tenures: rates(1).sum(),
        p50: answers[0][2],
        p99: answers[0][3],
        max: answers[0][4],
        max_of_others: answers[1..].iter().map(|answer| answer[4]).fold(0.0, f64::max),
    })
}

impl Role {
    fn as_word(self) -> String {
        format!("{self:?}")
    }

    fn of_word(word: &str) -> Self {
        let all = [Writer, Reader, Hot, Brisk, EmptyTasks, Foreigner];
        let crowds = [Tasks(100), Threads(1), Threads(8)];
        all.into_iter().chain(crowds).find(|role| role.as_word() == word).expect("a role")
    }
}

// ---- the actors ----

pub(crate) fn act(words: &[String]) -> Result<()> {
    let [system, role, path, milliseconds] = words else { return Err("four words".into()) };
    let role = Role::of_word(role);
    let system = if role == Foreigner { RawFlock::NAME } else { system };
    let act: fn(Role, &Path, Duration) -> Result<()> = match system {
        name if name == OURS => act_as::<Ours<Default>>,
        name if name == Ours::<Handovers<0>>::NAME => act_as::<Ours<Handovers<0>>>,
        name if name == Ours::<Handovers<1>>::NAME => act_as::<Ours<Handovers<1>>>,
        name if name == Ours::<Handovers<16>>::NAME => act_as::<Ours<Handovers<16>>>,
        name if name == Ours::<Handovers<64>>::NAME => act_as::<Ours<Handovers<64>>>,
        name if name == RawFlock::NAME => act_as::<RawFlock>,
        name if name == Std::NAME => act_as::<Std>,
        name => return Err(format!("no system {name}").into()),
    };
    act(role, Path::new(path), Duration::from_millis(milliseconds.parse()?))
}

fn act_as<P: SharingPeer>(role: Role, path: &Path, time: Duration) -> Result<()> {
    let (workers, peers) = match role {
        Tasks(count) => (2, P::open_for(count, path)?),
        EmptyTasks => (2, P::open_for(100, path)?),
        Threads(count) => (1, P::open_for(count, path)?),
        _ => (1, P::open_for(1, path)?),
    };
    let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    println!();
    next_line()?;
    let until = Instant::now() + WARM_UP + time;
    let span = Span { from: until - time, until };
    let seen: Vec<Seen> = match role {
        Threads(_) => {
            let lock = |peer| std::thread::spawn(move || Seen::alone(role.lock(peer, span)));
            let threads: Vec<_> = peers.into_iter().map(lock).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        }
        _ => runtime.block_on(async {
            let tasks = peers.into_iter().map(|peer| role.lock(peer, span));
            tasks.collect::<JoinSet<_>>().join_all().await
        }),
    };
    let locks: u64 = seen.iter().map(|seen| seen.locks).sum();
    // All handles of this crate in a process share the count.
    let tenures = seen.iter().find_map(|seen| seen.tenures).unwrap_or(locks);
    let waits: Vec<f64> = seen.into_iter().flat_map(|seen| seen.waits).collect();
    let waits = Samples::from(if waits.is_empty() { vec![f64::NAN] } else { waits });
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| waits.quantile(part));
    println!("{locks} {tenures} {p50} {p99} {max}");
    Ok(())
}

/// What is counted: what happens after the warm-up and before the end.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Instant,
    until: Instant,
}

/// What one task or thread has seen.
#[derive(Debug, std::default::Default)]
struct Seen {
    locks: u64,
    /// In milliseconds.
    waits: Vec<f64>,
    tenures: Option<u64>,
}

impl Seen {
    /// A thread that has nothing else to do, for locks that block.
    fn alone(locking: impl Future<Output = Self>) -> Self {
        futures::executor::block_on(locking)
    }
}

impl Role {
    /// Locks until the time is up. A wait that goes on after that is a wait, but no lock.
    async fn lock<P: SharingPeer>(self, mut peer: P, span: Span) -> Seen {
        let mut seen = Seen::default();
        let before = peer.tenures();
        while Instant::now() < span.until {
            let asked = Instant::now();
            let section = async move {
                let now = Instant::now();
                match self {
                    Reader => std::thread::sleep(Duration::from_millis(2)),
                    Hot | Tasks(_) | Threads(_) => {
                        while now.elapsed() < Duration::from_micros(50) {}
                    }
                    Brisk => while now.elapsed() < Duration::from_micros(20) {},
                    Writer | EmptyTasks | Foreigner => {}
                }
                now
            };
            let now = match self {
                Reader => peer.shared(section).await,
                _ => peer.exclusive(section).await,
            };
            if now >= span.from {
                seen.waits.push((now - asked).as_secs_f64() * 1e3);
                seen.locks += u64::from(now < span.until);
            }
            match self {
                Writer => std::thread::sleep(Duration::from_millis(1)),
                Foreigner => std::thread::sleep(Duration::from_millis(2)),
                _ => {}
            }
        }
        seen.tenures = peer.tenures().zip(before).map(|(after, before)| after - before);
        seen
    }
}
