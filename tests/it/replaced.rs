//! Lock files that are removed, renamed or replaced while they are in use: a lock on a file that
//! no path leads to excludes no other task, so it is never given out.

use std::fs;
use std::path::Path;

use tokio::task::{JoinSet, yield_now};
use tokio_filelock::{ErrorKind, FileLock, OpenOptions, Protocol};

use crate::child::Role;
use crate::support::locker::{Locker, holder_and_waiters, is_free};
use crate::support::place::Place;
use crate::support::process::{Process, commands, gather, meet, say};
use crate::support::snapshot::Snapshot;
use crate::support::{
    Mode, assert_names, assert_would_block, each_protocol, in_time, kernel, open, protocol, until,
};

each_protocol!(
    #[tokio::test]
    #[cfg_attr(windows, ignore = "wine neither removes nor replaces a file that is open")]
    async fn unlinked_between_two_locks
);
async fn unlinked_between_two_locks(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    drop(lock.lock().await.unwrap());
    for asked in ["lock", "try_lock"] {
        fs::remove_file(place.lock_file()).unwrap();
        let guard = match asked {
            "lock" => in_time(lock.lock()).await.unwrap(),
            _ => lock.try_lock().unwrap(),
        };
        assert!(!is_free(&place.lock_file(), protocol, Mode::Shared), "{protocol:?}, {asked}");
        assert_eq!(lock.counters().acquisitions, 1, "counted anew on the new file");
        drop(guard);
    }
}

each_protocol!(
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    #[cfg_attr(windows, ignore = "wine neither removes nor replaces a file that is open")]
    async fn unlinked_while_held
);
/// A process that removes a lock file that is held splits the lock; no other one can prevent that. The next
/// lock is on the file that the others have.
async fn unlinked_while_held(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let guard = lock.lock().await.unwrap();
    fs::remove_file(place.lock_file()).unwrap();
    let mut other = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    drop(guard);

    assert_would_block(lock.try_lock());
    let waiting = tokio::spawn(async move { lock.lock().await.map(drop) });
    // For the new file.
    kernel::await_waiting_calls(&place.lock_file(), 1);
    other.unlock();
    in_time(waiting).await.unwrap().unwrap();
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
}

each_protocol!(
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn unlinked_while_others_wait
);
async fn unlinked_while_others_wait(protocol: Protocol) {
    let place = Place::new();
    let (mut holder, mut waiters) = holder_and_waiters(&place.lock_file(), protocol, 1);
    let lock = open(place.lock_file(), protocol).await;
    let mut tasks = JoinSet::new();
    for _ in 0..5 {
        let (lock, path) = (lock.clone(), place.lock_file());
        tasks.spawn(async move {
            let guard = lock.lock().await.unwrap();
            assert!(!is_free(&path, protocol, Mode::Shared), "{protocol:?}: a dead lock");
            drop(guard);
        });
    }
    kernel::await_waiting_calls(&place.lock_file(), 2);
    fs::remove_file(place.lock_file()).unwrap();
    holder.unlock();

    let mut waiter = waiters.pop().unwrap();
    waiter.expect_held();
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared), "{protocol:?}: a dead lock");
    waiter.unlock();
    in_time(tasks.join_all()).await;
    assert!(is_free(&place.lock_file(), protocol, Mode::Exclusive));
    assert_eq!(place.names(), ["app.lock"]);
}

each_protocol!(
    #[tokio::test]
    async fn a_future_that_is_not_polled_any_more_keeps_nobody_from_the_new_file
);
/// One of a crowd that moves to the new file is not polled any more, when it is the next that would open it.
async fn a_future_that_is_not_polled_any_more_keeps_nobody_from_the_new_file(protocol: Protocol) {
    for _ in 0..20 {
        let place = Place::new();
        let mut holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
        let lock = open(place.lock_file(), protocol).await;
        let mut crowd = [(); 3].map(|()| tokio_test::task::spawn(lock.lock_shared()));
        for waiting in &mut crowd {
            assert!(waiting.poll().is_pending());
        }
        kernel::await_waiting_calls(&place.lock_file(), 1);
        fs::remove_file(place.lock_file()).unwrap();
        holder.unlock();
        until("all are told to move", || crowd.iter().all(|waiting| waiting.is_woken()));
        // The first one opens it, and the others wait for that, if they are quicker.
        let is_done = crowd.each_mut().map(|waiting| waiting.poll().is_ready());
        for at in [0, 2] {
            if !is_done[at] {
                drop(in_time(&mut crowd[at]).await.unwrap());
            }
        }
        drop(in_time(lock.lock_shared()).await.unwrap());
    }
}

each_protocol!(#[tokio::test] async fn unlinked_by_the_holder_while_tasks_wait_with_verify_path);
/// Removing the lock file while holding the lock is the one safe way to do it, as long as
/// everybody looks before he goes on. The next task in line must look, too.
async fn unlinked_by_the_holder_while_tasks_wait_with_verify_path(protocol: Protocol) {
    let place = Place::new();
    let lock = verified(protocol).open(place.lock_file()).await.unwrap();
    let remover = lock.lock().await.unwrap();
    let mut next = tokio_test::task::spawn(lock.lock());
    assert!(next.poll().is_pending());
    fs::remove_file(place.lock_file()).unwrap();
    drop(remover);
    let guard = in_time(next).await.unwrap();
    assert!(
        !is_free(&place.lock_file(), protocol, Mode::Shared),
        "{protocol:?}: a lock on the removed file was handed on"
    );
    drop(guard);
}

each_protocol!(#[tokio::test] async fn unlinked_by_the_holder_is_noticed_by_the_next_tenure);
/// As documented: without the option a lock that is handed on is not looked at; the next one that
/// the process acquires is.
async fn unlinked_by_the_holder_is_noticed_by_the_next_tenure(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let remover = lock.lock().await.unwrap();
    let mut next = tokio_test::task::spawn(lock.lock());
    assert!(next.poll().is_pending());
    fs::remove_file(place.lock_file()).unwrap();
    drop(remover);
    drop(in_time(next).await.unwrap());
    let guard = in_time(lock.lock()).await.unwrap();
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared), "{protocol:?}: a dead lock");
    drop(guard);
}

each_protocol!(
    #[tokio::test]
    #[cfg_attr(windows, ignore = "wine neither removes nor replaces a file that is open")]
    async fn renamed_away_is_noticed_with_verify_path
);
async fn renamed_away_is_noticed_with_verify_path(protocol: Protocol) {
    let place = Place::new();
    let lock = verified(protocol).open(place.lock_file()).await.unwrap();
    drop(lock.lock().await.unwrap());

    // Nothing in its place: it is created.
    fs::rename(place.lock_file(), place.at("old.lock")).unwrap();
    let guard = in_time(lock.lock()).await.unwrap();
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared), "{protocol:?}");
    assert!(is_free(&place.at("old.lock"), protocol, Mode::Exclusive), "{protocol:?}");
    drop(guard);

    // Another file in its place: that one is locked, and kept as it is.
    fs::write(place.at("new.lock"), "kept").unwrap();
    fs::rename(place.at("new.lock"), place.lock_file()).unwrap();
    let before = Snapshot::of(&place.lock_file());
    let guard = lock.try_lock().unwrap();
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared), "{protocol:?}");
    drop(guard);
    assert_eq!(Snapshot::of(&place.lock_file()), before);
}

each_protocol!(#[tokio::test] async fn renamed_away_is_not_noticed_without_verify_path);
async fn renamed_away_is_not_noticed_without_verify_path(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    fs::rename(place.lock_file(), place.at("old.lock")).unwrap();
    let guard = in_time(lock.lock()).await.unwrap();
    assert!(!is_free(&place.at("old.lock"), protocol, Mode::Shared), "{protocol:?}");
    assert_eq!(place.names(), ["old.lock"], "nothing was created");
    drop(guard);
}

each_protocol!(
    #[tokio::test]
    async fn a_file_that_another_link_keeps_alive_is_noticed_with_verify_path
);
async fn a_file_that_another_link_keeps_alive_is_noticed_with_verify_path(protocol: Protocol) {
    let place = Place::new();
    let lock = verified(protocol).open(place.lock_file()).await.unwrap();
    fs::hard_link(place.lock_file(), place.at("link")).unwrap();
    fs::remove_file(place.lock_file()).unwrap();
    let guard = in_time(lock.lock_shared()).await.unwrap();
    assert!(!is_free(&place.lock_file(), protocol, Mode::Exclusive), "{protocol:?}");
    drop(guard);
}

each_protocol!(
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[cfg_attr(windows, ignore = "wine neither removes nor replaces a file that is open")]
    async fn replaced_while_others_wait_with_verify_path
);
async fn replaced_while_others_wait_with_verify_path(protocol: Protocol) {
    let place = Place::new();
    let holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    let lock = verified(protocol).open(place.lock_file()).await.unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..5 {
        let (lock, path) = (lock.clone(), place.lock_file());
        tasks.spawn(async move {
            let guard = lock.lock().await.unwrap();
            assert!(!is_free(&path, protocol, Mode::Shared), "{protocol:?}: the old file");
            drop(guard);
        });
    }
    kernel::await_waiting_calls(&place.lock_file(), 1);
    fs::write(place.at("new.lock"), "").unwrap();
    fs::rename(place.at("new.lock"), place.lock_file()).unwrap();
    let mut newcomer = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    holder.finish();
    newcomer.unlock();
    in_time(tasks.join_all()).await;
}

each_protocol!(
    #[tokio::test]
    #[cfg_attr(windows, ignore = "wine neither removes nor replaces a file that is open")]
    async fn removed_and_not_to_be_created_is_an_error
);
async fn removed_and_not_to_be_created_is_an_error(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.lock_file(), "").unwrap();
    let options = FileLock::options().protocol(protocol).create(false);
    let lock = options.open(place.lock_file()).await.unwrap();
    fs::remove_file(place.lock_file()).unwrap();
    for _ in 0..2 {
        let error = in_time(lock.lock()).await.unwrap_err();
        assert_names(&error, ErrorKind::Replaced, &place.lock_file());
        let error = std::io::Error::from(lock.try_lock_shared().unwrap_err());
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        assert_eq!(place.names(), [""; 0], "nothing was created");
    }
    // It works again as soon as there is a file.
    fs::write(place.lock_file(), "").unwrap();
    let guard = in_time(lock.lock()).await.unwrap();
    assert!(!is_free(&place.lock_file(), protocol, Mode::Shared));
    drop(guard);
}

each_protocol!(
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[cfg_attr(windows, ignore = "wine neither removes nor replaces a file that is open")]
    async fn every_waiter_learns_that_the_whole_directory_is_gone
);
async fn every_waiter_learns_that_the_whole_directory_is_gone(protocol: Protocol) {
    let place = Place::new();
    let directory = place.at("cache");
    fs::create_dir(&directory).unwrap();
    let path = directory.join("app.lock");
    let holder = Locker::holding(&path, protocol, Mode::Exclusive);
    let lock = open(&path, protocol).await;
    let mut tasks = JoinSet::new();
    for _ in 0..5 {
        let lock = lock.clone();
        tasks.spawn(async move { lock.lock().await.map(drop) });
    }
    kernel::await_waiting_calls(&path, 1);
    fs::remove_dir_all(&directory).unwrap();
    holder.finish();
    for result in in_time(tasks.join_all()).await {
        assert_names(&result.unwrap_err(), ErrorKind::Replaced, &path);
    }
    assert_eq!(place.names(), [""; 0], "the directory was not created");
}

each_protocol!(
    #[tokio::test]
    #[cfg_attr(windows, ignore = "wine neither removes nor replaces a file that is open")]
    async fn replaced_by_what_is_no_file_is_an_error
);
async fn replaced_by_what_is_no_file_is_an_error(protocol: Protocol) {
    let kinds: &[_] =
        if cfg!(unix) { &["a directory", "a symbolic link"] } else { &["a directory"] };
    for kind in kinds {
        let place = Place::new();
        let lock = open(place.lock_file(), protocol).await;
        fs::remove_file(place.lock_file()).unwrap();
        match *kind {
            "a directory" => fs::create_dir(place.lock_file()).unwrap(),
            #[cfg(unix)]
            _ => std::os::unix::fs::symlink(place.at("target"), place.lock_file()).unwrap(),
            #[cfg(not(unix))]
            _ => unreachable!("not everybody may make one"),
        }
        let before = (Snapshot::of(&place.lock_file()), Snapshot::of(place.directory()));
        let error = in_time(lock.lock()).await.unwrap_err();
        assert_names(&error, ErrorKind::Replaced, &place.lock_file());
        let after = (Snapshot::of(&place.lock_file()), Snapshot::of(place.directory()));
        assert_eq!(before, after, "{kind}");
    }
}

/// The path of the message, and of the file that is opened again, does not change with the
/// current directory.
#[test]
fn a_relative_path_is_found_again_after_the_directory_has_changed() {
    let place = Place::new();
    let mut locker = Locker::new();
    locker.change_directory(place.directory());
    assert_eq!(locker.try_open(Path::new("app.lock"), Protocol::Flock), "open");
    fs::create_dir(place.at("elsewhere")).unwrap();
    locker.change_directory(&place.at("elsewhere"));
    fs::remove_file(place.lock_file()).unwrap();
    locker.lock(Mode::Exclusive);
    assert!(!is_free(&place.lock_file(), Protocol::Flock, Mode::Shared));
    assert_eq!(place.names(), ["app.lock", "elsewhere"]);
}

const PROCESSES: usize = 4;
const TASKS: usize = 5;
const ROUNDS: usize = 50;

each_protocol!(#[test] fn no_increment_is_lost_while_the_lock_file_is_removed_again_and_again);
/// One process removes the lock file again and again, each time while it holds the lock, and four
/// others count. Those whose path led to the locked file when they got it exclude each other.
fn no_increment_is_lost_while_the_lock_file_is_removed_again_and_again(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.data_file(), "0").unwrap();
    let (name, lock_file, data_file) =
        (format!("{protocol:?}"), place.lock_file(), place.data_file());
    let arguments = [&name, lock_file.to_str().unwrap(), data_file.to_str().unwrap()];
    let mut remover = Process::in_role(Role::Remove, &arguments);
    let mut counting: Vec<_> =
        (0..PROCESSES).map(|_| Process::in_role(Role::CountVerified, &arguments)).collect();
    remover.expect("ready");
    remover.tell("go");
    gather(&mut counting);
    for process in counting {
        process.expect("counted");
        process.finish();
    }
    remover.tell("stop");
    let removals: usize = remover.event().parse().unwrap();
    remover.finish();
    let count = fs::read_to_string(place.data_file()).unwrap();
    println!("{protocol:?}: {count} increments around {removals} removals");
    assert_eq!(count, (PROCESSES * TASKS * ROUNDS).to_string());
    assert!(removals > 1, "the lock file was removed while it was in use");
}

/// The role `CountVerified`.
pub(crate) fn count_verified(arguments: &[String]) {
    let [name, lock_file, data_file] = arguments else { panic!("three arguments") };
    runtime().block_on(async {
        let lock = verified(protocol(name)).open(lock_file).await.unwrap();
        meet();
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let (lock, data) = (lock.clone(), data_file.clone());
            tasks.spawn(async move {
                for _ in 0..ROUNDS {
                    let guard = lock.lock().await.unwrap();
                    let count: usize = fs::read_to_string(&data).unwrap().parse().unwrap();
                    yield_now().await;
                    fs::write(&data, (count + 1).to_string()).unwrap();
                    drop(guard);
                    yield_now().await;
                }
            });
        }
        tasks.join_all().await;
        say("counted");
    });
}

/// The role `Remove`: removes the lock file whenever a process has counted since the last time.
pub(crate) fn remove(arguments: &[String]) {
    let [name, lock_file, data_file] = arguments else { panic!("three arguments") };
    let (told, stop) = std::sync::mpsc::channel();
    meet();
    std::thread::spawn(move || commands().for_each(|command| told.send(command).unwrap()));
    runtime().block_on(async {
        let lock = verified(protocol(name)).open(lock_file).await.unwrap();
        let (mut removals, mut last) = (0, String::new());
        while stop.try_recv().is_err() {
            let guard = lock.lock().await.unwrap();
            let count = fs::read_to_string(data_file).unwrap();
            if count != last {
                fs::remove_file(lock_file).unwrap();
                removals += 1;
                last = count;
            }
            drop(guard);
        }
        say(&removals.to_string());
    });
}

fn verified(protocol: Protocol) -> OpenOptions {
    FileLock::options().protocol(protocol).verify_path(true)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

// ---- holders who remove ----

const REMOVERS: usize = 16;
pub(crate) const TASKS_OF_A_REMOVER: usize = 20;

each_protocol!(
    #[test]
    #[cfg_attr(windows, ignore = "wine neither removes nor replaces a file that is open")]
    fn holders_who_remove_the_lock_file_give_nobody_an_error
);
/// As one does who cleans up behind himself. Each removal sends everybody to a new file.
fn holders_who_remove_the_lock_file_give_nobody_an_error(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.data_file(), "").unwrap();
    let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    let (path, data) = (text(place.lock_file()), text(place.data_file()));
    let arguments = [path.as_str(), &format!("{protocol:?}"), &data];
    let mut removers =
        [(); REMOVERS].map(|()| Process::in_role(Role::RemoveWhatOneHolds, &arguments));
    gather(&mut removers);
    removers.iter().for_each(|remover| remover.expect("removed"));
    removers.into_iter().for_each(Process::finish);
    // Each has appended a byte to what it had read under the lock.
    let written = fs::read(place.data_file()).unwrap().len();
    assert_eq!(written, REMOVERS * TASKS_OF_A_REMOVER, "{protocol:?}");
}

pub(crate) fn remove_what_one_holds(arguments: &[String]) {
    let [path, name, data] = arguments else { panic!("{arguments:?}") };
    let options = FileLock::options().protocol(protocol(name)).verify_path(true);
    let lock = options.blocking_open(path).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    meet();
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS_OF_A_REMOVER {
            let (lock, path, data) = (lock.clone(), path.clone(), data.clone());
            tasks.spawn(async move {
                let guard = in_time(lock.lock()).await.expect("no error");
                let inside = format!("{data}.inside");
                fs::File::create_new(&inside).expect("no other task is inside");
                let mut content = fs::read(&data).unwrap();
                yield_now().await;
                content.push(b'.');
                fs::write(&data, content).unwrap();
                fs::remove_file(inside).unwrap();
                fs::remove_file(path).expect("the lock file that is held");
                drop(guard);
            });
        }
        in_time(tasks.join_all()).await;
    });
    say("removed");
}
