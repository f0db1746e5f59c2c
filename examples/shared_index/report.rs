//! What a process has done: printed by the worker as lines, read by the parent.

use std::fmt;
use std::time::Duration;

use tokio_filelock::Counters;

/// The last line of a report, without which it is not complete.
const END: &str = "end";

/// The work of a task, of a process, or of all of them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// Files hashed.
    pub(crate) files: u64,
    /// Bytes hashed.
    pub(crate) bytes: u64,
    /// What happened on the lock.
    pub(crate) counters: Counters,
    /// How long each acquisition waited.
    pub(crate) waits: Vec<Duration>,
}

impl Report {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.counters.acquisitions += other.counters.acquisitions;
        self.counters.handovers += other.counters.handovers;
        self.counters.tenures += other.counters.tenures;
        self.waits.extend(&other.waits);
    }

    /// Reads what [`Display`](fmt::Display) has written; `None` if it is not whole.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut report = Self::default();
        let mut lines = text.lines();
        loop {
            let line = lines.next()?;
            if line == END {
                return lines.next().is_none().then_some(report);
            }
            let (name, value) = line.split_once(' ')?;
            let value = value.parse().ok()?;
            match name {
                "files" => report.files = value,
                "bytes" => report.bytes = value,
                "acquisitions" => report.counters.acquisitions = value,
                "handovers" => report.counters.handovers = value,
                "tenures" => report.counters.tenures = value,
                "waited" => report.waits.push(Duration::from_nanos(value)),
                _ => return None,
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "files {}", self.files)?;
        writeln!(f, "bytes {}", self.bytes)?;
        writeln!(f, "acquisitions {}", self.counters.acquisitions)?;
        writeln!(f, "handovers {}", self.counters.handovers)?;
        writeln!(f, "tenures {}", self.counters.tenures)?;
        for wait in &self.waits {
            writeln!(f, "waited {}", wait.as_nanos())?;
        }
        writeln!(f, "{END}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_pipe_whole_or_not_at_all() {
        let mut report = Report { files: 3, bytes: 400, ..Report::default() };
        report.counters.tenures = 2;
        report.waits = vec![Duration::ZERO, Duration::from_nanos(1_234_567)];
        let text = report.to_string();
        assert_eq!(Report::parse(&text), Some(report));
        for length in 0..text.len() - 1 {
            assert_eq!(Report::parse(&text[..length]), None, "{length} bytes of {text}");
        }
    }
}
