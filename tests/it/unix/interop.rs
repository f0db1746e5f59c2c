//! Programs that know nothing of this crate: those that take the same OS lock exclude us and are
//! excluded, and those that take another one are not seen at all.

use tokio_filelock::{FileLock, Protocol};

use crate::support::foreign::{PROGRAMS, Program};
use crate::support::locker::is_free;
use crate::support::needs::{Need, lacks};
use crate::support::place::Place;
use crate::support::{Mode, assert_would_block, each_protocol, in_time, kernel, open, until};

/// What is held, what is tried, and whether it is to be had.
const MODES: [(Mode, Mode, bool); 4] = [
    (Mode::Exclusive, Mode::Exclusive, false),
    (Mode::Exclusive, Mode::Shared, false),
    (Mode::Shared, Mode::Exclusive, false),
    (Mode::Shared, Mode::Shared, true),
];

async fn assert_excludes_us(program: Program) {
    let place = Place::new();
    let lock = open(place.lock_file(), program.protocol()).await;
    for (held, tried, granted) in MODES {
        let foreign = program.hold(&place.lock_file(), held);
        assert_eq!(tries(&lock, tried), granted, "{program:?}: {tried} beside its {held}");
        foreign.finish();
        assert!(tries(&lock, tried), "{program:?}: {tried} after its {held}");
    }
    // And while we wait: no sooner than it lets go.
    let foreign = program.hold(&place.lock_file(), Mode::Exclusive);
    let mut waiting = tokio_test::task::spawn(lock.lock());
    assert!(waiting.poll().is_pending());
    kernel::await_waiting_calls(&place.lock_file(), 1);
    assert!(waiting.poll().is_pending());
    foreign.finish();
    drop(in_time(waiting).await.unwrap());
}

async fn assert_is_excluded(program: Program) {
    let place = Place::new();
    let lock = open(place.lock_file(), program.protocol()).await;
    for (held, tried, granted) in MODES {
        let guard: Box<dyn Send> = match held {
            Mode::Exclusive => Box::new(lock.try_lock().unwrap()),
            Mode::Shared => Box::new(lock.try_lock_shared().unwrap()),
        };
        let gets = program.gets(&place.lock_file(), tried);
        assert_eq!(gets, granted, "{program:?}: its {tried} beside {held}");
        drop(guard);
        assert!(program.gets(&place.lock_file(), tried), "{program:?}: its {tried} after {held}");
    }
    // And while it waits.
    let guard = lock.lock().await.unwrap();
    let foreign = program.start_to_wait(&place.lock_file(), Mode::Exclusive);
    kernel::await_waiting_calls(&place.lock_file(), 1);
    drop(guard);
    foreign.expect("held");
    assert_would_block(lock.try_lock_shared());
    foreign.finish();
    assert!(lock.try_lock().is_ok());
}

fn tries(lock: &FileLock, mode: Mode) -> bool {
    match mode {
        Mode::Exclusive => lock.try_lock().is_ok(),
        Mode::Shared => lock.try_lock_shared().is_ok(),
    }
}

#[tokio::test]
async fn flock_1_excludes_us() {
    if lacks(&[Need::Program("flock")]) {
        return;
    }
    assert_excludes_us(Program::Flock1).await;
}

#[tokio::test]
async fn flock_1_is_excluded() {
    if lacks(&[Need::Program("flock")]) {
        return;
    }
    assert_is_excluded(Program::Flock1).await;
}

#[tokio::test]
async fn python_flock_excludes_us() {
    if lacks(&[Need::Program("python3")]) {
        return;
    }
    assert_excludes_us(Program::PythonFlock).await;
}

#[tokio::test]
async fn python_flock_is_excluded() {
    if lacks(&[Need::Program("python3")]) {
        return;
    }
    assert_is_excluded(Program::PythonFlock).await;
}

#[tokio::test]
async fn python_lockf_excludes_us() {
    if lacks(&[Need::Program("python3")]) {
        return;
    }
    assert_excludes_us(Program::PythonLockf).await;
}

#[tokio::test]
async fn python_lockf_is_excluded() {
    if lacks(&[Need::Program("python3")]) {
        return;
    }
    assert_is_excluded(Program::PythonLockf).await;
}

each_protocol!(#[tokio::test] async fn locks_of_another_protocol_are_not_seen);
/// On a local file system of Linux. The protocol is a wire format.
async fn locks_of_another_protocol_are_not_seen(protocol: Protocol) {
    if lacks(&[Need::Program("flock"), Need::Program("python3")]) {
        return;
    }
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    for program in PROGRAMS.into_iter().filter(|program| program.protocol() != protocol) {
        let foreign = program.hold(&place.lock_file(), Mode::Exclusive);
        let guard = lock.try_lock().unwrap();
        foreign.finish();
        assert!(program.gets(&place.lock_file(), Mode::Exclusive), "{program:?}");
        drop(guard);
    }
}

#[tokio::test]
async fn locks_of_another_protocol_are_not_seen_by_another_process_of_this_crate() {
    let place = Place::new();
    let lock = open(place.lock_file(), Protocol::Flock).await;
    let guard = lock.lock().await.unwrap();
    assert!(is_free(&place.lock_file(), Protocol::Fcntl, Mode::Exclusive));
    assert!(!is_free(&place.lock_file(), Protocol::Flock, Mode::Exclusive));
    drop(guard);
}

#[cfg(target_os = "linux")]
each_protocol!(
    #[tokio::test]
    async fn watchers_see_a_lock_file_closed_once_and_not_at_all_if_it_is_read_only
);
/// Programs that watch the directory for files that were written see one for each process, at its last handle.
#[cfg(target_os = "linux")]
async fn watchers_see_a_lock_file_closed_once_and_not_at_all_if_it_is_read_only(
    protocol: Protocol,
) {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    for read_only in [false, true] {
        let place = Place::new();
        std::fs::write(place.lock_file(), "").unwrap();
        let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_CREATE;
        let closed = AddWatchFlags::IN_CLOSE_NOWRITE;
        watch.add_watch(place.directory(), changes | closed).unwrap();
        let mut seen = Vec::new();
        let options = FileLock::options().protocol(protocol).read_only(read_only);
        let locks = [options.clone(), options].map(|options| {
            let lock = options.blocking_open(place.lock_file()).unwrap();
            drop(lock.try_lock_shared().unwrap());
            lock
        });
        seen.extend(watch.read_events().into_iter().flatten());
        assert!(seen.iter().all(|event| event.mask == closed), "{protocol:?}: {seen:?}");
        drop(locks);
        let expected = if read_only { closed } else { AddWatchFlags::IN_CLOSE_WRITE };
        until("the last handle is closed", || {
            seen = watch.read_events().unwrap_or_default();
            !seen.is_empty()
        });
        assert!(seen.iter().all(|event| event.mask == expected), "{protocol:?}: {seen:?}");
        assert_eq!(seen.len(), 1, "{protocol:?}: {seen:?}");
    }
}
