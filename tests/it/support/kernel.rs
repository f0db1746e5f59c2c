//! What the kernel says about locks and threads, in `/proc`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::until;

/// Returns when at least so many lock calls wait in the kernel for this file.
#[track_caller]
pub(crate) fn await_waiting_calls(file: &Path, count: usize) {
    let inode = fs::metadata(file).expect("the locked file is there").ino();
    until(&format!("{count} calls wait for {file:?}"), || waiting_calls(inode) >= count);
}

/// Returns when no lock call waits in the kernel for this file.
#[track_caller]
pub(crate) fn await_no_waiting_calls(file: &Path) {
    let inode = fs::metadata(file).expect("the locked file is there").ino();
    let started = Instant::now();
    while waiting_calls(inode) > 0 {
        assert!(started.elapsed() < PATIENCE, "calls wait for {file:?} and do not end");
        thread::yield_now();
    }
}

/// Returns when this process has no thread of the wait pool: idle ones end by themselves.
#[track_caller]
pub(crate) fn await_no_wait_threads() {
    let started = Instant::now();
    while threads(std::process::id()).iter().any(|name| name == "filelock-wait") {
        assert!(started.elapsed() < PATIENCE, "a thread of the wait pool does not end");
        thread::yield_now();
    }
}

/// Returns when every thread of a process has been stopped.
#[track_caller]
pub(crate) fn await_stop(pid: u32) {
    let stopped = |status: String| status.lines().any(|line| line.starts_with("State:\tT"));
    let started = Instant::now();
    loop {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a live process");
        let status = |task: io::Result<fs::DirEntry>| {
            fs::read_to_string(task.unwrap().path().join("status")).unwrap()
        };
        if tasks.map(status).all(stopped) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{pid} does not stop");
        thread::yield_now();
    }
}

/// Lines of waiting calls carry an arrow: `1: -> FLOCK  ADVISORY  WRITE 711 fe:00:4711 0 EOF`.
fn waiting_calls(inode: u64) -> usize {
    let file = format!(":{inode} ");
    let locks = fs::read_to_string("/proc/locks").expect("/proc/locks tells who waits");
    locks.lines().filter(|line| line.contains("->") && line.contains(&file)).count()
}

/// The names of a process's threads.
pub(crate) fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a live process");
    tasks
        // A thread may end while we look.
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .collect()
}
