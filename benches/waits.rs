//! What becomes of waits that nobody wants any more: this crate, and the same work done with
//! `spawn_blocking(flock)`, in one run.
//!
//! `cargo bench --bench waits` prints a Markdown table. Another process (this program again)
//! holds the locks throughout. Linux only: it looks into `/proc/self/task` to see which threads
//! are inside the lock call.
#![allow(clippy::disallowed_methods)] // the rival locks by itself

use std::error::Error;
use std::fs::{self, File};
use std::future::Future;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use fs2::FileExt;
use nix::libc;
use tokio::runtime::{Builder, Runtime};
use tokio_filelock::FileLock;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CANCELS: usize = 1_000;
const CANCELS_OF_RIVAL: usize = 20;
const FILES: usize = 64;
const WAITERS: usize = 600;
const READS: usize = 200;

/// After this time something that has not happened is said not to happen.
const GIVE_UP: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, role, directory] = &arguments[..] {
        if role == "hold" {
            return hold(Path::new(directory));
        }
    }
    let directory = tempfile::tempdir()?;
    println!("| figure | this crate | spawn_blocking(flock) |");
    println!("|---|---|---|");
    let rows = [cancels(directory.path())?, runtime_drop(directory.path())?];
    for (figure, ours, rivals) in rows.into_iter().chain(crowd(directory.path())?) {
        println!("| {figure} | {ours} | {rivals} |");
    }
    Ok(())
}

type Row = (String, String, String);

// ---- the holder, in a process of its own ----

/// Locks every lock file until its stdin closes.
fn hold(directory: &Path) -> Result<()> {
    let mut held = Vec::new();
    for number in 0..FILES {
        let file = File::create(lock_file(directory, number))?;
        file.lock_exclusive()?;
        held.push(file);
    }
    println!("held");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

struct Holder(Child);

impl Holder {
    fn start(directory: &Path) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("hold")
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line)?;
        assert_eq!(line, "held\n");
        Ok(Self(child))
    }

    fn let_go(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        self.0.wait()?;
        Ok(())
    }
}

fn lock_file(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("{number}.lock"))
}

// ---- threads ----

/// The threads of this process that are inside flock(2) now.
fn threads_in_flock() -> Vec<PathBuf> {
    let tasks = fs::read_dir("/proc/self/task").expect("procfs");
    tasks.map(|task| task.expect("a thread").path()).filter(|task| is_in_flock(task)).collect()
}

fn is_in_flock(task: &Path) -> bool {
    let call = fs::read_to_string(task.join("syscall")).unwrap_or_default();
    call.split(' ').next() == Some(&libc::SYS_flock.to_string())
}

/// Threads that are idle after an earlier figure end after some seconds.
fn await_no_wait_threads() {
    let is_idle = |task: PathBuf| {
        fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("filelock-wait"))
    };
    let tasks = || fs::read_dir("/proc/self/task").expect("procfs");
    while tasks().any(|task| is_idle(task.expect("a thread").path())) {
        thread::sleep(Duration::from_millis(10));
    }
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("procfs").count()
}

fn await_threads_in_flock(count: usize) -> Vec<PathBuf> {
    loop {
        let parked = threads_in_flock();
        if parked.len() >= count {
            return parked;
        }
        thread::yield_now();
    }
}

fn multi_thread() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

async fn rival(path: PathBuf) -> std::io::Result<()> {
    let lock = move || {
        let file = File::open(path)?;
        file.lock_exclusive()
    };
    tokio::task::spawn_blocking(lock).await.expect("it does not panic")
}

// ---- from the cancel to the thread ----

fn cancels(directory: &Path) -> Result<Row> {
    let holder = Holder::start(directory)?;
    let path = lock_file(directory, 0);
    let lock = FileLock::options().blocking_open(&path)?;
    let mut ours = Vec::new();
    for _ in 0..CANCELS {
        let acquire = poll_once(lock.lock());
        let parked = await_threads_in_flock(1);
        let started = Instant::now();
        drop(acquire);
        while is_in_flock(&parked[0]) {}
        ours.push(started.elapsed());
    }

    let runtime = multi_thread()?;
    for before in 0..CANCELS_OF_RIVAL {
        let task = runtime.spawn(rival(path.clone()));
        await_threads_in_flock(before + 1);
        task.abort();
        let _ = runtime.block_on(task);
    }
    thread::sleep(GIVE_UP);
    let rivals = threads_in_flock().len();
    holder.let_go()?;
    Ok((
        format!("cancel to thread free, {CANCELS} times: p50 / p99 / max"),
        distribution(&mut ours),
        format!("never: {rivals} of {CANCELS_OF_RIVAL} threads still wait after {GIVE_UP:?}"),
    ))
}

fn poll_once<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    future
}

// ---- dropping a runtime ----

fn runtime_drop(directory: &Path) -> Result<Row> {
    let ours = time_of_drop(directory, |path| async move {
        let lock = FileLock::open(path).await.expect("it opens");
        drop(lock.lock().await);
    })?;
    let rivals = time_of_drop(directory, |path| async move { drop(rival(path).await) })?;
    Ok((format!("drop of a runtime with {FILES} waits on {FILES} files"), ours, rivals))
}

fn time_of_drop<F>(directory: &Path, wait: impl Fn(PathBuf) -> F) -> Result<String>
where
    F: Future<Output = ()> + Send + 'static,
{
    let holder = Holder::start(directory)?;
    let runtime = multi_thread()?;
    for number in 0..FILES {
        runtime.spawn(wait(lock_file(directory, number)));
    }
    await_threads_in_flock(FILES);
    let (dropped, is_dropped) = mpsc::channel();
    let started = Instant::now();
    thread::spawn(move || {
        drop(runtime);
        let _ = dropped.send(started.elapsed());
    });
    let answer = is_dropped.recv_timeout(GIVE_UP);
    holder.let_go()?;
    Ok(match answer {
        Ok(time) => in_milliseconds(time),
        Err(_) => {
            is_dropped.recv()?;
            format!("hangs (still after {GIVE_UP:?}) until the holder lets go")
        }
    })
}

// ---- a crowd of waiters ----

fn crowd(directory: &Path) -> Result<Vec<Row>> {
    let path = lock_file(directory, 0);
    let idle = {
        let runtime = multi_thread()?;
        // The pool's first thread is made by the first read.
        runtime.block_on(read_latency());
        runtime.block_on(read_latency())
    };
    let lock = FileLock::options().blocking_open(&path)?;
    let (our_threads, our_reads) = beside_waiters(directory, || {
        let lock = lock.clone();
        async move { drop(lock.lock().await) }
    })?;
    let (rivals_threads, rivals_reads) = beside_waiters(directory, || {
        let path = path.clone();
        async move { drop(rival(path).await) }
    })?;
    Ok(vec![
        (format!("threads more, with {WAITERS} waiting tasks"), our_threads, rivals_threads),
        (format!("tokio::fs::read then, p50 / p99 / max (idle: {idle})"), our_reads, rivals_reads),
    ])
}

fn beside_waiters<F>(directory: &Path, wait: impl Fn() -> F) -> Result<(String, String)>
where
    F: Future<Output = ()> + Send + 'static,
{
    let holder = Holder::start(directory)?;
    let runtime = multi_thread()?;
    // The runtime's own threads, one of its pool among them.
    runtime.block_on(read_latency());
    await_no_wait_threads();
    let before = threads();
    let waiters: Vec<_> = (0..WAITERS).map(|_| runtime.spawn(wait())).collect();
    await_threads_in_flock(1);
    // Nothing tells when the last thread of the rival has come.
    thread::sleep(GIVE_UP);
    let more = threads() - before;
    let reads = runtime.block_on(async {
        match tokio::time::timeout(GIVE_UP, tokio::fs::read("/proc/self/comm")).await {
            Ok(_) => read_latency().await,
            Err(_) => format!("starved: no read within {GIVE_UP:?}"),
        }
    });
    holder.let_go()?;
    for waiter in waiters {
        runtime.block_on(waiter)?;
    }
    Ok((more.to_string(), reads))
}

async fn read_latency() -> String {
    let mut times = Vec::new();
    for _ in 0..READS {
        let started = Instant::now();
        tokio::fs::read("/proc/self/comm").await.expect("it is there");
        times.push(started.elapsed());
    }
    distribution(&mut times)
}

// ---- figures ----

fn distribution(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    format!("{:.0?} / {:.0?} / {:.0?}", at(50), at(99), at(100))
}

fn in_milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
