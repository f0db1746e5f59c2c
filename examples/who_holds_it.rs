//! What users see of a lock that another process holds.
//!
//! `cargo run --example who_holds_it` plays it through with a second process: a wait that is told, a
//! try and a limit that name the holder, and a holder that is killed in the middle of its work.
//!
//! `cargo run --example who_holds_it -- FILE SECONDS LABEL` holds a lock for so long, or says who else
//! does: run it in two terminals.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_filelock::{ExclusiveGuard, FileLock};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: who_holds_it [FILE SECONDS LABEL]";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => play().await,
        [file, seconds, label] => hold(file.into(), seconds.parse()?, label).await,
        _ => Err(USAGE.into()),
    }
}

async fn hold(file: PathBuf, seconds: u64, label: &str) -> Result<()> {
    let lock = open(&file, label).await?;
    let guard =
        lock.lock().on_wait(Duration::from_millis(500), |waiting| println!("{waiting}")).await?;
    tell(&guard);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    Ok(())
}

async fn open(file: &Path, label: &str) -> Result<FileLock> {
    Ok(FileLock::options().record(true).label(label).open(file).await?)
}

fn tell(guard: &ExclusiveGuard) {
    if let Some(dead) = guard.abandoned() {
        let (pid, token) = (dead.pid(), dead.token());
        let label = dead.label().unwrap_or("what it did not say");
        println!("process {pid} died in tenure {token}, in the middle of \"{label}\"");
    }
    println!("held, tenure {}", guard.token().expect("it was opened with records"));
}

async fn play() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("index.lock");

    println!("-- another process takes the lock");
    let mut first = start(&file, 3600, "nightly rebuild").await?;
    let lock = open(&file, "query").await?;
    for holder in lock.holders().await? {
        println!(
            "{holder}: {:?}, by {:?}, run by {}",
            holder.mode(),
            holder.source(),
            holder.user().unwrap_or("an unknown user")
        );
    }

    println!("-- a try");
    if let Err(error) = lock.try_lock() {
        println!("{error}");
    }
    println!("-- a limit");
    if let Err(error) = lock.lock().timeout(Duration::from_secs(1)).await {
        println!("{error}");
    }

    println!("-- a wait, in the middle of which the holder is killed");
    let (told, mut tell_me) = tokio::sync::mpsc::unbounded_channel();
    let waiting = lock.lock().on_wait(Duration::from_millis(500), move |waiting| {
        println!("{waiting}");
        let _ = told.send(());
    });
    let waiting = tokio::spawn(waiting);
    tell_me.recv().await;
    first.kill().await?;
    let guard = waiting.await??;
    tell(&guard);
    drop(guard);

    println!("-- what it leaves");
    println!("{}", std::fs::read_to_string(&file)?.trim_end_matches([' ', '\n']));
    Ok(())
}

/// This program again, as a holder; returns when it holds.
async fn start(file: &Path, seconds: u64, label: &str) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(file).arg(seconds.to_string()).arg(label).stdout(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    while let Some(line) = lines.next_line().await? {
        println!("   it says: {line}");
        if line.starts_with("held") {
            return Ok(child);
        }
    }
    Err("the other process ended without the lock".into())
}
