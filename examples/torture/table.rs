//! The result for people.

use std::fmt;
use std::time::Duration;

use crate::count::{Count, Counts};

/// What was done to the processes.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) killed: u64,
    pub(crate) stopped: u64,
    /// Runtimes that were dropped with all their tasks.
    pub(crate) dropped: u64,
}

pub(crate) struct Table<'a> {
    pub(crate) counts: &'a Counts,
    pub(crate) faults: &'a Faults,
    pub(crate) elapsed: Duration,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<16}{:>10}{:>10}{:>10}{:>11}{:>11}{:>14}",
            "operation", "tried", "granted", "refused", "timed out", "cancelled", "longest wait"
        )?;
        for (operation, count) in self.counts.iter() {
            row(f, &format!("{operation:?}"), count)?;
        }
        row(f, "all", &self.counts.total())?;
        let Faults { killed, stopped, dropped } = self.faults;
        writeln!(
            f,
            "in {:.0} s; processes: {killed} killed, {stopped} stopped and continued; runtimes: \
             {dropped} dropped",
            self.elapsed.as_secs_f64()
        )
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, count: &Count) -> fmt::Result {
    writeln!(
        f,
        "{name:<16}{:>10}{:>10}{:>10}{:>11}{:>11}{:>11.1} ms",
        count.tried,
        count.granted,
        count.refused,
        count.timed_out,
        count.cancelled,
        count.longest.as_secs_f64() * 1e3
    )
}
