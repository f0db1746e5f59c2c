//! The paths of a lock, each by itself.
//!
//! `cargo bench -p benches --bench micro` measures times with criterion. `micro count <path> <times>` runs a
//! path so often and nothing else: `.ci/instructions` counts the instructions of that, which other
//! work on the machine does not change.

mod paths;

use std::time::Instant;

use criterion::Criterion;

use paths::PATHS;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, marker, name, times] = &arguments[..]
        && marker == "count"
    {
        let times = times.parse().expect("a number of times");
        let path = PATHS.iter().find(|path| path.name == name).expect("a path of the list");
        return (path.run)(times);
    }
    let mut criterion = Criterion::default().configure_from_args();
    for path in PATHS {
        criterion.bench_function(path.name, |bencher| {
            bencher.iter_custom(|times| {
                let started = Instant::now();
                (path.run)(times);
                started.elapsed()
            });
        });
    }
    criterion.final_summary();
}
