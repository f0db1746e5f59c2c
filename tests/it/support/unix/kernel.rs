//! What the kernel says about locks and threads, in `/proc`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::until;

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
    until(&format!("no call waits for {file:?}"), || waiting_calls(inode) == 0);
}

/// Returns when this process has no thread of the wait pool: idle ones end by themselves.
#[track_caller]
pub(crate) fn await_no_wait_threads() {
    let is_left = || threads(std::process::id()).iter().any(|name| name == "filelock-wait");
    until("no thread of the wait pool is left", || !is_left());
}

/// Returns when every thread of a process has been stopped.
#[track_caller]
pub(crate) fn await_stop(pid: u32) {
    let is_stopped = |task: io::Result<fs::DirEntry>| {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        status.lines().any(|line| line.starts_with("State:\tT"))
    };
    let tasks = || fs::read_dir(format!("/proc/{pid}/task")).expect("a live process");
    until(&format!("{pid} is stopped"), || tasks().all(is_stopped));
}

/// Lines of waiting calls carry an arrow: `1: -> FLOCK  ADVISORY  WRITE 711 fe:00:4711 0 EOF`.
fn waiting_calls(inode: u64) -> usize {
    let file = format!(":{inode} ");
    let locks = fs::read_to_string("/proc/locks").expect("/proc/locks tells who waits");
    locks.lines().filter(|line| line.contains("->") && line.contains(&file)).count()
}

/// The descriptors of this process that lead to this file, by the number of range locks that each holds.
/// `/proc/locks` would not do to count: it is read in parts, and entries are skipped when earlier
/// ones go in between.
pub(crate) fn range_locks_by_descriptor(file: &Path) -> Vec<usize> {
    let descriptors = fs::read_dir("/proc/self/fd").expect("procfs");
    descriptors
        // Those of other tests may be closed while we look.
        .filter_map(|descriptor| {
            let descriptor = descriptor.expect("a descriptor");
            let leads_here = fs::read_link(descriptor.path()).ok()? == file;
            let number = descriptor.file_name().into_string().expect("a number");
            leads_here.then(|| fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok())?
        })
        .map(|information| {
            let locks = information.lines().filter(|line| line.starts_with("lock:"));
            locks.filter(|lock| !lock.contains("FLOCK")).count()
        })
        .collect()
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
