//! The reports of all processes, as a table.

use std::fmt;
use std::time::Duration;

use indicatif::HumanBytes;
use tokio_filelock::Counters;

use crate::report::Report;

/// A line for each process, and what all of them did in how much time.
pub(crate) struct Table<'a> {
    /// By the number of the process.
    pub(crate) reports: &'a [(u32, Report)],
    pub(crate) elapsed: Duration,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Report::default();
        for (_, report) in self.reports {
            all.merge(report);
        }
        row(f, ["process", "files", "share", "bytes", "locked", "handovers", "OS tenures"])?;
        for (process, report) in self.reports {
            report_row(f, &process.to_string(), report, all.files)?;
        }
        report_row(f, "all", &all, all.files)?;
        all.waits.sort_unstable();
        let [p50, p99, max] = [50, 99, 100].map(|percent| percentile(&all.waits, percent));
        writeln!(f, "waited for the lock: p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?}")?;
        writeln!(f, "elapsed: {:.1?}", self.elapsed)
    }
}

fn report_row(f: &mut fmt::Formatter<'_>, who: &str, report: &Report, of: u64) -> fmt::Result {
    let Counters { acquisitions, handovers, tenures, .. } = report.counters;
    let share = (report.files * 100).checked_div(of).unwrap_or(0);
    row(
        f,
        [
            who,
            &report.files.to_string(),
            &format!("{share} %"),
            &HumanBytes(report.bytes).to_string(),
            &acquisitions.to_string(),
            &handovers.to_string(),
            &tenures.to_string(),
        ],
    )
}

fn row(f: &mut fmt::Formatter<'_>, cells: [&str; 7]) -> fmt::Result {
    let [who, files, share, bytes, locked, handovers, tenures] = cells;
    writeln!(
        f,
        "{who:<7} {files:>7} {share:>6} {bytes:>12} {locked:>7} {handovers:>9} {tenures:>10}"
    )
}

/// The nearest-rank percentile of sorted times; zero if there are none.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_secs).collect();
        let at = |percent| percentile(&times, percent).as_secs();
        assert_eq!([at(0), at(1), at(50), at(99), at(100)], [1, 2, 100, 198, 200]);
        assert_eq!(percentile(&times[..1], 99).as_secs(), 1);
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
