//! Many tasks at once: threads are bounded, and what blocks is not done where tasks run.
#![allow(unsafe_code)]

use std::fs;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use nix::libc;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_filelock::cache::SyncPolicy;
use tokio_filelock::{CacheDir, ErrorKind};

use super::systems::refuse;
use super::{directory, options, temporary_files};
use crate::support::place::Place;
use crate::support::process::{Process, commands, say};
use crate::support::{in_time, until};

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn finish(role: &str, path: &Path) {
    let process = Process::in_role(role, &[path.to_str().unwrap()]);
    process.expect("done");
    process.finish();
}

#[test]
fn those_who_wait_for_a_lease_share_threads_and_have_a_limit() {
    let place = Place::new();
    let path = directory(&place);
    let value = block_on(async {
        let cache = options().open(&path).await.unwrap();
        cache.insert("other", "value").await.unwrap();
        cache.insert("leased", "value").await.unwrap().path().to_owned()
    });
    let mut holder = Process::in_role("lease", &[value.to_str().unwrap()]);
    holder.expect("leased");
    let mut process = Process::in_role("many wait for a lease", &[path.to_str().unwrap()]);
    process.expect("they wait");
    holder.expect("asked to give it back");
    holder.tell("give it back");
    process.expect("done");
    process.tell("end");
    process.finish();
    holder.tell("again");
    drop(holder);
}

/// The role `many wait for a lease`.
pub(crate) fn wait_for_a_lease(arguments: &[String]) {
    const TASKS: usize = 300;

    let [path] = arguments else { panic!("one argument") };
    block_on(async {
        let cache = CacheDir::open(path).await.unwrap();
        let hasty = cache.with_timeout(Duration::from_millis(20));
        let error = in_time(hasty.get("leased")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert!(error.to_string().contains("lease"), "{error}");
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let cache = cache.clone();
                tokio::spawn(async move { cache.read("leased").await })
            })
            .collect();
        // Others are not held up.
        for _ in 0..TASKS {
            assert_eq!(in_time(cache.read("other")).await.unwrap().unwrap(), b"value");
        }
        assert!(tasks.iter().all(|task| !task.is_finished()));
        // What the first looks took has gone, idle for some seconds.
        until("they share threads", || threads() < 20);
        say("they wait");
        for task in tasks {
            assert_eq!(in_time(task).await.unwrap().unwrap().unwrap(), b"value");
        }
    });
    say("done");
    assert_eq!(commands().next().unwrap(), "end");
}

#[test]
fn inserts_share_threads() {
    let place = Place::new();
    finish("many insert", &directory(&place));
}

/// The role `many insert`.
pub(crate) fn insert(arguments: &[String]) {
    // What calls may take, and half as many more; without a bound it was all of them.
    const TASKS: usize = 2500;
    const MOST: usize = 768;

    let [path] = arguments else { panic!("one argument") };
    let (most, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let counting = {
        let (most, is_over) = (most.clone(), is_over.clone());
        thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                most.fetch_max(threads(), Ordering::Relaxed);
                thread::yield_now();
            }
        })
    };
    block_on(async {
        let options = CacheDir::options().sync(SyncPolicy::Inserts).checksums(true);
        let cache = options.open(path).await.unwrap();
        let tasks: Vec<_> = (0..TASKS)
            .map(|number| {
                let cache = cache.clone();
                tokio::spawn(
                    async move { cache.insert(number.to_string(), "value").await.map(drop) },
                )
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(cache.stats().await.unwrap().values, TASKS as u64);
    });
    is_over.store(true, Ordering::Relaxed);
    counting.join().unwrap();
    let most = most.load(Ordering::Relaxed);
    println!("{most} threads");
    assert!(most < MOST, "{most} threads");
    say("done");
}

/// Gives a byte, and then nothing more.
struct Stalls(bool);

impl AsyncRead for Stalls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.0, true) {
            buffer.put_slice(b"x");
        }
        Poll::Ready(Ok(()))
    }
}

#[test]
fn who_drops_an_insert_makes_no_call_for_it() {
    let place = Place::new();
    finish("drop an insert", &directory(&place));
}

/// The role `drop an insert`.
pub(crate) fn drop_an_insert(arguments: &[String]) {
    let [path] = arguments else { panic!("one argument") };
    let path = Path::new(path);
    let cache = options().blocking_open(path).unwrap();
    let mut insert = Box::pin(cache.insert("key", Stalls(false)));
    assert!(insert.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // Written, and not seen by the task. Its answer is there, too, when the thread is idle.
    until("the value is written", || {
        let length = |name: &String| fs::metadata(path.join("tmp").join(name)).unwrap().len();
        temporary_files(path).iter().map(length).sum::<u64>() == 1
    });
    until("the thread is idle", || {
        fs::read_dir("/proc/self/task").unwrap().flatten().any(|task| {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            read("comm").starts_with("filelock") && read("wchan").contains("futex")
        })
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            // Of this thread alone.
            refuse(libc::SYS_unlinkat, libc::EPERM as u32);
            drop(insert);
        });
    });
    until("it is removed", || temporary_files(path).is_empty());
    say("done");
}
