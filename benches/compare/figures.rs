//! Figures, their aims, and the statistics behind them.
//!
//! Everything is measured in rounds in which the contestants take turns, and compared within a
//! round: other work on the machine then slows all of them alike. A figure is the median over the
//! rounds; its spread is what eight of ten rounds lie between.

use crate::Result;

/// What is aimed at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aim {
    AtMost(f64),
    AtLeast(f64),
    /// Shown for comparison.
    None,
}

use Aim::{AtLeast, AtMost};

/// Every figure: its name, its unit (a ratio has none), its aim.
const FIGURES: &[(&str, &str, Aim)] = &[
    ("uncontended_bare_vs_raw", "", AtMost(1.15)),
    ("uncontended_vs_raw", "", AtMost(1.15)),
    ("uncontended_vs_best_peer", "", AtMost(1.0)),
    ("uncontended_vs_async_fd_lock", "", AtMost(0.25)),
    ("uncontended_vs_spawn_blocking", "", AtMost(0.25)),
    ("uncontended_fcntl_vs_raw", "", AtMost(1.15)),
    ("refused_try_vs_raw", "", AtMost(2.5)),
    ("refused_try_fcntl_vs_raw", "", AtMost(3.0)),
    ("tasks100_vs_tokio_mutex", "", AtMost(1.2)),
    ("tasks100_vs_spawn_blocking", "", AtMost(0.05)),
    ("shared100_vs_tokio_rwlock", "", AtMost(1.2)),
    ("procs2_throughput_vs_raw", "", AtLeast(0.95)),
    ("procs2_max_wait", "ms", AtMost(20.0)),
    ("procs2_jain", "", AtLeast(0.95)),
    ("writer_max_wait", "ms", AtMost(20.0)),
    ("wake_vs_spawn_blocking", "", AtMost(1.05)),
    ("wake_bare_thread_vs_spawn_blocking", "", Aim::None),
    ("cancel_p99", "ms", AtMost(1.0)),
    ("runtime_drop_64", "ms", AtMost(10.0)),
    ("waiters10k_threads", "threads", AtMost(1.0)),
    ("waiter_bytes", "bytes", AtMost(64.0)),
    ("fs_under_600_waiters", "", AtMost(1.5)),
    ("procs4_throughput_vs_raw", "", AtLeast(0.8)),
    ("procs4_max_wait", "ms", AtMost(20.0)),
    ("record_cost", "", AtMost(2.0)),
    ("recorded_vs_calls", "", AtMost(1.5)),
    ("open_vs_std", "", Aim::None),
    ("open_growth", "", AtMost(1.5)),
];

/// What has been measured.
#[derive(Default)]
pub(crate) struct Figures(Vec<(&'static str, Samples)>);

impl Figures {
    pub(crate) fn record(&mut self, name: &'static str, samples: impl Into<Samples>) {
        self.0.push((name, samples.into()));
    }

    /// As a table, and for machines a line each.
    pub(crate) fn print(&self) {
        println!("\n| figure | value | spread | aim | |\n|---|---|---|---|---|");
        for (name, samples) in &self.0 {
            let (_, unit, aim) = described(name);
            let value = samples.median();
            let (aim, met) = match aim {
                AtMost(most) => (format!("<= {most}"), value <= *most),
                AtLeast(least) => (format!(">= {least}"), value >= *least),
                Aim::None => ("-".to_owned(), true),
            };
            let verdict = if met { "" } else { "missed" };
            println!("| {name} | {value:.3} {unit} | {} | {aim} | {verdict} |", samples.spread());
        }
        println!();
        for (name, samples) in &self.0 {
            println!("figure\t{name}\t{:.3}\t{}", samples.median(), described(name).1);
        }
    }
}

fn described(name: &str) -> &'static (&'static str, &'static str, Aim) {
    FIGURES.iter().find(|(known, ..)| *known == name).expect("a figure of the list")
}

/// One value of each round.
#[derive(Debug, Clone)]
pub(crate) struct Samples(Vec<f64>);

impl From<Vec<f64>> for Samples {
    fn from(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "something was measured");
        values.sort_unstable_by(f64::total_cmp);
        Self(values)
    }
}

impl From<f64> for Samples {
    fn from(value: f64) -> Self {
        Self(vec![value])
    }
}

impl Samples {
    /// The value below which this part (of 1) of the samples lie.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * part).round() as usize]
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn spread(&self) -> String {
        format!("{:.3} .. {:.3}", self.quantile(0.1), self.quantile(0.9))
    }
}

/// Measures once.
pub(crate) type Measure = Box<dyn FnMut() -> Result<f64>>;

/// Contestants that are measured in turn.
#[derive(Default)]
pub(crate) struct Contest(Vec<(String, Measure)>);

impl Contest {
    pub(crate) fn enter(
        &mut self,
        name: impl Into<String>,
        measure: impl FnMut() -> Result<f64> + 'static,
    ) {
        self.0.push((name.into(), Box::new(measure)));
    }

    /// Measures everybody in each round, after one round that does not count.
    pub(crate) fn run(mut self, rounds: usize) -> Result<Outcome> {
        let count = self.0.len();
        let mut values = vec![Vec::new(); count];
        for round in 0..=rounds {
            // Another one begins in each round.
            for at in (0..count).map(|place| (place + round) % count) {
                let value = self.0[at].1()?;
                if round > 0 {
                    values[at].push(value);
                }
            }
        }
        let names = self.0.into_iter().map(|(name, _)| name);
        Ok(Outcome(names.zip(values).collect()))
    }
}

/// The values of all contestants, round by round.
pub(crate) struct Outcome(Vec<(String, Vec<f64>)>);

impl Outcome {
    fn of(&self, name: &str) -> &[f64] {
        let (_, values) = self.0.iter().find(|(known, _)| known == name).expect("a contestant");
        values
    }

    /// How often the one is as much as the other, round by round.
    pub(crate) fn ratio(&self, name: &str, to: &str) -> Samples {
        let pairs = self.of(name).iter().zip(self.of(to));
        pairs.map(|(value, other)| value / other).collect::<Vec<_>>().into()
    }

    /// How often the one is as much as the least of the others, round by round.
    pub(crate) fn ratio_to_least(&self, name: &str, others: &[&str]) -> Samples {
        let others: Vec<_> = others.iter().map(|other| self.of(other)).collect();
        let least =
            |round: usize| others.iter().map(|values| values[round]).fold(f64::INFINITY, f64::min);
        let rounds = self.of(name).iter().enumerate();
        rounds.map(|(round, value)| value / least(round)).collect::<Vec<_>>().into()
    }

    /// The one without what the second takes more than the third, as often as the third, round by
    /// round.
    pub(crate) fn ratio_without(&self, name: &str, with: &str, bare: &str) -> Samples {
        let rounds = self.of(name).iter().zip(self.of(with)).zip(self.of(bare));
        rounds
            .map(|((value, with), bare)| (value - (with - bare)) / bare)
            .collect::<Vec<_>>()
            .into()
    }

    /// Prints a table, with the ratios to the first contestant.
    pub(crate) fn print(&self, what: &str, unit: &str) {
        println!("\n{what}\n\n| contestant | {unit} | spread | ratio |\n|---|---|---|---|");
        let (first, _) = &self.0[0];
        for (name, values) in &self.0 {
            let (samples, ratio) = (Samples::from(values.clone()), self.ratio(name, first));
            println!(
                "| {name} | {:.3} | {} | {:.2} |",
                samples.median(),
                samples.spread(),
                ratio.median()
            );
        }
        println!();
    }
}
