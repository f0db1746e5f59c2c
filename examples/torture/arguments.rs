//! The command line, of the parent and of the processes that it starts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Locks under torture: exits with 1 if a lock was held twice, a task waited for ever, or anything
/// was left behind.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Arguments {
    /// How long it goes on.
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// What the lots are drawn from; any number by default.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Where the lock files are: a new directory in this one, the temporary one by default.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// How many processes there are at a time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=16))]
    pub(crate) processes: u32,
    /// How many tasks each of them has.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) tasks: u32,
    /// How many seconds a task may wait, and a process say nothing.
    #[arg(long, default_value_t = 30)]
    pub(crate) patience: u64,
    /// Break a promise on purpose, to see that it is found.
    #[arg(long = "break", value_name = "PROMISE")]
    pub(crate) broken: Option<Broken>,
    /// Of a process that the parent starts: its number, and how many there were before it.
    #[arg(long, hide = true, num_args = 2)]
    worker: Option<Vec<u64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Broken {
    /// One process locks other files than the rest.
    Lock,
    /// One task never gives its lock back.
    Wait,
    /// One process leaves descriptors open.
    Descriptors,
    /// One process leaves a thread behind.
    Threads,
    /// One process leaves memory behind.
    Memory,
}

/// Which process this is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkerId {
    /// From 0. Number 0 is never killed, and the one that breaks promises.
    pub(crate) number: usize,
    /// How many had this number before.
    pub(crate) incarnation: u64,
}

impl Arguments {
    pub(crate) fn worker(&self) -> Option<WorkerId> {
        let [number, incarnation] = self.worker.as_deref()? else { return None };
        Some(WorkerId { number: usize::try_from(*number).ok()?, incarnation: *incarnation })
    }

    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }

    /// The promise that this process breaks.
    pub(crate) fn breaks(&self) -> Option<Broken> {
        self.broken.filter(|_| self.worker().is_some_and(|worker| worker.number == 0))
    }

    /// What starts a process: the same words, with the seed and the directory that were chosen.
    pub(crate) fn of_worker(&self, worker: WorkerId) -> Vec<String> {
        let mut words = vec![
            format!("--seed={}", self.seed.unwrap_or_default()),
            format!("--dir={}", self.dir.clone().unwrap_or_default().display()),
            format!("--processes={}", self.processes),
            format!("--tasks={}", self.tasks),
            format!("--patience={}", self.patience),
            "--worker".to_owned(),
            worker.number.to_string(),
            worker.incarnation.to_string(),
        ];
        let name = self.broken.and_then(|promise| promise.to_possible_value());
        words.extend(name.map(|name| format!("--break={}", name.get_name())));
        words
    }
}
