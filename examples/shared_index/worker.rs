//! One process of several: its tasks take files from the index until there are none left.

use std::io::{self, Write, stdin, stdout};
use std::path::Path;
use std::sync::Arc;

use tokio::task::{JoinSet, spawn_blocking};

use crate::Error;
use crate::arguments::Job;
use crate::digest::digest;
use crate::entry::{Outcome, TaskId};
use crate::index::Index;
use crate::report::Report;

/// Runs the tasks, and prints a [`Report`] for the parent.
pub(crate) async fn run(job: Job) -> Result<(), Error> {
    let index = Index::open(&job.index).await?;
    spawn_blocking(wait_for_the_others).await??;
    let directory: Arc<Path> = job.directory.into();
    let mut tasks = JoinSet::new();
    for task in 1..=job.tasks {
        let me = TaskId { process: job.process, task };
        tasks.spawn(hash_files(me, directory.clone(), Index::open(&job.index).await?));
    }
    let mut report = Report::default();
    while let Some(part) = tasks.join_next().await {
        report.merge(&part??);
    }
    report.counters = index.counters();
    stdout().write_all(report.to_string().as_bytes())?;
    Ok(())
}

/// The parent closes the standard input of all processes when the last one is started. Without
/// this the first one would be done with a small tree before there is a second one.
fn wait_for_the_others() -> io::Result<()> {
    io::copy(&mut stdin(), &mut io::sink()).map(drop)
}

/// One task. The lock is free while it hashes.
async fn hash_files(me: TaskId, directory: Arc<Path>, mut index: Index) -> Result<Report, Error> {
    let mut report = Report::default();
    while let Some(name) = index.claim(me).await? {
        let outcome = match digest(&directory.join(&name)).await {
            Ok((digest, bytes)) => {
                report.files += 1;
                report.bytes += bytes;
                Outcome::Hashed { digest, bytes }
            }
            // It vanished, or may not be read: that is a result, too.
            Err(error) => Outcome::Skipped { reason: error.to_string() },
        };
        index.record(me, name, outcome).await?;
    }
    report.waits = index.into_waits();
    Ok(report)
}
