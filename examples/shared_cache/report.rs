//! What a process has done: printed by the worker as one line, read by the parent.

use std::fmt;
use std::time::Duration;

/// Of a task, of a process, or of all of them.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Report {
    /// Values that were there.
    pub(crate) hits: u64,
    /// Values that another task or process was about to make.
    pub(crate) waits: u64,
    /// Values made.
    pub(crate) fills: u64,
    /// Bytes of all of these.
    pub(crate) bytes: u64,
    /// What could not be made, or was not what the others got.
    pub(crate) failed: u64,
    /// From the first request to the last answer.
    pub(crate) time: Duration,
}

impl Report {
    /// Of those that ran side by side.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.hits += other.hits;
        self.waits += other.waits;
        self.fills += other.fills;
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.time = self.time.max(other.time);
    }

    /// Reads what [`Display`](fmt::Display) has written; `None` if it is not whole.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_suffix(" end\n")?.split(' ').collect();
        let [hits, waits, fills, bytes, failed, time] = words[..] else { return None };
        Some(Self {
            hits: hits.parse().ok()?,
            waits: waits.parse().ok()?,
            fills: fills.parse().ok()?,
            bytes: bytes.parse().ok()?,
            failed: failed.parse().ok()?,
            time: Duration::from_micros(time.parse().ok()?),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hits, waits, fills, bytes, failed, time } = self;
        writeln!(f, "{hits} {waits} {fills} {bytes} {failed} {} end", time.as_micros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_pipe_whole_or_not_at_all() {
        let time = Duration::from_micros(1_234_567);
        let report = Report { hits: 3, waits: 1, fills: 20, bytes: 400, failed: 0, time };
        let text = report.to_string();
        assert_eq!(Report::parse(&text), Some(report));
        for length in 0..text.len() {
            assert_eq!(Report::parse(&text[..length]), None, "{length} bytes of {text}");
        }
    }
}
