//! Which threads of this process wait in the kernel. Linux: it looks into `/proc/self/task`.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::libc;

fn tasks() -> impl Iterator<Item = PathBuf> {
    fs::read_dir("/proc/self/task").expect("procfs").map(|task| task.expect("a thread").path())
}

/// How many threads there are.
pub(crate) fn threads() -> usize {
    tasks().count()
}

/// The thread is blocked in flock(2).
pub(crate) fn is_in_flock(task: &Path) -> bool {
    let call = fs::read_to_string(task.join("syscall")).unwrap_or_default();
    call.split(' ').next() == Some(&libc::SYS_flock.to_string())
}

/// The threads that are blocked in flock(2).
pub(crate) fn in_flock() -> Vec<PathBuf> {
    tasks().filter(|task| is_in_flock(task)).collect()
}

/// Waits until so many threads are blocked in flock(2).
pub(crate) fn await_in_flock(count: usize) -> Vec<PathBuf> {
    loop {
        let parked = in_flock();
        if parked.len() >= count {
            return parked;
        }
        thread::yield_now();
    }
}

/// Idle threads of this crate's wait pool end after some seconds.
pub(crate) fn await_no_wait_threads() {
    let is_idle = |task: PathBuf| {
        fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("filelock-wait"))
    };
    while tasks().any(is_idle) {
        thread::sleep(Duration::from_millis(10));
    }
}
