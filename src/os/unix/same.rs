//! Whether two open files are one file, asked of the kernel: a lock on the one is seen through the other exactly
//! if they have one inode, whatever their numbers are.
//!
//! The lock is a shared one, on a range that no other process has (a *mark*): another process that asks the same of
//! two other files at the same moment is not mistaken for us. It keeps out only programs that lock the whole file
//! by fcntl(2), for the time of some system calls.

use std::fs::File;

use super::fcntl;
use super::kernel::record;
use super::lock::Lock;
use super::range::Range;
use crate::mode::Mode;
use crate::os::names::Recognized;

/// Where closing one of two open files would release the locks of both, nothing can be asked.
pub(in crate::os) const CAN_ASK: bool = !record::CLOSING_RELEASES;

/// So many marks are tried, where locks of others hide them.
const MARKS: usize = 8;

/// Which of the known files the new one is. The new one has no locks so far.
///
/// Takes some lock calls, which may ask a server.
pub(in crate::os) fn ask(new: &File, known: &[&File]) -> Recognized {
    ask_by(new, known, record::mark)
}

fn ask_by(new: &File, known: &[&File], draw: impl Fn() -> Option<Range>) -> Recognized {
    for _ in 0..MARKS {
        let Some(mark) = draw() else { return Recognized::Doubt };
        let lock = Lock::Bytes(mark);
        if lock.try_lock(new, Mode::Shared).is_err() {
            // A lock of the whole file is in the way, or there are none on this file system.
            return Recognized::Doubt;
        }
        let answers: Vec<_> = known.iter().map(|file| is_seen(mark, file)).collect();
        // Where this fails the lock goes with the file. Until then it is in no other lock's way.
        let _ = lock.unlock(new);
        if let Some(at) = answers.iter().position(|seen| *seen == Seen::Mark) {
            return Recognized::Is(at);
        }
        if !answers.contains(&Seen::Another) {
            let is_none = answers.iter().all(|seen| *seen == Seen::Nothing);
            return if is_none { Recognized::None } else { Recognized::Doubt };
        }
    }
    Recognized::Doubt
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Mark,
    Nothing,
    /// The kernel names one lock of several.
    Another,
    Error,
}

fn is_seen(mark: Range, through: &File) -> Seen {
    match fcntl::blocker(through, mark) {
        Ok(None) => Seen::Nothing,
        Ok(Some(by)) if by.range == mark && by.mode == Mode::Shared && by.pid.is_none() => {
            Seen::Mark
        }
        Ok(Some(_)) => Seen::Another,
        Err(_) => Seen::Error,
    }
}

#[cfg(all(test, not(tokio_filelock_loom), not(tokio_filelock_posix)))]
mod tests {
    use std::env;
    use std::fs::OpenOptions;
    use std::io::{BufRead, BufReader, Write};
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    fn open(path: &Path) -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).open(path).unwrap()
    }

    /// A directory with two files.
    fn two_files() -> (tempfile::TempDir, [File; 2]) {
        let directory = tempfile::tempdir().unwrap();
        let files = ["one", "other"].map(|name| open(&directory.path().join(name)));
        (directory, files)
    }

    #[test]
    fn a_file_is_recognized_among_others() {
        let (directory, [one, other]) = two_files();
        let again = open(&directory.path().join("other"));
        assert_eq!(ask(&again, &[&one, &other]), Recognized::Is(1));
        assert_eq!(ask(&again, &[&one]), Recognized::None);
        assert_eq!(ask(&again, &[]), Recognized::None);
    }

    /// A shared lock needs a descriptor for reading, and to ask needs none of both.
    #[test]
    fn descriptors_for_reading_only_will_do() {
        let (directory, [one, other]) = two_files();
        let [read_one, read_other] =
            ["one", "other"].map(|name| File::open(directory.path().join(name)).unwrap());
        assert_eq!(ask(&read_one, &[&other, &one]), Recognized::Is(1));
        assert_eq!(ask(&read_one, &[&read_other]), Recognized::None);
        assert_eq!(
            ask(&File::open(directory.path().join("one")).unwrap(), &[&read_one]),
            Recognized::Is(0)
        );
    }

    #[test]
    fn nothing_stays_locked() {
        let (directory, [one, _]) = two_files();
        let again = open(&directory.path().join("one"));
        assert_eq!(ask(&again, &[&one]), Recognized::Is(0));
        let whole_file = Lock::Bytes(Range { start: 0, length: 0 });
        whole_file.try_lock(&one, Mode::Exclusive).unwrap();
    }

    /// Of a program that has nothing to do with this one.
    #[test]
    fn a_lock_of_the_whole_file_is_doubt() {
        let (directory, [one, other]) = two_files();
        let [again, foreign] = [(); 2].map(|()| open(&directory.path().join("one")));
        let whole_file = Lock::Bytes(Range { start: 0, length: 0 });
        for mode in [Mode::Shared, Mode::Exclusive] {
            whole_file.try_lock(&foreign, mode).unwrap();
            assert_eq!(ask(&again, &[&one]), Recognized::Doubt);
            // A shared one is not in the way on the other file.
            let expected = if mode == Mode::Shared { Recognized::None } else { Recognized::Doubt };
            assert_eq!(ask(&again, &[&other]), expected);
        }
        whole_file.unlock(&foreign).unwrap();
        assert_eq!(ask(&again, &[&one]), Recognized::Is(0));
    }

    /// Why the range is another one each time.
    #[test]
    fn a_range_that_others_lock_as_well_would_prove_nothing() {
        let (directory, [one, other]) = two_files();
        let always = Range { start: crate::os::wire::FIRST_MARK, length: 1 };
        let neighbour = open(&directory.path().join("other"));
        Lock::Bytes(always).try_lock(&neighbour, Mode::Shared).unwrap();
        assert_eq!(ask_by(&one, &[&other], || Some(always)), Recognized::Is(0), "mistaken");
        assert_eq!(ask(&one, &[&other]), Recognized::None);
    }

    const ROUNDS: usize = 100_000;
    const DIRECTORY: &str = "TOKIO_FILELOCK_TEST_ASK";

    /// The one asks whether the first file is the second, and the other one whether the second is the first.
    #[test]
    fn two_processes_that_ask_at_the_same_moment_are_not_mistaken() {
        let name =
            "os::unix::same::tests::two_processes_that_ask_at_the_same_moment_are_not_mistaken";
        if let Some(directory) = env::var_os(DIRECTORY) {
            return ask_until_told(directory.as_ref());
        }
        let (directory, [one, other]) = two_files();
        // A binary for another machine needs something that runs it, as in tests/it.
        let mut words: Vec<_> = env::var_os("TOKIO_FILELOCK_TEST_RUNNER").into_iter().collect();
        words.push(env::current_exe().unwrap().into());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .args(["--exact", name, "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut said = said.lines().map(Result::unwrap);
        assert!(said.by_ref().any(|line| line.ends_with("asks")), "it ended without a word");
        for round in 0..ROUNDS {
            assert_eq!(ask(&one, &[&other]), Recognized::None, "in round {round}");
        }
        drop(child.stdin.take());
        let asked = said.find_map(|line| line.strip_prefix("asked ").map(str::to_owned));
        assert!(child.wait().unwrap().success());
        println!("{ROUNDS} times here, {} times there", asked.unwrap());
    }

    fn ask_until_told(directory: &Path) {
        let [one, other] = ["one", "other"].map(|name| open(&directory.join(name)));
        let told = std::thread::spawn(|| std::io::stdin().lines().count());
        println!("\nasks");
        std::io::stdout().flush().unwrap();
        let mut asked = 0;
        while !told.is_finished() {
            assert_eq!(ask(&other, &[&one]), Recognized::None, "after {asked}");
            asked += 1;
        }
        println!("\nasked {asked}");
    }
}
