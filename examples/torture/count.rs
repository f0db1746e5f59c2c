//! What was tried and what became of it, by operation.

use std::time::Duration;

use crate::operation::{OPERATIONS, Operation};

/// Of one operation.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) tried: u64,
    pub(crate) granted: u64,
    pub(crate) refused: u64,
    pub(crate) timed_out: u64,
    pub(crate) cancelled: u64,
    /// From the request to the grant.
    pub(crate) longest: Duration,
}

/// In a line, for each operation.
const NUMBERS: usize = 6;

/// Of all of them, in the order of [`OPERATIONS`].
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Counts([Count; OPERATIONS.len()]);

impl Counts {
    pub(crate) fn of(&mut self, operation: Operation) -> &mut Count {
        &mut self.0[operation as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Operation, &Count)> {
        OPERATIONS.into_iter().map(|(operation, _)| operation).zip(&self.0)
    }

    pub(crate) fn total(&self) -> Count {
        self.0.iter().fold(Count::default(), |total, count| total.with(count))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (count, other) in self.0.iter_mut().zip(&other.0) {
            *count = count.with(other);
        }
    }

    /// For [`parse`](Self::parse).
    pub(crate) fn to_line(&self) -> String {
        let numbers = self.0.iter().flat_map(|count| {
            let longest = count.longest.as_micros() as u64;
            [count.tried, count.granted, count.refused, count.timed_out, count.cancelled, longest]
        });
        numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn parse(line: &str) -> Option<Self> {
        let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
        let numbers = numbers.ok()?;
        let mut counts = Self::default();
        let rows = numbers.chunks(NUMBERS);
        if rows.len() != counts.0.len() {
            return None;
        }
        for (count, row) in counts.0.iter_mut().zip(rows) {
            let [tried, granted, refused, timed_out, cancelled, longest] = *row else {
                return None;
            };
            let longest = Duration::from_micros(longest);
            *count = Count { tried, granted, refused, timed_out, cancelled, longest };
        }
        Some(counts)
    }
}

impl Count {
    fn with(self, other: &Self) -> Self {
        Self {
            tried: self.tried + other.tried,
            granted: self.granted + other.granted,
            refused: self.refused + other.refused,
            timed_out: self.timed_out + other.timed_out,
            cancelled: self.cancelled + other.cancelled,
            longest: self.longest.max(other.longest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_it_all() {
        let mut counts = Counts::default();
        let longest = Duration::from_micros(1_234_567);
        let count = Count { tried: 5, granted: 1, refused: 2, longest, ..Count::default() };
        *counts.of(Operation::Downgrade) = count;
        let mut twice = Counts::parse(&counts.to_line()).unwrap();
        assert_eq!(twice, counts);
        twice.add(&counts);
        assert_eq!(twice.total(), Count { tried: 10, granted: 2, refused: 4, ..count });
        assert_eq!(Counts::parse("1 2 3"), None);
    }
}
