//! Whether the index is complete and exact, judged by the index and the tree alone: what the
//! processes say about themselves is not asked.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::digest::digest;
use crate::entry::{Entry, Outcome, TaskId};
use crate::index::Contents;

/// The result of the comparison.
#[derive(Debug, Default)]
pub(crate) struct Verification {
    /// What is lost, double or wrong, a sentence each.
    pub(crate) faults: Vec<String>,
    /// Files without a digest, and why.
    pub(crate) skipped: Vec<(PathBuf, String)>,
    /// Files that have changed since they were hashed: no fault of the index.
    pub(crate) changed: Vec<(PathBuf, String)>,
    /// Files whose digest was found right.
    pub(crate) exact: u64,
}

/// What the index says about one file.
#[derive(Default)]
struct History {
    listed: usize,
    claims: Vec<TaskId>,
    results: Vec<(TaskId, Outcome)>,
}

/// A tree that was listed at some time.
pub(crate) struct Expected<'a> {
    pub(crate) root: &'a Path,
    pub(crate) files: &'a [PathBuf],
    pub(crate) since: SystemTime,
}

impl Verification {
    pub(crate) async fn of(contents: Contents, expected: Expected<'_>) -> Self {
        let mut verification = Self::default();
        for line in &contents.damaged {
            verification.faults.push(format!("damaged line in the index: `{line}`"));
        }
        verification.check_count(&contents);
        let mut histories = histories(contents.entries);
        for name in expected.files {
            let history = histories.remove(name).unwrap_or_default();
            if let Some(outcome) = verification.check_history(name, history) {
                verification.check_outcome(name, outcome, &expected).await;
            }
        }
        for name in histories.keys() {
            verification.fault(name, "in the index, but not in the tree");
        }
        verification
    }

    fn check_count(&mut self, contents: &Contents) {
        let counted = contents.header.recorded;
        let results =
            contents.entries.iter().filter(|entry| matches!(entry, Entry::Result { .. })).count();
        if counted != results as u64 {
            self.faults.push(format!("the index counts {counted} results, and has {results}"));
        }
    }

    /// One task claimed the file, and the same one recorded it, once.
    fn check_history(&mut self, name: &Path, mut history: History) -> Option<Outcome> {
        if history.listed != 1 {
            self.fault(name, format_args!("listed {} times", history.listed));
        }
        let [claimed_by] = history.claims[..] else {
            self.fault(name, format_args!("claimed {}", times(&history.claims)));
            return None;
        };
        let recorded_by: Vec<TaskId> = history.results.iter().map(|(by, _)| *by).collect();
        if recorded_by != [claimed_by] {
            let recorded = times(&recorded_by);
            self.fault(name, format_args!("claimed by task {claimed_by}, recorded {recorded}"));
            return None;
        }
        history.results.pop().map(|(_, outcome)| outcome)
    }

    /// The digest is that of the file.
    async fn check_outcome(&mut self, name: &Path, outcome: Outcome, expected: &Expected<'_>) {
        let recorded = match outcome {
            Outcome::Hashed { digest, bytes } => (digest, bytes),
            Outcome::Skipped { reason } => return self.skipped.push((name.to_owned(), reason)),
        };
        let path = expected.root.join(name);
        match digest(&path).await {
            Ok(found) if found == recorded => self.exact += 1,
            Ok(_) if modified_since(&path, expected.since) => {
                self.changed.push((name.to_owned(), "changed after it was hashed".into()));
            }
            Ok((found, _)) => {
                self.fault(name, format_args!("recorded as {}, is {found}", recorded.0));
            }
            Err(error) => self.changed.push((name.to_owned(), error.to_string())),
        }
    }

    fn fault(&mut self, name: &Path, what: impl Display) {
        self.faults.push(format!("{name:?}: {what}"));
    }
}

fn histories(entries: Vec<Entry>) -> BTreeMap<PathBuf, History> {
    let mut histories = BTreeMap::<PathBuf, History>::new();
    for entry in entries {
        match entry {
            Entry::File { name } => histories.entry(name).or_default().listed += 1,
            Entry::Claim { by, name } => histories.entry(name).or_default().claims.push(by),
            Entry::Result { by, outcome, name } => {
                histories.entry(name).or_default().results.push((by, outcome));
            }
        }
    }
    histories
}

/// `never`, or how often and by whom.
fn times(tasks: &[TaskId]) -> String {
    if tasks.is_empty() {
        return "never".into();
    }
    let by: Vec<String> = tasks.iter().map(TaskId::to_string).collect();
    format!("{} times (by task {})", tasks.len(), by.join(", "))
}

fn modified_since(path: &Path, since: SystemTime) -> bool {
    path.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|time| time >= since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::entry::Header;

    const ME: &str = "1.1";

    /// The faults of an index of one file, `a`, that contains `x`.
    async fn faults(recorded: u64, lines: &[String]) -> Result<Vec<String>, Error> {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("a"), "x")?;
        let since = SystemTime::now() + std::time::Duration::from_secs(60);
        let files = [PathBuf::from("a")];
        let header = Header { next: 0, recorded };
        let entries = lines.iter().filter_map(|line| Entry::parse(line)).collect();
        let damaged = lines.iter().filter(|line| Entry::parse(line).is_none()).cloned().collect();
        let contents = Contents { header, entries, damaged };
        let expected = Expected { root: directory.path(), files: &files, since };
        Ok(Verification::of(contents, expected).await.faults)
    }

    fn hashed(by: &str, content: &str) -> String {
        format!("hash {by} {} 1 a", blake3::hash(content.as_bytes()))
    }

    #[tokio::test]
    async fn an_exact_index_has_no_faults() -> Result<(), Error> {
        let lines = ["file a".into(), format!("claim {ME} a"), hashed(ME, "x")];
        assert_eq!(faults(1, &lines).await?, [""; 0]);
        Ok(())
    }

    #[tokio::test]
    async fn each_loss_is_noticed() -> Result<(), Error> {
        let (file, claim) = ("file a".to_owned(), format!("claim {ME} a"));
        let right = hashed(ME, "x");
        let cases = [
            ("lost count", 0, vec![file.clone(), claim.clone(), right.clone()]),
            ("lost file", 1, vec![claim.clone(), right.clone()]),
            ("lost claim", 1, vec![file.clone(), right.clone()]),
            ("lost result", 0, vec![file.clone(), claim.clone()]),
            ("double claim", 1, vec![file.clone(), claim.clone(), claim.clone(), right.clone()]),
            ("double result", 2, vec![file.clone(), claim.clone(), right.clone(), right.clone()]),
            ("foreign result", 1, vec![file.clone(), claim.clone(), hashed("2.1", "x")]),
            ("wrong digest", 1, vec![file.clone(), claim.clone(), hashed(ME, "y")]),
            ("damaged line", 1, vec![file.clone(), claim.clone(), right.clone(), "ha".into()]),
            ("foreign file", 1, vec![file, claim, right, "file b".into()]),
        ];
        for (what, recorded, lines) in cases {
            assert_eq!(faults(recorded, &lines).await?.len(), 1, "{what}");
        }
        Ok(())
    }
}
