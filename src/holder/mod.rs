//! Who holds a lock: the words for it, the record in the lock file, and what proves a holder dead.
//!
//! Uses nothing of the crate but the mode. What the kernel knows is asked by `os`, what is written into the lock
//! file is written by the file engine; here is what the answers mean.

mod death;
mod record;

use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub(crate) use death::{Circumstances, Fate, fate};
pub use record::Record;
pub(crate) use record::{LONGEST, Process, Written, is_fit_for_a_record, labelled, program_name};

pub(crate) use record::is_printable;

use crate::mode::Mode;

#[cfg(fuzzing)]
pub(crate) use record::check_parser;

/// What one query showed, for all tasks that asked.
pub(crate) type Holders = Arc<[Holder]>;

/// What a holder says that it does.
pub(crate) type Label = Arc<str>;

/// Where a fact about a [`Holder`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The kernel's table of locks, `/proc/locks` (proc_locks(5)): it names the process that took
    /// the lock.
    LockTable,
    /// The kernel's list of a process's open files, `/proc/PID/fdinfo` (proc_pid_fdinfo(5)): it
    /// names a process that keeps the lock, such as a child that inherited it.
    OpenFiles,
    /// The length of the locked range: programs that use this crate with
    /// [`Protocol::Fcntl`](crate::Protocol::Fcntl) lock 1 + pid bytes. See [`Holder::claimed_pid`].
    RangeLength,
    /// This very process, which knows what its tasks hold.
    ThisProcess,
    /// The kernel's description of the process, `/proc/PID`.
    Process,
    /// The [`Record`] in the lock file: what the holder says of itself.
    Record,
}

/// A process that holds a lock, or waits for it; see [`FileLock::holders`](crate::FileLock::holders).
///
/// What is not known is `None`. A process that shares the lock through several descriptors is one
/// holder, as are all tasks of this process that say the same of what they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub(crate) mode: Mode,
    pub(crate) waits: bool,
    pub(crate) pid: Option<u32>,
    /// The pid that it gives, if nothing shows which process that is.
    pub(crate) claimed: Option<u32>,
    /// Of the lock and of the pid.
    pub(crate) source: Source,
    pub(crate) is_this_process: bool,
    pub(crate) program: Option<(String, Source)>,
    pub(crate) user: Option<String>,
    pub(crate) since: Option<SystemTime>,
    pub(crate) label: Option<String>,
    /// Where it runs, if that is not here.
    pub(crate) elsewhere: Option<String>,
}

impl Holder {
    pub(crate) fn new(mode: Mode, waits: bool, pid: Option<u32>, source: Source) -> Self {
        Self {
            mode,
            waits,
            pid,
            claimed: None,
            source,
            is_this_process: false,
            program: None,
            user: None,
            since: None,
            label: None,
            elsewhere: None,
        }
    }

    /// This process, by its own knowledge.
    pub(crate) fn of_this_process(mode: Mode, pid: u32, label: Option<&str>) -> Self {
        Self {
            is_this_process: true,
            label: label.map(str::to_owned),
            ..Self::new(mode, false, Some(pid), Source::ThisProcess)
        }
    }

    /// Whether the lock is held, or wanted, exclusively or shared.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// It does not hold the lock, but waits for it in the kernel.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waits
    }

    /// The process, as this one sees it; `None` if it is not known which one it is, or it can not be
    /// seen from here.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// The pid that the holder gives for itself, by its [record](Source::Record) or by the
    /// [length](Source::RangeLength) of what it locks, where nothing confirms that this is its pid
    /// [here](Self::pid). It is the one that the process has where it runs: in another pid namespace or on
    /// another host, where it means nothing here, or another process.
    #[must_use]
    pub fn claimed_pid(&self) -> Option<u32> {
        self.claimed
    }

    /// Where [`mode`](Self::mode) and [`pid`](Self::pid) come from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// It is a task, or a thread, of this very process.
    #[must_use]
    pub fn is_this_process(&self) -> bool {
        self.is_this_process
    }

    /// The name of the program.
    #[must_use]
    pub fn program(&self) -> Option<&str> {
        self.program.as_ref().map(|(name, _)| name.as_str())
    }

    /// Where [`program`](Self::program) comes from: [`Source::Process`], or [`Source::Record`] where
    /// the process can not be seen.
    #[must_use]
    pub fn program_source(&self) -> Option<Source> {
        self.program.as_ref().map(|&(_, source)| source)
    }

    /// The name of the user that it runs as, or the number where there is no name. From
    /// [`Source::Process`]; looked up by [`holders`](crate::FileLock::holders) only, and not for
    /// an error: a directory of users may be slow to answer.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// When it got the lock. From [`Source::Record`].
    #[must_use]
    pub fn since(&self) -> Option<SystemTime> {
        self.since
    }

    /// What it says that it does ([`Acquire::label`](crate::Acquire::label)). Known of tasks of this
    /// process; of others from [`Source::Record`], which names the holder with which the tenure of its
    /// process began.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// The host that it runs on, if that is another one than this. From [`Source::Record`].
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.elsewhere.as_deref()
    }

    /// What its record says, if it is the holder's own.
    pub(crate) fn explain(&mut self, record: &Record) {
        if self.program.is_none() {
            self.program = record.program().map(|program| (program.to_owned(), Source::Record));
        }
        self.since = record.since();
        // The record is of the tenure. What each holder of this process says is known.
        if self.source != Source::ThisProcess {
            self.label = record.label().map(str::to_owned);
        }
    }
}

impl fmt::Display for Holder {
    /// As in `cargo (pid 4242, "fetch", on build7) for 12 s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut details = Vec::new();
        let pid = match (self.pid, self.claimed) {
            (Some(pid), _) => Some(format!("pid {pid}")),
            (None, Some(pid)) if self.elsewhere.is_some() => Some(format!("pid {pid}")),
            (None, Some(pid)) => Some(format!("pid {pid} in its pid namespace")),
            (None, None) => None,
        };
        match (self.is_this_process, &self.program, &pid) {
            (true, ..) => f.write_str("this process")?,
            (false, Some((program, _)), _) => f.write_str(program)?,
            (false, None, Some(_)) => f.write_str("a process")?,
            (false, None, None) => f.write_str("a process that can not be seen from here")?,
        }
        details.extend(pid);
        details.extend(self.label.as_ref().map(|label| format!("\"{label}\"")));
        details.extend(self.elsewhere.as_ref().map(|host| format!("on {host}")));
        if !details.is_empty() {
            write!(f, " ({})", details.join(", "))?;
        }
        if let Some(held) = self.since.and_then(|since| since.elapsed().ok()) {
            write!(f, " for {}", Lasting(held))?;
        }
        Ok(())
    }
}

/// A text from outside, such as a path: what is no text, or not to be seen, is escaped.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl<'a> Shown<'a> {
    pub(crate) fn path(path: &'a Path) -> Self {
        Self(path.as_os_str().as_encoded_bytes())
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for letter in chunk.valid().chars() {
                if is_printable(letter) {
                    f.write_char(letter)?;
                } else {
                    write!(f, "{}", letter.escape_default())?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// A duration with one unit and no noise: `5.2 s`, `5 s`, `130 ms`.
pub(crate) struct Lasting(pub(crate) Duration);

impl fmt::Display for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.0.as_millis() / 100;
        match (tenths / 10, tenths % 10) {
            (0, _) => write!(f, "{} ms", self.0.as_millis()),
            (seconds, 0) => write!(f, "{seconds} s"),
            (seconds @ 0..60, tenth) => write!(f, "{seconds}.{tenth} s"),
            (seconds, _) => write!(f, "{seconds} s"),
        }
    }
}

/// The holders, in a sentence: `held by a (pid 1)`, `shared by a (pid 1), b (pid 2) and 3 more`.
/// Waiters are left out.
pub(crate) struct HeldBy<'a>(pub(crate) &'a [Holder]);

impl fmt::Display for HeldBy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMED: usize = 3;
        let holders: Vec<&Holder> = self.0.iter().filter(|holder| !holder.waits).collect();
        let Some(first) = holders.first() else {
            return f.write_str("held by a process that could not be identified");
        };
        f.write_str(match first.mode {
            Mode::Exclusive => "held by ",
            Mode::Shared => "shared by ",
        })?;
        let named = &holders[..holders.len().min(NAMED)];
        let more = holders.len() - named.len();
        for (at, holder) in named.iter().enumerate() {
            let is_last = at + 1 == named.len();
            f.write_str(match at {
                0 => "",
                _ if is_last && more == 0 => " and ",
                _ => ", ",
            })?;
            holder.fmt(f)?;
        }
        if more > 0 {
            write!(f, " and {more} more")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(mode: Mode, pid: Option<u32>, program: Option<&str>) -> Holder {
        let mut holder = Holder::new(mode, false, pid, Source::LockTable);
        holder.program = program.map(|name| (name.to_owned(), Source::Process));
        holder
    }

    #[test]
    fn a_holder_reads_well() {
        let plain = holder(Mode::Exclusive, Some(4242), Some("cargo"));
        assert_eq!(plain.to_string(), "cargo (pid 4242)");
        let mut labelled = plain.clone();
        labelled.label = Some("fetch".to_owned());
        labelled.elsewhere = Some("build7".to_owned());
        labelled.since = Some(SystemTime::now() - Duration::from_secs(90_000));
        assert_eq!(labelled.to_string(), "cargo (pid 4242, \"fetch\", on build7) for 90000 s");
        let mut own = plain.clone();
        own.is_this_process = true;
        assert_eq!(own.to_string(), "this process (pid 4242)");
        assert_eq!(holder(Mode::Shared, Some(7), None).to_string(), "a process (pid 7)");
        let mut claims = holder(Mode::Exclusive, None, None);
        claims.claimed = Some(7);
        assert_eq!(claims.to_string(), "a process (pid 7 in its pid namespace)");
        claims.elsewhere = Some("build7".to_owned());
        assert_eq!(claims.to_string(), "a process (pid 7, on build7)");
        let unseen = holder(Mode::Shared, None, None).to_string();
        assert_eq!(unseen, "a process that can not be seen from here");
    }

    #[test]
    fn holders_are_named_in_a_sentence_and_waiters_are_not() {
        let shared = |pid| holder(Mode::Shared, Some(pid), Some("reader"));
        let mut waiter = holder(Mode::Exclusive, Some(9), Some("writer"));
        waiter.waits = true;
        let table: [(Vec<Holder>, &str); 5] = [
            (vec![], "held by a process that could not be identified"),
            (vec![waiter.clone()], "held by a process that could not be identified"),
            (vec![holder(Mode::Exclusive, Some(1), Some("a")), waiter], "held by a (pid 1)"),
            (vec![shared(1), shared(2)], "shared by reader (pid 1) and reader (pid 2)"),
            (
                (1..=5).map(shared).collect(),
                "shared by reader (pid 1), reader (pid 2), reader (pid 3) and 2 more",
            ),
        ];
        for (holders, sentence) in table {
            assert_eq!(HeldBy(&holders).to_string(), sentence);
        }
    }

    #[test]
    fn what_is_not_to_be_seen_is_escaped() {
        let table: [(&[u8], &str); 7] = [
            (b"/tmp/app.lock", "/tmp/app.lock"),
            ("/tmp/Größe/日本.lock".as_bytes(), "/tmp/Größe/日本.lock"),
            // As macOS writes it, with the marks apart.
            ("u\u{308}.lock".as_bytes(), "u\u{308}.lock"),
            (b"\x1b]0;owned\x07\x1b[2J\n\t", "\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\n\\t"),
            (
                "a\u{202e}kcol\u{2066}\u{200b}\u{feff}".as_bytes(),
                "a\\u{202e}kcol\\u{2066}\\u{200b}\\u{feff}",
            ),
            (b"Stick-\xdfe\xff", "Stick-\\xdfe\\xff"),
            (b"C:\\locks", "C:\\locks"),
        ];
        for (bytes, text) in table {
            assert_eq!(Shown(bytes).to_string(), text);
        }
    }

    #[test]
    fn times_have_one_unit() {
        let table = [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1 s"),
            (1_049, "1 s"),
            (5_250, "5.2 s"),
            (61_500, "61 s"),
        ];
        for (milliseconds, text) in table {
            assert_eq!(Lasting(Duration::from_millis(milliseconds)).to_string(), text);
        }
    }
}
