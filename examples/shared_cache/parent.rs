//! The parent: starts the processes, kills some of them if asked to, and judges what they leave.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::env;
use std::hash::BuildHasher;
use std::io::{self, Write, stdout};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use indicatif::HumanBytes;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::Error;
use crate::arguments::{Job, Plan};
use crate::copied::Copied;
use crate::product::Product;
use crate::report::Report;
use crate::tree::Tree;
use crate::verification::{Expected, Verification};

/// How many processes are killed, and at most how long after one another.
const KILLS: u32 = 25;
const PAUSE: Duration = Duration::from_millis(40);

/// Fails if anything was lost, double or wrong, or if a process failed.
pub(crate) async fn run(plan: Plan) -> Result<(), Error> {
    let since = SystemTime::now();
    let root = plan.directory.clone();
    let tree = spawn_blocking(move || Tree::list(&root))
        .await?
        .map_err(|error| format!("cannot list `{}`: {error}", plan.directory.display()))?;
    let products = Product::all(&tree.files);
    let copies = if plan.tree { Copied::all(&tree.files) } else { Vec::new() };
    let home = tempfile::tempdir()?;
    let (tasks, tree, directory) = (plan.tasks, plan.tree, plan.directory.clone());
    let job = Job { tasks, tree, home: home.path().to_owned(), directory };
    let begun = Instant::now();
    let mut workers = (0..plan.processes).map(|_| start(&job)).collect::<io::Result<Vec<_>>>()?;
    // All are there: closes the pipes that they wait for.
    workers.iter_mut().for_each(|worker| drop(worker.stdin.take()));
    let mut killed = BTreeSet::new();
    if plan.kill {
        for _ in 0..KILLS {
            sleep(PAUSE.mul_f64(random())).await;
            let worker = &mut workers[(random() * f64::from(plan.processes)) as usize];
            if worker.try_wait()?.is_none() {
                killed.extend(worker.id());
                worker.kill().await?;
            } else {
                continue;
            }
            *worker = start(&job)?;
            drop(worker.stdin.take());
        }
    }
    let mut reports = Vec::new();
    for worker in workers {
        reports.push(finish(worker).await?);
    }
    print(&reports, begun.elapsed())?;
    let root = &plan.directory;
    let expected = Expected { root, products: &products, copies: &copies, killed: &killed, since };
    let verification = Verification::of(home.path(), &expected).await?;
    conclude(&verification, &expected, reports.iter().map(|report| report.failed).sum())
}

/// Starts this program again as a worker.
fn start(job: &Job) -> io::Result<Child> {
    Command::new(env::current_exe()?)
        .args(job.to_arguments())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

async fn finish(mut worker: Child) -> Result<Report, Error> {
    let mut text = String::new();
    worker.stdout.take().expect("piped").read_to_string(&mut text).await?;
    let status = worker.wait().await?;
    match Report::parse(&text) {
        Some(report) if status.success() => Ok(report),
        _ => Err(format!("a process that was not killed failed: {status}").into()),
    }
}

fn print(reports: &[Report], elapsed: Duration) -> io::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "process      hits    waits    fills        read    requests/s")?;
    let mut all = Report::default();
    for (number, report) in reports.iter().enumerate() {
        all.merge(report);
        row(&mut out, &(number + 1).to_string(), report)?;
    }
    row(&mut out, "all", &all)?;
    writeln!(out, "elapsed: {elapsed:.1?}")
}

fn row(out: &mut impl Write, who: &str, report: &Report) -> io::Result<()> {
    let Report { hits, waits, fills, bytes, time, .. } = report;
    let rate = (hits + waits + fills) as f64 / time.as_secs_f64().max(1e-6);
    let bytes = HumanBytes(*bytes).to_string();
    writeln!(out, "{who:<7} {hits:>9} {waits:>8} {fills:>8} {bytes:>11} {rate:>13.0}")
}

fn conclude(
    verification: &Verification,
    expected: &Expected<'_>,
    failed: u64,
) -> Result<(), Error> {
    let Verification { faults, right, changed, ended } = verification;
    let killed = expected.killed.len();
    if killed > 0 {
        writeln!(
            stdout(),
            "killed: {killed} processes, which are not in the table; {ended} fills ended with them, \
             and were made by others"
        )?;
    }
    for fault in faults.iter().take(10) {
        eprintln!("fault: {fault}");
    }
    if !faults.is_empty() || failed > 0 {
        return Err(format!("faults: {}, requests that failed: {failed}", faults.len()).into());
    }
    writeln!(
        stdout(),
        "verified: {} keys, each filled once by a process that lived to finish it, {right} values \
         right, {changed} files changed meanwhile, nothing left behind",
        expected.products.len() + expected.copies.len()
    )?;
    Ok(())
}

/// From 0 to 1.
fn random() -> f64 {
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}
