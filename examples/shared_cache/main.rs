//! A cache directory that processes share, and that survives their death.
//!
//! ```text
//! cargo run --release --example shared_cache -- [--processes N] [--tasks M] [--kill] [--tree] [DIRECTORY]
//! ```
//!
//! N processes with M tasks each want the digest and a compressed copy of every file below a directory,
//! each task in an order of its own. The first task to come to one makes it; the others find it in the
//! cache, or wait for it. With `--kill` a random process is killed again and again, and another one
//! takes its place. With `--tree` they want a copy of every directory as well, which is cached as a
//! directory. At the end every value is made anew and compared, and the log of all fills is
//! read: one a value, but for those that ended with their process. If it is not so, the exit code
//! is 1.
//!
//! Where to read:
//! - `worker` is one process, and all there is to using the cache. Start there.
//! - `product` is what is cached: a key, and how its value is made; `copied` the same for directories.
//! - `parent` starts the processes and kills them; `report` is what they say at the end;
//!   `verification` believes none of it.
//! - `fill_log` is a file to which every fill is appended before it begins.

mod arguments;
mod copied;
mod fill_log;
mod parent;
mod product;
mod report;
#[path = "../shared_index/tree.rs"]
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
