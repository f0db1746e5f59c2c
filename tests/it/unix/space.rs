//! Named locks in the files of a `LockSpace`.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::{JoinSet, yield_now};
use tokio_filelock::{ErrorKind, FileLock, LockSpace, Protocol, TryLockError, Waiting};

use crate::child::Role;
use crate::support::locker::Locker;
use crate::support::needs::{Need, lacks};
use crate::support::place::Place;
use crate::support::process::{Process, gather, meet, say};
use crate::support::{Mode, assert_names, assert_would_block, in_time, kernel, open};

/// Two names that share the upper 42 bits of their SHA-256, and so their slot.
pub(crate) const COLLIDING: [&str; 2] = ["2685089", "2880214"];

const FILES: [&str; 8] = [
    "app.lock",
    "app.lock.1",
    "app.lock.2",
    "app.lock.3",
    "app.lock.4",
    "app.lock.5",
    "app.lock.6",
    "app.lock.7",
];

async fn space(place: &Place) -> LockSpace {
    LockSpace::open(place.lock_file()).await.expect("the lock files open")
}

/// Whether a process that was just started gets the key without waiting.
#[track_caller]
fn is_free(place: &Place, name: &str, mode: Mode) -> bool {
    let mut locker = Locker::of_key(&place.lock_file(), name);
    let answer = locker.try_lock(mode);
    locker.finish();
    match answer.as_str() {
        "held" => true,
        "would block" => false,
        _ => panic!("{answer}"),
    }
}

#[tokio::test]
async fn keys_exclude_themselves_and_nobody_else() {
    let place = Place::new();
    let space = space(&place).await;
    let guard = space.key("a").lock().await.unwrap();
    let reader = space.key("b").lock_shared().await.unwrap();
    // In this process, under whatever handle of the space.
    let again = LockSpace::options().blocking_open(place.at("./app.lock")).unwrap();
    for space in [&space, &again, &space.clone()] {
        assert_would_block(space.key("a").try_lock());
        assert_would_block(space.key(b"a").try_lock_shared());
        assert_would_block(space.key(String::from("b")).try_lock());
        assert!(space.key(vec![b'b']).try_lock_shared().is_ok());
        assert!(space.key("c").try_lock().is_ok());
    }
    // And in another one.
    assert!(!is_free(&place, "a", Mode::Shared));
    assert!(!is_free(&place, "b", Mode::Exclusive));
    assert!(is_free(&place, "b", Mode::Shared));
    assert!(is_free(&place, "c", Mode::Exclusive));
    // The guards are all that it takes.
    drop((space, again));
    assert!(!is_free(&place, "a", Mode::Shared));
    assert_eq!(guard.file_lock().key(), Some(&b"a"[..]));
    drop((guard, reader));
    assert!(is_free(&place, "a", Mode::Exclusive));
    assert!(is_free(&place, "b", Mode::Exclusive));
}

#[tokio::test]
async fn any_bytes_are_a_name() {
    let place = Place::new();
    let space = space(&place).await;
    let all: Vec<u8> = (0..=255).collect();
    let long = vec![b'a'; 1_000_000];
    let names: [&[u8]; 6] = [b"", b"\0", b"/", b"../../etc/passwd", &all, &long];
    let keys = names.map(|name| space.key(name));
    let guards: Vec<_> = keys.iter().map(|key| key.try_lock().unwrap()).collect();
    for (name, guard) in names.iter().zip(&guards) {
        assert_would_block(space.key(name).try_lock());
        assert_eq!(guard.file_lock().key(), Some(*name));
    }
    assert_eq!(place.names(), FILES);
    assert!(FILES.iter().all(|name| fs::read(place.at(name)).unwrap().is_empty()));
}

#[tokio::test]
async fn errors_and_debug_say_which_key_of_which_file() {
    let place = Place::new();
    let space = space(&place).await;
    let key = space.key("say \"hi\"\n");
    let guard = key.lock().await.unwrap();
    let error = key.lock().timeout(Duration::ZERO).await.unwrap_err();
    assert_names(&error, ErrorKind::TimedOut, key.path());
    let path = key.path().display();
    let begins = format!("could not lock key `say \"hi\"\\n` of `{path}` within ");
    assert!(error.to_string().starts_with(&begins), "{error}");
    let refused = key.try_lock_shared().unwrap_err();
    assert!(refused.to_string().contains("key `say"), "{refused}");
    let (told, heard) = std::sync::mpsc::channel();
    let tell = move |waiting: &Waiting<'_>| told.send(waiting.to_string()).unwrap();
    let mut waiting = Box::pin(key.lock().on_wait(Duration::ZERO, tell));
    let message = in_time(async {
        loop {
            let limited = tokio::time::timeout(Duration::from_millis(10), &mut waiting).await;
            assert!(limited.is_err(), "the key is held");
            if let Ok(message) = heard.try_recv() {
                return message;
            }
        }
    })
    .await;
    drop(waiting);
    assert!(message.starts_with("waiting for key `say"), "{message}");
    assert!(format!("{guard:?}").contains("say"), "{guard:?}");
    assert!(format!("{guard:?}").contains("app.lock"), "{guard:?}");
    drop(guard);

    // A long name does not make a long message.
    let key = space.key("ä".repeat(10_000));
    let _guard = key.try_lock().unwrap();
    let error = key.lock().timeout(Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains(&format!("`{}…`", "ä".repeat(80))), "{error}");
}

/// Without a list of all the locks in the file, which is long.
#[tokio::test]
async fn a_refused_try_names_the_process_that_holds_the_key() {
    let place = Place::new();
    let space = space(&place).await;
    let mut holder = Locker::of_key(&place.lock_file(), "a");
    for mode in [Mode::Exclusive, Mode::Shared] {
        assert_eq!(holder.try_lock(mode), "held");
        let Err(TryLockError::WouldBlock(refused)) = space.key("a").try_lock() else {
            panic!("not refused")
        };
        let [other] = refused.holders() else { panic!("{refused}") };
        // Its word only: nothing was asked that would confirm it.
        // But for POSIX record locks, which are a process's: the kernel names it.
        let pids = (None, Some(holder.pid()));
        let expected = if cfg!(tokio_filelock_posix) { (pids.1, pids.0) } else { pids };
        assert_eq!((other.pid(), other.claimed_pid()), expected);
        holder.unlock();
    }
    // What this process holds it knows.
    let _guard = space.key("a").try_lock().unwrap();
    let Err(TryLockError::WouldBlock(refused)) = space.key("a").try_lock() else {
        panic!("not refused")
    };
    let [own] = refused.holders() else { panic!("{refused}") };
    assert!(own.is_this_process() && own.pid() == Some(std::process::id()), "{refused}");
}

/// The chance is one in 4·10^12; these two were looked for.
#[tokio::test]
async fn names_that_collide_wait_for_each_other() {
    let place = Place::new();
    let space = space(&place).await;
    let [one, other] = COLLIDING.map(|name| space.key(name));
    let guard = one.lock().await.unwrap();
    assert_would_block(other.try_lock_shared());
    let mut waiting = tokio_test::task::spawn(other.lock());
    assert!(waiting.poll().is_pending());
    drop(guard);
    drop(in_time(waiting).await.unwrap());
    let guards = [one, other].map(|key| key.try_lock_shared().unwrap());
    drop(guards);
}

#[tokio::test]
async fn the_turn_at_one_key_is_not_the_turn_at_another() {
    let place = Place::new();
    let space = space(&place).await;
    let beside = in_same_file(&space, "a");
    let guard = space.key("a").lock().await.unwrap();
    let other = beside.lock().await.unwrap();
    let mut waiter = Locker::of_key(&place.lock_file(), "a");
    waiter.start_to_wait(Mode::Exclusive);
    in_time(guard.until_contended()).await;
    assert!(!other.contended());
    drop(other);
    assert!(beside.try_lock().is_ok());
    assert_would_block(space.key("a").try_lock());
    drop(guard);
    waiter.expect_held();
    waiter.finish();
}

/// Another key in the lock file of this one.
fn in_same_file(space: &LockSpace, name: &str) -> FileLock {
    let path = space.key(name).path().to_owned();
    let others = (0..).map(|number| space.key(format!("{number}")));
    others.into_iter().find(|key| key.path() == path).expect("one in eight")
}

// ---- the lock files ----

#[tokio::test]
async fn missing_lock_files_are_created_with_the_mode() {
    let place = Place::new();
    drop(LockSpace::options().mode(0o666).open(place.lock_file()).await.unwrap());
    assert_eq!(place.names(), FILES);
    for name in FILES {
        let mode = fs::metadata(place.at(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o666, "{name}");
    }

    fs::remove_file(place.at("app.lock.5")).unwrap();
    let missing = LockSpace::options().create(false).open(place.lock_file()).await.unwrap_err();
    assert_names(&missing, ErrorKind::Io, &place.at("app.lock.5"));
    drop(space(&place).await);
    assert_eq!(place.names(), FILES);

    fs::remove_file(place.at("app.lock.7")).unwrap();
    fs::create_dir(place.at("app.lock.7")).unwrap();
    let no_file = LockSpace::options().blocking_open(place.lock_file()).unwrap_err();
    assert_names(&no_file, ErrorKind::NotAFile, &place.at("app.lock.7"));
}

#[tokio::test]
async fn who_may_only_read_the_lock_files_shares_keys() {
    let place = Place::new();
    let space = space(&place).await;
    for name in FILES {
        fs::set_permissions(place.at(name), Permissions::from_mode(0o444)).unwrap();
    }
    let mut other = Locker::new();
    other.become_nobody();
    other.open_key(&place.lock_file(), "a");
    let refused = other.try_lock(Mode::Exclusive);
    assert!(refused.starts_with("WrongAccess: could not lock key `a` of"), "{refused}");
    assert_eq!(other.try_lock(Mode::Shared), "held");
    assert_would_block(space.key("a").try_lock());
    assert!(space.key("a").try_lock_shared().is_ok());
    other.finish();
}

#[test]
fn descriptors_that_run_out_in_the_middle_are_all_given_back() {
    Process::in_role(Role::RunOutOfDescriptorsInASpace, &[]).finish();
}

/// The role `RunOutOfDescriptorsInASpace`.
pub(crate) fn run_out_of_descriptors(_: &[String]) {
    let place = Place::new();
    FILES.iter().for_each(|name| fs::write(place.at(name), "").unwrap());
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, most).unwrap();
    drop(LockSpace::options().blocking_open(place.lock_file()).unwrap());
    let mut hoard: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    // To look at a file before it is opened takes one more for a moment, on Linux.
    let to_look = usize::from(cfg!(not(tokio_filelock_posix)));
    hoard.truncate(hoard.len() - FILES.len() / 2 - to_look);
    let open = || LockSpace::options().blocking_open(place.lock_file());
    for _ in 0..3 {
        let error = open().unwrap_err();
        assert_names(&error, ErrorKind::Io, &place.at("app.lock.4"));
        assert!(error.to_string().contains("Too many open files"), "{error}");
    }
    hoard.truncate(hoard.len() - FILES.len() / 2);
    let space = open().unwrap();
    // A second handle, and any number of keys, need no more.
    let again = open().unwrap();
    let guards: Vec<_> = (0..100_u8).map(|key| space.key([key]).try_lock().unwrap()).collect();
    assert_would_block(again.key([99]).try_lock());
    drop((guards, hoard));
}

/// The range locks of the keys and a lock on the whole file do not see each other.
#[tokio::test]
async fn a_lock_file_of_another_protocol_is_refused() {
    let place = Place::new();
    let lock = open(place.at("app.lock.3"), Protocol::Flock).await;
    let error = LockSpace::open(place.lock_file()).await.unwrap_err();
    assert_names(&error, ErrorKind::ProtocolMismatch, &place.at("app.lock.3"));
    drop(lock);
    let space = space(&place).await;
    let error = FileLock::open(place.lock_file()).await.unwrap_err();
    assert_names(&error, ErrorKind::ProtocolMismatch, &place.lock_file());
    // One of the same protocol locks a byte that is in no slot.
    let lock = open(place.lock_file(), Protocol::Fcntl).await;
    let _guard = lock.try_lock().unwrap();
    assert!(in_first_file(&space).try_lock().is_ok());
}

fn in_first_file(space: &LockSpace) -> FileLock {
    let keys = (0..).map(|number| space.key(format!("{number}")));
    keys.into_iter().find(|key| key.path() == space.path()).expect("one in eight")
}

#[tokio::test]
async fn ten_thousand_keys_are_held_at_once_through_eight_descriptors() {
    const KEYS: usize = 10_000;
    let place = Place::new();
    let space = space(&place).await;
    let name = |number: usize| format!("key{number}");
    let guards: Vec<_> =
        (0..KEYS).map(|number| space.key(name(number)).try_lock().unwrap()).collect();
    let held = FILES.map(|file| kernel::range_locks_by_descriptor(&place.at(file)));
    assert!(held.iter().all(|descriptors| descriptors.len() == 1), "{held:?}");
    assert_eq!(held.concat().iter().sum::<usize>(), KEYS);
    for number in [0, 1, KEYS / 2, KEYS - 1] {
        assert_would_block(space.key(name(number)).try_lock());
        assert!(!is_free(&place, &name(number), Mode::Exclusive));
    }
    drop(guards);
    let held = FILES.map(|file| kernel::range_locks_by_descriptor(&place.at(file)));
    assert_eq!(held, FILES.map(|_| vec![0]), "one descriptor each, and nothing locked");
    drop(space);
    let held = FILES.map(|file| kernel::range_locks_by_descriptor(&place.at(file)));
    assert_eq!(held.concat(), [0; 0]);
}

// ---- other programs ----

/// Takes the path, the name and the kind of lock: the lines in the documentation of `LockSpace`,
/// and for an open file description lock the same range.
const PYTHON: &str = r#"
import fcntl, hashlib, struct, sys
path, name, kind = sys.argv[1], sys.argv[2].encode(), sys.argv[3]

h = int.from_bytes(hashlib.sha256(name).digest()[:8], "big")
path = path if h >> 61 == 0 else f"{path}.{h >> 61}"
start = (1 << 62) + (h >> 22) % (1 << 39) * (1 << 23)

file = open(path, "r+")
try:
    if kind == "lockf":
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, start)
    else:
        F_OFD_SETLK = 37
        flock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, start, 1, 0)
        fcntl.fcntl(file, F_OFD_SETLK, flock)
except BlockingIOError:
    print("event: would block", flush=True)
else:
    print("event: held", flush=True)
    sys.stdin.read()
"#;

fn python(place: &Place, name: &str, kind: &str) -> Process {
    let mut command = Command::new("python3");
    command.args(["-c", PYTHON]).arg(place.lock_file()).args([name, kind]);
    Process::start(kind, command)
}

#[tokio::test]
async fn a_program_that_computes_the_slot_excludes_and_is_excluded() {
    if lacks(&[Need::Program("python3")]) {
        return;
    }
    let place = Place::new();
    let space = space(&place).await;
    for kind in ["lockf", "OFD"] {
        for name in ["a", "https://example.org/ä", COLLIDING[0]] {
            let foreign = python(&place, name, kind);
            foreign.expect("held");
            assert_would_block(space.key(name).try_lock_shared());
            assert!(space.key("another").try_lock().is_ok());
            foreign.finish();

            let guard = space.key(name).try_lock().unwrap();
            python(&place, name, kind).expect("would block");
            let foreign = python(&place, "another", kind);
            foreign.expect("held");
            foreign.finish();
            drop(guard);
        }
    }
}

// ---- replaced lock files ----

#[tokio::test]
async fn keys_follow_lock_files_that_are_replaced() {
    let place = Place::new();
    let space = space(&place).await;
    let names = ["a", "b", "c", "d", "e", "f"];
    let keys = names.map(|name| space.key(name));
    for key in &keys {
        drop(key.lock().await.unwrap());
    }
    for asked in ["lock", "try_lock"] {
        FILES.iter().for_each(|name| fs::remove_file(place.at(name)).unwrap());
        // Those there were, and new ones of the same space.
        for (key, name) in keys.iter().zip(names) {
            let guard = match asked {
                "lock" => in_time(key.lock()).await.unwrap(),
                _ => key.try_lock().unwrap(),
            };
            assert_would_block(space.key(name).try_lock());
            assert!(!is_free(&place, name, Mode::Shared), "{asked}: {name}");
            drop(guard);
            let guard = space.key(name).try_lock().unwrap();
            assert_would_block(key.try_lock());
            assert!(!is_free(&place, name, Mode::Shared), "{asked}: {name}");
            drop(guard);
        }
    }
    // The space has moved with them, and keeps nothing of the old file.
    drop(keys);
    for name in names {
        let path = space.key(name).path().to_owned();
        assert_eq!(kernel::range_locks_by_descriptor(&path), [0]);
        let mut removed = path.into_os_string();
        removed.push(" (deleted)");
        assert_eq!(kernel::range_locks_by_descriptor(removed.as_ref()), [0; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_waited_for_follow_too() {
    const WAITERS: usize = 20;
    let place = Place::new();
    let space = space(&place).await;
    let beside = in_same_file(&space, "a");
    let names = ["a", std::str::from_utf8(beside.key().unwrap()).unwrap()];
    let file = beside.path().to_owned();
    let holders = names.map(|name| {
        let mut holder = Locker::of_key(&place.lock_file(), name);
        assert_eq!(holder.try_lock(Mode::Exclusive), "held");
        holder
    });
    let mut tasks = JoinSet::new();
    for name in names {
        for _ in 0..WAITERS {
            let key = space.key(name);
            tasks.spawn(async move { drop(key.lock().await.unwrap()) });
        }
    }
    kernel::await_waiting_calls(&file, 2);
    fs::remove_file(&file).unwrap();
    let mut others = names.map(|name| Locker::of_key(&place.lock_file(), name));
    for other in &mut others {
        assert_eq!(other.try_lock(Mode::Exclusive), "held");
    }
    holders.into_iter().for_each(Locker::finish);
    kernel::await_waiting_calls(&file, 2);
    assert_eq!(tasks.try_join_next().map(|joined| joined.unwrap()), None);
    others.into_iter().for_each(Locker::finish);
    in_time(tasks.join_all()).await;
    assert_eq!(place.names(), FILES);
}

#[tokio::test]
async fn renamed_away_is_noticed_with_verify_path() {
    let place = Place::new();
    let space = LockSpace::options().verify_path(true).open(place.lock_file()).await.unwrap();
    let key = space.key("a");
    drop(key.lock().await.unwrap());
    fs::rename(key.path(), place.at("old.lock")).unwrap();
    let guard = in_time(key.lock()).await.unwrap();
    assert!(!is_free(&place, "a", Mode::Shared));
    assert_would_block(space.key("a").try_lock());
    drop(guard);
    fs::rename(place.at("old.lock"), key.path()).unwrap();
    let guard = space.key("a").try_lock().unwrap();
    assert!(!is_free(&place, "a", Mode::Shared));
    assert_would_block(key.try_lock());
    drop(guard);
}

// ---- many processes ----

const PROCESSES: usize = 4;
const TASKS: usize = 20;
const ROUNDS: usize = 30;
const KEYS: usize = 12;

#[test]
fn no_increment_of_four_processes_under_twelve_keys_is_lost() {
    let place = Place::new();
    for key in 0..KEYS {
        fs::write(place.at(&key.to_string()), "0").unwrap();
    }
    let directory = place.directory().to_str().unwrap();
    let mut processes: Vec<_> =
        (0..PROCESSES).map(|_| Process::in_role(Role::CountInKeys, &[directory])).collect();
    gather(&mut processes);
    let mut rounds = HashMap::<usize, usize>::new();
    for process in processes {
        for (key, count) in process.event().split(' ').enumerate() {
            *rounds.entry(key).or_default() += count.parse::<usize>().unwrap();
        }
        process.finish();
    }
    assert_eq!(rounds.values().sum::<usize>(), PROCESSES * TASKS * ROUNDS);
    for (key, count) in rounds {
        let counted = fs::read_to_string(place.at(&key.to_string())).unwrap();
        assert_eq!(counted, count.to_string(), "of key {key}");
    }
}

/// The role `CountInKeys`.
pub(crate) fn count_in_keys(arguments: &[String]) {
    let [directory] = arguments else { panic!("one argument") };
    let directory = PathBuf::from(directory);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let space = LockSpace::open(directory.join("app.lock")).await.unwrap();
        meet();
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let (space, directory) = (space.clone(), directory.clone());
            tasks.spawn(async move {
                let mut counts = [0; KEYS];
                for round in 0..ROUNDS {
                    let key = (task * 7 + round * round) % KEYS;
                    let data = directory.join(key.to_string());
                    let guard = space.key(key.to_string()).lock().await.unwrap();
                    let count: usize = fs::read_to_string(&data).unwrap().parse().unwrap();
                    yield_now().await;
                    fs::write(&data, (count + 1).to_string()).unwrap();
                    drop(guard);
                    counts[key] += 1;
                }
                counts
            });
        }
        let mut sum = [0; KEYS];
        for counts in tasks.join_all().await {
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        say(&sum.map(|count: usize| count.to_string()).join(" "));
    });
}
