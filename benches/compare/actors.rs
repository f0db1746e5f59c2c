//! Processes that take part: this program again, in a role.
//!
//! An actor says a line when it is ready, gets a line when it is to go on, and answers with lines
//! of numbers.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::Result;

pub(crate) struct Actor {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Actor {
    /// Starts an actor that is told by these words what to do.
    pub(crate) fn start<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("actor").args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let output = BufReader::new(process.stdout.take().expect("piped"));
        Ok(Self { process, output })
    }

    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.process.stdin.as_mut().expect("piped"), "{line}")?)
    }

    /// The numbers of the next line.
    pub(crate) fn answer(&mut self) -> Result<Vec<f64>> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let numbers = line.split_whitespace().map(str::parse);
        numbers.collect::<std::result::Result<_, _>>().map_err(|_| format!("{line:?}").into())
    }

    /// Closes its input, which ends it.
    pub(crate) fn dismiss(mut self) -> Result<()> {
        drop(self.process.stdin.take());
        assert!(self.process.wait()?.success());
        Ok(())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// In an actor: the next line, `None` when its parent has no more.
pub(crate) fn next_line() -> Result<Option<String>> {
    let mut line = String::new();
    let length = std::io::stdin().read_line(&mut line)?;
    Ok((length > 0).then(|| line.trim().to_owned()))
}
