//! Passes over `/proc/locks`, which is no snapshot.
//!
//! One read(2) shows a page, however large the buffer; the next one goes on by counting the locks before its
//! place (fs/seq_file.c, fs/locks.c). Where some of these have gone in between, those behind have moved up,
//! and as many are never shown. So two descriptors take turns, the second one half a page behind the first:
//! each page shows again what the last half of the page before did, and must begin with a line of it.
//!
//! A lock is shown together with the calls that wait for it, or not at all, so a page may end early. Where such a
//! lock needs more than half a page, no read shows it and what is before it: the pass has a seam there. A seam holds
//! if the next pass shows the last lock before it at the same place, for then nothing has moved up in between.
//!
//! The end of a pass is a seam as well, in doubt only if what is looked for has not been found. Then it needs more than one
//! confirmation, for a seam may hold by chance: one lock has gone, and another one has come.
//!
//! A pass that does not follow, or whose seams do not hold, is made anew. Beside locks that come and go at every
//! read no seam holds: then all passes together are the answer. So what a pass shows may be a moment old, but a lock
//! that is held throughout is in it.
//!
//! While the table is read no lock of the machine is set or removed (fs/locks.c), and each read waits for those that are on
//! their way. So beside lock calls on a busy machine a pass may take a second, and the passes have a limit in time as well.

use std::io::{self, Read};
use std::mem;

/// For thousands of calls that wait for one lock. Where one has more, no pass follows.
const BUFFER: usize = 1 << 20;

/// So often a pass is made anew.
const PASSES: usize = 8;

/// So many passes in a row must confirm one that has not found what is looked for: another lock may be at the place of one
/// that is gone by chance. Where a lock needs more than half a page the chance is too high, and all passes are made.
const CONFIRMATIONS: u32 = 2;

/// What passes over the table have shown.
pub(super) struct Shown {
    /// The lines of the table, some of them twice, as each of the passes shows them; the best comes first, and is the only one
    /// if what is looked for is in it.
    pub(super) passes: Vec<Vec<u8>>,
    /// What is not in them may be there all the same: all [`PASSES`] were made, or it was late.
    pub(super) in_doubt: bool,
}

/// Makes one pass, and as many more as are needed, but none once it is late.
pub(super) fn read<R: Read>(
    mut open: impl FnMut() -> io::Result<R>,
    is_found: impl Fn(&[u8]) -> bool,
    is_late: impl Fn() -> bool,
) -> io::Result<Shown> {
    let mut buffer = vec![0; BUFFER];
    let mut passes: Vec<Pass> = Vec::new();
    let mut confirmed = 0;
    let mut in_doubt = true;
    while passes.len() < PASSES && (passes.is_empty() || !is_late()) {
        let pass = Pass::make(&mut open, &mut buffer)?;
        if pass.follows && pass.seams.is_empty() && is_found(&pass.lines) {
            return Ok(Shown { passes: vec![pass.lines], in_doubt: false });
        }
        match passes.last() {
            Some(before) if before.is_confirmed_by(&pass) => {
                confirmed += 1;
                let is_found = is_found(&before.lines) || is_found(&pass.lines);
                let is_enough = before.seams.is_empty() && confirmed == CONFIRMATIONS;
                passes.insert(passes.len() - 1, pass);
                if is_found || is_enough {
                    in_doubt = false;
                    break;
                }
            }
            _ => {
                confirmed = 0;
                passes.push(pass);
            }
        }
    }
    let passes = passes.into_iter().rev().map(|pass| pass.lines).collect();
    Ok(Shown { passes, in_doubt })
}

struct Pass {
    lines: Vec<u8>,
    /// Where in the lines the last page begins.
    page: usize,
    /// `false` if a lock that is held throughout may be missing.
    follows: bool,
    /// The last lock before each page that shows nothing of the page before, with its place.
    seams: Vec<Vec<u8>>,
}

impl Pass {
    fn make<R: Read>(
        open: &mut impl FnMut() -> io::Result<R>,
        buffer: &mut [u8],
    ) -> io::Result<Self> {
        let mut pass = Self { lines: Vec::new(), page: 0, follows: true, seams: Vec::new() };
        let (mut ahead, mut behind) = (open()?, open()?);
        loop {
            // Both are at the end of what was shown.
            let length = ahead.read(buffer)?;
            if length == 0 {
                return Ok(pass);
            }
            pass.seams.extend(last_lock(pass.last_page()).map(<[u8]>::to_vec));
            pass.add(&buffer[..length]);
            let middle = middle(pass.last_page());
            let mut is_torn = false;
            if middle > 0 {
                let skipped = behind.read(&mut buffer[..middle])?;
                is_torn = buffer[..skipped] != pass.last_page()[..middle];
            }
            loop {
                let end = pass.end();
                let length = behind.read(buffer)?;
                pass.follow(&buffer[..length], mem::take(&mut is_torn));
                mem::swap(&mut ahead, &mut behind);
                if pass.end() <= end {
                    break;
                }
            }
        }
    }

    fn add(&mut self, page: &[u8]) {
        self.page = self.lines.len();
        self.lines.extend(page);
    }

    /// Adds a page that should begin inside of the last one.
    fn follow(&mut self, page: &[u8], is_torn: bool) {
        let (page, first) = if is_torn {
            // The rest of a lock that was shown in part comes first, as it was then.
            let rest =
                page.iter().position(|&byte| byte == b'\n').map_or(page.len(), |end| end + 1);
            let page = &page[rest..];
            let mut lines = lines(page);
            let begun = lines.next();
            (page, lines.find(|(number, _)| begun.is_some_and(|(begun, _)| *number != begun)))
        } else {
            (page, lines(page).next())
        };
        let first = first.map(|(_, line)| line);
        self.follows &=
            first.is_some() && lines(self.last_page()).any(|(_, line)| Some(line) == first);
        self.add(page);
    }

    fn last_page(&self) -> &[u8] {
        &self.lines[self.page..]
    }

    /// The place of the last lock that was shown.
    fn end(&self) -> Option<u64> {
        let (number, _) = lines(self.last_page()).last()?;
        std::str::from_utf8(number).ok()?.parse().ok()
    }

    /// The next pass shows that the seams hold.
    fn is_confirmed_by(&self, next: &Self) -> bool {
        let is_shown =
            |seam: &[u8]| next.lines.split(|&byte| byte == b'\n').any(|line| line == seam);
        let end = last_lock(self.last_page());
        self.follows && self.seams.iter().map(Vec::as_slice).chain(end).all(is_shown)
    }
}

/// Where the last lock begins that begins in the first half of a page.
fn middle(page: &[u8]) -> usize {
    let (mut at, mut middle, mut before) = (0, 0, None);
    for line in page.split_inclusive(|&byte| byte == b'\n') {
        let number = lines(line).next().map(|(number, _)| number);
        if at > page.len() / 2 {
            break;
        }
        if number != before {
            (middle, before) = (at, number);
        }
        at += line.len();
    }
    middle
}

/// The first line of the last lock of a page, with its number.
fn last_lock(page: &[u8]) -> Option<&[u8]> {
    let (last, _) = lines(page).last()?;
    let mut whole = page.split(|&byte| byte == b'\n');
    whole.find(|line| lines(line).any(|(number, _)| number == last))
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
    use std::cell::{Cell, RefCell};
    use std::collections::{HashSet, VecDeque};
    use std::rc::Rc;

    use super::*;

    type Locks = VecDeque<String>;

    const PAGE: usize = 4096;

    /// `/proc/locks` as the kernel shows it, with something that happens to the locks before each read.
    struct Table {
        /// Each with the calls that wait for it, in lines.
        locks: Locks,
        happens: Box<dyn FnMut(&mut Locks)>,
    }

    struct Descriptor {
        table: Rc<RefCell<Table>>,
        at: usize,
        rest: Vec<u8>,
        /// What is shown at once. It grows for a lock that is larger, and stays so.
        page: usize,
    }

    impl Table {
        /// Gives what opens it.
        fn of(
            locks: Locks,
            happens: impl FnMut(&mut Locks) + 'static,
        ) -> impl Fn() -> io::Result<Descriptor> {
            let table = Rc::new(RefCell::new(Self { locks, happens: Box::new(happens) }));
            move || Ok(Descriptor { table: table.clone(), at: 0, rest: Vec::new(), page: PAGE })
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
                let lock = lock.lines().map(|line| format!("{}: {line}\n", self.at + 1));
                let lock: String = lock.collect();
                if page.is_empty() {
                    while self.page <= lock.len() {
                        self.page *= 2;
                    }
                } else if page.len() + lock.len() >= self.page {
                    break;
                }
                page.extend(lock.bytes());
                self.at += 1;
            }
            shown.extend(page);
            let length = shown.len().min(buffer.len());
            self.rest = shown.split_off(length);
            buffer[..length].copy_from_slice(&shown);
            Ok(length)
        }
    }

    fn one(shown: io::Result<Shown>) -> Vec<u8> {
        shown.unwrap().passes.swap_remove(0)
    }

    fn never() -> bool {
        false
    }

    fn is_shown(lines: &[u8], lock: &str) -> bool {
        let lock = lock.lines().next().unwrap();
        let lines = String::from_utf8_lossy(lines);
        lines.lines().any(|line| line.split_once(": ").is_some_and(|(_, shown)| shown == lock))
    }

    fn lock(number: u32) -> String {
        format!("FLOCK  ADVISORY  WRITE {number} fe:00:{number} 0 EOF")
    }

    fn awaited(number: u32, waiters: usize) -> String {
        let waiter = format!("\n-> {}", lock(number));
        lock(number) + &waiter.repeat(waiters)
    }

    /// In tables of many sizes one lock is held throughout, and up to twenty others come and go before it. One
    /// of all has so many waiters. Returns how often the lock is not shown.
    fn missed(
        waiters: usize,
        look: impl Fn(&dyn Fn() -> io::Result<Descriptor>) -> Vec<u8>,
    ) -> usize {
        const MOVING: u32 = 20;
        let mut random = fastrand::Rng::with_seed(7);
        let mut missed = 0;
        for size in (0..400).step_by(5).flat_map(|size| [size; 2]) {
            let held = lock(1_000_000);
            let mut locks: Locks = (0..size).map(lock).collect();
            locks.insert(random.usize(..=locks.len()), awaited(1_000_001, waiters));
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
        for waiters in [0, 8, 60] {
            assert_eq!(
                missed(waiters, |open| read(open, |_| false, never).unwrap().passes.concat()),
                0,
                "{waiters} waiters"
            );
        }
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
        assert!(missed(0, by_page) > 0, "the table of the test is not that of the kernel");
    }

    /// However many calls wait for a lock, it hides none that is behind it, and no pass is made for nothing.
    #[test]
    fn a_lock_with_many_waiters_ends_no_pass() {
        let crowds = [0, 1, 8, 20, 40, 60, 70, 80, 300, 3000];
        let sizes = (0..90).step_by(7).flat_map(|before| [0, 1, 40, 150].map(|it| (before, it)));
        for ((before, behind), waiters) in sizes.flat_map(|size| crowds.map(|it| (size, it))) {
            let mut locks: Locks = (0..before + behind).map(lock).collect();
            locks.insert(before as usize, awaited(1_000_000, waiters));
            let opened = Cell::new(0);
            let table = Table::of(locks, |_| {});
            let lines = read(
                || {
                    opened.set(opened.get() + 1);
                    table()
                },
                |_| true,
                never,
            );
            let lines = String::from_utf8(one(lines)).unwrap();
            let shown: HashSet<_> = lines.lines().collect();
            let size = (before + 1 + behind) as usize;
            let numbers: HashSet<_> =
                lines.lines().map(|line| line.split_once(':').unwrap().0).collect();
            let case = (waiters, before, behind);
            assert_eq!((numbers.len(), shown.len()), (size, size + waiters.min(1)), "{case:?}");
            let has_seam = awaited(1_000_000, waiters).len() + waiters * 8 > PAGE / 2;
            assert!(opened.get() <= if has_seam { 4 } else { 2 }, "{case:?}: {}", opened.get());
        }
    }

    /// Wherever the pass is when another lock goes.
    #[test]
    fn what_moves_up_beside_a_lock_with_many_waiters_is_shown() {
        for (waiters, before) in
            [40, 60, 70, 80, 300].into_iter().flat_map(|it| [(it, 30), (it, 100)])
        {
            for goes_at in 1..20 {
                let mut locks: Locks = (0..before + 5).map(lock).collect();
                locks.insert(before as usize, awaited(1_000_000, waiters));
                let mut reads = 0;
                let open = Table::of(locks, move |locks| {
                    reads += 1;
                    if reads == goes_at {
                        locks.pop_front();
                    }
                });
                let lines = one(read(open, |_| true, never));
                let case = (waiters, before, goes_at);
                assert!((1..before + 5).all(|number| is_shown(&lines, &lock(number))), "{case:?}");
                assert!(is_shown(&lines, &awaited(1_000_000, waiters)), "{case:?}");
            }
        }
    }

    /// What the passes before that have shown is the answer, and says that it is in doubt.
    #[test]
    fn no_pass_begins_late() {
        for most in 1..=3 {
            let opened = Rc::new(Cell::new(0));
            let (table, seen) = (Table::of((0..10).map(lock).collect(), |_| {}), opened.clone());
            let open = move || {
                seen.set(seen.get() + 1);
                table()
            };
            // Two descriptors for each pass.
            let shown = read(open, |_| false, || opened.get() == 2 * most).unwrap();
            assert_eq!((shown.passes.len(), opened.get()), (most, 2 * most));
            // The third one confirms the first for the second time.
            assert_eq!(shown.in_doubt, most < 3, "after {most}");
            assert!(shown.passes.iter().all(|lines| is_shown(lines, &lock(9))));
        }
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
        let lines = one(read(open, |_| true, never));
        assert!((200..400).all(|number| is_shown(&lines, &lock(number))));
        assert!(!is_shown(&lines, &lock(0)), "those of the first pass are gone");
    }
}
