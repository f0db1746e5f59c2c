//! The shared index: one text file (see `entry`), guarded by a lock file beside it.
//!
//! A claim reads the header, takes the file that it points to, appends a line and moves the
//! pointer on; recording appends a line and counts it. Without a lock two tasks would take the
//! same file, write over each other's line, or lose a count. So:
//! 1. a task that changes the index holds the exclusive lock, one that reads it the shared one;
//! 2. the lock is held for a handful of file-system calls, never while a file is hashed;
//! 3. the guard lives on the thread that makes those calls, not in the task that asked for them.
//!    A task can be cancelled at any `.await`; the call that is under way cannot, and no other task
//!    may come in before it is over.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::str;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio_filelock::{Acquire, Counters, FileLock, Guard};

use crate::Error;
use crate::entry::{Entry, Header, Outcome, TaskId};

/// A task's access to the index. All of one process share one queue for the lock, whichever task
/// opened it.
pub(crate) struct Index {
    path: PathBuf,
    lock: FileLock,
    waits: Vec<Duration>,
}

/// All of the index at one moment.
pub(crate) struct Contents {
    pub(crate) header: Header,
    pub(crate) entries: Vec<Entry>,
    /// Lines that are no entry.
    pub(crate) damaged: Vec<String>,
}

impl Index {
    /// Makes the index of these files, none of them claimed.
    pub(crate) async fn create(path: &Path, names: &[PathBuf]) -> Result<Self, Error> {
        let mut index = Self::open(path).await?;
        let entries: String =
            names.iter().map(|name| Entry::File { name: name.clone() }.to_string()).collect();
        let header = Header { next: Header::LENGTH as u64, recorded: 0 };
        let text = format!("{header}{entries}");
        let new_file = path.to_owned();
        index
            .under(index.lock.lock(), move || {
                File::create_new(new_file)?.write_all(text.as_bytes())
            })
            .await?;
        Ok(index)
    }

    pub(crate) async fn open(path: &Path) -> Result<Self, Error> {
        let lock = FileLock::beside(path).await?;
        Ok(Self { path: path.to_owned(), lock, waits: Vec::new() })
    }

    /// Takes the next file that no task has taken; `None` when there is none left.
    pub(crate) async fn claim(&mut self, by: TaskId) -> Result<Option<PathBuf>, Error> {
        let path = self.path.clone();
        self.under(self.lock.lock(), move || IndexFile::open(&path)?.claim(by)).await
    }

    /// Says what came of a file that was claimed.
    pub(crate) async fn record(
        &mut self,
        by: TaskId,
        name: PathBuf,
        outcome: Outcome,
    ) -> Result<(), Error> {
        let path = self.path.clone();
        let entry = Entry::Result { by, outcome, name };
        self.under(self.lock.lock(), move || IndexFile::open(&path)?.record(&entry)).await
    }

    /// How many results there are.
    pub(crate) async fn recorded(&mut self) -> Result<u64, Error> {
        let path = self.path.clone();
        let header =
            self.under(self.lock.lock_shared(), move || IndexFile::open(&path)?.header()).await?;
        Ok(header.recorded)
    }

    pub(crate) async fn contents(&mut self) -> Result<Contents, Error> {
        let path = self.path.clone();
        self.under(self.lock.lock_shared(), move || IndexFile::open(&path)?.contents()).await
    }

    /// What has happened on the lock in this process.
    pub(crate) fn counters(&self) -> Counters {
        self.lock.counters()
    }

    /// How long each lock was waited for.
    pub(crate) fn into_waits(self) -> Vec<Duration> {
        self.waits
    }

    /// Waits for the lock, then makes some file-system calls under it.
    async fn under<G, T>(
        &mut self,
        acquire: Acquire<G>,
        calls: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error>
    where
        G: Guard + Send + 'static,
        T: Send + 'static,
    {
        let asked = Instant::now();
        let guard = acquire.await?;
        self.waits.push(asked.elapsed());
        let done = spawn_blocking(move || {
            let answer = calls();
            drop(guard); // here, and not where a cancelled task would drop it
            answer
        });
        done.await?.map_err(|error| format!("index `{}`: {error}", self.path.display()).into())
    }
}

/// The index file itself. Only for the one who holds the lock.
struct IndexFile(File);

impl IndexFile {
    fn open(path: &Path) -> io::Result<Self> {
        File::options().read(true).write(true).open(path).map(Self)
    }

    fn claim(&mut self, by: TaskId) -> io::Result<Option<PathBuf>> {
        let header = self.header()?;
        let line = self.line_at(header.next)?;
        let Some(Entry::File { name }) = Entry::parse(line.trim_end()) else { return Ok(None) };
        self.append(&Entry::Claim { by, name: name.clone() })?;
        self.set_header(Header { next: header.next + line.len() as u64, ..header })?;
        Ok(Some(name))
    }

    fn record(&mut self, result: &Entry) -> io::Result<()> {
        let header = self.header()?;
        self.append(result)?;
        self.set_header(Header { recorded: header.recorded + 1, ..header })
    }

    fn contents(&mut self) -> io::Result<Contents> {
        let header = self.header()?;
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes)?;
        let mut contents = Contents { header, entries: Vec::new(), damaged: Vec::new() };
        for line in String::from_utf8_lossy(&bytes).lines() {
            match Entry::parse(line) {
                Some(entry) => contents.entries.push(entry),
                None => contents.damaged.push(line.to_owned()),
            }
        }
        Ok(contents)
    }

    fn header(&mut self) -> io::Result<Header> {
        let mut line = [0; Header::LENGTH];
        self.0.rewind()?;
        self.0.read_exact(&mut line)?;
        str::from_utf8(&line)
            .ok()
            .and_then(|line| Header::parse(line.trim_end()))
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "its header is damaged"))
    }

    fn set_header(&mut self, header: Header) -> io::Result<()> {
        self.0.rewind()?;
        self.0.write_all(header.to_string().as_bytes())
    }

    /// The line that begins here, with its line break; empty at the end of the file.
    fn line_at(&mut self, offset: u64) -> io::Result<String> {
        let mut line = String::new();
        self.0.seek(SeekFrom::Start(offset))?;
        BufReader::new(&self.0).read_line(&mut line)?;
        Ok(line)
    }

    fn append(&mut self, entry: &Entry) -> io::Result<()> {
        self.0.seek(SeekFrom::End(0))?;
        self.0.write_all(entry.to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_file_is_claimed_once() -> Result<(), Error> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("index");
        let names: Vec<PathBuf> = (0..50).map(|number| format!("{number}\n").into()).collect();
        let mut index = Index::create(&path, &names).await?;
        let mut tasks = tokio::task::JoinSet::new();
        for task in 1..=8 {
            let mut index = Index::open(&path).await?;
            tasks.spawn(async move {
                let by = TaskId { process: 1, task };
                let mut claimed = Vec::new();
                while let Some(name) = index.claim(by).await? {
                    let outcome = Outcome::Skipped { reason: "a test".into() };
                    index.record(by, name.clone(), outcome).await?;
                    claimed.push(name);
                }
                Ok::<_, Error>(claimed)
            });
        }
        let mut claimed = Vec::new();
        while let Some(names) = tasks.join_next().await {
            claimed.extend(names??);
        }
        claimed.sort_by_key(|name| names.iter().position(|other| other == name));
        assert_eq!(claimed, names);
        assert_eq!(index.recorded().await?, 50);
        let contents = index.contents().await?;
        assert_eq!((contents.entries.len(), contents.damaged.len()), (150, 0));
        Ok(())
    }
}
