//! This crate and its peers, measured in one run.
//!
//! `cargo bench -p benches --bench compare` prints Markdown tables, and for machines one line for each figure:
//! `figure<TAB>name<TAB>value<TAB>unit`. It ends within five minutes; `-- --quick` within one. The
//! names of parts (`uncontended`, `opening`, `refused`, `tasks`, `turns`, `wake`, `waits`) select some of them.
//! docs/BENCHMARKS.md says what the figures mean, and keeps those of a full run.
//!
//! Linux only, as the crate is so far. Needs Rust 1.89 for `std::fs::File::lock`.
#![allow(clippy::disallowed_methods)] // the peers lock by themselves

mod actors;
mod figures;
mod kernel_waits;
mod opening;
mod peers;
mod refused;
mod tasks;
mod turns;
mod uncontended;
mod waits;
mod wake;
// The offsets of the crate, so that plain calls ask for the same bytes.
#[allow(dead_code)]
#[path = "../../src/os/wire.rs"]
mod wire;

use std::alloc::System;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

use figures::Figures;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts bytes, for what a waiting task needs. It costs some nanoseconds for each allocation; this
/// crate makes none for a lock.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effort {
    Quick,
    Full,
}

impl Effort {
    fn of<T>(self, quick: T, full: T) -> T {
        match self {
            Effort::Quick => quick,
            Effort::Full => full,
        }
    }
}

/// A part of the comparison: it prints its tables and records its figures.
struct Part {
    name: &'static str,
    measure: fn(Effort, &Path, &mut Figures) -> Result<()>,
    /// What a process does that takes part, if there are any.
    act: fn(&[String]) -> Result<()>,
}

const PARTS: &[Part] = &[
    Part { name: "uncontended", measure: uncontended::measure, act: no_actor },
    Part { name: "opening", measure: opening::measure, act: opening::act },
    Part { name: "refused", measure: refused::measure, act: refused::act },
    Part { name: "tasks", measure: tasks::measure, act: no_actor },
    Part { name: "turns", measure: turns::measure, act: turns::act },
    Part { name: "wake", measure: wake::measure, act: wake::act },
    Part { name: "waits", measure: waits::measure, act: waits::act },
];

fn no_actor(_words: &[String]) -> Result<()> {
    Err("this part has no actors".into())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let named = |part: &&Part| arguments.iter().any(|word| word == part.name);
    if let [marker, name, words @ ..] = &arguments[..]
        && marker == "actor"
    {
        let part = PARTS.iter().find(|part| part.name == name).ok_or("no such part")?;
        return (part.act)(words);
    }
    let quick = arguments.iter().any(|word| word == "--quick");
    let effort = if quick { Effort::Quick } else { Effort::Full };
    let all = !PARTS.iter().any(|part| named(&part));
    let started = Instant::now();
    println!("load average before: {}", load_average()?);
    let (directory, mut figures) = (tempfile::tempdir()?, Figures::default());
    for part in PARTS.iter().filter(|part| all || named(part)) {
        (part.measure)(effort, directory.path(), &mut figures)?;
    }
    figures.print();
    println!("\nload average after {:.0?}: {}", started.elapsed(), load_average()?);
    Ok(())
}

fn load_average() -> Result<String> {
    Ok(fs::read_to_string("/proc/loadavg")?.trim().to_owned())
}
