//! The record: the text in a lock file that says which process holds it.
//!
//! ```text
//! 4242
//! tokio-filelock 1
//! state=held
//! token=17
//! since=2026-11-24T09:30:00.125Z
//! host=build7
//! boot=5a4ef0c1-…
//! pidns=4026531836
//! timens=4026531834
//! start=881234
//! program=cargo
//! label=fetch
//! ```
//!
//! The first line is the bare pid, for readers of pid files. `state` and `token` are always there, the
//! rest as far as it is known. The value of `state` is padded to one width, so that a release
//! overwrites these few bytes and nothing else; and the whole is padded with a line of spaces, so
//! that one record covers the one before it, mostly.
//!
//! The parser takes what [`Record::text`] writes, with keys that it does not know left out, and
//! nothing else: whatever may be in the file (nothing, a pid file, a gigabyte of noise, half a
//! record) is no record then, and never an error.

use std::borrow::Cow;
use std::io::Write;
use std::time::SystemTime;

/// No record is longer, and of no file more is read.
pub(crate) const LONGEST: usize = 4096;

/// Sizes are rounded up to this, so that they seldom change.
const ROUNDED: usize = 128;

/// No value is longer. A record of ten such lines fits into [`LONGEST`].
const LONGEST_VALUE: usize = 200;

const TITLE: &str = "tokio-filelock 1";
const HELD: &str = "held    ";
const RELEASED: &str = "released";

/// What a holder wrote into the lock file about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub(crate) process: Process,
    is_held: bool,
    token: u64,
    since: Option<SystemTime>,
    label: Option<String>,
}

/// What a process can say of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) host: Option<String>,
    /// Which boot of the host.
    pub(crate) boot: Option<String>,
    pub(crate) pid_namespace: Option<u64>,
    /// By which of the machine's clocks it says when it started.
    pub(crate) time_namespace: Option<u64>,
    /// When it started, in a unit of the platform's own.
    pub(crate) start: Option<u64>,
    pub(crate) program: Option<String>,
}

impl Record {
    #[cfg(test)]
    pub(crate) fn held(
        process: Process,
        token: u64,
        since: Option<SystemTime>,
        label: Option<String>,
    ) -> Self {
        Self { process, is_held: true, token, since, label }
    }

    /// The pid of the process, in its own pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// The [token](crate::ExclusiveGuard::token) of its tenure.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// When it got the lock, by its own clock, to the millisecond.
    #[must_use]
    pub fn since(&self) -> Option<SystemTime> {
        self.since
    }

    /// The name of its host.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.process.host.as_deref()
    }

    /// The name of its program.
    #[must_use]
    pub fn program(&self) -> Option<&str> {
        self.process.program.as_deref()
    }

    /// What the holder said that it does with which the tenure began ([`Acquire::label`](crate::Acquire::label)).
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// The writer has not said that it let go.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held
    }

    /// The whole text; see [`render`].
    pub(crate) fn text(&self, covered: usize) -> Vec<u8> {
        let mut text = Vec::new();
        let lines = labelled(&self.process.lines(), self.label.as_deref()).into_owned();
        let state = if self.is_held { HELD } else { RELEASED };
        render(&mut text, self.process.pid, state, self.token, self.since, &lines, covered);
        text
    }

    /// The record that a file holds, all of it or its first [`LONGEST`] bytes and one more.
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        if content.len() > LONGEST {
            return None;
        }
        let text = std::str::from_utf8(content).ok()?.strip_suffix('\n')?;
        let mut lines = text.split('\n');
        let pid = number(lines.next()?)?;
        let process = Process {
            pid: u32::try_from(pid).ok().filter(|&pid| pid > 0)?,
            host: None,
            boot: None,
            pid_namespace: None,
            time_namespace: None,
            start: None,
            program: None,
        };
        if lines.next()? != TITLE {
            return None;
        }
        let is_held = match lines.next()?.strip_prefix("state=")? {
            HELD => true,
            RELEASED => false,
            _ => return None,
        };
        let token = number(lines.next()?.strip_prefix("token=")?)?;
        let mut record = Self { process, is_held, token, since: None, label: None };
        let mut known = Vec::new();
        while let Some(line) = lines.next() {
            if line.bytes().all(|byte| byte == b' ') {
                // The padding is the end.
                return lines.next().is_none().then_some(record);
            }
            let (key, value) = line.split_once('=')?;
            let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            if key.is_empty() || !key.bytes().all(is_name) || !is_fit_for_a_record(value) {
                return None;
            }
            if known.contains(&key) || matches!(key, "state" | "token") {
                return None;
            }
            known.push(key);
            record.set(key, value)?;
        }
        Some(record)
    }

    /// Takes in a line of this key. `None` if the value is none of that key; keys that are not known say nothing.
    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "since" => self.since = Some(humantime::parse_rfc3339(value).ok()?),
            "host" => self.process.host = Some(value.to_owned()),
            "boot" => self.process.boot = Some(value.to_owned()),
            "pidns" => self.process.pid_namespace = Some(number(value)?),
            "timens" => self.process.time_namespace = Some(number(value)?),
            "start" => self.process.start = Some(number(value)?),
            "program" => self.process.program = Some(value.to_owned()),
            "label" => self.label = Some(value.to_owned()),
            _ => {}
        }
        Some(())
    }
}

impl Process {
    /// What is the same in all records of a process.
    pub(crate) fn lines(&self) -> String {
        let mut lines = String::new();
        let mut line = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                lines.extend([key, "=", value, "\n"]);
            }
        };
        line("host", self.host.as_deref());
        line("boot", self.boot.as_deref());
        line("pidns", self.pid_namespace.map(|number| number.to_string()).as_deref());
        line("timens", self.time_namespace.map(|number| number.to_string()).as_deref());
        line("start", self.start.map(|start| start.to_string()).as_deref());
        line("program", self.program.as_deref());
        lines
    }
}

/// The lines of a process, and what the holder says that it does.
pub(crate) fn labelled<'a>(lines: &'a str, label: Option<&str>) -> Cow<'a, str> {
    match label {
        Some(label) => format!("{lines}label={label}\n").into(),
        None => lines.into(),
    }
}

/// Writes the text of a record: at most [`LONGEST`] bytes, and no fewer than it is to cover.
fn render(
    text: &mut Vec<u8>,
    pid: u32,
    state: &str,
    token: u64,
    since: Option<SystemTime>,
    lines: &str,
    covered: usize,
) {
    text.clear();
    let written = write!(text, "{pid}\n{TITLE}\nstate={state}\ntoken={token}\n");
    let written = written.and_then(|()| match since {
        Some(since) => writeln!(text, "since={}", humantime::format_rfc3339_millis(since)),
        None => Ok(()),
    });
    written.expect("memory takes everything, and the clock was looked at");
    text.extend_from_slice(lines.as_bytes());
    let length = (text.len() + 1).next_multiple_of(ROUNDED).max(covered.min(LONGEST));
    text.resize(length - 1, b' ');
    text.push(b'\n');
}

/// The text that a process has written, or is about to write, into a lock file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) token: u64,
    pub(crate) text: Vec<u8>,
}

impl Written {
    /// A record of a holder; in place of the one before.
    pub(crate) fn hold(
        &mut self,
        pid: u32,
        token: u64,
        since: Option<SystemTime>,
        lines: &str,
        covered: usize,
    ) {
        self.token = token;
        render(&mut self.text, pid, HELD, token, since, lines, covered);
    }

    /// Marks it as released, once the bytes that change, and where, are written.
    pub(crate) fn release<E>(
        &mut self,
        write: impl FnOnce(&[u8], u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let title = self.text.iter().position(|&byte| byte == b'\n').expect("it has a title") + 1;
        let at = title + TITLE.len() + "\nstate=".len();
        write(RELEASED.as_bytes(), at as u64)?;
        self.text[at..][..RELEASED.len()].copy_from_slice(RELEASED.as_bytes());
        Ok(())
    }
}

/// Digits, no more than are needed.
fn number(text: &str) -> Option<u64> {
    let is_canonical =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_canonical { text.parse().ok() } else { None }
}

/// One line of at most 200 bytes, each letter of which is seen.
pub(crate) fn is_fit_for_a_record(value: &str) -> bool {
    !value.is_empty() && value.len() <= LONGEST_VALUE && value.chars().all(is_printable)
}

/// It is seen, stays in its line and in its place. A process chooses its name, and each program that may write the
/// lock file its record; they do not choose what an operator's terminal does, nor in which order it is
/// read, nor hide a difference between two names.
pub(crate) fn is_printable(letter: char) -> bool {
    let separates_lines = matches!(letter, '\u{2028}' | '\u{2029}');
    let changes_direction = matches!(letter,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    // Those that Unicode calls default ignorable, and what annotates or fills.
    let is_invisible = matches!(letter,
        '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}'
        | '\u{206a}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}');
    !(letter.is_control() || separates_lines || changes_direction || is_invisible)
}

/// The name of the program at this path, if it has one that is fit for a record.
pub(crate) fn program_name(path: &std::ffi::OsStr) -> Option<String> {
    let name = std::path::Path::new(path).file_name()?.to_string_lossy().into_owned();
    Some(name).filter(|name| is_fit_for_a_record(name))
}

/// For the fuzzer: panics if a text that is taken for a record does not survive being written.
#[cfg(fuzzing)]
pub(crate) fn check_parser(content: &[u8]) {
    if let Some(record) = Record::parse(content) {
        let text = record.text(0);
        assert!(text.len() <= LONGEST);
        let again = Record::parse(&text).expect("a record that was written");
        // Written to the millisecond, read as it stands.
        assert_eq!(again.text(0), text);
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn example() -> Record {
        let process = Process {
            pid: 4242,
            host: Some("build7".to_owned()),
            boot: Some("5a4ef0c1-91b2-4d7a-8a5e-6b4f1f1f9a01".to_owned()),
            pid_namespace: Some(4_026_531_836),
            time_namespace: Some(4_026_531_834),
            start: Some(881_234),
            program: Some("cargo".to_owned()),
        };
        let since = UNIX_EPOCH + Duration::from_millis(1_795_512_600_125);
        Record::held(process, 17, Some(since), Some("fetch".to_owned()))
    }

    const EXAMPLE: &str = "4242\ntokio-filelock 1\nstate=held    \ntoken=17\n\
        since=2026-11-24T09:30:00.125Z\nhost=build7\nboot=5a4ef0c1-91b2-4d7a-8a5e-6b4f1f1f9a01\n\
        pidns=4026531836\ntimens=4026531834\nstart=881234\nprogram=cargo\nlabel=fetch\n";

    #[test]
    fn the_text_is_a_wire_format() {
        let text = String::from_utf8(example().text(0)).unwrap();
        assert_eq!(text.strip_prefix(EXAMPLE).map(str::trim_end), Some(""));
        assert!(text.ends_with(" \n"));
        assert_eq!(text.len() % ROUNDED, 0);
        assert_eq!(example().text(1000).len(), 1000);
        assert_eq!(example().text(LONGEST + 1).len(), LONGEST);
        assert_eq!(Record::parse(&example().text(1000)), Some(example()));
        assert_eq!(Record::parse(text.as_bytes()), Some(example()));
        assert_eq!(Record::parse(EXAMPLE.as_bytes()), Some(example()), "padding is not required");
    }

    #[test]
    fn a_release_overwrites_the_state_and_nothing_else() {
        let mut file = example().text(0);
        let mut written = Written::default();
        let Record { process, token, since, label, .. } = example();
        let lines = labelled(&process.lines(), label.as_deref()).into_owned();
        written.hold(process.pid, token, since, &lines, 0);
        assert_eq!(written.text, file);
        let released = written.release(|state, at| {
            file[at as usize..][..state.len()].copy_from_slice(state);
            Ok::<(), ()>(())
        });
        released.unwrap();
        assert_eq!(file, written.text);
        let released = Record { is_held: false, ..example() };
        assert_eq!(Record::parse(&file), Some(released.clone()));
        assert_eq!(file, released.text(0));
    }

    #[test]
    fn keys_of_a_later_version_are_left_out() {
        let text = format!("{EXAMPLE}colour=blue\n");
        assert_eq!(Record::parse(text.as_bytes()), Some(example()));
    }

    #[test]
    fn the_longest_record_fits() {
        let value = || Some("x".repeat(LONGEST_VALUE));
        let process = Process {
            pid: u32::MAX,
            host: value(),
            boot: value(),
            pid_namespace: Some(u64::MAX),
            time_namespace: Some(u64::MAX),
            start: Some(u64::MAX),
            program: value(),
        };
        let record = Record::held(process, u64::MAX, example().since, value());
        let text = record.text(0);
        assert!(text.len() <= LONGEST);
        assert_eq!(Record::parse(&text), Some(record));
    }

    /// Also what the fuzzer starts from.
    #[test]
    fn what_is_no_record_is_none() {
        let with = |from: &str, to: &str| {
            assert!(EXAMPLE.contains(from), "{from}");
            EXAMPLE.replacen(from, to, 1).into_bytes()
        };
        let table: Vec<Vec<u8>> = vec![
            b"".into(),
            b"\n".into(),
            b"4242".into(),
            b"4242\n".into(),
            b"\0\0\0\0".into(),
            vec![0xff; LONGEST],
            vec![b' '; LONGEST],
            [EXAMPLE.as_bytes(), &vec![b' '; LONGEST]].concat(),
            EXAMPLE.trim_end().into(),
            EXAMPLE.replace('\n', "\r\n").into(),
            with("4242", "0"),
            with("4242", "-4242"),
            with("4242", "+4242"),
            with("4242", "04242"),
            with("4242", "4294967296"),
            with("4242", " 4242"),
            with("4242", "four"),
            with("filelock 1", "filelock 2"),
            with("state=held    ", "state=held"),
            with("state=held    ", "state=dropped "),
            with("state=held    \n", ""),
            with("token=17\n", ""),
            with("token=17", "token="),
            with("token=17", "token=0x11"),
            with("token=17", "token=18446744073709551616"),
            with("token=17\n", "token=17\ntoken=17\n"),
            with("since=2026-11-24T09:30:00.125Z", "since=yesterday"),
            with("host=build7", "host="),
            with("host=build7", "host"),
            with("host=build7", "=build7"),
            with("host=build7", "HOST=build7"),
            with("host=build7", "host=build\t7"),
            with("host=build7", "host=build\u{2028}7"),
            with("host=build7", "host=\u{202e}7dliub"),
            with("host=build7", "host=build7\nhost=build8"),
            with("pidns=4026531836", "pidns=init"),
            with("timens=4026531834", "timens=here"),
            with("start=881234", "start=-1"),
            with("host=build7\n", "host=build7\n\n"),
            with("host=build7\n", "   \nhost=build7\n"),
            with("label=fetch", &format!("label={}", "x".repeat(LONGEST_VALUE + 1))),
            [EXAMPLE.as_bytes(), b"more"].concat(),
            [EXAMPLE.as_bytes(), b"label=\xff\n"].concat(),
        ];
        for content in table {
            let shown = String::from_utf8_lossy(&content);
            assert_eq!(Record::parse(&content), None, "{shown:?}");
        }
    }

    #[test]
    fn programs_are_named_by_their_file() {
        let name = |path: &str| program_name(path.as_ref());
        assert_eq!(name("/usr/bin/cargo").as_deref(), Some("cargo"));
        assert_eq!(name("cargo").as_deref(), Some("cargo"));
        assert_eq!(name("/"), None);
        assert_eq!(name("two\nlines"), None);
    }

    fn value() -> impl Strategy<Value = String> {
        any::<String>().prop_filter("fit for a record", |value| is_fit_for_a_record(value))
    }

    prop_compose! {
        fn record()(
            pid in 1..=u32::MAX,
            is_held: bool,
            token: u64,
            since in prop::option::of(0..4_000_000_000_000_u64),
            texts in prop::collection::vec(prop::option::of(value()), 4),
            numbers in prop::collection::vec(prop::option::of(any::<u64>()), 3),
        ) -> Record {
            let process = Process {
                pid,
                host: texts[0].clone(),
                boot: texts[1].clone(),
                pid_namespace: numbers[0],
                time_namespace: numbers[1],
                start: numbers[2],
                program: texts[2].clone(),
            };
            let since = since.map(|milliseconds| UNIX_EPOCH + Duration::from_millis(milliseconds));
            Record { is_held, ..Record::held(process, token, since, texts[3].clone()) }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in record()) {
            let text = record.text(0);
            prop_assert!(text.len() <= LONGEST);
            prop_assert_eq!(Record::parse(&text), Some(record));
        }

        /// A writer that was killed in the middle, or a byte that was changed: no panic, and never
        /// another holder than the one that wrote.
        #[test]
        fn a_damaged_record_names_nobody_else(record in record(), cut: usize) {
            let text = record.text(0);
            let cut = cut % text.len();
            if let Some(read) = Record::parse(&text[..cut]) {
                prop_assert_eq!(read.process.pid, record.process.pid);
                prop_assert_eq!(read.token, record.token);
            }
        }

        #[test]
        fn noise_is_survived(content in prop::collection::vec(any::<u8>(), 0..2 * LONGEST)) {
            let _ = Record::parse(&content);
        }
    }
}
