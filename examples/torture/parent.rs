//! The parent: starts the processes, stops and kills them, and hears what they find.

use std::io::{self, BufRead, BufReader, IsTerminal, Write, stderr, stdout};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::arena::Arena;
use crate::arguments::{Arguments, WorkerId};
use crate::count::Counts;
use crate::table::{Faults, Table};
use crate::witness::Witness;

/// How many findings are shown.
const MOST_LINES: usize = 20;

/// Until the others have said what they find, once one has found something.
const MOMENT: Duration = Duration::from_secs(1);

/// Between two lines of progress where no terminal is.
const LINE: Duration = Duration::from_secs(10);

/// Whether nothing was found.
pub(crate) fn run(arguments: &Arguments) -> io::Result<bool> {
    let home = match &arguments.dir {
        None => tempfile::tempdir()?,
        Some(directory) => tempfile::tempdir_in(directory)?,
    };
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let mut arguments = arguments.clone();
    arguments.dir = Some(home.path().canonicalize()?);
    arguments.seed = Some(seed);
    println!("seed {seed}, in `{}`", home.path().display());

    let mut torture = Torture::start(&arguments, home.path())?;
    torture.go_on(Duration::from_secs(arguments.seconds))?;
    torture.end()?;
    torture.conclude()
}

struct Torture<'a> {
    arguments: &'a Arguments,
    lots: Rng,
    witness: Witness,
    processes: Vec<Process>,
    sender: Sender<(WorkerId, Said)>,
    said: Receiver<(WorkerId, Said)>,
    begun: Instant,
    counts: Counts,
    faults: Faults,
    findings: Vec<String>,
}

struct Process {
    id: WorkerId,
    child: Child,
    /// The process goes on until this is closed.
    input: Option<ChildStdin>,
    /// When it said something.
    heard: Instant,
    /// Until when it is stopped.
    stopped: Option<Instant>,
    ended: bool,
}

enum Said {
    Line(String),
    Nothing,
}

impl<'a> Torture<'a> {
    fn start(arguments: &'a Arguments, home: &Path) -> io::Result<Self> {
        let (processes, tasks) = (arguments.processes as usize, arguments.tasks as usize);
        let witness = Witness::create(&home.join("witness"), processes, tasks)?;
        // The others are for the process that breaks the lock.
        for locks in ["locks", "other locks"] {
            Arena::new(&home.join(locks)).create()?;
        }
        let (sender, said) = mpsc::channel();
        let mut torture = Self {
            arguments,
            lots: Rng::with_seed(arguments.seed.unwrap_or_default()),
            witness,
            processes: Vec::new(),
            sender,
            said,
            begun: Instant::now(),
            counts: Counts::default(),
            faults: Faults::default(),
            findings: Vec::new(),
        };
        for number in 0..processes {
            let process = torture.spawn(WorkerId { number, incarnation: 0 })?;
            torture.processes.push(process);
        }
        Ok(torture)
    }

    fn spawn(&self, id: WorkerId) -> io::Result<Process> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(self.arguments.of_worker(id)).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let sender = self.sender.clone();
        thread::spawn(move || {
            let lines = output.into_iter().flat_map(|output| BufReader::new(output).lines());
            for line in lines.map_while(Result::ok) {
                let _ = sender.send((id, Said::Line(line)));
            }
            let _ = sender.send((id, Said::Nothing));
        });
        Ok(Process { id, child, input, heard: Instant::now(), stopped: None, ended: false })
    }

    /// Until the time is over, or something is found.
    fn go_on(&mut self, time: Duration) -> io::Result<()> {
        let mut progress = Progress::new();
        let mut next_fault = Instant::now();
        while self.begun.elapsed() < time && self.findings.is_empty() {
            self.listen(Duration::from_millis(50));
            self.resume(Instant::now());
            if Instant::now() > next_fault {
                self.fault()?;
                next_fault = Instant::now() + Duration::from_millis(self.lots.u64(50..800));
            }
            self.miss_the_silent();
            progress.show(self);
        }
        progress.clear();
        Ok(())
    }

    /// Stops or kills a process.
    fn fault(&mut self) -> io::Result<()> {
        let number = self.lots.usize(..self.processes.len());
        let process = &mut self.processes[number];
        if number > 0 && self.lots.bool() {
            self.witness.doom(number)?;
            process.child.kill()?;
            process.child.wait()?;
            self.witness.forget(number)?;
            self.faults.killed += 1;
            let incarnation = self.processes[number].id.incarnation + 1;
            self.processes[number] = self.spawn(WorkerId { number, incarnation })?;
        } else if process.stopped.is_none() {
            process.signal(Signal::SIGSTOP)?;
            let time = Duration::from_millis(self.lots.u64(10..500));
            process.stopped = Some(Instant::now() + time);
            self.faults.stopped += 1;
        }
        Ok(())
    }

    /// Lets those go on whose time is over.
    fn resume(&mut self, now: Instant) {
        for process in &mut self.processes {
            if process.stopped.is_some_and(|until| until <= now) {
                process.stopped = None;
                // It may have ended, which is found elsewhere.
                let _ = process.signal(Signal::SIGCONT);
            }
        }
    }

    fn miss_the_silent(&mut self) {
        let patience = self.arguments.patience();
        let silent = self.processes.iter().filter(|process| process.heard.elapsed() > patience);
        let numbers: Vec<_> = silent.map(|process| process.id.number).collect();
        self.findings.extend(numbers.iter().map(|number| format!("process {number} is silent")));
    }

    fn listen(&mut self, moment: Duration) {
        let until = Instant::now() + moment;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok((id, said)) => self.hear(id, said),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn hear(&mut self, id: WorkerId, said: Said) {
        let process = &mut self.processes[id.number];
        // What was said before a death counts.
        let is_alive = process.id.incarnation == id.incarnation;
        if is_alive {
            process.heard = Instant::now();
        }
        match said {
            Said::Line(line) => match line.split_once(' ').unwrap_or((&line, "")) {
                ("counts", counts) => match Counts::parse(counts) {
                    Some(counts) => self.counts.add(&counts),
                    // Half a line is what a process says last that is killed.
                    None if !is_alive => {}
                    None => self.findings.push(format!("process {} says {line:?}", id.number)),
                },
                ("finding", found) => {
                    self.findings.push(format!("process {}: {found}", id.number));
                }
                ("round", _) => self.faults.dropped += 1,
                _ => {}
            },
            Said::Nothing if is_alive => {
                process.ended = true;
                match process.child.wait() {
                    Ok(status) if status.success() && process.input.is_none() => {}
                    status => {
                        self.findings.push(format!("process {} ended: {status:?}", id.number));
                    }
                }
            }
            Said::Nothing => {}
        }
    }

    /// Lets all processes end, and hears what they have left behind; not where something was found.
    fn end(&mut self) -> io::Result<()> {
        for process in &mut self.processes {
            process.stopped = Some(Instant::now());
        }
        self.resume(Instant::now());
        if self.findings.is_empty() {
            self.processes.iter_mut().for_each(|process| process.input = None);
            // Once for their descriptors, once for their threads, and once for the rest.
            let until = Instant::now() + 3 * self.arguments.patience();
            while self.processes.iter().any(|process| !process.ended) {
                self.listen(Duration::from_millis(50));
                if Instant::now() > until {
                    self.findings.push("a process does not end".to_owned());
                    break;
                }
            }
        } else {
            self.listen(MOMENT);
        }
        for process in self.processes.iter_mut().filter(|process| !process.ended) {
            process.child.kill()?;
            process.child.wait()?;
        }
        Ok(())
    }

    fn conclude(&self) -> io::Result<bool> {
        let elapsed = self.begun.elapsed();
        let mut out = stdout().lock();
        write!(out, "{}", Table { counts: &self.counts, faults: &self.faults, elapsed })?;
        if self.findings.is_empty() {
            writeln!(out, "nothing found")?;
            return Ok(true);
        }
        writeln!(out, "FOUND {}", self.findings.len())?;
        for found in self.findings.iter().take(MOST_LINES) {
            writeln!(out, "- {found}")?;
        }
        Ok(false)
    }
}

impl Process {
    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
    }
}

/// One line that is written anew, or one every few seconds for a log.
struct Progress {
    shown: Instant,
    period: Duration,
    is_terminal: bool,
}

impl Progress {
    fn new() -> Self {
        let is_terminal = stderr().is_terminal();
        let period = if is_terminal { Duration::from_millis(200) } else { LINE };
        Self { shown: Instant::now(), period, is_terminal }
    }

    fn show(&mut self, torture: &Torture<'_>) {
        if self.shown.elapsed() < self.period {
            return;
        }
        self.shown = Instant::now();
        let total = torture.counts.total();
        let line = format!(
            "{} s: {} granted, {} refused, {} timed out, {} cancelled; {} killed, {} stopped",
            torture.begun.elapsed().as_secs(),
            total.granted,
            total.refused,
            total.timed_out,
            total.cancelled,
            torture.faults.killed,
            torture.faults.stopped,
        );
        // A progress line that cannot be shown is not missed.
        let _ = match self.is_terminal {
            true => write!(stderr(), "\r\x1b[K{line}"),
            false => writeln!(stderr(), "{line}"),
        };
    }

    fn clear(&self) {
        if self.is_terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
