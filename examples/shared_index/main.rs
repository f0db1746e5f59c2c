//! The main job of tokio-filelock: many tasks in many processes, and one file that all of them
//! change.
//!
//! ```text
//! cargo run --release --example shared_index -- [--processes N] [--tasks M] [DIRECTORY]
//! ```
//!
//! N processes with M tasks each hash every file below a directory, each file once between all of
//! them. What is taken and what is done stands in one index file, guarded by a lock file beside
//! it. At the end the index is checked against the tree: nothing lost, nothing double, every
//! digest right. If it is not so, the exit code is 1.
//!
//! Where to read:
//! - `index` is all that touches the lock: how to wait for it, and how to hold it for no longer
//!   than needed, even if the task is cancelled. Start there.
//! - `worker` is one process: tasks that claim a file, hash it with no lock held, and record it.
//! - `parent` starts the processes, `progress` watches them through the shared lock, `report` is
//!   what they say at the end, `table` shows it, `verification` believes none of it.
//! - `entry` and `escape` are the text format of the index; `tree` and `digest` read the files.

mod arguments;
mod digest;
mod entry;
mod escape;
mod index;
mod parent;
mod progress;
mod report;
mod table;
mod tree;
mod verification;
mod worker;

use std::env;
use std::process::ExitCode;

use arguments::{Role, USAGE};

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let role = match arguments::parse(env::args_os().skip(1)) {
        Ok(role) => role,
        Err(problem) => {
            eprintln!("error: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let outcome = match role {
        Role::Help => {
            println!("{USAGE}");
            Ok(())
        }
        Role::Parent(plan) => parent::run(plan).await,
        Role::Worker(job) => worker::run(job).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
