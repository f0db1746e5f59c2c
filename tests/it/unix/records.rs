//! The record: what it says, who writes it when, and what the next holder makes of it.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::gettid;
use tokio_filelock::{ErrorKind, ExclusiveGuard, FileLock, LockSpace, Protocol, Record, lock_all};

use crate::child::Role;
use crate::support::locker::{Locker, is_free};
use crate::support::needs::{Need, lacks, unshare};
use crate::support::place::Place;
use crate::support::process::{Process, commands, say};
use crate::support::snapshot::Snapshot;
use crate::support::tracer::{Stop, Traced};
use crate::support::{Mode, each_protocol, in_time, kernel, open, protocol, until};

fn recording(path: &Path, protocol: Protocol) -> FileLock {
    let options = FileLock::options().protocol(protocol).record(true);
    options.label("a test").blocking_open(path).unwrap()
}

/// The next tenure of a process, and what it found: its token, and that of a dead holder.
#[track_caller]
fn next(path: &Path, protocol: Protocol) -> (u64, Option<u64>) {
    let lock = recording(path, protocol);
    let guard = lock.blocking_lock().unwrap();
    found(&guard)
}

fn found(guard: &ExclusiveGuard) -> (u64, Option<u64>) {
    let abandoned = guard.abandoned().map(|record| record.token());
    (guard.token().expect("records are on"), abandoned)
}

/// The value of a key in the record.
fn value(path: &Path, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).unwrap();
    let prefix = format!("{key}=");
    let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
    value.map(|value| value.trim_end().to_owned())
}

each_protocol!(#[test] fn a_record_names_the_holder_while_it_holds_and_after);
fn a_record_names_the_holder_while_it_holds_and_after(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let lock = recording(&path, protocol);
    assert_eq!(fs::read(&path).unwrap(), b"", "opening writes nothing");
    let guard = lock.blocking_lock().unwrap();
    assert_eq!(found(&guard), (1, None));
    let text = fs::read_to_string(&path).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(std::process::id().to_string().as_str()));
    assert_eq!(lines.next(), Some("tokio-filelock 1"));
    assert_eq!(value(&path, "state").as_deref(), Some("held"));
    assert_eq!(value(&path, "label").as_deref(), Some("a test"));
    drop(guard);
    assert_eq!(value(&path, "state").as_deref(), Some("released"));
    assert_eq!(value(&path, "token").as_deref(), Some("1"));
}

each_protocol!(#[tokio::test] async fn a_handover_leaves_the_record_as_it_is);
async fn a_handover_leaves_the_record_as_it_is(protocol: Protocol) {
    let place = Place::new();
    let lock = recording(&place.lock_file(), protocol);
    let guard = lock.lock().await.unwrap();
    let before = Snapshot::of(&place.lock_file());
    let mut second = tokio_test::task::spawn(lock.lock());
    let mut third = tokio_test::task::spawn(lock.lock_shared());
    assert!(second.poll().is_pending());
    assert!(third.poll().is_pending());
    assert_eq!(guard.token(), Some(1));
    drop(guard);
    let guard = in_time(second).await.unwrap();
    assert_eq!(guard.token(), Some(1), "the same tenure");
    drop(guard);
    let shared = in_time(third).await.unwrap();
    assert_eq!(Snapshot::of(&place.lock_file()), before);
    drop(shared);
    assert_eq!(value(&place.lock_file(), "state").as_deref(), Some("released"));
    assert_eq!(lock.lock().await.unwrap().token(), Some(2));
}

each_protocol!(#[test] fn tokens_go_on_from_process_to_process);
fn tokens_go_on_from_process_to_process(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    for round in 0..3 {
        assert_eq!(next(&path, protocol), (2 * round + 1, None));
        Locker::holding_with_record(&path, protocol, "other").finish();
        assert_eq!(value(&path, "label").as_deref(), Some("other"));
        assert_eq!(value(&path, "state").as_deref(), Some("released"));
    }
}

each_protocol!(#[tokio::test] async fn a_label_is_that_of_the_holder);
/// What a lock is held for is said of the acquisition: not by the handle that was opened last.
async fn a_label_is_that_of_the_holder(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let open = |label: &str| {
        let options = FileLock::options().protocol(protocol).record(true).label(label);
        options.blocking_open(&path).unwrap()
    };
    let (one, other) = (open("one"), open("other"));
    let named = async |expected: &str, recorded: &str| {
        for lock in [&one, &other] {
            let holders = lock.holders().await.unwrap();
            let labels: Vec<_> = holders.iter().map(|holder| holder.label()).collect();
            assert_eq!(labels, [Some(expected)], "{protocol:?}");
            assert!(holders[0].since().is_some() && holders[0].is_this_process());
            let refused = lock.try_lock().unwrap_err().to_string();
            assert!(refused.contains(&format!("\"{expected}\"")), "{refused}");
            let error = lock.lock().timeout(Duration::ZERO).await.unwrap_err().to_string();
            assert!(error.contains(&format!("\"{expected}\"")), "{error}");
        }
        assert_eq!(value(&path, "label").as_deref(), Some(recorded));
    };
    let guard = one.lock().await.unwrap();
    named("one", "one").await;
    // A handover is told by the process, and changes no record.
    let mut waiting = tokio_test::task::spawn(other.lock().label("a job of its own"));
    assert!(waiting.poll().is_pending());
    named("one", "one").await;
    drop(guard);
    named("a job of its own", "one").await; // granted, and not polled since
    let guard = in_time(waiting).await.unwrap();
    named("a job of its own", "one").await;
    drop(guard);
    let guard = one.with_label("try 3").unwrap().try_lock().unwrap();
    named("try 3", "try 3").await;
    drop(guard);
    let guards = lock_all([other.with_label("one of many").unwrap()]).await.unwrap();
    named("one of many", "one of many").await;
    drop(guards);
    drop(other.try_lock().unwrap());
    assert_eq!(value(&path, "label").as_deref(), Some("other"), "the default of the handle");
}

each_protocol!(#[tokio::test] async fn each_label_of_those_who_share_is_told);
/// Those who share a lock may say different things.
async fn each_label_of_those_who_share_is_told(protocol: Protocol) {
    let place = Place::new();
    let lock = open(place.lock_file(), protocol).await;
    let labels = async || {
        let holders = lock.holders().await.unwrap();
        let labels = holders.iter().map(|holder| holder.label().map(str::to_owned));
        labels.collect::<Vec<_>>()
    };
    let told =
        |labels: &[&str]| labels.iter().map(|label| Some((*label).to_owned())).collect::<Vec<_>>();
    let first = lock.lock_shared().label("first").await.unwrap();
    let second = lock.lock_shared().label("second").await.unwrap();
    let again = lock.lock_shared().label("second").await.unwrap();
    assert_eq!(labels().await, told(&["first", "second"]));
    let silent = lock.lock_shared().await.unwrap();
    assert_eq!(labels().await, [vec![None], told(&["first", "second"])].concat());
    drop((first, silent));
    assert_eq!(labels().await, told(&["second"]));
    drop(second);
    assert_eq!(labels().await, told(&["second"]));
    again.unlock().await.unwrap();
    assert_eq!(labels().await, []);

    // Who gives up says nothing any more, in line or granted.
    let guard = lock.lock().label("holder").await.unwrap();
    let mut waiting = tokio_test::task::spawn(lock.lock().label("gives up"));
    assert!(waiting.poll().is_pending());
    drop(waiting);
    let mut waiting = tokio_test::task::spawn(lock.lock().label("gives up later"));
    assert!(waiting.poll().is_pending());
    assert_eq!(labels().await, told(&["holder"]));
    drop(guard);
    assert_eq!(labels().await, told(&["gives up later"]));
    drop(waiting);
    assert_eq!(labels().await, []);
    let guard = lock.lock().label("exclusive").await.unwrap().downgrade();
    assert_eq!(labels().await, told(&["exclusive"]));
    drop(guard);
}

#[tokio::test]
async fn a_key_has_a_label_and_one_that_is_no_line_is_refused() {
    let place = Place::new();
    let space = LockSpace::open(place.lock_file()).await.unwrap();
    let key = space.key("name");
    let guard = key.lock().label("import 17").await.unwrap();
    let refused = space.key("name").try_lock().unwrap_err().to_string();
    assert!(refused.contains("key `name`") && refused.contains("\"import 17\""), "{refused}");
    drop(guard);
    for label in ["", "two\nlines", "\u{202e}", "\u{200b}", "\u{feff}", "\u{61c}", "\u{3164}"] {
        let error = key.lock().label(label).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{label:?}");
        let error = key.with_label(label).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{label:?}");
        assert!(error.to_string().contains("its label is not one line"), "{error}");
    }
    drop(key.try_lock().unwrap());
}

each_protocol!(#[test] fn losers_and_readers_write_nothing);
fn losers_and_readers_write_nothing(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let other = Locker::holding_with_record(&path, protocol, "other");
    let before = Snapshot::of(&path);
    let lock = recording(&path, protocol);
    assert!(lock.try_lock().is_err());
    assert!(lock.try_lock_shared().is_err());
    assert_eq!(Snapshot::of(&path), before);
    other.finish();
    let before = Snapshot::of(&path);
    drop(lock.blocking_lock_shared().unwrap());
    assert_eq!(Snapshot::of(&path), before);
}

/// The names of the holders are read from the record: that is no use of the lock file.
#[cfg(not(tokio_filelock_posix))]
#[test]
fn looking_for_the_holders_leaves_the_access_time() {
    let place = Place::new();
    let path = place.lock_file();
    let accessed = || fs::metadata(&path).unwrap().accessed().unwrap();
    // It is changed after it was last read, so that reading it would be noted (mount(8), relatime).
    let other = Locker::holding_with_record(&path, Protocol::Flock, "other");
    let before = accessed();
    let lock = FileLock::options().blocking_open(&path).unwrap();
    let holders = lock.blocking_holders().unwrap();
    assert_eq!(holders[0].label(), Some("other"), "it was read");
    assert_eq!(accessed(), before);
    assert!(!fs::read(&path).unwrap().is_empty());
    println!("the file system notes accesses: {}", accessed() != before);
    other.finish();
}

each_protocol!(#[test] fn a_dead_holder_is_told_once);
fn a_dead_holder_is_told_once(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let other = Locker::holding_with_record(&path, protocol, "half a job");
    let dead = other.pid();
    other.kill();
    // Handles that want no records, and shared holders, take nothing of it away.
    drop(Locker::holding(&path, protocol, Mode::Exclusive));
    let lock = recording(&path, protocol);
    drop(lock.blocking_lock_shared().unwrap());
    let guard = lock.blocking_lock().unwrap();
    let record = guard.abandoned().expect("it died with the lock");
    assert_eq!((record.pid(), record.token()), (dead, 1));
    assert_eq!(record.label(), Some("half a job"));
    assert!(record.since().is_some() && record.program().is_some());
    assert_eq!(guard.token(), Some(2));
    drop(guard);
    assert_eq!(next(&path, protocol), (3, None));
}

each_protocol!(#[tokio::test] async fn a_dead_holder_is_told_to_the_first_that_gets_a_guard);
/// The task that asked has given up when the lock comes: the next one must be told.
async fn a_dead_holder_is_told_to_the_first_that_gets_a_guard(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    Locker::holding_with_record(&path, protocol, "half a job").kill();
    let dead = fs::read_to_string(&path).unwrap();
    let mut blocker = Locker::open(&path, protocol);
    blocker.lock(Mode::Exclusive);

    let lock = recording(&path, protocol);
    let mut given_up = tokio_test::task::spawn(lock.lock());
    assert!(given_up.poll().is_pending());
    blocker.unlock();
    until("the lock has come", || given_up.is_woken());
    assert_ne!(fs::read_to_string(&path).unwrap(), dead, "the tenure is recorded");
    drop(given_up);
    let restored = fs::read_to_string(&path).unwrap();
    assert_eq!(restored.trim_end(), dead.trim_end());

    let guard = lock.lock().await.unwrap();
    assert_eq!(found(&guard), (2, Some(1)));
}

#[test]
fn a_guard_that_is_forgotten_keeps_the_lock_and_the_record() {
    let place = Place::new();
    let lock = recording(&place.lock_file(), Protocol::Flock);
    // The entry lives on, as the guard does, and so does the lock.
    std::mem::forget(lock.blocking_lock().unwrap());
    assert_eq!(value(&place.lock_file(), "state").as_deref(), Some("held"));
    assert!(!is_free(&place.lock_file(), Protocol::Flock, Mode::Shared));
}

#[test]
fn a_guard_that_is_dropped_by_a_panic_has_let_go() {
    let place = Place::new();
    let lock = recording(&place.lock_file(), Protocol::Flock);
    let guard = lock.blocking_lock().unwrap();
    let panicked = std::thread::spawn(move || {
        let _guard = guard;
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert_eq!(next(&place.lock_file(), Protocol::Flock), (2, None));
}

#[test]
fn a_downgrade_lets_go_where_it_is_made_in_place() {
    for (protocol, state) in [(Protocol::Flock, "held"), (Protocol::Fcntl, "released")] {
        let place = Place::new();
        let lock = recording(&place.lock_file(), protocol);
        let shared = lock.blocking_lock().unwrap().downgrade();
        assert_eq!(value(&place.lock_file(), "state").as_deref(), Some(state));
        drop(shared);
        assert_eq!(value(&place.lock_file(), "state").as_deref(), Some("released"));
        assert_eq!(next(&place.lock_file(), protocol), (2, None));
    }
}

#[tokio::test]
async fn without_records_there_is_no_token() {
    let place = Place::new();
    let plain = open(place.lock_file(), Protocol::Flock).await;
    let guard = plain.lock().await.unwrap();
    assert_eq!((guard.token(), guard.abandoned()), (None, None));
    // A handle that wants them changes nothing of a tenure that has begun.
    let recorded = recording(&place.lock_file(), Protocol::Flock);
    let mut waiting = tokio_test::task::spawn(recorded.lock());
    assert!(waiting.poll().is_pending());
    drop(guard);
    assert_eq!(in_time(waiting).await.unwrap().token(), None);
    assert_eq!(fs::read(place.lock_file()).unwrap(), b"");
    assert_eq!(plain.lock().await.unwrap().token(), Some(1), "handles share the record");
}

each_protocol!(#[test] fn a_holder_in_another_time_namespace_is_not_taken_for_dead);
/// The kernel tells the start of a process in the time of the process that asks: to one in another time namespace
/// the holder seems to be another process.
fn a_holder_in_another_time_namespace_is_not_taken_for_dead(protocol: Protocol) {
    if lacks(&[Need::TimeNamespace]) {
        return;
    }
    let unshare = unshare(&["--time", "--boottime", "100000", "--fork"]);
    for is_inside in [false, true] {
        let place = Place::new();
        let path = place.lock_file();
        let arguments = [&format!("{protocol:?}"), path.to_str().unwrap(), "record"];
        let run = |is_inside: bool, role, arguments: &[&str]| {
            let under: &[&str] = if is_inside { &unshare } else { &[] };
            Process::in_role_under(under, role, arguments)
        };
        let holder = run(is_inside, Role::Hold, &arguments);
        let said = holder.event();
        let pid = said.strip_prefix("held by ").expect("it holds the lock");
        let looking = run(!is_inside, Role::Look, &arguments[..2]);
        let seen = looking.event();
        let expected = format!("Some({pid}) ");
        assert!(seen.starts_with(&expected) && seen.contains("deep inside"), "{seen}");
        looking.expect("no other process");
        looking.finish();
        holder.finish();
    }
}

// ---- bad input ----

each_protocol!(#[test] fn foreign_content_is_kept_unless_records_are_on);
fn foreign_content_is_kept_unless_records_are_on(protocol: Protocol) {
    let contents: Vec<Vec<u8>> = vec![
        b"".into(),
        b"4711\n".into(),
        b"\xff\x00\xfe".into(),
        b"keep me\n".repeat(100),
        vec![b'x'; 4096],
        b"4711\ntokio-filelock 1\nstate=held".into(),
        b"4711\ntokio-filelock 2\nstate=held    \ntoken=9\n".into(),
    ];
    for content in &contents {
        let place = Place::new();
        let path = place.lock_file();
        fs::write(&path, content).unwrap();
        drop(Locker::holding(&path, protocol, Mode::Exclusive));
        assert_eq!(&fs::read(&path).unwrap(), content);
        let lock = recording(&path, protocol);
        drop(lock.blocking_lock_shared().unwrap());
        assert_eq!(&fs::read(&path).unwrap(), content);
        let guard = lock.blocking_lock().unwrap();
        assert_eq!(found(&guard), (1, None));
        assert!(fs::metadata(&path).unwrap().len() <= 4096);
        assert_eq!(value(&path, "state").as_deref(), Some("held"));
        drop(guard);
        assert_eq!(next(&path, protocol), (2, None), "the record is one");
    }
}

/// A lock is given without a record then; it is an error where the record is required.
fn is_not_recorded(path: &Path, protocol: Protocol, says: &str) {
    let before = fs::read(path).unwrap();
    let lock = recording(path, protocol);
    let guard = lock.blocking_lock().unwrap();
    assert_eq!(guard.token(), None, "{protocol:?}");
    assert_eq!(fs::read(path).unwrap(), before, "{protocol:?}");
    drop((guard, lock));
    let required = FileLock::options().protocol(protocol).record(true).require_record(true);
    let error = required.blocking_open(path).unwrap().blocking_lock().unwrap_err();
    assert!(error.to_string().contains(says), "{error}");
    assert_eq!(fs::read(path).unwrap(), before, "{protocol:?}");
}

each_protocol!(#[test] fn more_than_a_record_is_no_lock_file_and_is_kept);
fn more_than_a_record_is_no_lock_file_and_is_kept(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    fs::write(&path, vec![b'x'; 4097]).unwrap();
    is_not_recorded(&path, protocol, "there is more in the file than a record");
}

each_protocol!(#[test] fn a_file_with_another_name_is_kept);
fn a_file_with_another_name_is_kept(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let data = path.with_extension("db");
    fs::write(&data, "of a program").unwrap();
    fs::hard_link(&data, &path).unwrap();
    is_not_recorded(&path, protocol, "another name");
    // It was only a name.
    fs::remove_file(&data).unwrap();
    assert_eq!(next(&path, protocol), (1, None), "{protocol:?}");
}

#[test]
fn labels_that_are_no_line_are_refused() {
    let place = Place::new();
    for label in [
        "",
        "two\nlines",
        "a\ttab",
        "\u{7f}",
        "two\u{2028}lines",
        "\u{202e}",
        "\u{61c}a",
        "a\u{200b}",
        "\u{feff}a",
        "\u{e0041}",
        &"x".repeat(201),
    ] {
        let options = FileLock::options().record(true).label(label);
        let error = options.blocking_open(place.lock_file()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{label:?}");
        assert_eq!(error.path(), place.lock_file());
        assert!(
            error.to_string().contains("its label is not one line of 1 to 200 bytes"),
            "{error}"
        );
    }
    assert_eq!(place.names(), [""; 0], "nothing was created");
    let longest = "é".repeat(100);
    let options = FileLock::options().record(true).label(&longest);
    let lock = options.blocking_open(place.lock_file()).unwrap();
    let _guard = lock.blocking_lock().unwrap();
    assert_eq!(value(&place.lock_file(), "label"), Some(longest));
}

#[test]
fn a_record_needs_a_handle_that_may_write() {
    let place = Place::new();
    fs::write(place.lock_file(), "").unwrap();
    let options = FileLock::options().record(true).read_only(true);
    let error = options.blocking_open(place.lock_file()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("read-only handle"), "{error}");

    fs::set_permissions(place.lock_file(), fs::Permissions::from_mode(0o444)).unwrap();
    let mut nobody = Locker::new();
    nobody.become_nobody();
    let answer = nobody.try_open_recording(&place.lock_file(), Protocol::Flock, "label");
    assert!(answer.starts_with("WrongAccess: "), "{answer}");
    assert!(answer.contains("a record is to be left in it"), "{answer}");
    // What was refused to one handle is not asked of the next.
    assert_eq!(nobody.try_open(&place.lock_file(), Protocol::Flock), "open");
    let answer = nobody.try_open_recording(&place.lock_file(), Protocol::Flock, "label");
    assert!(answer.starts_with("WrongAccess: "), "{answer}");
    assert_eq!(nobody.try_lock(Mode::Exclusive), "held");
}

/// May not write to any file beyond so many bytes, as on a disk that is full in the middle of a write.
pub(crate) fn find_no_room(arguments: &[String]) {
    let [path, room, required] = arguments else { panic!("path, bytes, whether it is required") };
    let options = FileLock::options().record(true).label("x".repeat(200));
    let options = options.require_record(required.parse().unwrap());
    let lock = options.blocking_open(path).unwrap();
    // With the signal blocked the limit is an error.
    SigSet::from(Signal::SIGXFSZ).thread_block().unwrap();
    let room = room.parse().unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, room, room).unwrap();
    match lock.blocking_lock() {
        Err(error) => say(&format!("{:?}: {error}", error.kind())),
        Ok(guard) => {
            let abandoned = guard.abandoned().map(Record::token);
            say(&format!("token {:?}, abandoned {abandoned:?}", guard.token()));
            futures::executor::block_on(guard.unlock()).unwrap();
        }
    }
    // A shared lock leaves no record.
    drop(lock.blocking_lock_shared().unwrap());
    say("shared");
    commands().for_each(drop);
}

each_protocol!(
    #[tokio::test]
    async fn a_wait_on_a_read_only_descriptor_brings_a_lock_with_a_record
);
/// The wait was parked on a descriptor that may not write. What it brings goes to a handle that leaves
/// records, or to the one that waited, in a process that leaves records by now.
async fn a_wait_on_a_read_only_descriptor_brings_a_lock_with_a_record(protocol: Protocol) {
    for adopted in [false, true] {
        let place = Place::new();
        let path = place.lock_file();
        let mut holder = Locker::holding(&path, protocol, Mode::Exclusive);
        let options = FileLock::options().protocol(protocol).read_only(true);
        let read_only = options.open(&path).await.unwrap();
        // Only flock(2) gives an exclusive lock through such a descriptor.
        let exclusive = protocol == Protocol::Flock;
        let mut first = tokio_test::task::spawn(async {
            if exclusive {
                read_only.lock().await.map(|guard| guard.token())
            } else {
                read_only.lock_shared().await.map(|_| None)
            }
        });
        assert!(first.poll().is_pending());
        kernel::await_waiting_calls(&path, 1);
        let options = FileLock::options().protocol(protocol).record(true);
        let recording = options.open(&path).await.unwrap();
        let mut second = tokio_test::task::spawn(recording.lock());
        assert!(second.poll().is_pending());
        let first = Some(first).filter(|_| !adopted);
        holder.unlock();
        if let Some(first) = first {
            let token = in_time(first).await.expect("what it waited for");
            assert_eq!(token, exclusive.then_some(1));
        }
        let guard = in_time(second).await.expect("what the other one waited for");
        assert!(guard.token().is_some());
        drop(guard);
        assert!(value(&path, "token").is_some());
        holder.finish();
    }
}

#[test]
fn a_record_that_can_not_be_written_is_an_error_where_it_is_required() {
    let place = Place::new();
    let path = place.lock_file();
    let child = Process::in_role(Role::FindNoRoom, &[path.to_str().unwrap(), "0", "true"]);
    let answer = child.event();
    let start = format!("Io: could not lock `{}`: its record can not be written: ", path.display());
    assert!(answer.starts_with(&start), "{answer}");
    child.expect("shared");
    assert!(is_free(&path, Protocol::Flock, Mode::Exclusive));
    assert_eq!(fs::read(&path).unwrap(), b"");
    child.finish();
    // One handle decides for all of a process, and only where there are records.
    let options = FileLock::options().require_record(true);
    let error = options.blocking_open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

/// Nor is a token lost or given twice, nor half a record taken for one.
#[test]
fn a_record_that_can_not_be_written_leaves_what_was_there() {
    let place = Place::new();
    let path = place.lock_file();
    // What the room is not enough for: nothing, a record that was released, one of a dead holder.
    for before in ["nothing", "released", "dead"] {
        let _ = fs::remove_file(&path);
        let (token, abandoned) = match before {
            "nothing" => (0, None),
            "released" => (next(&path, Protocol::Flock).0, None),
            _ => {
                assert_eq!(next(&path, Protocol::Flock), (1, None));
                Locker::holding_with_record(&path, Protocol::Flock, "half a job").kill();
                (2, Some(2))
            }
        };
        let content = fs::read(&path).unwrap_or_default();
        for room in [0, 1, 30, 60, content.len(), content.len() + 20] {
            let arguments = [path.to_str().unwrap(), &room.to_string(), "false"];
            let child = Process::in_role(Role::FindNoRoom, &arguments);
            child.expect(&format!("token None, abandoned {abandoned:?}"));
            child.expect("shared");
            child.finish();
            assert_eq!(fs::read(&path).unwrap(), content, "{before}, {room} bytes");
        }
        // With room again the number goes on, and the dead holder is told.
        assert_eq!(next(&path, Protocol::Flock), (token + 1, abandoned), "{before}");
    }
}

// ---- killed at every step ----

/// Opens, and waits for the tracer; then locks, says so, unlocks, and says so.
pub(crate) fn lock_step_by_step(arguments: &[String]) {
    let [name, path] = arguments else { panic!("protocol, path") };
    let lock = recording(Path::new(path), protocol(name));
    say(&gettid().to_string());
    commands().next();
    let guard = lock.blocking_lock().unwrap();
    say("held");
    drop(guard);
    say("released");
}

/// What the traced process has done before it was killed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Steps {
    /// System calls that are over, of any kind.
    calls: usize,
    /// The record is written, then marked as released.
    writes_to_lock_file: usize,
    /// Both events are writes to the pipe.
    events: usize,
}

/// Runs the role up to its `stops`th stop before or after a system call, and kills it there; `None`
/// if it ended before.
fn killed_after(stops: usize, path: &Path, name: &str) -> Option<Steps> {
    let mut process = Process::in_role(Role::LockStepByStep, &[name, path.to_str().unwrap()]);
    let mut thread = Traced::seize(process.event().parse().unwrap());
    process.tell("go");
    let mut steps = Steps::default();
    for _ in 0..stops {
        match thread.next_stop()? {
            Stop::Entered(_) => {}
            Stop::Left(call) => {
                steps.calls += 1;
                steps.writes_to_lock_file += usize::from(call == libc::SYS_pwrite64);
                steps.events += usize::from(call == libc::SYS_write);
            }
        }
    }
    thread.kill();
    process.kill();
    Some(steps)
}

each_protocol!(#[test] fn killed_at_every_step);
/// The next holder is told of the dead one exactly if that one had written its record and not
/// marked it as released, and never if it had not got the lock or had let it go.
fn killed_at_every_step(protocol: Protocol) {
    if lacks(&[Need::Ptrace]) {
        return;
    }
    let mut matrix = Vec::new();
    for stops in 0.. {
        let place = Place::new();
        let path = place.lock_file();
        // So that there is something to cover.
        assert_eq!(next(&path, protocol), (1, None));
        let Some(steps) = killed_after(stops, &path, &format!("{protocol:?}")) else { break };
        let was_recorded = steps.writes_to_lock_file > 0;
        let expected = match steps.writes_to_lock_file {
            0 => (2, None),
            1 => (3, Some(2)),
            2 => (3, None),
            more => panic!("{more} writes to the lock file"),
        };
        let found = next(&path, protocol);
        assert_eq!(found, expected, "{steps:?}");
        match steps.events {
            0 => {}
            1 => assert!(was_recorded, "before the guard"),
            _ => assert_eq!(found.1, None, "it had let go"),
        }
        matrix.push((steps, found));
    }
    assert!(matrix.iter().any(|(steps, _)| steps.events == 2), "the tracer saw the end");
    println!("killed at {} stops, {protocol:?}:", matrix.len());
    println!("| calls over | record | events | the next holder's token | told of |");
    matrix.dedup_by_key(|(steps, _)| *steps);
    for (steps, (token, dead)) in matrix {
        let record = ["untouched", "written", "released"][steps.writes_to_lock_file];
        let event = ["none", "held", "released"][steps.events.min(2)];
        println!("| {} | {record} | {event} | {token} | {dead:?} |", steps.calls);
    }
}

// ---- killed at random ----

/// Locks again and again; writes each tenure into a log, at its beginning and at its end.
pub(crate) fn sign_tenures(arguments: &[String]) {
    let [name, path, log] = arguments else { panic!("protocol, path, log") };
    let lock = recording(Path::new(path), protocol(name));
    let mut log = OpenOptions::new().append(true).open(log).unwrap();
    say("ready");
    loop {
        let guard = lock.blocking_lock().unwrap();
        let (token, abandoned) = found(&guard);
        let pid = std::process::id();
        // In one write each.
        let begin = format!("begin {token} {pid} {}\n", abandoned.unwrap_or(0));
        log.write_all(begin.as_bytes()).unwrap();
        // There is time to be killed in.
        (0..200).for_each(|_| assert!(fs::exists(path).unwrap()));
        log.write_all(format!("end {token} {pid} 0\n").as_bytes()).unwrap();
        drop(guard);
    }
}

each_protocol!(#[test] fn tokens_grow_whoever_is_killed);
/// Tokens grow over a thousand tenures of six processes that are killed at random, and a holder that
/// died is known to the next one.
fn tokens_grow_whoever_is_killed(protocol: Protocol) {
    const PROCESSES: usize = 6;
    const TENURES: usize = 1000;
    let place = Place::new();
    let (path, log) = (place.lock_file(), place.at("log"));
    fs::write(&log, "").unwrap();
    let arguments = [&format!("{protocol:?}"), path.to_str().unwrap(), log.to_str().unwrap()];
    let start = || Process::in_role(Role::SignTenures, &arguments);
    let mut processes: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
    let mut killed = Vec::new();
    let lines = || fs::read_to_string(&log).unwrap().lines().count();
    while lines() < 2 * TENURES {
        // At whatever step it is.
        let victim = processes.swap_remove(killed.len() % PROCESSES);
        victim.expect("ready");
        killed.push(victim.pid());
        victim.kill();
        processes.push(start());
        let before = lines();
        until("the others go on", || lines() > before + 20);
    }
    killed.extend(processes.iter().map(Process::pid));
    drop(processes);
    let (_, last) = next(&path, protocol);
    check_log(&fs::read_to_string(&log).unwrap(), &killed, last);
}

fn check_log(log: &str, killed: &[u32], last_told: Option<u64>) {
    let mut pids = HashMap::new();
    let mut open: Option<u64> = None;
    let (mut last, mut tenures, mut told, mut unfinished) = (0, 0, 0, 0);
    for line in log.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [what, token, pid, dead] = words[..] else { panic!("{line}") };
        let (token, dead): (u64, u64) = (token.parse().unwrap(), dead.parse().unwrap());
        let pid: u32 = pid.parse().unwrap();
        if what == "end" {
            assert_eq!(open.take(), Some(token), "two hold at once");
            continue;
        }
        assert!(token > last, "{token} after {last}");
        pids.insert(token, pid);
        tenures += 1;
        if let Some(open) = open.replace(token) {
            unfinished += 1;
            assert!(dead >= open, "tenure {token} was not told that the one of {open} died");
        }
        if dead > 0 {
            told += 1;
            assert!(dead >= last && dead < token, "{token} was told of {dead} after {last}");
            // One that died before it could write a line is in no log.
            let writer = pids.get(&dead);
            assert!(writer.is_none_or(|pid| killed.contains(pid)), "{dead} of {writer:?} lives");
        }
        last = token;
    }
    if let Some(open) = open {
        assert!(last_told >= Some(open), "the last one was killed");
    }
    println!("{tenures} tenures, {} kills, {unfinished} in a tenure, {told} told", killed.len());
    assert!(tenures >= 1000);
}
