//! A cache on a network file system, shared by two hosts: see `crate::unix::network`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio_filelock::cache::SyncPolicy;
use tokio_filelock::{CacheDir, ErrorKind};

use super::{storm, value};
use crate::child::Role;
use crate::support::place::Place;
use crate::support::process::{Process, commands, gather, meet, say};
use crate::support::{assert_names, in_time};
use crate::unix::network::{Caches, Hosts};

const KEYS: u32 = 30;
const MAX_SIZE: u64 = 60_000;
const ROUNDS: usize = 16;
const OPERATIONS: usize = 25;

/// For two processes on each host. `None` where no cache can be there.
fn cache_on(hosts: &Hosts) -> Option<[PathBuf; 4]> {
    let [one, other] = [hosts.here(), hosts.there()].map(|host| host.join("cache"));
    match hosts.traits.caches {
        Caches::Work => return Some([one.clone(), other.clone(), one, other]),
        Caches::Stall => {
            println!("not run: processes that share a cache come to a standstill here");
            return None;
        }
        Caches::Refused => {}
    }
    let error = CacheDir::options().this_machine_only(true).blocking_open(&one).unwrap_err();
    assert_names(&error, ErrorKind::Unsupported, &one);
    assert!(error.to_string().contains("SMB (CIFS)"), "{error}");
    println!("{error}");
    None
}

#[test]
#[ignore = "needs two mounts: run .ci/netfs"]
fn one_of_two_hosts_fills_a_key() {
    let hosts = Hosts::new();
    let Some(directories) = cache_on(&hosts) else { return };
    let place = Place::new();
    let log = place.at("log");
    let mut processes: Vec<_> = directories
        .iter()
        .map(|directory| {
            let arguments = [directory.to_str().unwrap(), log.to_str().unwrap()];
            Process::in_role(Role::FillOnANetwork, &arguments)
        })
        .collect();
    gather(&mut processes);
    processes.into_iter().for_each(Process::finish);
    let log = fs::read_to_string(log).unwrap();
    let mut fills: Vec<_> = log.lines().collect();
    println!("{} fills of {KEYS} keys", fills.len());
    fills.sort_unstable();
    let mut keys: Vec<_> = (0..KEYS).map(|key| format!("key {key}")).collect();
    keys.sort_unstable();
    assert_eq!(fills, keys);
}

/// Of several tasks that ask for the same keys in the same order.
pub(crate) fn fill(arguments: &[String]) {
    let [directory, log] = arguments else { panic!("{arguments:?}") };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cache = runtime.block_on(open(Path::new(directory), None));
    meet();
    let tasks = (0..3).map(|_| {
        let (cache, log) = (cache.clone(), PathBuf::from(log));
        runtime.spawn(async move {
            for key in 0..KEYS {
                let key = format!("key {key}");
                let fill = || async {
                    // On a local file system.
                    let mut log =
                        fs::OpenOptions::new().append(true).create(true).open(&log).unwrap();
                    writeln!(log, "{key}").unwrap();
                    // The load, and nothing to wait for.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    Ok::<_, std::io::Error>(value::of(&key, 7))
                };
                let entry = cache.get_or_insert_with(&key, fill).await.unwrap();
                assert_eq!(value::number(&key, &entry.read().await.unwrap()), 7);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        runtime.block_on(in_time(task)).unwrap();
    }
}

/// Looks at what is on the server, which no client's memory of it can hide.
#[test]
#[ignore = "needs two mounts: run .ci/netfs"]
fn values_of_two_hosts_are_whole_and_their_limit_is_kept() {
    let hosts = Hosts::new();
    let Some(directories) = cache_on(&hosts) else { return };
    let mut processes: Vec<_> = (1..)
        .zip(directories)
        .map(|(seed, directory): (u64, _)| {
            let arguments = [directory.to_str().unwrap(), &seed.to_string()];
            Process::in_role(Role::StormOnANetwork, &arguments)
        })
        .collect();
    for round in 0..ROUNDS {
        for process in &mut processes {
            process.tell("round");
        }
        for process in &processes {
            println!("round {round}: {}", process.event());
        }
        let values = storm::values(&hosts.on_server().join("cache"));
        let bytes: u64 = values.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        println!("round {round}: {} values, {bytes} of {MAX_SIZE} bytes", values.len());
        assert!(bytes <= MAX_SIZE, "{bytes} bytes");
    }
    processes.into_iter().for_each(Process::finish);
}

pub(crate) fn storm_in_child(arguments: &[String]) {
    let [directory, seed] = arguments else { panic!("{arguments:?}") };
    let mut random = fastrand::Rng::with_seed(seed.parse().unwrap());
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cache = runtime.block_on(open(Path::new(directory), Some(MAX_SIZE)));
    for _ in commands() {
        let (mut hits, mut pruned) = (0, 0);
        for _ in 0..OPERATIONS {
            runtime.block_on(in_time(operate(&cache, &mut random, &mut hits, &mut pruned)));
        }
        say(&format!("{hits} hits, {pruned} values pruned"));
    }
}

async fn operate(cache: &CacheDir, random: &mut fastrand::Rng, hits: &mut u64, pruned: &mut u64) {
    // Some of them too long for their file names.
    let key = random.u32(..2 * KEYS);
    let key = format!("{key}/{}", "k".repeat(key as usize * 4));
    let number = u64::from(random.u32(..));
    match random.u32(..10) {
        0..4 => {
            if let Some(bytes) = cache.read(&key).await.unwrap() {
                value::number(&key, &bytes);
                *hits += 1;
            }
        }
        4..8 => {
            let entry = cache.insert(&key, value::of(&key, number)).await.unwrap();
            match entry.read().await {
                Ok(bytes) => assert_eq!(value::number(&key, &bytes), number),
                // The other host has removed it or put another one in its place.
                Err(error) => {
                    let source = error.os_error().map(std::io::Error::kind);
                    let stale = std::io::ErrorKind::StaleNetworkFileHandle;
                    assert_eq!(source, Some(stale), "{error}");
                }
            }
        }
        8 => drop(cache.remove(&key).await.unwrap()),
        _ => *pruned += cache.prune().await.unwrap().values,
    }
}

async fn open(directory: &Path, max_size: Option<u64>) -> CacheDir {
    let this_machine_only = std::env::var_os("TOKIO_FILELOCK_TEST_THIS_MACHINE_ONLY").is_some();
    let options = CacheDir::options().sync(SyncPolicy::Never).this_machine_only(this_machine_only);
    let options = match max_size {
        Some(most) => options.max_size(most),
        None => options,
    };
    options.open(directory).await.expect("the cache opens")
}
