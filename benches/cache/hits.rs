//! What a hit costs, beside plain reads of the same files. Both sides take turns.

use std::fmt::Write;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio_filelock::CacheDir;
use tokio_filelock::cache::SyncPolicy;

use crate::{Result, cpu_time};

const HOT_KEYS: usize = 16;
const BYTES: usize = 4096;
/// Reads in a round.
const READS: usize = 2_000;
const ROUNDS: usize = 61;

/// A value: its key, and its file.
#[derive(Clone)]
struct Hot {
    key: String,
    value: PathBuf,
}

pub(crate) fn compare() -> Result<()> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let directory = tempfile::tempdir()?;
    println!(
        "\n| {BYTES} bytes, {HOT_KEYS} hot keys | tasks | plain | cache | ratio | of CPU time |"
    );
    println!("|---|---|---|---|---|---|");
    let kinds = [("short keys", 20, false), ("long keys", 200, false), ("checksums", 20, true)];
    for (kind, length, checksums) in kinds {
        let path = directory.path().join(kind);
        let options = CacheDir::options().sync(SyncPolicy::Never).checksums(checksums);
        let cache = runtime.block_on(options.open(path))?;
        let hot: Arc<[Hot]> = runtime.block_on(fill(&cache, length))?.into();
        for what in ["read", "open"] {
            for tasks in [1, 100] {
                let compared = Comparison { runtime: &runtime, cache: &cache, hot: &hot, tasks };
                let ([plain, plain_cpu], [ours, our_cpu]) = compared.run(what == "read");
                let [ratio, of_cpu] = [(ours, plain), (our_cpu, plain_cpu)]
                    .map(|(ours, plain)| ours.as_secs_f64() / plain.as_secs_f64());
                println!(
                    "| {what}, {kind} | {tasks} | {plain:.1?} | {ours:.1?} | {ratio:.2} | {of_cpu:.2} |"
                );
            }
        }
    }
    Ok(())
}

async fn fill(cache: &CacheDir, length: usize) -> Result<Vec<Hot>> {
    let mut hot = Vec::new();
    for number in 0..HOT_KEYS {
        let mut key = String::new();
        write!(key, "{number:0length$}")?;
        let entry = cache.insert(&key, &vec![1; BYTES][..]).await?;
        hot.push(Hot { key, value: entry.path().to_owned() });
    }
    Ok(hot)
}

struct Comparison<'a> {
    runtime: &'a Runtime,
    cache: &'a CacheDir,
    hot: &'a Arc<[Hot]>,
    tasks: usize,
}

impl Comparison<'_> {
    /// The time of one and its CPU time, plain and by the cache: the best of many short rounds, because
    /// whatever else the machine does makes a round longer, and none shorter.
    fn run(&self, reads_all: bool) -> ([Duration; 2], [Duration; 2]) {
        let (mut plain, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            plain.push(self.time(move |_, hot| async move {
                if reads_all {
                    drop(tokio::fs::read(&hot.value).await.expect("it is there"));
                } else {
                    drop(tokio::fs::File::open(&hot.value).await.expect("it is there"));
                }
            }));
            ours.push(self.time(move |cache, hot| async move {
                if reads_all {
                    drop(cache.read(&hot.key).await.expect("it opens").expect("a hit"));
                } else {
                    drop(cache.get(&hot.key).await.expect("it opens").expect("a hit"));
                }
            }));
        }
        (best(&plain), best(&ours))
    }

    fn time<F>(&self, one: impl Fn(CacheDir, Hot) -> F + Copy + Send + 'static) -> [Duration; 2]
    where
        F: Future<Output = ()> + Send,
    {
        let (started, cpu) = (Instant::now(), cpu_time());
        let tasks = (0..self.tasks).map(|task| {
            let (cache, hot, reads) = (self.cache.clone(), self.hot.clone(), READS / self.tasks);
            self.runtime.spawn(async move {
                for read in 0..reads {
                    one(cache.clone(), hot[(task + read) % HOT_KEYS].clone()).await;
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            self.runtime.block_on(task).expect("it does not panic");
        }
        [started.elapsed(), cpu_time() - cpu].map(|time| time / READS as u32)
    }
}

fn best(rounds: &[[Duration; 2]]) -> [Duration; 2] {
    [0, 1].map(|which| rounds.iter().map(|round| round[which]).min().expect("some rounds"))
}
