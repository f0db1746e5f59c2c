//! Many tasks at once: threads are bounded, and what blocks is not done where tasks run.

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
use nix::unistd::gettid;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_filelock::cache::SyncPolicy;
use tokio_filelock::{CacheDir, ErrorKind};

use super::{directory, options, temporary_files};
use crate::child::Role;
use crate::support::needs::{Need, lacks};
use crate::support::place::Place;
use crate::support::process::{Process, commands, say};
use crate::support::tracer::{Traced, between_marks};
use crate::support::{in_time, until};

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn finish(role: Role, path: &Path) {
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
    let mut holder = Process::in_role(Role::Lease, &[value.to_str().unwrap()]);
    holder.expect("leased");
    let mut process = Process::in_role(Role::ManyWaitForALease, &[path.to_str().unwrap()]);
    process.expect("they wait");
    holder.expect("asked to give it back");
    holder.tell("give it back");
    process.expect("done");
    process.tell("end");
    process.finish();
    holder.tell("again");
    drop(holder);
}

/// The role `ManyWaitForALease`.
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
    finish(Role::ManyInsert, &directory(&place));
}

/// The role `ManyInsert`.
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

/// What the cache writes at once.
const CHUNK: usize = 256 * 1024;

/// Gives so many bytes, and then neither more nor the end.
struct Stalls(usize);

impl AsyncRead for Stalls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0 == 0 {
            return Poll::Pending;
        }
        let more = buffer.remaining().min(self.0);
        buffer.put_slice(&vec![b'v'; more]);
        self.0 -= more;
        Poll::Ready(Ok(()))
    }
}

/// The thread of a task may not block: what its insert has written is removed by another one.
#[test]
fn who_drops_an_insert_makes_no_call_for_it() {
    if lacks(&[Need::Ptrace]) {
        return;
    }
    let place = Place::new();
    let path = directory(&place);
    let mut process = Process::in_role(Role::DropAnInsert, &[path.to_str().unwrap()]);
    let thread = process.event().parse().unwrap();
    let (calls, mut process) = thread::scope(|scope| {
        // It is traced for as long as this thread lives, and goes on by itself afterwards.
        let tracing = scope.spawn(move || {
            let mut thread = Traced::seize(thread);
            process.tell("go");
            (thread.calls_between_marks(), process)
        });
        tracing.join().unwrap()
    });
    for call in [libc::SYS_unlinkat, libc::SYS_close, libc::SYS_fcntl] {
        assert!(!calls.contains(&call), "{call} in {calls:?}");
    }
    until("it is removed", || temporary_files(&path).is_empty());
    process.tell("end");
    process.expect("done");
    process.finish();
}

/// The role `DropAnInsert`.
pub(crate) fn drop_an_insert(arguments: &[String]) {
    let [path] = arguments else { panic!("one argument") };
    let path = Path::new(path);
    let cache = options().blocking_open(path).unwrap();
    let mut insert = Box::pin(cache.insert("key", Stalls(CHUNK)));
    assert!(insert.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // Written, and seldom seen by the task. The answer is there, too, when the thread is idle.
    until("the value is written", || {
        let length = |name: &String| fs::metadata(path.join("tmp").join(name)).unwrap().len();
        temporary_files(path).iter().map(length).sum::<u64>() == CHUNK as u64
    });
    until("the thread is idle", || {
        fs::read_dir("/proc/self/task").unwrap().flatten().all(|task| {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            !read("comm").starts_with("filelock") || read("wchan").contains("futex")
        })
    });
    say(&gettid().to_string());
    commands().next();
    between_marks(|| drop(insert));
    commands().next();
    say("done");
}
