//! The command line, in both directions: what the user types, and what the parent passes to the
//! processes it starts.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;

pub(crate) const USAGE: &str = "\
usage: shared_index [--processes N] [--tasks M] [DIRECTORY]
  --processes N  how many processes share the work, 1 to 256 (default 4)
  --tasks M      how many tasks each of them runs, 1 to 256 (default 8)
  DIRECTORY      the tree to hash (default: this crate); `target` and `.git` are left out";

/// Every task has a file open, and every process two pipes: stay well below the usual limits.
const ALLOWED: RangeInclusive<u32> = 1..=256;

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
    pub(crate) directory: PathBuf,
}

/// The part of one process.
#[derive(Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) process: u32,
    pub(crate) tasks: u32,
    pub(crate) index: PathBuf,
    pub(crate) directory: PathBuf,
}

impl Job {
    /// What makes [`parse`] give this job.
    pub(crate) fn to_arguments(&self) -> [OsString; 7] {
        [
            "--worker".into(),
            self.process.to_string().into(),
            "--tasks".into(),
            self.tasks.to_string().into(),
            "--index".into(),
            self.index.clone().into(),
            self.directory.clone().into(),
        ]
    }
}

pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Role, String> {
    let mut arguments = arguments.into_iter();
    let (mut processes, mut tasks) = (4, 8);
    let (mut worker, mut index, mut directory) = (None, None, None);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(Role::Help),
            Some("--processes") => processes = number("--processes", arguments.next())?,
            Some("--tasks") => tasks = number("--tasks", arguments.next())?,
            Some("--worker") => worker = Some(number("--worker", arguments.next())?),
            Some("--index") => index = arguments.next().map(PathBuf::from),
            Some(option) if option.starts_with('-') => {
                return Err(format!("there is no option `{option}`"));
            }
            _ if directory.is_some() => return Err("give one directory, not several".into()),
            _ => directory = Some(PathBuf::from(argument)),
        }
    }
    let directory = directory.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Ok(match (worker, index) {
        (Some(process), Some(index)) => Role::Worker(Job { process, tasks, index, directory }),
        (None, None) => Role::Parent(Plan { processes, tasks, directory }),
        _ => return Err("`--worker` and `--index` are for the example itself".into()),
    })
}

fn number(option: &str, value: Option<OsString>) -> Result<u32, String> {
    let (least, most) = (ALLOWED.start(), ALLOWED.end());
    let wanted = format!("`{option}` takes a number from {least} to {most}");
    let Some(value) = value else { return Err(wanted) };
    match value.to_str().and_then(|value| value.parse().ok()) {
        Some(number) if ALLOWED.contains(&number) => Ok(number),
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
        let directory = env!("CARGO_MANIFEST_DIR").into();
        assert_eq!(parse_words(""), Ok(Role::Parent(Plan { processes: 4, tasks: 8, directory })));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in
            ["--processes 0", "--tasks", "--tasks many", "--processes 257", "--fast", "a b"]
        {
            assert!(parse_words(words).is_err(), "{words}");
        }
    }

    #[test]
    fn a_job_survives_the_command_line() {
        let job = || Job { process: 3, tasks: 2, index: "/tmp/x y".into(), directory: "a".into() };
        assert_eq!(parse(job().to_arguments()), Ok(Role::Worker(job())));
    }
}
