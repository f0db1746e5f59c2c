//! What the cache directory costs, beside plain files and beside the crate `cacache`, in one run.
//!
//! `cargo bench -p benches --bench cache` prints Markdown tables; with names of parts (`hits`, `inserts`, `walks`)
//! only those. The sides take turns, so that whatever else the machine does meets all of them.

mod hits;
mod inserts;
mod walks;

use std::env;
use std::error::Error;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    // What `cargo bench` adds is no name.
    let arguments: Vec<_> = env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["insert", side, directory, number] => return inserts::process(side, directory, number),
        ["walk", directory] => return walks::process(directory),
        _ => {}
    }
    let wants = |part| arguments.is_empty() || arguments.iter().any(|wanted| wanted == part);
    if wants("hits") {
        hits::compare()?;
    }
    if wants("inserts") {
        inserts::compare()?;
    }
    if wants("walks") {
        walks::compare()?;
    }
    Ok(())
}

/// Of all threads of this process.
fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("always known");
    let time = usage.user_time() + usage.system_time();
    Duration::from_micros(time.num_microseconds() as u64)
}

fn median<T: Copy + PartialOrd>(mut of: Vec<T>) -> T {
    of.sort_by(|one, other| one.partial_cmp(other).expect("numbers"));
    of[of.len() / 2]
}
