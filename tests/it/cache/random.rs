//! Random operations by four processes, one at a time, against a map: each answer is known.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::user::User;
use super::{directory, temporary_files, value};
use crate::support::place::Place;

const PROCESSES: usize = 4;
const STEPS: u64 = 1_500;

#[test]
fn processes_agree_with_a_map() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let place = Place::new();
    let directory = directory(&place);
    let start = || User::of(&directory, u64::MAX);
    let mut users: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
    // Short keys, and some whose file names do not say them.
    let keys: Vec<_> =
        (0..12).map(|number| format!("{number}/{}", "k".repeat(number * 17))).collect();
    let mut map = BTreeMap::<&str, u64>::new();
    let mut done = BTreeMap::<&str, u32>::new();
    for step in 0..STEPS {
        let user = &mut users[random.usize(..PROCESSES)];
        let key = keys[random.usize(..keys.len())].as_str();
        let known = map.get(key).map_or("none".to_owned(), u64::to_string);
        let what = match random.u32(..1000) {
            0..250 => {
                assert_eq!(user.ask(&format!("get {key}")), known, "step {step}");
                "get"
            }
            250..400 => {
                assert_eq!(user.ask(&format!("read {key}")), known, "step {step}");
                "read"
            }
            400..550 => {
                assert_eq!(user.ask(&format!("insert {key} {step}")), "inserted");
                map.insert(key, step);
                "insert"
            }
            550..750 => {
                let number = *map.entry(key).or_insert(step);
                let answer = user.ask(&format!("fill {key} {step}"));
                assert_eq!(answer, number.to_string(), "step {step}");
                "get_or_insert_with"
            }
            750..800 => {
                let known = map.get(key).map_or("failed".to_owned(), u64::to_string);
                assert_eq!(user.ask(&format!("fail {key}")), known, "step {step}");
                "fill that fails"
            }
            800..900 => {
                let was_there = map.remove(key).is_some();
                assert_eq!(user.ask(&format!("remove {key}")), was_there.to_string());
                "remove"
            }
            900..930 => {
                let all: Vec<_> = map.keys().copied().collect();
                assert_eq!(user.ask("list"), all.join(" "), "step {step}");
                "entries"
            }
            930..950 => {
                assert_eq!(user.ask("prune"), "0", "step {step}");
                "prune"
            }
            950..960 => {
                assert_eq!(user.ask("clear"), map.len().to_string(), "step {step}");
                map.clear();
                "clear"
            }
            960..970 => {
                wipe(&directory, random.bool());
                map.clear();
                "wipe from outside"
            }
            970..985 if !map.contains_key(key) => {
                user.start(&format!("hang {key}"));
                assert_eq!(user.answer(), "filling");
                std::mem::replace(user, start()).kill();
                "SIGKILL in a fill"
            }
            _ if !map.contains_key(key) => {
                let number = value::LARGE + step;
                assert_eq!(user.ask(&format!("stall {key} {number}")), "stalled");
                assert_eq!(temporary_files(&directory).len(), 1);
                std::mem::replace(user, start()).kill();
                // The next open removes what was left; the one above may have come too early.
                start().finish();
                assert_eq!(temporary_files(&directory), [""; 0], "step {step}");
                "SIGKILL with half a value"
            }
            _ => continue,
        };
        *done.entry(what).or_default() += 1;
    }
    users.into_iter().for_each(User::finish);
    println!("seed {seed}, {PROCESSES} processes, {STEPS} steps: {done:?}");
    assert_eq!(done.len(), 12, "everything was done");
}

/// All of the directory, or what is in it.
pub(super) fn wipe(directory: &Path, with_it: bool) {
    if !directory.exists() {
        return; // wiped already
    }
    if with_it {
        return fs::remove_dir_all(directory).unwrap();
    }
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
}

/// Another one each time, unless `TOKIO_FILELOCK_SEED` says which.
pub(super) fn seed() -> u64 {
    let seed = std::env::var("TOKIO_FILELOCK_SEED").ok();
    let seed = seed.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    println!("TOKIO_FILELOCK_SEED={seed}");
    seed
}
