//! Locks under torture: processes that are stopped and killed, tasks that are cancelled, lock files
//! that are removed, and a witness who knows nothing of this crate.
//!
//! ```text
//! cargo run --release --example torture -- [--seconds S] [--seed N] [--dir DIRECTORY]
//! ```
//!
//! Several processes of many tasks each do what their lots tell them: lock, share, try, give up,
//! downgrade, lock several at once, remove or replace the lock file that they hold, fork. Meanwhile
//! the parent stops processes and kills them. It ends early, and with the exit code 1, if
//! - a holder finds another one (`witness`);
//! - a task waits longer than it ever should, or a process says nothing more (`worker`, `parent`);
//! - an operation fails that has no reason to (`operation`);
//! - a process keeps descriptors, threads or memory that nothing uses any more (`ledger`).
//!
//! `--break lock`, `wait`, `descriptors`, `threads` or `memory` breaks one of these promises on
//! purpose, and it must end so.
//!
//! Where to read:
//! - `arena` is what is locked, `operation` what is done with it. Start there.
//! - `worker` is one process: one runtime after the other, each dropped while its tasks wait.
//! - `witness` is a file with a byte for each task and lock.
//! - `parent` starts, stops and kills the processes; `count` is what they say, and `table` shows it.
//!
//! The same seed gives the same lots to each task, but not the same order among the tasks.

#[cfg(unix)]
mod arena;
#[cfg(unix)]
mod arguments;
#[cfg(unix)]
mod count;
#[cfg(unix)]
mod fork;
#[cfg(unix)]
mod ledger;
#[cfg(unix)]
mod operation;
#[cfg(unix)]
mod parent;
#[cfg(unix)]
mod table;
#[cfg(unix)]
mod witness;
#[cfg(unix)]
mod worker;

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    use clap::Parser;

    let arguments = arguments::Arguments::parse();
    let outcome = match arguments.worker() {
        None => parent::run(&arguments),
        Some(worker) => worker::run(&arguments, worker).map(|()| true),
    };
    match outcome {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(unix))]
fn main() {
    eprintln!("error: it stops, kills and forks processes, which this system cannot do");
}
