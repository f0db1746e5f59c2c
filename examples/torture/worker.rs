//! One process: a runtime full of tasks, which is dropped in the middle of everything, and the next
//! one.
//!
//! It says on its standard output, in lines, what was counted and what was found.

use std::fmt;
use std::io::{Read, Write, stdin, stdout};
use std::panic;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::runtime::{Builder, Runtime};

use crate::arena::{Arena, Lock};
use crate::arguments::{Arguments, Broken, WorkerId};
use crate::count::{Count, Counts};
use crate::ledger::Ledger;
use crate::operation::{Operation, Task};
use crate::witness::{Holder, Witness};

const PERIOD: Duration = Duration::from_millis(300);

/// What the tasks note for those who watch them.
#[derive(Debug)]
pub(crate) struct Book {
    /// Since the last report.
    counts: Mutex<Counts>,
    /// What each task does, and since when.
    doing: Vec<Mutex<Option<(Instant, String)>>>,
}

impl Book {
    fn new(tasks: usize) -> Self {
        let doing = (0..tasks).map(|_| Mutex::default()).collect();
        Self { counts: Mutex::default(), doing }
    }

    pub(crate) fn begin(&self, task: usize, operation: Operation, lock: &Lock) {
        let doing = format!("{operation:?} of {lock}");
        *locked(&self.doing[task]) = Some((Instant::now(), doing));
    }

    pub(crate) fn end(&self, task: usize, operation: Operation, note: impl FnOnce(&mut Count)) {
        *locked(&self.doing[task]) = None;
        let mut counts = locked(&self.counts);
        let count = counts.of(operation);
        count.tried += 1;
        note(count);
    }

    /// Drops the runtime with all tasks, whatever they do.
    fn end_all(&self, runtime: Runtime) {
        drop(runtime);
        self.doing.iter().for_each(|doing| *locked(doing) = None);
    }

    /// Says what was counted since the last time, and who has waited too long.
    fn report(&self, patience: Duration) {
        let counts = std::mem::take(&mut *locked(&self.counts));
        say(format_args!("counts {}", counts.to_line()));
        for (task, doing) in self.doing.iter().enumerate() {
            let doing = locked(doing).clone();
            if let Some((since, doing)) = doing.filter(|(since, _)| since.elapsed() > patience) {
                finding(format_args!(
                    "task {task} waits for {} s: {doing}",
                    since.elapsed().as_secs()
                ));
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> impl std::ops::DerefMut<Target = T> + '_ {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn finding(what: fmt::Arguments<'_>) {
    say(format_args!("finding {what}"));
}

fn say(line: fmt::Arguments<'_>) {
    // The parent may be gone; then so is this process, soon.
    let _ = writeln!(stdout().lock(), "{line}");
}

/// Goes on until the end of the standard input.
pub(crate) fn run(arguments: &Arguments, id: WorkerId) -> Result<(), std::io::Error> {
    let directory = arguments.dir.as_deref().unwrap_or(Path::new("."));
    let locks = match arguments.breaks() {
        Some(Broken::Lock) => "other locks",
        _ => "locks",
    };
    let arena = Arc::new(Arena::new(&directory.join(locks)));
    let tasks = arguments.tasks as usize;
    let processes = arguments.processes as usize;
    let witness = Witness::open(&directory.join("witness"), processes, tasks)?;
    let mut worker = Worker {
        arguments,
        id,
        arena,
        witness: Arc::new(witness),
        book: Arc::new(Book::new(tasks)),
        lots: Rng::with_seed(arguments.seed.unwrap_or_default() ^ mix(id)),
    };
    find_panics();
    let stop = at_end_of_input();
    watch(worker.book.clone(), arguments.patience());
    let mut ledger = Ledger::begin(worker.arena.directory(), arguments.patience());
    if arguments.breaks() == Some(Broken::Threads) {
        thread::spawn(|| thread::sleep(Duration::MAX));
    }
    loop {
        let runtime = worker.start();
        let moment = Duration::from_millis(worker.lots.u64(200..3_000));
        let stopped = stop.recv_timeout(moment) != Err(RecvTimeoutError::Timeout);
        worker.book.end_all(runtime);
        if let Some(left) = ledger.after_round() {
            finding(format_args!("{left}"));
        }
        say(format_args!("round"));
        if stopped {
            break;
        }
    }
    for left in ledger.after_all() {
        finding(format_args!("{left}"));
    }
    worker.book.report(arguments.patience());
    Ok(())
}

struct Worker<'a> {
    arguments: &'a Arguments,
    id: WorkerId,
    arena: Arc<Arena>,
    witness: Arc<Witness>,
    book: Arc<Book>,
    lots: Rng,
}

impl Worker<'_> {
    /// A runtime of any kind with all its tasks.
    fn start(&mut self) -> Runtime {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(self.lots.usize(1..=4)).enable_all();
        let runtime = builder.build().expect("there is a thread to be had");
        for task in 0..self.arguments.tasks as usize {
            let task = Task {
                arena: self.arena.clone(),
                witness: self.witness.clone(),
                book: self.book.clone(),
                holder: Holder { process: self.id.number, task },
                lots: self.lots.fork(),
                breaks: self.arguments.breaks(),
                handles: vec![None; Arena::LOCKS],
            };
            runtime.spawn(task.run());
        }
        runtime
    }
}

/// Different lots for each process.
fn mix(id: WorkerId) -> u64 {
    Rng::with_seed(id.number as u64 + (id.incarnation << 8)).u64(..)
}

/// A panic of a task ends the task alone.
fn find_panics() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        finding(format_args!("{}", panic.to_string().replace('\n', " ")));
        print(panic);
    }));
}

fn at_end_of_input() -> Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let _ = stdin().read_to_end(&mut Vec::new());
        drop(sender);
        // The number of threads stays the same.
        thread::sleep(Duration::MAX);
    });
    receiver
}

/// A thread of its own, for the runtime may hang.
fn watch(book: Arc<Book>, patience: Duration) {
    thread::spawn(move || {
        loop {
            thread::sleep(PERIOD);
            book.report(patience);
        }
    });
}
