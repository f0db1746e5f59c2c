//! One process of several: its tasks want every product, each in an order of its own.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{self, Cursor, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::task::{JoinSet, spawn_blocking};
use tokio_filelock::CacheDir;

use crate::Error;
use crate::arguments::Job;
use crate::copied::{self, Copied};
use crate::fill_log;
use crate::product::Product;
use crate::report::Report;
use crate::tree::Tree;

/// How often each task asks for each product.
const ROUNDS: usize = 3;

/// The cache in the home of the job.
pub(crate) async fn open(home: &Path) -> Result<CacheDir, Error> {
    Ok(CacheDir::open(home.join("cache")).await?)
}

pub(crate) fn log(home: &Path) -> PathBuf {
    home.join("fills")
}

/// Runs the tasks, and prints a [`Report`] for the parent.
pub(crate) async fn run(job: Job) -> Result<(), Error> {
    let cache = open(&job.home).await?;
    let root = job.directory.clone();
    let tree = spawn_blocking(move || Tree::list(&root)).await??;
    let copies = if job.tree { Copied::all(&tree.files) } else { Vec::new() };
    let worker = Arc::new(Worker { job, cache, products: Product::all(&tree.files), copies });
    spawn_blocking(wait_for_the_others).await??;
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..worker.job.tasks {
        let worker = worker.clone();
        tasks.spawn(async move { worker.want_everything().await });
    }
    let mut report = Report::default();
    while let Some(part) = tasks.join_next().await {
        report.merge(&part?);
    }
    let stats = worker.cache.stats().await?;
    (report.hits, report.waits, report.fills) = (stats.hits, stats.waits, stats.fills);
    report.time = begun.elapsed();
    stdout().write_all(report.to_string().as_bytes())?;
    Ok(())
}

/// The parent closes the standard input of the first processes when the last one is started.
fn wait_for_the_others() -> io::Result<()> {
    io::copy(&mut stdin(), &mut io::sink()).map(drop)
}

struct Worker {
    job: Job,
    cache: CacheDir,
    products: Vec<Product>,
    copies: Vec<Copied>,
}

impl Worker {
    async fn want_everything(self: Arc<Self>) -> Report {
        let mut report = Report::default();
        for _ in 0..ROUNDS {
            for number in shuffled(self.products.len() + self.copies.len()) {
                let copy = number.checked_sub(self.products.len());
                let (wanted, name) = match copy {
                    None => (self.want(number).await, &self.products[number].name),
                    Some(copy) => (self.want_copy(copy).await, &self.copies[copy].name),
                };
                match wanted {
                    Ok(bytes) => report.bytes += bytes,
                    Err(error) => {
                        report.failed += 1;
                        eprintln!("{name:?}: {error}");
                    }
                }
            }
        }
        report
    }

    /// Gets a product, from the cache or by making it; how long it is.
    async fn want(self: &Arc<Self>, number: usize) -> Result<u64, Error> {
        let make = || {
            let worker = self.clone();
            async move {
                // An error of the making, or of the thread: it goes to this task alone.
                let made = spawn_blocking(move || {
                    fill_log::note(&log(&worker.job.home), number)?;
                    worker.products[number].make(&worker.job.directory)
                });
                Ok::<_, io::Error>(Cursor::new(made.await??))
            }
        };
        let entry = self.cache.get_or_insert_with(self.products[number].key(), make).await?;
        Ok(entry.read().await?.len() as u64)
    }

    /// Gets a copy of a directory, and reads all that is in it, which the pin keeps meanwhile.
    async fn want_copy(self: &Arc<Self>, copy: usize) -> Result<u64, Error> {
        let pin = loop {
            let make = |directory: PathBuf| {
                let worker = self.clone();
                async move {
                    let made = spawn_blocking(move || {
                        fill_log::note(&log(&worker.job.home), worker.products.len() + copy)?;
                        worker.copies[copy].make(&worker.job.directory, &directory)
                    });
                    made.await?
                }
            };
            let key = self.copies[copy].key();
            let directory = self.cache.get_or_insert_dir_with(key, make).await?;
            if let Some(pin) = directory.pin().await? {
                break pin;
            }
        };
        let read = spawn_blocking(move || copied::files(pin.path())).await??;
        Ok(read.values().map(|content| content.len() as u64).sum())
    }
}

/// The numbers below this one, in a random order.
fn shuffled(count: usize) -> Vec<usize> {
    let random = RandomState::new();
    let mut numbers: Vec<_> = (0..count).collect();
    numbers.sort_by_cached_key(|number| random.hash_one(number));
    numbers
}
