//! What a process has when nothing uses it any more: no more than at its beginning.

use std::alloc::System;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts every byte, at the cost of some atomic additions.
#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What may come and go between two looks.
const HEAP_SLACK: usize = 256 << 10;

/// Rounds before the heap has all that stays: threads' and runtimes' own.
const FIRST_ROUNDS: u32 = 2;

/// Taken at the beginning, when there are no locks yet.
pub(crate) struct Ledger {
    directory: PathBuf,
    patience: Duration,
    threads: usize,
    rounds: u32,
    heap: usize,
}

impl Ledger {
    /// The descriptors that are counted lead below the directory.
    pub(crate) fn begin(directory: &Path, patience: Duration) -> Self {
        Self {
            directory: directory.to_owned(),
            patience,
            threads: threads().len(),
            rounds: 0,
            heap: 0,
        }
    }

    /// After a runtime with its tasks, guards and handles: what is left behind.
    pub(crate) fn after_round(&mut self) -> Option<String> {
        let open = settle(self.patience, || {
            let open = self.descriptors();
            (!open.is_empty()).then_some(open)
        });
        self.rounds += 1;
        if self.rounds == FIRST_ROUNDS {
            self.heap = in_use();
        }
        open.map(|open| format!("descriptors stay open: {open:?}"))
    }

    /// At the end, when the threads of the crate have had time to go.
    pub(crate) fn after_all(&self) -> Vec<String> {
        let running = settle(self.patience, || {
            let running = threads();
            (running.len() > self.threads).then_some(running)
        });
        let running = running.map(|running| {
            format!("threads go on, {} at the beginning: {running:?}", self.threads)
        });
        let growth = in_use().saturating_sub(self.heap);
        let heap = (self.rounds > FIRST_ROUNDS && growth > HEAP_SLACK)
            .then(|| format!("the heap has grown by {growth} bytes in {} rounds", self.rounds));
        running.into_iter().chain(heap).collect()
    }

    fn descriptors(&self) -> Vec<PathBuf> {
        let descriptors = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
        let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        targets.filter(|target| target.starts_with(&self.directory)).collect()
    }
}

/// Looks until there is nothing left: `None`; or until the patience is over.
fn settle<T>(patience: Duration, mut left: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        let left = left();
        if left.is_none() || begun.elapsed() > patience {
            return left;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Their names; none where there is no procfs to tell.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.map(|name| name.trim_end().to_owned()).collect()
}

fn in_use() -> usize {
    let stats = HEAP.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}
