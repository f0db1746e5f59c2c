//! Waits that end when no task wants them. What is counted are threads and lock calls that wait in
//! the kernel, so the waiting is done in processes of its own.

use std::fs;
use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};
use tokio_filelock::{
    Error, ErrorKind, ExclusiveGuard, FileLock, OpenOptions, Protocol, Tenure, WaitOn,
};

use crate::child::Role;
use crate::support::locker::{Locker, is_free};
use crate::support::place::Place;
use crate::support::process::{Process, commands, say};
use crate::support::{Mode, assert_names, each_protocol, in_time, kernel, protocol, returns};

// ---- cancelled waits ----

each_protocol!(#[test] fn a_storm_of_cancels_leaves_nothing_behind);
fn a_storm_of_cancels_leaves_nothing_behind(protocol: Protocol) {
    storm(protocol, |_, _| {});
}

each_protocol!(
    #[test]
    fn a_storm_of_cancels_against_a_holder_that_is_stopped_and_continued_leaves_nothing_behind
);
fn a_storm_of_cancels_against_a_holder_that_is_stopped_and_continued_leaves_nothing_behind(
    protocol: Protocol,
) {
    storm(protocol, |holder, round| {
        let signal = if round % 2 == 0 { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(holder.pid().try_into().unwrap()), signal).unwrap();
    });
}

const REQUESTS: usize = 10_000;
const REQUESTS_PER_ROUND: usize = 1_000;

fn storm(protocol: tokio_filelock::Protocol, each_round: impl Fn(&Process, usize)) {
    let place = Place::new();
    let path = place.lock_file();
    let arguments = [path.to_str().unwrap(), &format!("{protocol:?}")];
    let holder = Process::in_role(Role::TakeAndFree, &arguments);
    holder.expect("taking");
    let mut waiter = Process::in_role(Role::GiveUp, &arguments);
    for round in 0..REQUESTS / REQUESTS_PER_ROUND {
        waiter.expect("round");
        each_round(&holder, round);
    }
    let granted: usize = waiter.event().parse().unwrap();
    println!("{protocol:?}: {REQUESTS} requests, {granted} granted, the others given up");
    holder.finish();
    kernel::await_no_waiting_calls(&path);
    assert!(is_free(&path, protocol, Mode::Exclusive));
    waiter.tell("count threads");
    waiter.expect("no thread left");
    waiter.finish();
}

/// Takes the lock and frees it, again and again, until the parent has enough.
pub(crate) fn take_and_free(arguments: &[String]) {
    let lock = open_from(arguments);
    let enough = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let enough = enough.clone();
        move || {
            assert_eq!(commands().next(), None);
            enough.store(true, Ordering::Relaxed);
        }
    });
    say("taking");
    while !enough.load(Ordering::Relaxed) {
        let guard = lock.blocking_lock().unwrap();
        std::thread::yield_now();
        drop(guard);
        std::thread::yield_now();
    }
}

/// Asks for the lock and gives up at a random point, again and again.
pub(crate) fn give_up(arguments: &[String]) {
    let lock = open_from(arguments);
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut granted = 0;
    for round in 0..REQUESTS / REQUESTS_PER_ROUND {
        granted += runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for task in 0..10 {
                let random = Rng::with_seed((round * 10 + task) as u64);
                tasks.spawn(ask_and_give_up(lock.clone(), REQUESTS_PER_ROUND / 10, random));
            }
            in_time(tasks.join_all()).await.into_iter().sum::<usize>()
        });
        say("round");
    }
    say(&granted.to_string());
    assert_eq!(commands().next().as_deref(), Some("count threads"));
    drop(runtime);
    kernel::await_no_wait_threads();
    say("no thread left");
}

async fn ask_and_give_up(lock: FileLock, requests: usize, mut random: Rng) -> usize {
    let mut granted = 0;
    for _ in 0..requests {
        let mut acquire = pin!(lock.lock());
        if random.u64(..16) == 0 {
            let patience = Duration::from_micros(random.u64(..2_000));
            granted += usize::from(tokio::time::timeout(patience, acquire).await.is_ok());
            continue;
        }
        for _ in 0..random.u64(..20) {
            let polled = poll_fn(|cx| Poll::Ready(acquire.as_mut().poll(cx))).await;
            if let Poll::Ready(guard) = polled {
                drop(guard.unwrap());
                granted += 1;
                break;
            }
            yield_now().await;
        }
    }
    granted
}

// ---- pools and threads ----

const CONTENDED_FILES: usize = 50;
const TASKS_PER_FILE: usize = 20;

#[test]
fn many_contended_files_leave_a_pool_of_one_thread_alone() {
    contend("multi thread", 1);
}

#[test]
fn many_contended_files_leave_a_pool_of_two_threads_alone() {
    contend("multi thread", 2);
}

#[test]
fn many_contended_files_leave_the_pool_of_a_current_thread_runtime_alone() {
    contend("current thread", 1);
}

fn contend(flavor: &str, pool: usize) {
    let place = Place::new();
    let directory = place.directory().to_str().unwrap();
    let holder = hold_many(directory, CONTENDED_FILES);
    let waiter = Process::in_role(Role::Contend, &[directory, flavor, &pool.to_string()]);
    // It has read and written files by then.
    waiter.expect("waiting");
    holder.finish();
    let expected = CONTENDED_FILES * TASKS_PER_FILE;
    waiter.expect(&format!("{expected} acquisitions"));
    waiter.finish();
}

pub(crate) fn contend_in_child(arguments: &[String]) {
    let [directory, flavor, pool] = arguments else { panic!("{arguments:?}") };
    let directory = Path::new(directory);
    let mut builder = builder(flavor);
    let runtime = builder.max_blocking_threads(pool.parse().unwrap()).build().unwrap();
    runtime.block_on(async {
        let data = directory.join("data");
        let mut locks = Vec::new();
        for number in 0..CONTENDED_FILES {
            locks.push(FileLock::open(numbered(directory, number)).await.unwrap());
        }
        let waiting = start_waiting(&locks, TASKS_PER_FILE, move || {
            let data = data.clone();
            async move { drop(in_time(tokio::fs::read(data)).await.unwrap()) }
        })
        .await;
        in_time(tokio::fs::write(directory.join("data"), "text")).await.unwrap();
        assert_eq!(in_time(tokio::fs::read(directory.join("data"))).await.unwrap(), b"text");
        in_time(tokio::task::spawn_blocking(|| ())).await.unwrap();
        say("waiting");
        in_time(waiting.join_all()).await;
        let acquisitions: u64 = locks.iter().map(|lock| lock.counters().acquisitions).sum();
        say(&format!("{acquisitions} acquisitions"));
    });
}

const CROWD: usize = 10_000;

each_protocol!(#[test] fn ten_thousand_waiting_tasks_cost_one_thread_and_leave_none);
fn ten_thousand_waiting_tasks_cost_one_thread_and_leave_none(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let holder = Locker::holding(&path, protocol, Mode::Exclusive);
    let crowd = Process::in_role(Role::Crowd, &[path.to_str().unwrap(), &format!("{protocol:?}")]);
    crowd.expect("1 thread more");
    holder.finish();
    crowd.expect(&format!("{CROWD} acquisitions"));
    crowd.expect("no thread left");
    crowd.finish();
}

pub(crate) fn crowd(arguments: &[String]) {
    let lock = open_from(arguments);
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let before = kernel::threads(std::process::id()).len();
    runtime.block_on(async {
        let waiting = start_waiting(std::slice::from_ref(&lock), CROWD, || async {}).await;
        kernel::await_waiting_calls(lock.path(), 1);
        let more = kernel::threads(std::process::id()).len() - before;
        say(&format!("{more} thread more"));
        in_time(waiting.join_all()).await;
    });
    say(&format!("{} acquisitions", lock.counters().acquisitions));
    kernel::await_no_wait_threads();
    say("no thread left");
}

each_protocol!(#[test] fn a_crowd_that_moves_to_a_new_lock_file_costs_two_threads);
fn a_crowd_that_moves_to_a_new_lock_file_costs_two_threads(protocol: Protocol) {
    let place = Place::new();
    let path = place.lock_file();
    let holder = Locker::holding(&path, protocol, Mode::Exclusive);
    let arguments = [path.to_str().unwrap(), &format!("{protocol:?}")];
    let mut crowd = Process::in_role(Role::MovingCrowd, &arguments);
    crowd.expect("waiting");
    fs::remove_file(&path).unwrap();
    holder.finish();
    crowd.tell("count");
    crowd.expect(&format!("{CROWD} acquisitions"));
    crowd.finish();
}

pub(crate) fn moving_crowd(arguments: &[String]) {
    let lock = open_from(arguments);
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut waiting = start_waiting(std::slice::from_ref(&lock), CROWD, || async {}).await;
        kernel::await_waiting_calls(lock.path(), 1);
        say("waiting");
        assert_eq!(commands().next().as_deref(), Some("count"));
        while let Some(done) = in_time(waiting.join_next()).await {
            done.unwrap();
        }
    });
    // Idle threads stay for some seconds, so these are all there were: one that waited in the
    // kernel, and one that opened the file anew.
    let names = kernel::threads(std::process::id());
    let threads = names.iter().filter(|name| *name == "filelock-wait").count();
    assert!(threads <= 2, "{threads} threads");
    say(&format!("{} acquisitions", lock.counters().acquisitions));
}

// ---- runtimes ----

const FILES_OF_RUNTIME: usize = 64;

/// The wait, and where it is parked; what is left of it after the runtime has been dropped.
const LEAVERS: [(&str, &str, &str); 6] = [
    ("in a task", "wait pool", "nothing"),
    ("in a timeout", "wait pool", "nothing"),
    ("leaked", "wait pool", "the wait"),
    ("adopted", "wait pool", "the wait"),
    ("in a task", "runtime pool", "nothing"),
    ("in a timeout", "runtime pool", "nothing"),
];

#[test]
fn dropping_a_multi_thread_runtime_with_many_waits_returns() {
    drop_runtimes("multi thread");
}

#[test]
fn dropping_a_current_thread_runtime_with_many_waits_returns() {
    drop_runtimes("current thread");
}

fn drop_runtimes(flavor: &str) {
    for (wait, parked, left) in LEAVERS {
        let place = Place::new();
        let directory = place.directory().to_str().unwrap();
        let holder = hold_many(directory, FILES_OF_RUNTIME);
        let waiter = Process::in_role(Role::Leave, &[directory, flavor, wait, parked, left]);
        waiter.expect("dropped");
        if wait == "adopted" {
            waiter.expect("left as expected");
            holder.finish();
            waiter.expect(&format!("{FILES_OF_RUNTIME} acquisitions"));
            waiter.finish();
        } else {
            waiter.expect("left as expected");
            // Whatever is parked does not hold up the end of the process.
            waiter.finish();
            holder.finish();
        }
        for number in 0..FILES_OF_RUNTIME {
            let protocol = tokio_filelock::Protocol::Flock;
            let lock = numbered(place.directory(), number);
            let lock = FileLock::options().protocol(protocol).blocking_open(lock).unwrap();
            drop(lock.try_lock().expect("nothing stays locked"));
        }
    }
}

pub(crate) fn leave(arguments: &[String]) {
    let [directory, flavor, wait, parked, left] = arguments else { panic!("{arguments:?}") };
    let wait_on = match parked.as_str() {
        "wait pool" => WaitOn::WaitPool,
        "runtime pool" => WaitOn::RuntimePool,
        _ => panic!("{parked}"),
    };
    let paths: Vec<PathBuf> =
        (0..FILES_OF_RUNTIME).map(|number| numbered(Path::new(directory), number)).collect();
    let options = FileLock::options().wait_on(wait_on);
    let locks: Vec<_> =
        paths.iter().map(|path| options.clone().blocking_open(path).unwrap()).collect();
    let runtime = builder(flavor).build().unwrap();
    let heir = builder("multi thread").build().unwrap();
    let wait_in_first = |how: &str| {
        for lock in &locks {
            wait_once(&runtime, lock.lock(), how);
        }
    };
    let mut adopted = None;
    match wait.as_str() {
        "adopted" => {
            wait_in_first("in a task");
            adopted = Some(heir.block_on(start_waiting(&locks, 1, || async {})));
        }
        how => wait_in_first(how),
    }
    paths.iter().for_each(|path| kernel::await_waiting_calls(path, 1));
    returns(|| drop(runtime));
    say("dropped");
    match left.as_str() {
        "nothing" => {
            paths.iter().for_each(|path| kernel::await_no_waiting_calls(path));
            kernel::await_no_wait_threads();
        }
        "the wait" => paths.iter().for_each(|path| kernel::await_waiting_calls(path, 1)),
        _ => panic!("{left}"),
    }
    say("left as expected");
    if let Some(adopted) = adopted {
        heir.block_on(async { in_time(adopted.join_all()).await });
        let acquisitions: u64 = locks.iter().map(|lock| lock.counters().acquisitions).sum();
        say(&format!("{acquisitions} acquisitions"));
    }
}

/// Starts one wait on the runtime and returns when it is in line.
fn wait_once(
    runtime: &Runtime,
    acquire: impl Future<Output = Result<ExclusiveGuard, Error>> + Send + 'static,
    how: &str,
) {
    let (queued, mut in_queue) = mpsc::channel(1);
    let mut acquire = Box::pin(acquire);
    if how == "leaked" {
        runtime.block_on(get_in_line(acquire.as_mut()));
        std::mem::forget(acquire);
        return;
    }
    let acquire = async move {
        get_in_line(acquire.as_mut()).await;
        queued.send(()).await.unwrap();
        drop(acquire.await);
    };
    match how {
        "in a task" => drop(runtime.spawn(acquire)),
        "in a timeout" => {
            let hour = Duration::from_secs(3_600);
            drop(runtime.spawn(async move { tokio::time::timeout(hour, acquire).await }));
        }
        _ => panic!("{how}"),
    }
    runtime.block_on(in_queue.recv()).expect("queued");
}

// ---- the process that may not have more threads ----

each_protocol!(
    #[test]
    fn without_a_thread_to_be_had_a_wait_is_an_error_and_the_tasks_of_the_process_need_none
);
fn without_a_thread_to_be_had_a_wait_is_an_error_and_the_tasks_of_the_process_need_none(
    protocol: Protocol,
) {
    let place = Place::new();
    let path = place.lock_file();
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let holder = Locker::holding(&path, protocol, Mode::Exclusive);
    let arguments = [path.to_str().unwrap(), &format!("{protocol:?}")];
    let mut child = Process::in_role(Role::NoMoreThreads, &arguments);
    child.expect("refused");
    holder.finish();
    child.tell("the lock is free");
    child.expect("counted");
    child.finish();
}

/// No panic is part of it: one would end the process.
pub(crate) fn no_more_threads(arguments: &[String]) {
    use nix::sys::resource::{Resource, setrlimit};

    const TASKS: u64 = 4;
    const ROUNDS: u64 = 50;

    let [path, name] = arguments else { panic!("{arguments:?}") };
    let multi_thread = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let current_thread = Builder::new_current_thread().enable_all().build().unwrap();
    // Root may have as many as it likes.
    crate::support::locker::become_nobody();
    setrlimit(Resource::RLIMIT_NPROC, 1, 1).unwrap();
    std::thread::Builder::new().spawn(|| ()).expect_err("no thread is to be had");
    std::panic::set_hook(Box::new(|panic| {
        println!("{panic}");
        std::process::abort();
    }));

    // Every tenure ends when a task of this process waits, and the process would back off.
    let options = || {
        let tenure = Tenure::default().time(Duration::ZERO);
        FileLock::options().protocol(protocol(name)).tenure(tenure)
    };
    let lock = current_thread.block_on(options().open(path)).unwrap();
    let on_runtime = options().wait_on(WaitOn::RuntimePool);
    let other = multi_thread.block_on(multi_thread.spawn(on_runtime.open(path.clone())));
    let other = other.unwrap().unwrap();
    let asked = |lock: &FileLock| {
        let ask = || {
            let lock = lock.clone();
            async move { lock.lock().await.map(drop).unwrap_err() }
        };
        let in_task = multi_thread.block_on(multi_thread.spawn(ask())).unwrap();
        [futures::executor::block_on(ask()), current_thread.block_on(ask()), in_task]
    };
    for error in asked(&lock).into_iter().chain(asked(&other)) {
        assert_names(&error, ErrorKind::NoThread, lock.path());
        assert!(error.to_string().contains("RLIMIT_NPROC"), "{error}");
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::Other);
    }
    say("refused");
    assert_eq!(commands().next().as_deref(), Some("the lock is free"));
    let before = lock.counters().tenures;
    current_thread.block_on(async {
        let count = async |lock: &FileLock| {
            for _ in 0..ROUNDS {
                let guard = lock.lock().await.unwrap();
                // Lets the others get in line.
                tokio::task::yield_now().await;
                drop(guard);
            }
        };
        tokio::join!(count(&lock), count(&other), count(&lock), count(&other));
    });
    assert_eq!(lock.counters().acquisitions, TASKS * ROUNDS);
    let tenures = lock.counters().tenures - before;
    assert!(tenures > 1, "the process would have backed off after {tenures} tenures");
    say("counted");
}

// ---- what the roles share ----

fn builder(flavor: &str) -> Builder {
    let mut builder = match flavor {
        "multi thread" => Builder::new_multi_thread(),
        "current thread" => Builder::new_current_thread(),
        _ => panic!("{flavor}"),
    };
    builder.worker_threads(2).enable_all();
    builder
}

fn open_from(arguments: &[String]) -> FileLock {
    let [path, name] = arguments else { panic!("{arguments:?}") };
    let options: OpenOptions = FileLock::options().protocol(protocol(name));
    options.blocking_open(path).unwrap()
}

fn numbered(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("{number}.lock"))
}

/// A process that holds so many lock files of the directory until it finishes.
fn hold_many(directory: &str, count: usize) -> Process {
    let holder = Process::in_role(Role::HoldMany, &[directory, &count.to_string()]);
    holder.expect("held");
    holder
}

pub(crate) fn hold_many_in_child(arguments: &[String]) {
    let [directory, count] = arguments else { panic!("{arguments:?}") };
    let hold = |number| {
        let path = numbered(Path::new(directory), number);
        FileLock::options().blocking_open(path).unwrap().try_lock().unwrap()
    };
    let held: Vec<_> = (0..count.parse().unwrap()).map(hold).collect();
    say("held");
    assert_eq!(commands().next(), None);
    drop(held);
}

/// Polls once a request that has to wait.
async fn get_in_line<F: Future>(mut acquire: Pin<&mut F>) {
    let waits = poll_fn(|cx| Poll::Ready(acquire.as_mut().poll(cx).is_pending())).await;
    assert!(waits, "the lock is held");
}

/// Starts tasks that wait for a lock, do something with it and let it go; returns when each is in
/// line.
async fn start_waiting<F>(
    locks: &[FileLock],
    tasks_per_lock: usize,
    section: impl Fn() -> F,
) -> JoinSet<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let (queued, mut in_queue) = mpsc::channel(1);
    for lock in locks {
        for _ in 0..tasks_per_lock {
            let (lock, queued, section) = (lock.clone(), queued.clone(), section());
            tasks.spawn(async move {
                let mut acquire = pin!(lock.lock());
                get_in_line(acquire.as_mut()).await;
                queued.send(()).await.unwrap();
                let guard = acquire.await.unwrap();
                section.await;
                drop(guard);
            });
        }
    }
    drop(queued);
    for _ in 0..tasks.len() {
        in_time(in_queue.recv()).await.expect("every task reports");
    }
    tasks
}
