//! What waiting tasks cost, and what becomes of waits that no task wants any more.
//!
//! Another process holds the locks throughout. The rival is the usual way: `spawn_blocking` with a
//! lock call that blocks, on a file that is opened for it.

use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use stats_alloc::Region;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, spawn_blocking, yield_now};
use tokio_filelock::FileLock;

use crate::actors::{Actor, next_line};
use crate::figures::{Figures, Samples};
use crate::kernel_waits::{await_in_flock, await_no_wait_threads, in_flock, is_in_flock, threads};
use crate::{ALLOCATOR, Effort, Result};

const FILES: usize = 64;
const CANCELS_OF_RIVAL: usize = 20;
const CROWD: usize = 10_000;
const WAITERS: usize = 600;
const READS: usize = 100;

/// After this time something that has not happened is said not to happen.
const GIVE_UP: Duration = Duration::from_secs(1);

pub(crate) fn measure(effort: Effort, directory: &Path, figures: &mut Figures) -> Result<()> {
    println!("\nWaits for a lock that another process keeps\n");
    println!("| what | this crate | flock in spawn_blocking |\n|---|---|---|");
    cancels(effort, directory, figures)?;
    runtime_drops(effort, directory, figures)?;
    crowd_of_waiters(directory, figures)?;
    reads_beside_waiters(effort, directory, figures)
}

fn row(what: &str, ours: &str, rivals: &str) {
    println!("| {what} | {ours} | {rivals} |");
}

// ---- the holder, in a process of its own ----

fn lock_file(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("waits {number}"))
}

fn holder(directory: &Path) -> Result<Actor> {
    let mut holder = Actor::start(["waits", directory.to_str().expect("a plain name")])?;
    holder.answer()?;
    Ok(holder)
}

/// Locks every lock file until its input ends.
pub(crate) fn act(words: &[String]) -> Result<()> {
    let [directory] = words else { return Err("one word".into()) };
    let mut held = Vec::new();
    for number in 0..FILES {
        let file = File::create(lock_file(Path::new(directory), number))?;
        file.lock()?;
        held.push(file);
    }
    println!();
    while next_line()?.is_some() {}
    Ok(())
}

async fn rival(path: PathBuf) {
    let lock = move || {
        let file = File::open(path).expect("open");
        file.lock().expect("lock");
    };
    spawn_blocking(lock).await.expect("no panic");
}

fn two_workers() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

// ---- from the cancel to the thread ----

fn cancels(effort: Effort, directory: &Path, figures: &mut Figures) -> Result<()> {
    let holder = holder(directory)?;
    let path = lock_file(directory, 0);
    let lock = FileLock::options().blocking_open(&path)?;
    let mut times = Vec::new();
    for _ in 0..effort.of(300, 2_000) {
        let acquire = poll_once(lock.lock());
        let parked = await_in_flock(1);
        let started = Instant::now();
        drop(acquire);
        while is_in_flock(&parked[0]) {}
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let runtime = two_workers()?;
    for before in 0..CANCELS_OF_RIVAL {
        let task = runtime.spawn(rival(path.clone()));
        await_in_flock(before + 1);
        task.abort();
        let _ = runtime.block_on(task);
    }
    thread::sleep(GIVE_UP);
    let left = in_flock().len();
    holder.dismiss()?;
    let times = Samples::from(times);
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| times.quantile(part));
    row(
        "cancel to thread free, p50 / p99 / max",
        &format!("{p50:.2} / {p99:.2} / {max:.2} ms"),
        &format!("never: {left} of {CANCELS_OF_RIVAL} still wait after {GIVE_UP:?}"),
    );
    figures.record("cancel_p99", p99);
    Ok(())
}

fn poll_once<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    future
}

// ---- dropping a runtime ----

fn runtime_drops(effort: Effort, directory: &Path, figures: &mut Figures) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..effort.of(3, 10) {
        let time = time_of_drop(directory, |path| async move {
            let lock = FileLock::open(path).await.expect("it opens");
            drop(lock.lock().await);
        })?;
        times.push(time.ok_or("it hangs")?);
    }
    let rivals = match time_of_drop(directory, rival)? {
        Some(time) => format!("{time:.2} ms"),
        None => format!("hangs until the holder lets go (still after {GIVE_UP:?})"),
    };
    let times = Samples::from(times);
    row(
        &format!("drop of a runtime with {FILES} waits on {FILES} files"),
        &format!("{:.2} ms", times.median()),
        &rivals,
    );
    figures.record("runtime_drop_64", times);
    Ok(())
}

/// In milliseconds, if it ends.
fn time_of_drop<F>(directory: &Path, wait: impl Fn(PathBuf) -> F) -> Result<Option<f64>>
where
    F: Future<Output = ()> + Send + 'static,
{
    let holder = holder(directory)?;
    let runtime = two_workers()?;
    for number in 0..FILES {
        runtime.spawn(wait(lock_file(directory, number)));
    }
    await_in_flock(FILES);
    let (dropped, is_dropped) = mpsc::channel();
    let started = Instant::now();
    thread::spawn(move || {
        drop(runtime);
        let _ = dropped.send(started.elapsed());
    });
    let answer = is_dropped.recv_timeout(GIVE_UP);
    holder.dismiss()?;
    if answer.is_err() {
        is_dropped.recv()?;
    }
    // Waits that were interrupted leave their threads idle; the next figure counts threads.
    await_no_wait_threads();
    Ok(answer.ok().map(|time| time.as_secs_f64() * 1e3))
}

// ---- a crowd of waiters ----

fn crowd_of_waiters(directory: &Path, figures: &mut Figures) -> Result<()> {
    let holder = holder(directory)?;
    let lock = FileLock::options().blocking_open(lock_file(directory, 0))?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let before = threads();
    let (bytes, of_future, more) = runtime.block_on(async {
        let queued = Arc::<AtomicUsize>::default();
        let mut tasks = JoinSet::new();
        for _ in 0..CROWD {
            let (lock, queued) = (lock.clone(), queued.clone());
            tasks.spawn(async move {
                let mut acquire = pin!(lock.lock());
                let mut first = true;
                let guard = std::future::poll_fn(|cx| {
                    let answer = acquire.as_mut().poll(cx);
                    if std::mem::take(&mut first) {
                        queued.fetch_add(1, Ordering::Relaxed);
                    }
                    answer
                });
                drop(guard.await);
            });
        }
        // The tasks are there, with the futures in them, and none has been polled.
        let waiting = Region::new(ALLOCATOR);
        while queued.load(Ordering::Relaxed) < CROWD {
            yield_now().await;
        }
        let change = waiting.change();
        let bytes = change.bytes_allocated as f64 - change.bytes_deallocated as f64;
        (bytes / CROWD as f64, size_of_val(&lock.lock()), threads() - before)
    });
    holder.dismiss()?;
    row(
        &format!("threads for {CROWD} waiting tasks on one file"),
        &more.to_string(),
        "512, and no more of the tasks wait",
    );
    row(
        "heap for a waiting task beyond the task itself",
        &format!("{bytes:.0} bytes; its future is one of {of_future}"),
        "a thread",
    );
    figures.record("waiters10k_threads", more as f64);
    figures.record("waiter_bytes", bytes);
    Ok(())
}

// ---- tokio::fs beside waiters ----

fn reads_beside_waiters(effort: Effort, directory: &Path, figures: &mut Figures) -> Result<()> {
    let holder = holder(directory)?;
    let path = lock_file(directory, 0);
    let lock = FileLock::options().blocking_open(&path)?;
    let runtime = two_workers()?;
    // The pool's first thread is made by the first read.
    runtime.block_on(median_of_reads());
    let (mut ratios, mut alone, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.of(10, 40) {
        let idle = runtime.block_on(median_of_reads());
        let busy = runtime.block_on(async {
            let waiting = || {
                let lock = lock.clone();
                async move { drop(lock.lock().await) }
            };
            let waiters: JoinSet<_> = (0..WAITERS).map(|_| waiting()).collect();
            await_in_flock(1);
            let time = median_of_reads().await;
            drop(waiters);
            time
        });
        ratios.push(busy / idle);
        alone.push(idle);
        beside.push(busy);
    }
    let starved = runtime.block_on(async {
        let waiters: JoinSet<_> = (0..WAITERS).map(|_| rival(path.clone())).collect();
        await_in_flock(1);
        // Nothing tells when the last thread has come.
        tokio::time::sleep(GIVE_UP).await;
        let read = tokio::time::timeout(GIVE_UP, tokio::fs::read("/proc/self/comm")).await;
        drop(waiters);
        read.is_err()
    });
    holder.dismiss()?;
    row(
        &format!("tokio::fs::read beside {WAITERS} waiting tasks"),
        &format!(
            "{:.0} µs (alone {:.0} µs)",
            Samples::from(beside).median(),
            Samples::from(alone).median()
        ),
        if starved { "starved" } else { "runs" },
    );
    println!();
    figures.record("fs_under_600_waiters", ratios);
    Ok(())
}

/// In microseconds.
async fn median_of_reads() -> f64 {
    let mut times = Vec::new();
    for _ in 0..READS {
        let started = Instant::now();
        tokio::fs::read("/proc/self/comm").await.expect("it is there");
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Samples::from(times).median()
}
