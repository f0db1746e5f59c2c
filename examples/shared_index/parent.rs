//! The parent: lists the tree, makes the index, starts the processes, and judges what they leave.

use std::env;
use std::fmt::Display;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Instant, SystemTime};

use tokio::process::{Child, Command};
use tokio::task::{JoinSet, spawn_blocking};

use crate::Error;
use crate::arguments::{Job, Plan};
use crate::index::Index;
use crate::progress::Progress;
use crate::report::Report;
use crate::table::Table;
use crate::tree::Tree;
use crate::verification::{Expected, Verification};

/// How many lines of one kind are printed before they are only counted.
const MOST_LINES: usize = 10;

/// Fails if anything was lost, double or wrong, or if a process died.
pub(crate) async fn run(plan: Plan) -> Result<(), Error> {
    let since = SystemTime::now();
    let tree = list(&plan.directory).await?;
    let home = tempfile::tempdir()?;
    let path = home.path().join("index");
    let mut index = Index::create(&path, &tree.files).await?;

    let begun = Instant::now();
    let progress = Progress::start(Index::open(&path).await?, tree.files.len());
    let (reports, deaths) = run_workers(&plan, &path).await?;
    drop(progress);
    let table = Table { reports: &reports, elapsed: begun.elapsed() };
    write!(stdout(), "{table}")?;
    complain("process lost", &deaths);

    let expected = Expected { root: &plan.directory, files: &tree.files, since };
    let mut verification = Verification::of(index.contents().await?, expected).await;
    verification.skipped.extend(tree.unreadable);
    conclude(&verification, deaths.len())
}

async fn list(directory: &Path) -> Result<Tree, Error> {
    let root = directory.to_owned();
    spawn_blocking(move || Tree::list(&root))
        .await?
        .map_err(|error| format!("cannot list `{}`: {error}", directory.display()).into())
}

/// Runs the processes to their end: the reports of those that worked, and what became of others.
async fn run_workers(
    plan: &Plan,
    index: &Path,
) -> Result<(Vec<(u32, Report)>, Vec<String>), Error> {
    let mut started = Vec::new();
    for process in 1..=plan.processes {
        let (tasks, index) = (plan.tasks, index.to_owned());
        started.push(start(Job { process, tasks, index, directory: plan.directory.clone() })?);
    }
    let mut workers = JoinSet::new();
    for (child, process) in started.into_iter().zip(1..) {
        // Closes the child's standard input first, which is what it waits for.
        workers.spawn(async move { (process, child.wait_with_output().await) });
    }
    let (mut reports, mut deaths) = (Vec::new(), Vec::new());
    while let Some(ended) = workers.join_next().await {
        let (process, output) = ended?;
        match report(output?) {
            Ok(report) => reports.push((process, report)),
            Err(death) => deaths.push(format!("number {process} {death}")),
        }
    }
    reports.sort_by_key(|(process, _)| *process);
    Ok((reports, deaths))
}

/// Starts this program again as a worker.
fn start(job: Job) -> Result<Child, Error> {
    Command::new(env::current_exe()?)
        .args(job.to_arguments())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start process {}: {error}", job.process).into())
}

fn report(output: Output) -> Result<Report, String> {
    if !output.status.success() {
        return Err(format!("died: {}", output.status));
    }
    let report = String::from_utf8(output.stdout).ok().and_then(|text| Report::parse(&text));
    report.ok_or_else(|| "ended without a whole report".into())
}

fn conclude(verification: &Verification, deaths: usize) -> Result<(), Error> {
    let Verification { faults, skipped, changed, exact } = verification;
    complain("skipped", skipped.iter().map(about));
    complain("not verified", changed.iter().map(about));
    complain("fault", faults);
    if !faults.is_empty() || deaths > 0 {
        let faults = faults.len();
        return Err(format!("faults in the index: {faults}, processes lost: {deaths}").into());
    }
    writeln!(
        stdout(),
        "verified: every file claimed once and recorded once, {exact} digests right, {} skipped, \
         {} changed meanwhile",
        skipped.len(),
        changed.len(),
    )?;
    Ok(())
}

fn about((name, reason): &(PathBuf, String)) -> String {
    format!("{name:?}: {reason}")
}

fn complain<T: Display>(kind: &str, lines: impl IntoIterator<Item = T>) {
    let mut lines = lines.into_iter();
    for line in lines.by_ref().take(MOST_LINES) {
        eprintln!("{kind}: {line}");
    }
    let more = lines.count();
    if more > 0 {
        eprintln!("{kind}: {more} more");
    }
}
