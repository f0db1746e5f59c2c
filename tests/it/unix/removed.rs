//! Lock files that are removed on purpose: by the guard, or because they are not in use.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use tokio::task::{JoinSet, yield_now};
use tokio_filelock::{ErrorKind, FileLock, Kept, LockSpace, Protocol, UnusedFiles};

use crate::child::Role;
use crate::replaced::TASKS_OF_A_REMOVER;
use crate::support::locker::{Locker, is_free};
use crate::support::place::Place;
use crate::support::process::{Process, gather, meet, say};
use crate::support::{Mode, assert_names, each_protocol, in_time, open, protocol};

/// Whether a guard of this protocol can remove its file. With POSIX record locks it cannot see whether keys in
/// the file are in use: to open the file a second time, and close it, would release its own.
fn removes(protocol: Protocol) -> bool {
    protocol == Protocol::Flock || !cfg!(tokio_filelock_posix)
}

async fn assert_unsupported(lock: &FileLock) {
    let error = in_time(lock.lock()).await.unwrap().remove_file().await.unwrap_err();
    assert_names(&error, ErrorKind::Unsupported, lock.path());
    assert!(error.to_string().contains("remove it while no program uses it"), "{error}");
    assert!(lock.path().exists());
    assert!(is_free(lock.path(), lock.protocol(), Mode::Exclusive), "released in any case");
}

each_protocol!(#[test] fn removing_the_file_that_one_holds_keeps_exclusion);
/// Every holder removes the file: no task is ever inside with another one, none gets an error, and none
/// has to verify the path.
fn removing_the_file_that_one_holds_keeps_exclusion(protocol: Protocol) {
    if !removes(protocol) {
        return;
    }
    let place = Place::new();
    fs::write(place.data_file(), "").unwrap();
    let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    let (path, data) = (text(place.lock_file()), text(place.data_file()));
    let arguments = [path.as_str(), &format!("{protocol:?}"), &data];
    let mut removers = [(); 8].map(|()| Process::in_role(Role::RemoveByTheGuard, &arguments));
    gather(&mut removers);
    removers.iter().for_each(|remover| remover.expect("removed"));
    removers.into_iter().for_each(Process::finish);
    let written = fs::read(place.data_file()).unwrap().len();
    assert_eq!(written, 8 * TASKS_OF_A_REMOVER, "{protocol:?}");
    assert_eq!(place.names(), ["data"], "the last one has removed the last file");
}

pub(crate) fn remove_by_the_guard(arguments: &[String]) {
    let [path, name, data] = arguments else { panic!("{arguments:?}") };
    let lock = FileLock::options().protocol(protocol(name)).blocking_open(path).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    meet();
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS_OF_A_REMOVER {
            let (lock, data) = (lock.clone(), data.clone());
            tasks.spawn(async move {
                let guard = lock.lock().await.expect("no error");
                let inside = format!("{data}.inside");
                fs::File::create_new(&inside).expect("no other task is inside");
                let mut content = fs::read(&data).unwrap();
                yield_now().await;
                content.push(b'.');
                fs::write(&data, content).unwrap();
                fs::remove_file(inside).unwrap();
                guard.remove_file().await.expect("the lock file that is held");
            });
        }
        tasks.join_all().await;
    });
    say("removed");
}

each_protocol!(#[tokio::test] async fn a_file_that_is_not_only_a_lock_file_stays);
async fn a_file_that_is_not_only_a_lock_file_stays(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let options = FileLock::options().protocol(protocol);
    let lock = options.clone().open(&path).await.unwrap();
    if !removes(protocol) {
        assert_unsupported(&lock).await;
        return;
    }
    let remove = async || {
        let error = lock.lock().await.unwrap().remove_file().await.unwrap_err();
        assert_eq!(error.path(), path);
        assert!(is_free(&path, protocol, Mode::Exclusive), "released in any case");
        error.kind()
    };

    fs::hard_link(&path, place.at("other")).unwrap();
    assert_eq!(remove().await, ErrorKind::Linked);
    fs::remove_file(place.at("other")).unwrap();

    fs::write(&path, "something").unwrap();
    assert_eq!(remove().await, ErrorKind::NotEmpty);
    fs::write(&path, "").unwrap();
    let recording = options.clone().record(true).open(&path).await.unwrap();
    drop(recording.lock().await.unwrap());
    assert_eq!(remove().await, ErrorKind::NotEmpty, "the token would begin anew");
    drop(recording);
    fs::write(&path, "").unwrap();

    // Another file has the name by now, or a link to this one does.
    let guard = lock.lock().await.unwrap();
    fs::rename(&path, place.at("moved")).unwrap();
    fs::write(&path, "").unwrap();
    assert_eq!(guard.remove_file().await.unwrap_err().kind(), ErrorKind::Replaced);
    let guard = options.open(place.at("moved")).await.unwrap().lock().await.unwrap();
    fs::remove_file(&path).unwrap();
    fs::rename(place.at("moved"), place.at("again")).unwrap();
    symlink(place.at("again"), place.at("moved")).unwrap();
    assert_eq!(guard.remove_file().await.unwrap_err().kind(), ErrorKind::Replaced);
    assert_eq!(place.names(), ["again", "moved"]);
}

#[tokio::test]
#[cfg(not(tokio_filelock_posix))] // no process can remove a file that has keys, see `removes`
async fn a_file_with_keys_stays_as_long_as_one_is_locked() {
    let place = Place::new();
    let path = place.lock_file();
    let space = LockSpace::open(&path).await.unwrap();
    // Of eight files one is at the path itself; the others do not matter here.
    let names = place.names();
    let key = (0..)
        .map(|number: u32| space.key(number.to_string()))
        .find(|key| key.path() == path)
        .unwrap();
    let error = key.lock().await.unwrap().remove_file().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let lock = open(&path, Protocol::Fcntl).await;
    let held = key.lock().await.unwrap();
    let error = lock.lock().await.unwrap().remove_file().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert_eq!(place.names(), names);
    drop(held);
    lock.lock().await.unwrap().remove_file().await.unwrap();
    // The key follows.
    let guard = in_time(key.lock()).await.unwrap();
    let mut other = Locker::of_key(&path, &String::from_utf8_lossy(key.key().unwrap()));
    assert_eq!(other.try_lock(Mode::Exclusive), "would block");
    drop(guard);
    other.finish();
}

#[cfg(target_os = "linux")]
#[tokio::test]
#[cfg(not(tokio_filelock_posix))] // to look at a file is to open and close it, which releases POSIX record locks
async fn unused_lock_files_of_a_directory_are_removed_and_no_others() {
    let place = Place::new();
    let at = |name: &str| place.at(name);
    for name in ["a.lock", "b.lock", "other.txt"] {
        fs::write(at(name), "").unwrap();
    }
    fs::write(at("content.lock"), "content").unwrap();
    fs::write(at("two.lock"), "").unwrap();
    fs::hard_link(at("two.lock"), at("names.lock")).unwrap();
    fs::create_dir(at("directory.lock")).unwrap();
    symlink(at("other.txt"), at("link.lock")).unwrap();
    nix::unistd::mkfifo(&at("fifo.lock"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let held = [
        Locker::holding(&at("flock.lock"), Protocol::Flock, Mode::Shared),
        Locker::holding(&at("fcntl.lock"), Protocol::Fcntl, Mode::Shared),
    ];
    let own = open(at("own.lock"), Protocol::Flock).await;
    let guard = own.lock().await.unwrap();
    let mut key = Locker::of_key(&at("space.lock"), "name");
    key.lock(Mode::Exclusive);
    let spaces = place.names().iter().filter(|name| name.starts_with("space.lock")).count();

    let all = UnusedFiles::ending_with(".lock");
    let error = UnusedFiles::ending_with("").remove_from(place.directory()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = all.clone().remove_from(at("nowhere")).await.unwrap_err();
    assert_names(&error, ErrorKind::Io, &at("nowhere"));
    let removed = all.clone().remove_from(place.directory()).await.unwrap();
    assert!(removed.files.is_empty(), "all of them are of today: {removed}");

    let all = all.unchanged_for(Duration::ZERO);
    let mut removed = all.remove_from(place.directory()).await.unwrap();
    removed.files.sort();
    println!("{removed}");
    let unused = ["a.lock", "b.lock"].map(at);
    assert!(unused.iter().all(|path| removed.files.contains(path)), "{removed}");
    let reason = |name: &str| {
        let mut kept = removed.kept.iter().filter(|(path, _)| *path == at(name));
        kept.next().map_or("removed".to_owned(), |(_, kept)| format!("{kept:?}"))
    };
    for name in ["flock.lock", "fcntl.lock", "own.lock"] {
        assert_eq!(reason(name), format!("{:?}", Kept::Locked), "{name}");
    }
    assert_eq!(reason("content.lock"), "NotEmpty");
    assert_eq!([reason("two.lock"), reason("names.lock")], ["Linked", "Linked"]);
    for name in ["directory.lock", "link.lock", "fifo.lock"] {
        assert_eq!(reason(name), "NotAFile", "{name}");
    }
    assert!(at("other.txt").exists());
    // The file in which the key is locked, and no other one ends with the suffix.
    assert!(spaces >= 1);
    key.unlock();
    key.lock(Mode::Exclusive);

    // Who had one of them open goes on with another one.
    drop(guard);
    drop(in_time(own.lock()).await.unwrap());
    key.finish();
    held.into_iter().for_each(Locker::finish);
}

/// To close any descriptor of a file releases them.
#[cfg(all(target_os = "linux", not(tokio_filelock_posix)))]
#[test]
fn a_record_lock_of_other_code_of_this_process_survives_a_removal() {
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    let place = Place::new();
    let file = fs::File::create(place.lock_file()).unwrap();
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    #[allow(clippy::disallowed_methods)] // what other code does
    fcntl(&file, FcntlArg::F_SETLK(&whole)).unwrap();
    assert!(!is_free(&place.lock_file(), Protocol::Fcntl, Mode::Exclusive));
    let unused = UnusedFiles::ending_with(".lock").unchanged_for(Duration::ZERO);
    let removed = unused.blocking_remove_from(place.directory()).unwrap();
    assert!(matches!(removed.kept[..], [(_, Kept::Locked)]), "{removed}");
    assert!(!is_free(&place.lock_file(), Protocol::Fcntl, Mode::Exclusive));
    drop(file);
}

#[cfg(all(target_os = "linux", not(tokio_filelock_posix)))]
#[tokio::test]
async fn a_record_lock_of_other_code_of_this_process_keeps_the_file() {
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    let place = Place::new();
    let lock = open(place.lock_file(), Protocol::Fcntl).await;
    let file = fs::File::options().write(true).open(place.lock_file()).unwrap();
    // Beyond what this crate locks.
    let elsewhere = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 1 << 30,
        l_len: 1,
        l_pid: 0,
    };
    #[allow(clippy::disallowed_methods)] // what other code does
    fcntl(&file, FcntlArg::F_SETLK(&elsewhere)).unwrap();
    let error = lock.lock().await.unwrap().remove_file().await.unwrap_err();
    assert_names(&error, ErrorKind::InvalidInput, &place.lock_file());
    let mut asked = elsewhere;
    #[allow(clippy::disallowed_methods)] // another open file description asks
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut asked)).unwrap();
    assert_eq!(i32::from(asked.l_type), libc::F_WRLCK, "it is gone");
    drop(file);
    lock.lock().await.unwrap().remove_file().await.unwrap();
    assert!(!place.lock_file().exists());
}

/// Files are removed while others open, lock and unlock them, all the time.
#[cfg(tokio_filelock_posix)]
#[tokio::test]
async fn unused_lock_files_of_a_directory_stay_where_that_can_not_be_seen() {
    let place = Place::new();
    fs::write(place.lock_file(), "").unwrap();
    let unused = UnusedFiles::ending_with(".lock").unchanged_for(Duration::ZERO);
    let error = unused.remove_from(place.directory()).await.unwrap_err();
    assert_names(&error, ErrorKind::Unsupported, place.directory());
    assert!(error.to_string().contains("remove it while no program uses it"), "{error}");
    assert_eq!(place.names(), ["app.lock"]);
}

#[cfg(target_os = "linux")]
#[cfg(not(tokio_filelock_posix))]
each_protocol!(#[test] fn files_that_are_in_use_are_never_removed_under_a_holder);
#[cfg(target_os = "linux")]
#[cfg(not(tokio_filelock_posix))] // as above
fn files_that_are_in_use_are_never_removed_under_a_holder(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.data_file(), 0_u64.to_le_bytes()).unwrap();
    let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    let (path, data) = (text(place.lock_file()), text(place.data_file()));
    let arguments = [path.as_str(), &format!("{protocol:?}"), &data];
    let mut counters = [(); 4].map(|()| Process::in_role(Role::CountAndReopen, &arguments));
    gather(&mut counters);
    let mut removals = 0;
    let counted = std::thread::spawn(move || {
        counters.iter().for_each(|counter| counter.expect("counted"));
        counters.into_iter().for_each(Process::finish);
    });
    while !counted.is_finished() {
        let unused = UnusedFiles::ending_with(".lock").unchanged_for(Duration::ZERO);
        let removed = unused.blocking_remove_from(place.directory()).unwrap();
        removals += removed.files.len();
    }
    counted.join().unwrap();
    let count = u64::from_le_bytes(fs::read(place.data_file()).unwrap().try_into().unwrap());
    assert_eq!(count, 4 * COUNTS, "{protocol:?}");
    println!("{protocol:?}: {removals} removals");
}

const COUNTS: u64 = 500;

pub(crate) fn count_and_reopen(arguments: &[String]) {
    let [path, name, data] = arguments else { panic!("{arguments:?}") };
    meet();
    for _ in 0..COUNTS {
        let lock = FileLock::options().protocol(protocol(name)).blocking_open(path).unwrap();
        let guard = lock.blocking_lock().unwrap();
        let count = u64::from_le_bytes(fs::read(data).unwrap().try_into().unwrap());
        fs::write(data, (count + 1).to_le_bytes()).unwrap();
        drop(guard);
    }
    say("counted");
}
