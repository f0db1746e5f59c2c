//! The command line, in both directions: what the user types, and what the parent passes to the
//! processes it starts.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;

pub(crate) const USAGE: &str = "\
usage: shared_cache [--processes N] [--tasks M] [--kill] [--tree] [DIRECTORY]
  --processes N  how many processes use the cache, 1 to 64 (default 4)
  --tasks M      how many tasks each of them runs, 1 to 256 (default 16)
  --kill         kill a random process again and again
  --tree         cache directories as well
  DIRECTORY      the tree to work on (default: this crate's src)";

/// What this process is to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Role {
    Help,
    Parent(Plan),
    Worker(Job),
}

/// The whole job.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) processes: u32,
    pub(crate) tasks: u32,
    pub(crate) kill: bool,
    pub(crate) tree: bool,
    pub(crate) directory: PathBuf,
}

/// The part of one process.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Job {
    pub(crate) tasks: u32,
    pub(crate) tree: bool,
    /// Where the cache and the log are.
    pub(crate) home: PathBuf,
    pub(crate) directory: PathBuf,
}

impl Job {
    /// What makes [`parse`] give this job.
    pub(crate) fn to_arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![
            "--worker".into(),
            self.home.clone().into(),
            "--tasks".into(),
            self.tasks.to_string().into(),
            self.directory.clone().into(),
        ];
        arguments.extend(self.tree.then(|| "--tree".into()));
        arguments
    }
}

pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Role, String> {
    let mut arguments = arguments.into_iter();
    let (mut processes, mut tasks) = (4, 16);
    let (mut kill, mut tree) = (false, false);
    let (mut home, mut directory) = (None, None);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(Role::Help),
            Some("--processes") => processes = number("--processes", 1..=64, arguments.next())?,
            Some("--tasks") => tasks = number("--tasks", 1..=256, arguments.next())?,
            Some("--kill") => kill = true,
            Some("--tree") => tree = true,
            Some("--worker") => home = arguments.next().map(PathBuf::from),
            Some(option) if option.starts_with('-') => {
                return Err(format!("there is no option `{option}`"));
            }
            _ if directory.is_some() => return Err("give one directory, not several".into()),
            _ => directory = Some(PathBuf::from(argument)),
        }
    }
    let directory = directory.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/src").into());
    Ok(match home {
        Some(home) => Role::Worker(Job { tasks, tree, home, directory }),
        None => Role::Parent(Plan { processes, tasks, kill, tree, directory }),
    })
}

fn number(
    option: &str,
    allowed: RangeInclusive<u32>,
    value: Option<OsString>,
) -> Result<u32, String> {
    let wanted = format!("`{option}` takes a number from {} to {}", allowed.start(), allowed.end());
    let Some(value) = value else { return Err(wanted) };
    match value.to_str().and_then(|value| value.parse().ok()) {
        Some(number) if allowed.contains(&number) => Ok(number),
        _ => Err(format!("{wanted}, not `{}`", value.to_string_lossy())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Role, String> {
        parse(words.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_plan_has_defaults() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src").into();
        let plan = Plan { processes: 4, tasks: 16, kill: false, tree: false, directory };
        assert_eq!(parse_words(""), Ok(Role::Parent(plan)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in ["--processes 0", "--tasks", "--tasks many", "--tasks 257", "--fast", "a b"] {
            assert!(parse_words(words).is_err(), "{words}");
        }
    }

    #[test]
    fn a_job_survives_the_command_line() {
        for tree in [false, true] {
            let job = || Job { tasks: 2, tree, home: "/tmp/x y".into(), directory: "a".into() };
            assert_eq!(parse(job().to_arguments()), Ok(Role::Worker(job())));
        }
    }
}
