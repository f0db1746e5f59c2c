//! Random operations by four processes, one at a time, against a map: each answer is known.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::user::User;
use super::{directory, temporary_files, tree, value};
use crate::support::place::Place;
use crate::support::until;

const PROCESSES: usize = 4;
const STEPS: u64 = 2_000;

/// The value of a key.
#[derive(Debug, Clone, Copy)]
enum Value {
    File(u64),
    Directory(u64),
}

/// Says what a look for a file, or for a directory, comes to.
fn file(value: Option<&Value>, otherwise: &str) -> String {
    if let Some(Value::File(number)) = value { number.to_string() } else { otherwise.into() }
}

fn dir(value: Option<&Value>, otherwise: &str) -> String {
    if let Some(Value::Directory(number)) = value { number.to_string() } else { otherwise.into() }
}

/// A process, and the directory that it has pinned: its name, and the number in it.
struct Pinning {
    user: User,
    pinned: Option<(String, u64)>,
}

#[test]
fn processes_agree_with_a_map() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let place = Place::new();
    let directory = directory(&place);
    let start = || Pinning { user: User::of(&directory, u64::MAX), pinned: None };
    let mut users: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
    // Short keys, and some whose file names do not say them.
    let keys: Vec<_> =
        (0..12).map(|number| format!("{number}/{}", "k".repeat(number * 17))).collect();
    let mut map = BTreeMap::<&str, Value>::new();
    let mut done = BTreeMap::<&str, u32>::new();
    for step in 0..STEPS {
        let which = random.usize(..PROCESSES);
        let Pinning { user, pinned } = &mut users[which];
        let key = keys[random.usize(..keys.len())].as_str();
        let known = map.get(key);
        let what = match random.u32(..2000) {
            0..200 => {
                assert_eq!(user.ask(&format!("get {key}")), file(known, "none"), "step {step}");
                "get"
            }
            200..300 => {
                assert_eq!(user.ask(&format!("read {key}")), file(known, "none"), "step {step}");
                "read"
            }
            300..450 => {
                assert_eq!(user.ask(&format!("insert {key} {step}")), "inserted");
                map.insert(key, Value::File(step));
                "insert"
            }
            450..650 => {
                let answer = user.ask(&format!("fill {key} {step}"));
                assert_eq!(answer, file(known, &step.to_string()), "step {step}");
                map.insert(key, Value::File(answer.parse().unwrap()));
                "get_or_insert_with"
            }
            650..700 => {
                assert_eq!(user.ask(&format!("fail {key}")), file(known, "failed"), "step {step}");
                "fill that fails"
            }
            700..900 => {
                assert_eq!(user.ask(&format!("get-dir {key}")), dir(known, "none"), "step {step}");
                "get_dir"
            }
            900..1100 => {
                let answer = user.ask(&format!("insert-dir {key} {step}"));
                assert_eq!(answer, step.to_string());
                map.insert(key, Value::Directory(step));
                "insert_dir"
            }
            1100..1300 => {
                let answer = user.ask(&format!("fill-dir {key} {step}"));
                assert_eq!(answer, dir(known, &step.to_string()), "step {step}");
                map.insert(key, Value::Directory(answer.parse().unwrap()));
                "get_or_insert_dir_with"
            }
            1300..1350 => {
                let answer = user.ask(&format!("fail-dir {key} {step}"));
                assert_eq!(answer, dir(known, "failed"), "step {step}");
                "fill of a directory that fails"
            }
            1350..1450 => match pinned {
                None => {
                    let answer = user.ask(&format!("pin {key}"));
                    if let Some(Value::Directory(number)) = known {
                        let name = answer.rsplit('/').next().unwrap().to_owned();
                        *pinned = Some((name, *number));
                        "pin"
                    } else {
                        assert_eq!(answer, "none");
                        "pin of nothing"
                    }
                }
                Some((_, number)) => {
                    assert_eq!(user.ask("pinned"), number.to_string(), "step {step}");
                    "look at what is pinned"
                }
            },
            1450..1540 => {
                let Some((_, number)) = pinned.take() else { continue };
                assert_eq!(user.ask("pinned"), number.to_string(), "step {step}");
                assert_eq!(user.ask("unpin"), "unpinned");
                "drop of a pin"
            }
            1540..1640 => {
                let was_there = map.remove(key).is_some();
                assert_eq!(user.ask(&format!("remove {key}")), was_there.to_string());
                "remove"
            }
            1640..1700 => {
                let all: Vec<_> = map.keys().copied().collect();
                assert_eq!(user.ask("list"), all.join(" "), "step {step}");
                "entries"
            }
            1700..1740 => {
                assert_eq!(user.ask("prune"), "0", "step {step}");
                let kept = users.iter().filter_map(|user| user.pinned.as_ref());
                check_directories(&directory, &map, kept);
                "prune"
            }
            1740..1760 => {
                assert_eq!(user.ask("clear"), map.len().to_string(), "step {step}");
                map.clear();
                "clear"
            }
            1760..1780 => {
                wipe(&directory, random.bool());
                map.clear();
                for Pinning { user, pinned } in &mut users {
                    // A wipe asks no user.
                    if pinned.take().is_some() {
                        assert_eq!(user.ask("unpin"), "unpinned");
                    }
                }
                "wipe from outside"
            }
            1780..1810 if known.is_none() => {
                user.start(&format!("hang {key}"));
                assert_eq!(user.answer(), "filling");
                std::mem::replace(&mut users[which], start()).user.kill();
                "SIGKILL in a fill"
            }
            1810..1840 if !matches!(known, Some(Value::Directory(_))) => {
                user.start(&format!("hang-dir {key} {step}"));
                let answer = user.answer();
                let staged = answer.strip_prefix("filling ").unwrap();
                assert_eq!(tree::number(key, Path::new(staged)), step);
                std::mem::replace(&mut users[which], start()).user.kill();
                start().user.finish();
                assert!(!Path::new(staged).exists(), "step {step}");
                "SIGKILL in a fill of a directory"
            }
            1840..1880 | 1930..2000 if pinned.is_some() => {
                std::mem::replace(&mut users[which], start()).user.kill();
                start().user.finish();
                let kept = users.iter().filter_map(|user| user.pinned.as_ref());
                check_directories(&directory, &map, kept);
                "SIGKILL with a pin"
            }
            1900..1930 if known.is_none() => {
                let number = value::LARGE + step;
                let values = || {
                    let is_value = |name: &String| name.find('-') != Some(40);
                    temporary_files(&directory).into_iter().filter(is_value).collect::<Vec<_>>()
                };
                assert_eq!(user.ask(&format!("stall {key} {number}")), "stalled");
                assert_eq!(values().len(), 1);
                std::mem::replace(&mut users[which], start()).user.kill();
                // The next open removes what was left; the one above may have come too early.
                start().user.finish();
                assert_eq!(values(), [""; 0], "step {step}");
                "SIGKILL with half a value"
            }
            _ => continue,
        };
        *done.entry(what).or_default() += 1;
    }
    users.into_iter().for_each(|user| user.user.finish());
    println!("seed {seed}, {PROCESSES} processes, {STEPS} steps: {done:?}");
    assert_eq!(done.len(), 22, "everything was done: {done:?}");
}

/// Those that are values or pinned are there, and no others, once those who delete are done.
fn check_directories<'a>(
    directory: &Path,
    map: &BTreeMap<&str, Value>,
    pinned: impl Iterator<Item = &'a (String, u64)>,
) {
    let values = map.values().filter(|value| matches!(value, Value::Directory(_))).count();
    let pinned: BTreeSet<_> = pinned.map(|(name, _)| name.clone()).collect();
    let named = |name: &String| {
        let pointer = directory.join(&name[..2]).join(format!("{}.dir", &name[..40]));
        fs::read_to_string(pointer).is_ok_and(|text| text.contains(&name[41..]))
    };
    until("only what is a value or pinned is there", || {
        let complete: BTreeSet<_> = tree::complete(directory).into_iter().collect();
        let (of_keys, others): (BTreeSet<_>, BTreeSet<_>) = complete.into_iter().partition(named);
        of_keys.len() == values
            && others.is_subset(&pinned)
            && pinned.difference(&of_keys).count() == others.len()
    });
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
