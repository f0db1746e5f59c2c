//! Waits for others: each can be cancelled, has a limit if it is to have one, names whom it waits for, and
//! keeps no runtime.
#![allow(unsafe_code)]

use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

#[cfg(target_os = "linux")]
use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use tokio_filelock::cache::FillError;
use tokio_filelock::{CacheDir, Error, ErrorKind};

use super::user::User;
use super::{directory, open, options, value};
use crate::child::Role;
use crate::support::foreign::Program;
use crate::support::needs::{Need, lacks};
use crate::support::place::Place;
use crate::support::process::{Process, commands, say};
use crate::support::{Mode, in_time, returns, until};

const SHORTLY: Duration = Duration::from_millis(10);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A maintenance script that wants all processes out, say.
#[test]
fn opening_waits_for_a_program_that_has_the_whole_lock_file() {
    if lacks(&[Need::Program("python3")]) {
        return;
    }
    let place = Place::new();
    fs::write(place.at("cache.lock"), "").unwrap();
    let holder = Program::PythonLockf.hold(&place.at("cache.lock"), Mode::Exclusive);
    let runtime = runtime();
    runtime.block_on(async {
        let error = options().timeout(SHORTLY).open(directory(&place)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert_eq!(error.path(), place.at("cache.lock"));
        if cfg!(target_os = "linux") {
            assert_eq!(error.holders()[0].pid(), Some(holder.pid()), "{error}");
        }
        // Cancelled, and once more, until it is free.
        let opening = CacheDir::open(directory(&place));
        assert!(tokio::time::timeout(SHORTLY, opening).await.is_err());
    });
    let opening = runtime.spawn(CacheDir::open(directory(&place)));
    holder.finish();
    let cache = runtime.block_on(in_time(opening)).unwrap().unwrap();
    // And with one open.
    let holder = {
        drop(cache);
        Program::PythonLockf.hold(&place.at("cache.lock"), Mode::Exclusive)
    };
    runtime.spawn(CacheDir::open(directory(&place)));
    returns(move || drop(runtime));
    holder.finish();
}

/// Who fills a key, and since when.
#[tokio::test]
async fn those_who_wait_for_a_fill_have_a_limit_and_are_told() {
    let place = Place::new();
    let cache = open(&place).await;
    let mut user = User::of(&directory(&place), u64::MAX);
    assert_eq!(user.ask(&format!("stall key {}", value::LARGE)), "stalled");
    let never = || async { panic!("there is a filler") as Result<&[u8], Infallible> };
    let hasty = cache.with_timeout(SHORTLY);
    let fills = async || match hasty.get_or_insert_with("key", never).await {
        Err(FillError::Cache(error)) => error,
        _ => panic!("it has a limit"),
    };
    let inserts = async || hasty.insert("key", &b"value"[..]).await.unwrap_err();
    let removes = async || hasty.remove("key").await.unwrap_err();
    let pid = user.pid();
    times_out_and_names(pid, fills).await;
    times_out_and_names(pid, inserts).await;
    times_out_and_names(pid, removes).await;
    // Hits and other keys do not wait.
    hasty.insert("other", &b"value"[..]).await.unwrap();
    assert_eq!(hasty.read("other").await.unwrap().unwrap(), b"value");
    let (told, mut telling) = tokio::sync::mpsc::unbounded_channel();
    let telling_one = cache.with_on_wait(SHORTLY, move |waiting| {
        let _ = told.send((waiting.to_string(), waiting.holders().len()));
    });
    let waiting = tokio::spawn(async move {
        telling_one.get_or_insert_with("key", never).await.unwrap().read().await.unwrap()
    });
    let (text, holders) = in_time(telling.recv()).await.unwrap();
    assert!(text.contains("waiting for key `key`"), "{text}");
    assert!(holders > 0 || cfg!(not(target_os = "linux")), "{text}");
    user.start("resume key");
    assert_eq!(value::number("key", &in_time(waiting).await.unwrap()), value::LARGE);
    user.answer();
    user.finish();
}

/// Each time out; on Linux one of them names the process. Who holds a lock is looked for in a limited time, which a busy machine
/// may exceed.
async fn times_out_and_names(pid: u32, attempt: impl AsyncFn() -> Error) {
    let named = async {
        loop {
            let error = attempt().await;
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
            assert!(error.to_string().contains("key `key`"), "{error}");
            match error.holders().first() {
                Some(holder) => return assert_eq!(holder.pid(), Some(pid), "{error}"),
                None if cfg!(target_os = "linux") => {}
                None => return,
            }
        }
    };
    in_time(named).await;
}

/// By the SHA-256 of their names, found by trying.
const IN_ONE_SLOT: [&str; 2] = ["pkg-2198768", "pkg-3672455"];

#[tokio::test]
async fn two_keys_in_one_slot_may_be_filled_inside_each_other() {
    let place = Place::new();
    let cache = open(&place).await;
    let [outer, inner] = IN_ONE_SLOT;
    let fills = Arc::new(Mutex::new(Vec::new()));
    let filled = |key: &'static str| fills.lock().unwrap().push(key);
    for again in 0..2 {
        let fill = || async {
            filled(outer);
            let nested = || {
                cache.get_or_insert_with(inner, || async {
                    filled(inner);
                    tokio::task::yield_now().await;
                    // What shares the lock can be changed, too.
                    cache.insert("unrelated", &b"value"[..]).await?;
                    Ok::<_, FillError<io::Error>>(&b"inner"[..])
                })
            };
            // Both at once: still one fill.
            let (one, two) = tokio::join!(nested(), nested());
            assert_eq!(two.unwrap().read().await?, b"inner");
            Ok::<_, io::Error>(tokio::fs::File::from_std(one.unwrap().into_file()))
        };
        let entry = in_time(cache.get_or_insert_with(outer, fill)).await.unwrap();
        assert_eq!(entry.read().await.unwrap(), b"inner");
        assert_eq!(*fills.lock().unwrap(), [outer, inner], "{again}");
    }
    cache.remove(outer).await.unwrap();
    let fill = || async {
        in_time(cache.insert(inner, &b"inserted"[..])).await?;
        assert!(in_time(cache.remove(inner)).await?);
        Ok::<_, tokio_filelock::Error>(&b"outer"[..])
    };
    in_time(cache.get_or_insert_with(outer, fill)).await.unwrap();
    // Nothing stays locked.
    let mut user = User::of(&directory(&place), u64::MAX);
    for key in IN_ONE_SLOT {
        assert_eq!(user.ask(&format!("insert {key} 7")), "inserted");
    }
    user.finish();
}

/// A fill that wants a key whose lock another part of it has, for longer than it wants to wait.
#[tokio::test]
async fn a_wait_inside_of_a_fill_has_a_limit() {
    let place = Place::new();
    let cache = open(&place).await;
    let hasty = cache.with_timeout(SHORTLY);
    let [outer, inner] = IN_ONE_SLOT;
    let fill = || async {
        let (filling, begun) = tokio::sync::oneshot::channel();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let slow = cache.get_or_insert_with(inner, || async {
            filling.send(()).unwrap();
            ended.await.unwrap();
            Ok::<_, Infallible>("inner")
        });
        let impatient = async {
            begun.await.unwrap();
            let error = in_time(hasty.insert(inner, "hasty")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
            let error = in_time(hasty.remove(inner)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
            end.send(()).unwrap();
        };
        let (slow, ()) = tokio::join!(slow, impatient);
        Ok::<_, Infallible>(slow.unwrap().read().await.unwrap())
    };
    let entry = in_time(cache.get_or_insert_with(outer, fill)).await.unwrap();
    assert_eq!(entry.read().await.unwrap(), b"inner");
}

/// What a task's waker does when another one is through with the key's lock is nothing to that one.
#[tokio::test]
async fn a_waker_that_panics_is_nothing_to_who_wakes_it() {
    struct Panics;

    impl std::task::Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a foreign waker");
        }
    }

    let place = Place::new();
    let cache = open(&place).await;
    let [outer, inner] = IN_ONE_SLOT;
    let fill = || async {
        let (filling, begun) = tokio::sync::oneshot::channel();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let first = cache.get_or_insert_with(inner, || async {
            filling.send(()).unwrap();
            ended.await.unwrap();
            Err::<&str, _>("given up")
        });
        let mut waiting = Box::pin(cache.remove(inner));
        let behind = async {
            begun.await.unwrap();
            let waker = std::task::Waker::from(Arc::new(Panics));
            // At once: nothing is between it and its turn.
            let polled = waiting.as_mut().poll(&mut std::task::Context::from_waker(&waker));
            assert!(polled.is_pending());
            end.send(()).unwrap();
        };
        let (first, ()) = tokio::join!(first, behind);
        assert!(matches!(first, Err(FillError::Fill("given up"))));
        assert!(!in_time(waiting).await.unwrap());
        Ok::<_, Infallible>("outer")
    };
    let entry = in_time(cache.get_or_insert_with(outer, fill)).await.unwrap();
    assert_eq!(entry.read().await.unwrap(), b"outer");
}

#[tokio::test]
async fn a_fill_that_asks_for_its_own_key_is_an_error() {
    let place = Place::new();
    let cache = open(&place).await;
    let fill = || async {
        let own = || async { Ok::<_, Infallible>(&b"inner"[..]) };
        let Err(FillError::Cache(filling)) = in_time(cache.get_or_insert_with("key", own)).await
        else {
            panic!("not noticed")
        };
        let errors = [
            filling,
            in_time(cache.insert("key", &b"inner"[..])).await.unwrap_err(),
            in_time(cache.remove("key")).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Deadlock, "{error}");
        }
        assert!(cache.get("key").await.unwrap().is_none());
        Ok::<_, Infallible>(&b"outer"[..])
    };
    let entry = in_time(cache.get_or_insert_with("key", fill)).await.unwrap();
    assert_eq!(entry.read().await.unwrap(), b"outer");
    // Afterwards it is a key like every other.
    cache.insert("key", &b"value"[..]).await.unwrap();
}

/// As Samba and NFS servers take them (fcntl(2), `F_SETLEASE`).
#[cfg(target_os = "linux")]
#[test]
fn a_lease_is_waited_for_and_the_wait_can_be_cancelled() {
    let place = Place::new();
    let runtime = runtime();
    let cache = runtime.block_on(open(&place));
    let path = runtime.block_on(cache.insert("key", &b"value"[..])).unwrap().path().to_owned();
    let mut holder = Process::in_role(Role::Lease, &[path.to_str().unwrap()]);
    holder.expect("leased");
    let reading = {
        let cache = cache.clone();
        runtime.spawn(async move { cache.read("key").await })
    };
    holder.expect("asked to give it back");
    // No task waits for the kernel to take it away.
    let other = runtime.spawn({
        let cache = cache.clone();
        async move { cache.get("key").await }
    });
    other.abort();
    holder.tell("give it back");
    let value = runtime.block_on(in_time(reading)).unwrap().unwrap();
    assert_eq!(value.unwrap(), b"value");
    holder.tell("again");
    holder.expect("leased");
    runtime.spawn({
        let cache = cache.clone();
        async move { cache.get("key").await }
    });
    holder.expect("asked to give it back");
    returns(move || drop(runtime));
    holder.finish();
}

/// The role `Lease`.
#[cfg(target_os = "linux")]
pub(crate) fn lease(arguments: &[String]) {
    let [path] = arguments else { panic!("one argument") };
    // SAFETY: to ignore a signal runs no handler.
    unsafe { signal(Signal::SIGIO, SigHandler::SigIgn) }.unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    // SAFETY: the descriptor is open, and the argument a number.
    let set =
        |lease: libc::c_int| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, lease) };
    // SAFETY: as above.
    let get = || unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) };
    let mut commands = commands();
    loop {
        // A task that has just read it may have it open still.
        until("no process has it open", || set(libc::F_WRLCK) == 0);
        say("leased");
        until("another process wants it", || get() != libc::F_WRLCK);
        say("asked to give it back");
        if commands.next().is_none() {
            return;
        }
        assert_eq!(set(libc::F_UNLCK), 0, "{}", io::Error::last_os_error());
        if commands.next().is_none() {
            return;
        }
    }
}
