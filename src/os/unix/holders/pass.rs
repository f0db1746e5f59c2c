//! Passes over `/proc/locks`, which is no snapshot.
//!
//! One read(2) shows a page of whole lines and no more, however large the buffer; the next one goes on by
//! counting the locks before its place (fs/seq_file.c, fs/locks.c). Where some of these have gone in
//! between, those behind have moved up, and as many are never shown. So two descriptors take turns,
//! the second one half a page behind the first: each page shows again what the last half of the page
//! before did, and must begin with a line of it. Otherwise the pass is made anew.
//!
//! So what a pass shows may be a moment old, but a lock that is held throughout is in it. Most tables are
//! one page, and then one read is all.

use std::io::{self, Read};
use std::ops::ControlFlow;

use nix::unistd::{SysconfVar, sysconf};

/// No line is longer. A page that has room for one more is the last one.
const LONGEST_LINE: usize = 256;

/// A lock is shown together with the calls that wait for it, and so may take more than a page.
const BUFFER: usize = 1 << 20;

/// So often a pass is made anew.
const PASSES: usize = 8;

/// The lines of the table, some of them twice.
pub(super) fn read<R: Read>(mut open: impl FnMut() -> io::Result<R>) -> io::Result<Vec<u8>> {
    let mut pass = Pass { page: page_size(), lines: Vec::new(), last: 0, buffer: vec![0; BUFFER] };
    for _ in 0..PASSES {
        if pass.make(&mut open)? {
            break;
        }
    }
    Ok(pass.lines)
}

fn page_size() -> usize {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| size.try_into().ok()).unwrap_or(4096)
}

struct Pass {
    /// The size of one.
    page: usize,
    lines: Vec<u8>,
    /// Where in the lines the last page begins.
    last: usize,
    buffer: Vec<u8>,
}

impl Pass {
    /// `false` if a lock that is held throughout may be missing.
    fn make<R: Read>(&mut self, open: &mut impl FnMut() -> io::Result<R>) -> io::Result<bool> {
        (self.last, self.lines) = (0, Vec::new());
        let mut ahead = open()?;
        let length = ahead.read(&mut self.buffer)?;
        self.lines.extend(&self.buffer[..length]);
        if self.is_last(length) {
            return Ok(true);
        }
        let mut behind = open()?;
        // Less if the table is much shorter by now.
        let _ = behind.read(&mut self.buffer[..self.page / 2])?;
        loop {
            for descriptor in [&mut behind, &mut ahead] {
                let length = descriptor.read(&mut self.buffer)?;
                if let ControlFlow::Break(is_whole) = self.append(length) {
                    return Ok(is_whole);
                }
            }
        }
    }

    fn append(&mut self, length: usize) -> ControlFlow<bool> {
        // The rest of a lock that was shown in part comes first, as it was then.
        let page = &self.buffer[..length];
        let rest = page.iter().position(|&byte| byte == b'\n').map_or(length, |end| end + 1);
        let page = &page[rest..];
        let first = first_whole(page);
        let follows = lines(&self.lines[self.last..]).any(|(_, line)| Some(line) == first);
        if !follows {
            return ControlFlow::Break(false);
        }
        self.last = self.lines.len();
        self.lines.extend(page);
        if self.is_last(length) { ControlFlow::Break(true) } else { ControlFlow::Continue(()) }
    }

    fn is_last(&self, length: usize) -> bool {
        length + LONGEST_LINE < self.page
    }
}

/// The first line of the first lock that begins in the page, without its number.
fn first_whole(page: &[u8]) -> Option<&[u8]> {
    let mut lines = lines(page);
    let (begun, _) = lines.next()?;
    lines.find(|(number, _)| *number != begun).map(|(_, line)| line)
}

/// Each line with its number: the place of its lock in the table.
fn lines(page: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    page.split(|&byte| byte == b'\n').filter_map(|line| {
        let number = line.iter().position(|&byte| byte == b':')?;
        Some(line.split_at(number))
    })
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    use super::*;

    type Locks = VecDeque<String>;

    /// `/proc/locks` as the kernel shows it, with something that happens to the locks before each read.
    struct Table {
        locks: Locks,
        happens: Box<dyn FnMut(&mut Locks)>,
    }

    struct Descriptor {
        table: Rc<RefCell<Table>>,
        at: usize,
        rest: Vec<u8>,
    }

    impl Table {
        /// Gives what opens it.
        fn of(
            locks: Locks,
            happens: impl FnMut(&mut Locks) + 'static,
        ) -> impl Fn() -> io::Result<Descriptor> {
            let table = Rc::new(RefCell::new(Self { locks, happens: Box::new(happens) }));
            move || Ok(Descriptor { table: table.clone(), at: 0, rest: Vec::new() })
        }
    }

    impl Read for Descriptor {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Table { locks, happens } = &mut *self.table.borrow_mut();
            happens(locks);
            let mut shown = std::mem::take(&mut self.rest);
            let wanted = buffer.len().saturating_sub(shown.len());
            let mut page = Vec::new();
            while page.len() < wanted {
                let Some(lock) = locks.get(self.at) else { break };
                let line = format!("{}: {lock}\n", self.at + 1);
                if page.len() + line.len() > page_size() {
                    break;
                }
                page.extend(line.bytes());
                self.at += 1;
            }
            shown.extend(page);
            let length = shown.len().min(buffer.len());
            self.rest = shown.split_off(length);
            buffer[..length].copy_from_slice(&shown);
            Ok(length)
        }
    }

    fn is_shown(lines: &[u8], lock: &str) -> bool {
        String::from_utf8_lossy(lines).lines().any(|line| line.ends_with(lock))
    }

    fn lock(number: u32) -> String {
        format!("FLOCK  ADVISORY  WRITE {number} fe:00:{number} 0 EOF")
    }

    /// In tables of many sizes one lock is held throughout, and up to twenty others come and go before it.
    /// Returns how often it is not shown.
    fn missed(look: impl Fn(&dyn Fn() -> io::Result<Descriptor>) -> Vec<u8>) -> usize {
        const MOVING: u32 = 20;
        let mut random = fastrand::Rng::with_seed(7);
        let mut missed = 0;
        for size in (0..400).step_by(3).flat_map(|size| [size; 5]) {
            let held = lock(1_000_000);
            let mut locks: Locks = (0..size).map(lock).collect();
            locks.insert(random.usize(..=locks.len()), held.clone());
            let (mut present, mut random) = (0, random.fork());
            let open = Table::of(locks, move |locks| {
                locks.drain(..present);
                present = random.usize(..=MOVING as usize);
                (0..present as u32).for_each(|number| locks.push_front(lock(2_000_000 + number)));
            });
            missed += usize::from(!is_shown(&look(&open), &held));
        }
        missed
    }

    #[test]
    fn what_is_held_throughout_is_shown() {
        assert_eq!(missed(|open| read(open).unwrap()), 0);
        // The same, read page by page by one descriptor.
        let by_page = |open: &dyn Fn() -> io::Result<Descriptor>| {
            let (mut lines, mut buffer) = (Vec::new(), vec![0; BUFFER]);
            let mut table = open().unwrap();
            loop {
                match table.read(&mut buffer).unwrap() {
                    0 => return lines,
                    length => lines.extend(&buffer[..length]),
                }
            }
        };
        assert!(missed(by_page) > 0, "the table of the test is not that of the kernel");
    }

    /// A process that ends takes hundreds of locks with it.
    #[test]
    fn a_pass_that_many_locks_have_left_is_made_anew() {
        let mut reads = 0;
        let open = Table::of((0..400).map(lock).collect(), move |locks| {
            reads += 1;
            if reads == 3 {
                locks.drain(..200);
            }
        });
        let lines = read(open).unwrap();
        assert!((200..400).all(|number| is_shown(&lines, &lock(number))));
        assert!(!is_shown(&lines, &lock(0)), "those of the first pass are gone");
    }
}
