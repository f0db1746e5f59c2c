//! Files that have one device and inode number, and are two for the kernel: hard links in the lower layer of
//! an overlay, two files of a FUSE server. And one file that has to be recognized there.
#![allow(unsafe_code)]

use std::fs;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use tokio_filelock::{ErrorKind, FileLock, LockSpace, Protocol, lock_all};

use crate::child::Role;
use crate::support::foreign::Program;
use crate::support::fuse::{Answer, FuseServer};
use crate::support::needs::{Need, lacks, passed_in, unshare};
use crate::support::place::Place;
use crate::support::process::{Process, say};
use crate::support::{
    Mode, assert_names, assert_would_block, each_protocol, in_time, kernel, open, options, protocol,
};

/// Time enough to ask a server on this machine, and short enough to run out in a test.
const MOMENT: Duration = Duration::from_millis(500);

fn number(path: &Path) -> (u64, u64) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.dev(), metadata.ino())
}

async fn open_for_reading(path: &Path) -> FileLock {
    options(Protocol::Flock).read_only(true).open(path).await.unwrap()
}

/// Whether the system can tell that two open files of an overlay are one. With POSIX record locks it cannot, so each
/// handle has an open file and a queue of its own, and the kernel keeps them apart.
const TELLS: bool = !cfg!(tokio_filelock_posix);

/// They are one lock, and share one queue where that they are one file can be told.
async fn assert_one_lock(one: &FileLock, other: &FileLock) {
    if TELLS {
        return assert_shared(one, other).await;
    }
    let guard = in_time(one.lock()).await.unwrap();
    assert_would_block(other.try_lock());
    let mut waiting = tokio_test::task::spawn(other.lock());
    assert!(waiting.poll().is_pending());
    drop(guard);
    drop(in_time(waiting).await.unwrap());
}

/// They share one queue, as handles of one file do.
async fn assert_shared(one: &FileLock, other: &FileLock) {
    let before = one.counters();
    assert_eq!(before, other.counters());
    let guard = in_time(one.lock()).await.unwrap();
    assert_would_block(other.try_lock());
    let mut waiting = tokio_test::task::spawn(other.lock());
    assert!(waiting.poll().is_pending());
    drop(guard);
    drop(in_time(waiting).await.unwrap());
    assert_eq!(one.counters(), other.counters());
    assert_eq!(one.counters().acquisitions, before.acquisitions + 2);
}

/// Both can be held at one time.
async fn assert_two_locks(one: &FileLock, other: &FileLock) {
    let guard = in_time(one.lock()).await.unwrap();
    drop(in_time(other.lock()).await.unwrap());
    drop(guard);
}

// ---- overlayfs ----

const OVERLAY: &str = r#"
mount -t tmpfs -o mode=755 tmpfs "$1" && cd "$1" && mkdir lower upper work merged &&
touch lower/app.lock lower/plain.lock lower/other.lock upper/above.lock &&
ln lower/app.lock lower/second.lock && ln lower/app.lock lower/third.lock &&
mount -t overlay -o index=off,lowerdir=lower,upperdir=upper,workdir=work overlay merged &&
cd / && shift && exec "$@""#;

/// In a mount namespace of its own, which goes with the process.
fn on_an_overlay(role: Role, further: &[&str]) {
    if lacks(&[Need::Overlay]) {
        return;
    }
    let place = Place::new();
    let path = place.directory().to_str().unwrap();
    let starter = unshare(&["--mount", "sh", "-c", OVERLAY, "sh", path]);
    let process = Process::in_role_under(&starter, role, &[&[path], further].concat());
    process.expect("done");
    process.finish();
}

fn play<F: Future<Output = ()>>(arguments: &[String], scene: impl FnOnce(PathBuf) -> F) {
    let [mount, ..] = arguments else { panic!("one argument, or more") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(scene(Path::new(mount).join("merged")));
    say("done");
}

#[test]
fn hard_links_in_a_lower_layer_are_two_locks() {
    on_an_overlay(Role::HardLinksInALowerLayer, &[]);
}

/// The role `HardLinksInALowerLayer`. To open one for writing would copy it up, and change its number.
pub(crate) fn hard_links_in_a_lower_layer(arguments: &[String]) {
    play(arguments, async |merged| {
        let [app, second] = ["app.lock", "second.lock"].map(|name| merged.join(name));
        assert_eq!(number(&app), number(&second), "else this is no test");
        let foreign = Program::Flock1.hold(&second, Mode::Exclusive);
        let (one, other) = (open_for_reading(&app).await, open_for_reading(&second).await);
        assert_would_block(other.try_lock());
        assert_would_block(other.try_lock_shared());
        drop(one.try_lock().expect("no task holds this one"));
        foreign.finish();

        assert_two_locks(&one, &other).await;
        assert_one_lock(&one, &open_for_reading(&app).await).await;
        assert_one_lock(&other, &open_for_reading(&second).await).await;

        // Several with one number, in any order and more than once.
        let third = open_for_reading(&merged.join("third.lock")).await;
        if !TELLS {
            let error = in_time(lock_all([&one, &other, &third])).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            return;
        }
        for locks in [[&one, &other, &third, &one], [&third, &one, &other, &third]] {
            let guards = in_time(lock_all(locks)).await.unwrap();
            assert_eq!(guards.len(), 3);
            for lock in [&one, &other, &third] {
                assert!(!Program::Flock1.gets(lock.path(), Mode::Shared));
            }
        }
        // One of them is held: the others are not kept meanwhile.
        for held in [&one, &other, &third] {
            let guard = held.try_lock().unwrap();
            let mut all = tokio_test::task::spawn(lock_all([&one, &other, &third]));
            assert!(all.poll().is_pending());
            let free = [&one, &other, &third].map(|lock| lock.path() != held.path());
            for (lock, _) in [&one, &other, &third].into_iter().zip(free).filter(|(_, free)| *free)
            {
                in_time(async {
                    while lock.try_lock().is_err() {
                        let _ = all.poll();
                        tokio::task::yield_now().await;
                    }
                })
                .await;
            }
            drop(guard);
            assert_eq!(in_time(all).await.unwrap().len(), 3);
        }
    });
}

#[test]
#[cfg(not(tokio_filelock_posix))] // they are refused together, see `hard_links_in_a_lower_layer`
fn two_who_lock_files_of_one_number_never_wait_in_a_circle() {
    on_an_overlay(Role::LockFilesOfOneNumber, &[]);
}

/// The role `LockFilesOfOneNumber`: two processes would be no other case, for the locks are the kernel's.
pub(crate) fn lock_files_of_one_number(arguments: &[String]) {
    play(arguments, async |merged| {
        let paths = ["app.lock", "second.lock", "third.lock"].map(|name| merged.join(name));
        let mut locks = Vec::new();
        for path in &paths {
            locks.push(open_for_reading(path).await);
        }
        let tasks: Vec<_> = (0..6)
            .map(|task| {
                let mut locks = locks.clone();
                locks.rotate_left(task % 3);
                if task >= 3 {
                    locks.reverse();
                }
                tokio::spawn(async move {
                    for _ in 0..50 {
                        drop(lock_all(&locks).await.unwrap());
                    }
                })
            })
            .collect();
        for task in tasks {
            in_time(task).await.unwrap();
        }
    });
}

#[test]
fn one_file_on_an_overlay_is_one_lock() {
    on_an_overlay(Role::OneFileOnAnOverlay, &[]);
}

/// The role `OneFileOnAnOverlay`.
pub(crate) fn one_file_on_an_overlay(arguments: &[String]) {
    play(arguments, async |merged| {
        for (protocol, name) in [(Protocol::Flock, "plain.lock"), (Protocol::Fcntl, "other.lock")] {
            let path = merged.join(name);
            let one = open(&path, protocol).await;
            if !TELLS && protocol == Protocol::Fcntl {
                // To close the one would release the locks of the other.
                let error = options(protocol).open(&path).await.unwrap_err();
                assert_names(&error, ErrorKind::Unsupported, &path);
                continue;
            }
            assert_one_lock(&one, &open(&path, protocol).await).await;
            // Many at one moment.
            drop(one);
            let tasks: Vec<_> = (0..50)
                .map(|_| {
                    let path = path.clone();
                    tokio::spawn(async move { open(&path, protocol).await })
                })
                .collect();
            let mut handles = Vec::new();
            for task in tasks {
                handles.push(in_time(task).await.unwrap());
            }
            for handle in &handles {
                drop(in_time(handle.lock()).await.unwrap());
            }
            let counted = if TELLS { 50 } else { 1 };
            assert!(handles.iter().all(|handle| handle.counters().acquisitions == counted));

            // Seen at its path, and seen to be another one.
            let verifying = options(protocol).verify_path(true).open(&path).await.unwrap();
            drop(in_time(verifying.lock()).await.unwrap());
            fs::rename(&path, merged.join("away")).unwrap();
            fs::write(&path, "").unwrap();
            drop(in_time(verifying.lock()).await.unwrap());
            assert_eq!(verifying.counters().acquisitions, 1, "the handle has moved on");
            let counted = if TELLS { 52 } else { 1 };
            assert_eq!(handles[0].counters().acquisitions, counted);
        }
        if !TELLS {
            return;
        }
        // With a lock of the whole file in the way it is in doubt. That costs the common queue, and no more.
        let path = merged.join("fresh.lock");
        let first = open(&path, Protocol::Fcntl).await;
        let foreign = Program::PythonLockf.hold(&path, Mode::Exclusive);
        let second = open(&path, Protocol::Fcntl).await;
        let mut waiting = [&first, &second].map(|lock| tokio_test::task::spawn(lock.lock()));
        for lock in &mut waiting {
            assert!(lock.poll().is_pending());
        }
        foreign.finish();
        let [first, second] = waiting;
        let both = futures::future::select(Box::pin(first), Box::pin(second));
        let (guard, other) = in_time(both).await.factor_first();
        let guard = guard.unwrap();
        assert!(!Program::PythonLockf.gets(&path, Mode::Exclusive));
        drop(guard);
        drop(in_time(other).await.unwrap());
    });
}

#[test]
fn a_file_that_is_copied_up_under_its_lock_stays_what_it_is() {
    on_an_overlay(Role::CopiedUp, &[]);
}

/// The role `CopiedUp`: the numbers of a hard link change then, also those that its open files show.
pub(crate) fn copied_up(arguments: &[String]) {
    play(arguments, async |merged| {
        for name in ["plain.lock", "second.lock"] {
            let path = merged.join(name);
            let handles = [
                open_for_reading(&path).await,
                options(Protocol::Flock)
                    .read_only(true)
                    .verify_path(true)
                    .open(&path)
                    .await
                    .unwrap(),
            ];
            let before = number(&path);
            let guard = in_time(handles[0].lock()).await.unwrap();
            drop(fs::OpenOptions::new().append(true).open(&path).unwrap());
            assert!(!Program::Flock1.gets(&path, Mode::Exclusive));
            // As a child that outlives this process would have it.
            // SAFETY: the child makes some system calls and ends.
            match unsafe { fork() }.unwrap() {
                // SAFETY: ends the process without its destructors, as a forked child should.
                ForkResult::Child => unsafe { libc::_exit(descriptors(&path)) },
                ForkResult::Parent { child } => {
                    let number_is_proof = cfg!(tokio_filelock_posix) && number(&path) != before;
                    let kept = if number_is_proof { 2 } else { 0 };
                    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, kept));
                }
            }
            drop(guard);
            if cfg!(tokio_filelock_posix) && number(&path) != before {
                // A descriptor whose number has changed may be that of another file, and so it is said to be, once
                // for each open file.
                for handle in &handles {
                    let error = in_time(handle.lock()).await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::ForeignDescriptor, "{error}");
                }
            }
            for handle in &handles {
                let guard = in_time(handle.lock()).await.unwrap();
                assert!(!Program::Flock1.gets(&path, Mode::Exclusive));
                let writing = open(&path, Protocol::Flock).await;
                assert_would_block(writing.try_lock());
                drop(guard);
                drop(in_time(writing.lock()).await.unwrap());
            }
            if !cfg!(tokio_filelock_posix) {
                drop(handles);
                assert_eq!(descriptors(&path), 0);
            }
        }
    });
}

/// How many descriptors of the file this process has.
fn descriptors(path: &Path) -> i32 {
    let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let leads_there = |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|at| at == path);
    i32::try_from(all.filter(leads_there).count()).unwrap()
}

each_protocol!(#[test] fn a_file_and_its_image_in_an_overlay_are_two_locks);
fn a_file_and_its_image_in_an_overlay_are_two_locks(protocol: Protocol) {
    on_an_overlay(Role::AboveAnOverlay, &[&format!("{protocol:?}")]);
}

/// The role `AboveAnOverlay`: the kernel does not see the locks of the one through the other.
pub(crate) fn above_an_overlay(arguments: &[String]) {
    let protocol = protocol(&arguments[1]);
    play(arguments, async |merged| {
        let below = merged.join("../upper/above.lock");
        let one = open(&below, protocol).await;
        let other = open(merged.join("above.lock"), protocol).await;
        assert_two_locks(&one, &other).await;
        for lock in [&one, &other] {
            let program = match protocol {
                Protocol::Flock => Program::Flock1,
                _ => Program::PythonLockf,
            };
            let guard = in_time(lock.lock()).await.unwrap();
            assert!(!program.gets(lock.path(), Mode::Exclusive));
            drop(guard);
            assert!(program.gets(lock.path(), Mode::Exclusive));
        }
    });
}

// ---- FUSE ----

#[cfg(not(tokio_filelock_posix))]
each_protocol!(#[tokio::test] async fn files_of_one_number_on_fuse_are_two_locks);
#[cfg(not(tokio_filelock_posix))] // the handle of a file tells, which is Linux's; here the number stands in for it
async fn files_of_one_number_on_fuse_are_two_locks(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    server.give_one_number();
    let [a, b] = match protocol {
        Protocol::Flock => ["a.lock", "b.lock"],
        _ => ["c.lock", "d.lock"],
    };
    let [one, other] = [open(server.at(a), protocol).await, open(server.at(b), protocol).await];
    assert_eq!(number(one.path()), number(other.path()), "else this is no test");
    assert_two_locks(&one, &other).await;
    assert_shared(&one, &open(server.at(a), protocol).await).await;
    assert_shared(&other, &open(server.at(b), protocol).await).await;
    assert_eq!(in_time(lock_all([&one, &other, &one])).await.unwrap().len(), 2);
}

#[cfg(not(tokio_filelock_posix))]
each_protocol!(#[tokio::test] async fn a_file_that_is_replaced_by_one_of_its_number_is_noticed);
/// The path leads to another file, which has the number of the one before.
#[cfg(not(tokio_filelock_posix))] // the handle of a file tells, which is Linux's; here the number stands in for it
async fn a_file_that_is_replaced_by_one_of_its_number_is_noticed(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    server.give_one_number();
    // An errand may still have the file of the other protocol open.
    let name = if protocol == Protocol::Flock { "a.lock" } else { "m.lock" };
    let lock = open(server.at(name), protocol).await;
    in_time(lock.lock()).await.unwrap().unlock().await.unwrap();
    assert_eq!(lock.counters().acquisitions, 1);
    server.shift_names();
    in_time(lock.lock()).await.unwrap().unlock().await.unwrap();
    assert_eq!(lock.counters().acquisitions, 1, "it has not moved to the new file");
}

/// The keys of spaces that were open before, and of one that was opened since.
#[tokio::test]
async fn keys_in_a_file_that_the_server_has_forgotten_are_one_lock() {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    for _ in 0..3 {
        let before = LockSpace::open(server.at("s.lock")).await.unwrap();
        let through_it = LockSpace::open(server.at("s.lock")).await.unwrap();
        server.answer_locks(Answer::RefuseTimes(nix::libc::ESTALE, 1));
        in_time(through_it.key("a").lock()).await.unwrap().unlock().await.unwrap();
        let since = LockSpace::open(server.at("s.lock")).await.unwrap();
        let keys = [&before, &before, &through_it, &since].map(|space| space.key("a"));
        for held in &keys {
            let guard = in_time(held.lock()).await.unwrap();
            for other in &keys {
                assert_would_block(other.try_lock());
                let error = in_time(other.lock().timeout(Duration::ZERO)).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
            }
            in_time(guard.unlock()).await.unwrap();
        }
    }
}

each_protocol!(#[tokio::test] async fn many_handles_of_one_file_leave_one_thread);
/// A handle for each task, as if they knew nothing of each other.
async fn many_handles_of_one_file_leave_one_thread(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    let mut server = FuseServer::new();
    let mut handles = Vec::new();
    for _ in 0..100 {
        handles.push(open(server.lock_file(protocol), protocol).await);
    }
    // As many as the opening has left, and one that asks.
    in_time(handles[0].lock_shared()).await.unwrap().unlock().await.unwrap();
    let before = wait_threads();
    server.answer_lookups(Answer::Hang);
    let waiting: Vec<_> =
        handles.iter().map(|lock| tokio::spawn(lock.lock_shared().timeout(MOMENT))).collect();
    for task in waiting {
        let error = in_time(task).await.unwrap().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
    // One that looks at the path, and one that looked for those who hold the lock.
    let more = wait_threads().saturating_sub(before);
    assert!(more <= 2, "{more} threads more");
    server.kill();
}

fn wait_threads() -> usize {
    let names = kernel::threads(std::process::id());
    names.iter().filter(|name| *name == "filelock-wait").count()
}

each_protocol!(#[tokio::test] async fn a_server_that_is_started_anew_is_found_by_the_old_handle);
async fn a_server_that_is_started_anew_is_found_by_the_old_handle(protocol: Protocol) {
    if lacks(&[Need::Fuse]) || passed_in(&["--mount"]) {
        return;
    }
    for verify in [false, true] {
        let mut server = FuseServer::new();
        let path = server.lock_file(protocol);
        let lock = options(protocol).verify_path(verify).open(&path).await.unwrap();
        let idle = options(protocol).verify_path(verify).open(&path).await.unwrap();
        let guard = in_time(lock.lock()).await.unwrap();
        server.kill();
        drop(guard);
        let error = in_time(lock.lock()).await.unwrap_err();
        println!("{error}");
        assert_eq!((error.kind(), error.path()), (ErrorKind::Io, &*path));
        server.start_anew();
        for lock in [&lock, &idle] {
            in_time(lock.lock()).await.unwrap().unlock().await.unwrap();
            drop(lock.try_lock().unwrap());
        }
        let calls = server.calls();
        assert!(calls.iter().filter(|call| call.ends_with("exclusive")).count() >= 4, "{calls:?}");
    }
}
