//! Lock files in a directory that systemd-tmpfiles cleans, while they are locked.

use std::fs;
use std::path::Path;
use std::process::Command;

use tokio_filelock::{FileLock, LockSpace, Protocol};

use crate::support::foreign::Program;
use crate::support::needs::{Need, lacks};
use crate::support::place::Place;
use crate::support::{Mode, open, until};

/// From this version of systemd on, files with a lock of flock(2) stay.
const RESPECTS_FLOCK: u32 = 254;

/// Removes what is old in the directory: everything. `further` lines name what is to stay.
fn clean(place: &Place, further: &str) {
    let directory = place.at("cleaned");
    let configuration = place.at("clean.conf");
    let lines = format!("d {} 0755 - - 0\n{further}\n", directory.display());
    fs::write(&configuration, lines).unwrap();
    let mut command = Command::new("systemd-tmpfiles");
    assert!(command.arg("--clean").arg(configuration).status().unwrap().success());
}

fn version() -> u32 {
    let output = Command::new("systemd-tmpfiles").arg("--version").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let number = said.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no version: {said}"))
}

/// Also where this process has the file open for something else already.
#[cfg(all(target_os = "linux", not(tokio_filelock_posix)))]
#[tokio::test]
async fn a_space_keeps_its_files_in_use() {
    if lacks(&[Need::Program("flock")]) {
        return;
    }
    for file_comes_first in [false, true] {
        let place = Place::new();
        let path = place.at("space");
        let file = match file_comes_first {
            true => Some(open(path.clone(), Protocol::Fcntl).await),
            false => None,
        };
        let space = LockSpace::open(&path).await.unwrap();
        assert!(!Program::Flock1.gets(&path, Mode::Exclusive), "file first: {file_comes_first}");
        drop((space, file));
        assert!(Program::Flock1.gets(&path, Mode::Exclusive));
    }
}

/// As the table in docs/PLATFORMS.md says.
#[tokio::test]
async fn what_systemd_tmpfiles_removes_and_leaves() {
    if lacks(&[Need::Program("systemd-tmpfiles")]) {
        return;
    }
    let place = Place::new();
    let at = |name: &str| place.at("cleaned").join(name);
    fs::create_dir(place.at("cleaned")).unwrap();
    let flock = open(at("flock"), Protocol::Flock).await;
    let fcntl = open(at("fcntl"), Protocol::Fcntl).await;
    let sticky = FileLock::options().mode(0o1644).open(at("sticky")).await.unwrap();
    let told = open(at("told"), Protocol::Fcntl).await;
    let key = LockSpace::open(at("space")).await.unwrap().key("a");
    let mut guards = Vec::new();
    for lock in [&flock, &fcntl, &sticky, &told, &key] {
        guards.push(lock.lock().await.unwrap());
    }
    clean(&place, &format!("x {}", at("told").display()));
    let stays = |name: &str| at(name).exists();
    let respects_flock = version() >= RESPECTS_FLOCK;
    assert_eq!(stays("flock"), respects_flock);
    assert_eq!(stays("space"), respects_flock);
    assert!(!stays("fcntl"));
    assert!(stays("sticky"));
    assert!(stays("told"));
}

/// The line that docs/PLATFORMS.md recommends.
#[tokio::test]
async fn a_directory_that_is_named_to_systemd_tmpfiles_stays() {
    if lacks(&[Need::Program("systemd-tmpfiles")]) {
        return;
    }
    let place = Place::new();
    let directory = place.at("cleaned").join("locks");
    fs::create_dir_all(&directory).unwrap();
    let lock = open(directory.join("app.lock"), Protocol::Fcntl).await;
    let guard = lock.lock().await.unwrap();
    clean(&place, &format!("x {}", directory.display()));
    assert!(directory.join("app.lock").exists());
    drop(guard);
}

/// What a program asks that removes old files, systemd-tmpfiles among them.
#[tokio::test]
async fn the_files_of_a_space_are_in_use_while_it_is_open_and_no_others_are() {
    if lacks(&[Need::Program("flock")]) {
        return;
    }
    let is_in_use = |path: &Path| !Program::Flock1.gets(path, Mode::Exclusive);
    let place = Place::new();
    let space = LockSpace::open(place.at("space")).await.unwrap();
    let fcntl = open(place.lock_file(), Protocol::Fcntl).await;
    let guard = fcntl.lock().await.unwrap();
    let files = ["space", "space.1", "space.7"].map(|name| place.at(name));
    assert!(files.iter().all(|file| is_in_use(file)));
    assert!(!is_in_use(&place.lock_file()), "programs that take both locks must get both");
    drop((guard, space));
    until("they are closed", || !files.iter().any(|file| is_in_use(file)));
}
