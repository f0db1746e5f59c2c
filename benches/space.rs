//! How a lock call grows with the number of locks held in its file, and what follows for a
//! `LockSpace`.
//!
//! `cargo bench -p benches --bench space` prints three Markdown tables: plain fcntl(2) calls with the locks in one
//! file and in several, the same through this crate, and what a long list costs those who read
//! `/proc/locks`. Linux only.
#![allow(clippy::disallowed_methods)] // the first table is about plain lock calls

use std::error::Error;
use std::fs::{self, File};
use std::hint::black_box;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use tokio::runtime::Builder;
use tokio_filelock::{FileLock, LockSpace};

// The offsets of the crate, so that plain calls ask for the same bytes.
#[allow(dead_code)]
#[path = "../src/os/wire.rs"]
mod wire;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const HELD: [usize; 4] = [0, 100, 1_000, 10_000];
const FILES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Of each figure.
const SAMPLES: usize = 2_000;

fn main() -> Result<()> {
    println!("load average before: {}", fs::read_to_string("/proc/loadavg")?.trim());
    println!("\nLook at the turnstile, lock, unlock; plain calls, median and 99th percentile\n");
    print!("| locks held |");
    FILES.iter().for_each(|files| print!(" {files} file{} |", if *files > 1 { "s" } else { "" }));
    println!("\n|---|{}", "---|".repeat(FILES.len()));
    for held in HELD {
        print!("| {held} |");
        for files in FILES {
            print!(" {} |", plain_calls(held, files)?);
        }
        println!();
    }

    println!("\nThis crate, in a task; `FileLock` is another file, with nothing else in it\n");
    println!(
        "| keys held | `key` | `key`, `lock`, drop | `FileLock`: `lock`, drop |\n|---|---|---|---|"
    );
    for held in HELD {
        println!("| {held} | {} |", keys(held)?.map(|figure| figure.to_string()).join(" | "));
    }

    println!("\nReading `/proc/locks`, as lslocks(8) does\n");
    println!("| locks held | time |\n|---|---|");
    for held in HELD {
        println!("| {held} | {} |", reading_proc_locks(held)?);
    }
    println!("\nload average after: {}", fs::read_to_string("/proc/loadavg")?.trim());
    Ok(())
}

/// The median and the 99th percentile.
struct Figure(Duration, Duration);

impl Figure {
    fn of(samples: usize, mut sample: impl FnMut(usize) -> Result<()>) -> Result<Self> {
        let mut times = Vec::with_capacity(samples);
        for number in 0..samples {
            let started = Instant::now();
            sample(number)?;
            times.push(started.elapsed());
        }
        Ok(Self::among(times))
    }

    fn among(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times[times.len() / 2], times[times.len() * 99 / 100])
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [median, late] = [self.0, self.1].map(|time| time.as_secs_f64() * 1e6);
        write!(f, "{median:.1} µs, {late:.1} µs")
    }
}

fn plain_calls(held: usize, files: usize) -> Result<Figure> {
    let files: Vec<_> = (0..files).map(|_| tempfile::tempfile()).collect::<std::io::Result<_>>()?;
    let mut slots = scattered();
    for number in 0..held {
        set_lock(&files[number % files.len()], libc::F_WRLCK, slots.next().expect("endless"))?;
    }
    Figure::of(SAMPLES, |number| {
        let file = &files[number % files.len()];
        let start = slots.next().expect("endless");
        let mut turnstile = range(libc::F_WRLCK, start + wire::TURNSTILE_IN_SLOT as i64, 1);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut turnstile))?;
        set_lock(file, libc::F_WRLCK, start)?;
        set_lock(file, libc::F_UNLCK, start)
    })
}

/// The starts of slots, in no order.
fn scattered() -> impl Iterator<Item = i64> {
    (1_u64..).map(|number| {
        let slot = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 25;
        (wire::FIRST_KEY as i64) + ((slot as i64) << wire::SLOT_LENGTH_BITS)
    })
}

fn set_lock(file: &File, kind: libc::c_int, start: i64) -> Result<()> {
    let lock = range(kind, start, 1 + i64::from(std::process::id()));
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock))?;
    Ok(())
}

fn range(kind: libc::c_int, start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

fn keys(held: usize) -> Result<[Figure; 3]> {
    let directory = tempfile::tempdir()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let space = LockSpace::open(directory.path().join("space.lock")).await?;
        let lock = FileLock::open(directory.path().join("file.lock")).await?;
        let mut guards = Vec::with_capacity(held);
        for number in 0..held {
            guards.push(space.key(format!("held {number}")).lock().await?);
        }
        let key = Figure::of(SAMPLES, |number| {
            black_box(space.key(number.to_le_bytes()));
            Ok(())
        })?;
        let mut locked = Vec::new();
        let mut plain = Vec::new();
        for number in 0..SAMPLES {
            let started = Instant::now();
            drop(space.key(number.to_le_bytes()).lock().await?);
            locked.push(started.elapsed());
            let started = Instant::now();
            drop(lock.lock().await?);
            plain.push(started.elapsed());
        }
        Ok([key, Figure::among(locked), Figure::among(plain)])
    })
}

fn reading_proc_locks(held: usize) -> Result<Figure> {
    let directory = tempfile::tempdir()?;
    let space = LockSpace::options().blocking_open(directory.path().join("space.lock"))?;
    let guards = (0..held).map(|number| space.key(format!("held {number}")).blocking_lock());
    let _guards = guards.collect::<std::result::Result<Vec<_>, _>>()?;
    Figure::of(100, |_| {
        black_box(fs::read("/proc/locks")?);
        Ok(())
    })
}
