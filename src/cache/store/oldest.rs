//! What a walk has found that was not used for longest: a process that makes room next does not have to walk.
//!
//! One file with a line for each value, the oldest last. A process that makes room takes lines from its end, and removes these
//! values, **under the lock of the books**: so no two take one line. Only after a process that was killed before it has cut
//! the lines off are they taken again, and that does no harm: their values are gone, or are not what the lines say.
//!
//! It is a hint, and never believed. A value goes only if it is what its line says, neither changed nor used since (`prune`). And what
//! came or was used after the walk is newer than all that the walk has found; so the last line that is still true is the value that was
//! not used for longest, however old the list is, but for those that the walk was to remove itself and could not. A list that is missing, damaged or another user's costs a walk.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::shard::Value;
use super::{Place, Store};
use crate::cache::key::{self, Kind};
use crate::os::shared_directory::{Directory, Found, Purpose};

const NAME: &str = "oldest";

/// So much of the list is read at once; a line is shorter.
const PART: u64 = 8192;

/// A longer list is memory and disk for values of which most are going to be used or replaced before their turn. Of one that
/// another program has made no more lines are read.
pub(super) const MOST_VALUES: usize = 16_384;

/// So long is no list: a user who may write to the directory may make one that takes long to read.
const LONGEST: u64 = 4 << 20;

/// So many lines in a row of values that stay are no list that is of use: a try for a lock and a look are made for each.
const MOST_MISSES: usize = 256;

/// What came of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// Its value is removed.
    Removed,
    /// Its value stays, or was not there.
    Missed,
    /// No more lines are needed.
    Enough,
}

/// Takes values from the list, the oldest first, until that is enough. What is no list, or is out of date, loses its name.
pub(super) fn take_each(root: &Directory, take: impl FnMut(&Value) -> Line) {
    // Of two contents of one file another machine may miss the second.
    if root.is_told_by_times() {
        return;
    }
    match root.open_file(NAME, Purpose::Write) {
        // With another name it is perhaps not of the cache.
        Ok(Found::File(mut file, status)) if status.links == 1 && status.length <= LONGEST => {
            // What stays by an error is taken again, and does no harm.
            let _ = match take_each_of(&mut file, status.length, take) {
                Ok(Some(left)) => file.set_len(left),
                Ok(None) | Err(_) => root.remove_file(NAME),
            };
        }
        _ => {}
    }
}

/// How many bytes of the list are left; `None` if it is to go. What does not end in a line may be any file that another user
/// has given this name, so nothing is cut off from it.
fn take_each_of(
    file: &mut (impl Read + Seek),
    length: u64,
    mut take: impl FnMut(&Value) -> Line,
) -> io::Result<Option<u64>> {
    let (mut end, mut is_list) = (length, None);
    let (mut lines_left, mut misses) = (MOST_VALUES, 0);
    while end > 0 {
        let start = end.saturating_sub(PART);
        let mut part = vec![0; (end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut part)?;
        while let Some((b'\n', lines)) = part.split_last() {
            let line_at = match lines.iter().rposition(|byte| *byte == b'\n') {
                Some(at) => at + 1,
                None if start == 0 => 0,
                // It begins in the part before.
                None => break,
            };
            if lines_left == 0 || misses == MOST_MISSES {
                return Ok(None);
            }
            lines_left -= 1;
            let value = std::str::from_utf8(&lines[line_at..]).ok().and_then(parse);
            part.truncate(line_at);
            let is_list = *is_list.get_or_insert(value.is_some());
            match value.map(|value| take(&value)) {
                Some(Line::Enough) => return Ok(is_list.then_some(start + line_at as u64)),
                Some(Line::Missed) => misses += 1,
                Some(Line::Removed) => misses = 0,
                None => {}
            }
        }
        let left = start + part.len() as u64;
        // What is no list is none.
        end = if left < end { left } else { 0 };
    }
    Ok((length == 0 || is_list == Some(true)).then_some(0))
}

impl Store {
    /// Keeps what a walk has found, the oldest first, in place of the list before.
    pub(super) fn remember_oldest(
        &self,
        root: &Directory,
        values: &[Value],
        writer: &str,
    ) -> io::Result<()> {
        if root.is_told_by_times() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let lines: Vec<_> = values.iter().take(MOST_VALUES).map(line).rev().collect();
        self.write_oldest(lines.concat().as_bytes(), writer)
    }

    /// Not synced: after a power failure there may be no list.
    fn write_oldest(&self, content: &[u8], writer: &str) -> io::Result<()> {
        let temporary = self.temporary(writer)?;
        temporary.file()?.write_all(content)?;
        self.put_in_place(temporary, Place::Root, NAME, writer).map(drop)
    }

    /// There are no values any more.
    pub(super) fn forget_oldest(&self) {
        if let Ok(root) = self.root() {
            let _ = root.remove_file(NAME);
        }
    }
}

fn line(value: &Value) -> String {
    let [modified, used] = [value.modified, value.used]
        .map(|time| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos());
    format!("{modified} {used} {} {}\n", value.bytes, value.name)
}

fn parse(line: &str) -> Option<Value> {
    let mut words = line.splitn(4, ' ');
    let mut time = || time(words.next()?);
    let (modified, used) = (time()?, time()?);
    let bytes = words.next()?.parse().ok()?;
    let name = words.next()?.to_owned();
    // Of what another user has written: it may lead nowhere else.
    if !key::is_of_value(&name) {
        return None;
    }
    let of_directory = match key::kind(&name) {
        Kind::Pointer { hash } => Some(hash.to_owned()),
        _ => None,
    };
    Some(Value { name, of_directory, bytes, modified, used })
}

fn time(nanoseconds: &str) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds.parse().ok()?))
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn value(number: usize) -> Value {
        let key = key::Key::new(&vec![b'k'; number % 200]);
        let of_directory = (number % 3 == 0).then(|| key.hash().to_owned());
        let name = if of_directory.is_some() { key.pointer() } else { key.value().to_owned() };
        let [modified, used] = [number, 2 * number]
            .map(|number| UNIX_EPOCH + Duration::new(1_800_000_000, number as u32));
        Value { name, of_directory, bytes: number as u64, modified, used }
    }

    fn list(values: usize) -> Cursor<Vec<u8>> {
        let lines: Vec<_> = (0..values).rev().map(|number| line(&value(number))).collect();
        Cursor::new(lines.concat().into_bytes())
    }

    fn take(list: &mut Cursor<Vec<u8>>, most: usize) -> (Vec<Value>, Option<u64>) {
        let mut taken = Vec::new();
        let length = list.get_ref().len() as u64;
        let take = |value: &Value| {
            taken.push(parse(line(value).trim_end()).unwrap());
            if taken.len() == most { Line::Enough } else { Line::Removed }
        };
        let left = take_each_of(list, length, take).unwrap();
        list.get_mut().truncate(left.unwrap_or(0) as usize);
        (taken, left)
    }

    /// How many lines are looked at.
    fn looked_at(list: &mut Cursor<Vec<u8>>, mut outcome: impl FnMut(usize) -> Line) -> usize {
        let (mut lines, length) = (0, list.get_ref().len() as u64);
        let take = |_: &Value| {
            lines += 1;
            outcome(lines)
        };
        take_each_of(list, length, take).unwrap();
        lines
    }

    #[test]
    fn what_was_put_down_is_taken_once_and_the_oldest_first() {
        for at_once in [1, 7, 300, 1000] {
            let mut list = list(500);
            let mut next = 0;
            loop {
                let (taken, _) = take(&mut list, at_once);
                for found in &taken {
                    let expected = value(next);
                    assert_eq!((&found.name, found.bytes), (&expected.name, expected.bytes));
                    assert_eq!(found.of_directory, expected.of_directory);
                    assert_eq!([found.modified, found.used], [expected.modified, expected.used]);
                    next += 1;
                }
                if taken.len() < at_once {
                    break;
                }
            }
            assert_eq!((next, list.get_ref().len()), (500, 0));
        }
    }

    #[test]
    fn what_is_no_list_has_nothing_in_it() {
        let name = value(1).name;
        let lines = [
            "\n\n\n".into(),
            "no list".into(),
            "x".repeat(3 * PART as usize),
            format!("{}\n", "x".repeat(3 * PART as usize)),
            format!("1 2 3 {name}"),
            format!("1 2 {name}\n"),
            format!("-1 2 3 {name}\n"),
            format!("99999999999999999999 2 3 {name}\n"),
            format!("1 2 3 {name}/../../../outside\n"),
            "1 2 3 ../outside\n".into(),
            // Of a key that has a longer path, or another stream of the file, on some system.
            format!("1 2 3 {name}\\..\\..\\..\\outside\n"),
            format!("1 2 3 {name}:s\n"),
            format!("1 2 3 {name}.\n"),
            format!("1 2 3 {name} \n"),
            format!("1 2 3 {name}{}\n", "k".repeat(96)),
            format!("1 2 3 {}.key\n", &name[..40]),
        ];
        for text in lines {
            let mut list = Cursor::new(text.clone().into_bytes());
            let (taken, left) = take(&mut list, 1000);
            assert!(taken.is_empty() && left.is_none(), "{text:.100}");
            assert!(list.get_ref().is_empty(), "{text:.100}");
        }
        for most in [1, 2, 3, 1000] {
            let mut damaged = list(3);
            damaged.get_mut().extend([0xff, b'\n', 0, b'\n']);
            let (taken, left) = take(&mut damaged, most);
            assert_eq!((taken.len(), left), (most.min(3), None), "nothing is cut off");
        }
    }

    #[test]
    fn a_list_has_so_many_lines_and_so_many_that_are_out_of_date() {
        let mut long = list(MOST_VALUES + 10);
        assert_eq!(looked_at(&mut long, |_| Line::Removed), MOST_VALUES);
        assert_eq!(looked_at(&mut long, |_| Line::Missed), MOST_MISSES);
        let some = |line| if line % MOST_MISSES == 0 { Line::Removed } else { Line::Missed };
        assert_eq!(looked_at(&mut long, some), MOST_VALUES);
        let mut few = list(MOST_MISSES);
        assert_eq!(looked_at(&mut few, |_| Line::Missed), MOST_MISSES);
    }
}
