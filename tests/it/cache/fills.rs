//! One fill per key among all tasks and processes, whatever becomes of those who fill.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Barrier, Notify};
use tokio::task::JoinSet;
use tokio_filelock::CacheDir;
use tokio_filelock::cache::FillError;

use super::random::seed;
use super::user::User;
use super::{directory, open, options, temporary_files, value};
use crate::child::Role;
use crate::support::in_time;
use crate::support::place::Place;
use crate::support::process::{Process, commands, say};

const PROCESSES: usize = 4;
const TASKS: u64 = 25;
const KEYS: usize = 20;
const GENERATIONS: usize = 6;

/// Between two removals of a key it is filled once, by one task of one process, and all get that value.
#[test]
fn each_key_is_filled_once_in_each_generation() {
    let mut random = fastrand::Rng::with_seed(seed());
    let place = Place::new();
    let log = place.at("log");
    let arguments = [directory(&place), log.clone()];
    let arguments: Vec<_> = arguments.iter().map(|path| path.to_str().unwrap()).collect();
    let mut processes: Vec<_> =
        (0..PROCESSES).map(|_| Process::in_role(Role::FillACache, &arguments)).collect();
    let mut expected = BTreeMap::<String, usize>::new();
    let mut absent: Vec<usize> = (0..KEYS).collect();
    for _ in 0..GENERATIONS {
        for key in &absent {
            *expected.entry(key.to_string()).or_default() += 1;
        }
        processes.iter_mut().for_each(|process| process.tell("round"));
        let answers: Vec<_> = processes.iter().map(Process::event).collect();
        assert!(answers.iter().all(|values| *values == answers[0]), "all got the same values");
        assert_eq!(counted(&log), expected);
        absent = (0..KEYS).filter(|_| random.bool()).collect();
        let keys: Vec<_> = absent.iter().map(usize::to_string).collect();
        let remover = &mut processes[random.usize(..PROCESSES)];
        remover.tell(&format!("remove {}", keys.join(" ")));
        remover.expect("removed");
    }
    processes.into_iter().for_each(Process::finish);
    let fills: usize = expected.values().sum();
    let asked = PROCESSES as u64 * TASKS * (KEYS * GENERATIONS) as u64;
    println!("{fills} fills, {asked} times asked, by {PROCESSES} processes x {TASKS} tasks");
}

fn counted(log: &Path) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for key in fs::read_to_string(log).unwrap().lines() {
        *counted.entry(key.to_owned()).or_default() += 1;
    }
    counted
}

/// The role `FillACache`.
pub(crate) fn fill(arguments: &[String]) {
    let [directory, log] = arguments else { panic!("two arguments") };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cache = runtime.block_on(options().open(directory)).unwrap();
    for command in commands() {
        match command.split(' ').collect::<Vec<_>>()[..] {
            ["round"] => say(&runtime.block_on(round(&cache, Path::new(log)))),
            ["remove", ref keys @ ..] => {
                for key in keys.iter().filter(|key| !key.is_empty()) {
                    assert!(runtime.block_on(cache.remove(key)).unwrap());
                }
                say("removed");
            }
            _ => panic!("no command: {command}"),
        }
    }
}

/// All tasks want all keys, each in an order of its own; what they got.
async fn round(cache: &CacheDir, log: &Path) -> String {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (cache, log) = (cache.clone(), log.to_owned());
        tasks.spawn(async move {
            let mut random = fastrand::Rng::with_seed(task);
            let mut keys: Vec<_> = (0..KEYS).map(|key| key.to_string()).collect();
            random.shuffle(&mut keys);
            let mut got = BTreeMap::new();
            for key in keys {
                let bytes = value::of(&key, random.u32(..).into());
                let fill = || async {
                    let mut log = OpenOptions::new().append(true).create(true).open(log.clone())?;
                    log.write_all(format!("{key}\n").as_bytes())?;
                    Ok::<_, std::io::Error>(&bytes[..])
                };
                let entry = cache.get_or_insert_with(&key, fill).await.unwrap();
                got.insert(key.clone(), value::number(&key, &entry.read().await.unwrap()));
            }
            got
        });
    }
    let all = tasks.join_all().await;
    assert!(all.iter().all(|got| *got == all[0]), "all tasks got the same values");
    format!("{:?}", all[0])
}

#[tokio::test]
async fn those_who_wait_get_the_value_and_others_do_not_wait() {
    let place = Place::new();
    let cache = open(&place).await;
    let mut user = User::of(&directory(&place), u64::MAX);
    let number = value::LARGE;
    assert_eq!(user.ask(&format!("stall slow {number}")), "stalled");
    // Other keys: hits and fills.
    cache.insert("other", &b"there"[..]).await.unwrap();
    assert_eq!(in_time(cache.read("other")).await.unwrap().unwrap(), b"there");
    let fill = || async { Ok::<_, Infallible>(&b"new"[..]) };
    in_time(cache.get_or_insert_with("another", fill)).await.unwrap();
    // The key itself: absent, for who does not want to wait.
    assert!(in_time(cache.get("slow")).await.unwrap().is_none());
    let never = || async { panic!("there is a filler") as Result<&[u8], Infallible> };
    let mut waiting = tokio_test::task::spawn(cache.get_or_insert_with("slow", never));
    assert!(waiting.poll().is_pending());
    in_time(cache.clear()).await.unwrap();
    assert_eq!(user.ask("resume slow"), number.to_string());
    let entry = in_time(waiting).await.unwrap();
    assert_eq!(value::number("slow", &entry.read().await.unwrap()), number);
    let stats = cache.stats().await.unwrap();
    assert_eq!((stats.waits, stats.fills, stats.values), (1, 1, 1));
    user.finish();
}

#[tokio::test]
async fn the_next_one_fills_if_the_filler_fails_is_cancelled_or_is_killed() {
    let place = Place::new();
    let cache = open(&place).await;
    for ending in ["fails", "is cancelled", "panics", "is killed", "is killed with half a value"] {
        let (begun, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let mut user = User::of(&directory(&place), u64::MAX);
        let first = {
            let (cache, begun, end) = (cache.clone(), begun.clone(), end.clone());
            tokio::spawn(async move {
                let fill = || async {
                    begun.notify_one();
                    end.notified().await;
                    assert_eq!(ending, "fails", "a panic");
                    Err::<&[u8], _>("failed")
                };
                cache.get_or_insert_with("key", fill).await
            })
        };
        match ending {
            "is killed" => {
                first.abort();
                user.start("hang key");
                // The aborted one may have been first.
                assert_eq!(user.answer(), "filling");
            }
            "is killed with half a value" => {
                first.abort();
                let stalled = user.ask(&format!("stall key {}", value::LARGE));
                assert_eq!(stalled, "stalled");
            }
            _ => in_time(begun.notified()).await,
        }
        let fills = AtomicU32::new(0);
        let second = || async {
            fills.fetch_add(1, Ordering::Relaxed);
            Ok::<_, &str>(&b"second"[..])
        };
        let mut second = tokio_test::task::spawn(cache.get_or_insert_with("key", second));
        assert!(second.poll().is_pending());
        match ending {
            "fails" => {
                end.notify_one();
                let failed = in_time(first).await.unwrap();
                assert!(matches!(failed, Err(FillError::Fill("failed"))));
            }
            "is cancelled" => {
                first.abort();
                assert!(in_time(first).await.unwrap_err().is_cancelled());
            }
            "panics" => {
                end.notify_one();
                assert!(in_time(first).await.unwrap_err().is_panic());
            }
            _ => user.kill(),
        }
        let entry = in_time(second).await.unwrap();
        assert_eq!(entry.read().await.unwrap(), b"second", "{ending}");
        assert_eq!(fills.load(Ordering::Relaxed), 1);
        assert!(cache.remove("key").await.unwrap());
    }
    open(&place).await;
    assert_eq!(temporary_files(cache.path()), [""; 0]);
}

/// A living process's temporary files stay when others open the directory, a dead one's go.
#[tokio::test]
async fn only_the_temporary_files_of_the_dead_are_removed() {
    let place = Place::new();
    let directory = directory(&place);
    let [mut living, mut dead] = [(); 2].map(|()| User::of(&directory, u64::MAX));
    for (user, key) in [(&mut living, "a"), (&mut dead, "b")] {
        assert_eq!(user.ask(&format!("stall {key} {}", value::LARGE)), "stalled");
    }
    let both = temporary_files(&directory);
    assert_eq!(both.len(), 2);
    open(&place).await;
    assert_eq!(temporary_files(&directory), both);
    dead.kill();
    assert_eq!(temporary_files(&directory), both);
    let cache = open(&place).await;
    assert_eq!(temporary_files(&directory).len(), 1);
    assert_eq!(living.ask("resume a"), value::LARGE.to_string());
    // What a cancelled task had half written goes without another open.
    assert_eq!(living.ask(&format!("stall c {}", value::LARGE)), "stalled");
    assert_eq!(living.ask("cancel"), "cancelled");
    crate::support::until("the temporary file is gone", || temporary_files(&directory).is_empty());
    assert!(cache.get("c").await.unwrap().is_none());
    living.finish();
}

/// Values on their way in survive a wipe of the directory, at any length.
#[tokio::test]
async fn a_wipe_loses_no_insert_that_is_under_way() {
    let place = Place::new();
    let directory = directory(&place);
    for with_it in [true, false] {
        let mut user = User::of(&directory, u64::MAX);
        assert_eq!(user.ask(&format!("stall key {}", value::LARGE)), "stalled");
        super::random::wipe(&directory, with_it);
        let cache = open(&place).await;
        // It still has the key to itself.
        let never = || async { panic!("there is a filler") as Result<&[u8], Infallible> };
        let mut waiting = tokio_test::task::spawn(cache.get_or_insert_with("key", never));
        assert!(waiting.poll().is_pending());
        assert_eq!(user.ask("resume key"), value::LARGE.to_string());
        let entry = in_time(waiting).await.unwrap();
        assert_eq!(value::number("key", &entry.read().await.unwrap()), value::LARGE);
        assert!(cache.remove("key").await.unwrap());
        assert_eq!(temporary_files(&directory), [""; 0]);
        user.finish();
    }
}

/// A removal is for good: what there is afterwards was filled by a task that began afterwards.
#[tokio::test]
async fn remove_waits_for_a_fill() {
    let place = Place::new();
    let cache = open(&place).await;
    let mut user = User::of(&directory(&place), u64::MAX);
    assert_eq!(user.ask(&format!("stall key {}", value::LARGE)), "stalled");
    let mut removing = tokio_test::task::spawn(cache.remove("key"));
    assert!(removing.poll().is_pending());
    assert_eq!(user.ask("resume key"), value::LARGE.to_string());
    assert!(in_time(removing).await.unwrap());
    assert!(cache.get("key").await.unwrap().is_none());
    user.finish();
}

/// Two keys at once, one fill inside the other.
#[tokio::test]
async fn a_fill_may_use_the_cache_for_other_keys() {
    let place = Place::new();
    let cache = open(&place).await;
    let barrier = Arc::new(Barrier::new(2));
    let mut tasks = JoinSet::new();
    for outer in ["a", "b"] {
        let (cache, barrier) = (cache.clone(), barrier.clone());
        tasks.spawn(async move {
            let fill = || async {
                barrier.wait().await;
                let inner = || async { Ok::<_, Infallible>(&b"inner"[..]) };
                let entry = cache.get_or_insert_with("shared", inner).await?;
                Ok::<_, FillError<Infallible>>(tokio::fs::File::from_std(entry.into_file()))
            };
            cache.get_or_insert_with(outer, fill).await.unwrap().read().await.unwrap()
        });
    }
    for value in in_time(tasks.join_all()).await {
        assert_eq!(value, b"inner");
    }
    assert_eq!(cache.stats().await.unwrap().fills, 3);
}
