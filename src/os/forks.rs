//! No child keeps a descriptor that it cannot know: opening beside forks.
//!
//! A descriptor exists from the moment it is opened, and a forked child lets go of it if it is listed.
//! A fork between the two leaves the child a descriptor that it will never close. No mutex can keep them
//! apart: an open that hangs on a server would then hang every fork of the program. So forks are counted
//! when they begin and when they have ended in the parent, and each open makes sure afterwards that none
//! was under way:
//!
//! 1. it waits until no fork is under way, and reads how many have begun;
//! 2. it opens the file and lists the descriptor;
//! 3. if a fork has begun since 1, it opens anew, and closes this descriptor, whatever the child has of it. With
//!    POSIX record locks it is kept: to close it would release the locks of other open files.
//!
//! Why that is enough. Let a child have the descriptor and not the listing; then it was copied after the
//! open and before the listing of 2. Its fork had not ended before the open, so it was under way in 1 if it had
//! begun there: it is counted as under way before it is counted as begun. So it is counted as begun
//! after 1, and before the copy. The fences order the count before the copy, and the listing before the
//! look of 3: if the copy has missed the listing, the look cannot miss the count. The child keeps a
//! descriptor that carries no lock and never will. That this is rare is a courtesy: a fork that finds
//! opens under way waits some milliseconds for them. Nothing rests on that.
//!
//! The other way round a fork may copy a descriptor, and the list after the descriptor was closed and taken off: a
//! fork copies the descriptors first, and the memory with the list takes it a while. So what is closed stays in the list
//! until no fork is under way ([`Forks::are_over`]). The child closes a number only if it stands for the file.
//!
//! Step 1 has a limit, and so has the number of rounds: a fork can be held up by whatever other libraries do
//! in their handlers, and one of them may wait for the very thread that opens. When the time is up the
//! descriptor is used as it is; at worst a child keeps it, and the lock if the parent dies.
//!
//! No count is ever below zero, whatever comes in an order that is none: a signal handler that forks in the middle
//! of an open, and returns in the child, which goes on with the parent's open; a fork whose beginning was not
//! counted.

use std::time::Duration;

use crate::shim::{self, AtomicUsize, Ordering, fence};

/// After this time an open does not wait for forks any longer. Copying a process of some gigabytes takes
/// some tens of milliseconds.
const LIMIT: Duration = Duration::from_secs(1);

/// The pauses while a fork is under way.
const PAUSE: Duration = Duration::from_micros(50);

/// So long a fork waits for opens that are under way.
const COURTESY: Duration = Duration::from_millis(5);

/// The forks of this process. All zeros is a process without any.
#[derive(Debug)]
pub(super) struct Forks {
    begun: AtomicUsize,
    /// Of those that have begun.
    under_way: AtomicUsize,
    /// How many threads are in step 2.
    opening: AtomicUsize,
}

impl Forks {
    #[cfg(not(all(test, tokio_filelock_loom)))]
    pub(super) const fn new() -> Self {
        let [begun, under_way, opening] = [const { AtomicUsize::new(0) }; 3];
        Self { begun, under_way, opening }
    }

    #[cfg(all(test, tokio_filelock_loom))]
    pub(super) fn new() -> Self {
        let [begun, under_way, opening] = [(); 3].map(|()| AtomicUsize::new(0));
        Self { begun, under_way, opening }
    }

    /// A fork is about to copy the process.
    pub(super) fn begin(&self) -> usize {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let number = self.begun.fetch_add(1, Ordering::Release) + 1;
        fence(Ordering::SeqCst);
        let mut since = None;
        while self.opening.load(Ordering::Relaxed) > 0 {
            let now = shim::now();
            if now.saturating_duration_since(*since.get_or_insert(now)) >= COURTESY {
                break;
            }
            shim::pause(PAUSE);
        }
        number
    }

    pub(super) fn begun(&self) -> usize {
        self.begun.load(Ordering::Acquire)
    }

    /// A fork that has begun has copied the process, or failed to.
    pub(super) fn end(&self) {
        count_down(&self.under_way);
    }

    /// This is the child: the forks and the opens of the parent are none of its own.
    pub(super) fn forget(&self) {
        self.under_way.store(0, Ordering::Relaxed);
        self.opening.store(0, Ordering::Relaxed);
    }

    /// How many forks there have been, unless one is under way.
    fn at_rest(&self) -> Option<usize> {
        // In this order: one that is among those that have begun and is not under way has ended.
        let begun = self.begun.load(Ordering::Acquire);
        (self.under_way.load(Ordering::Acquire) == 0).then_some(begun)
    }

    /// No fork is under way that began before this call.
    pub(super) fn are_over(&self) -> bool {
        fence(Ordering::SeqCst);
        self.at_rest().is_some()
    }

    /// Opens and lists, and does both again if a fork has come in between, with what was opened before.
    pub(super) fn open_unseen<T, E>(
        &self,
        mut open_and_list: impl FnMut(Option<T>) -> Result<T, E>,
    ) -> Result<T, E> {
        let since = shim::now();
        let is_late = || shim::now().saturating_duration_since(since) >= LIMIT;
        let mut earlier = None;
        loop {
            let before = loop {
                match self.at_rest() {
                    None if !is_late() => shim::pause(PAUSE),
                    at_rest => break at_rest,
                }
            };
            self.opening.fetch_add(1, Ordering::Relaxed);
            let opened = open_and_list(earlier.take());
            count_down(&self.opening);
            let opened = opened?;
            fence(Ordering::SeqCst);
            if before == Some(self.begun.load(Ordering::Relaxed)) || is_late() {
                return Ok(opened);
            }
            earlier = Some(opened);
        }
    }
}

fn count_down(count: &AtomicUsize) {
    let less = |count: usize| count.checked_sub(1);
    let _ = count.fetch_update(Ordering::Release, Ordering::Relaxed, less);
}

#[cfg(test)]
mod models {
    #[cfg(tokio_filelock_loom)]
    use loom::thread::spawn;
    #[cfg(not(tokio_filelock_loom))]
    use std::thread::spawn;

    use super::*;
    use crate::shim::{Arc, AtomicBool, Mutex, model};

    /// What a fork copies: first the descriptors, then the memory with the list.
    #[derive(Debug)]
    struct Process {
        forks: Forks,
        /// Which descriptors are open; the kernel's own table, under its lock.
        open: Mutex<Vec<usize>>,
        listed: [AtomicBool; 2],
    }

    impl Process {
        /// Returns what the child keeps.
        fn fork(&self) -> Vec<usize> {
            self.forks.begin();
            let open = self.open.lock().clone();
            let kept = open.into_iter().filter(|&at| !self.listed[at].load(Ordering::Relaxed));
            let kept = kept.collect();
            self.forks.end();
            kept
        }
    }

    #[test]
    fn fork_in_the_middle_of_an_open() {
        model("fork_in_the_middle_of_an_open", None, || {
            let process = Arc::new(Process {
                forks: Forks::new(),
                open: Mutex::default(),
                listed: [AtomicBool::new(false), AtomicBool::new(false)],
            });
            let forking = process.clone();
            let fork = spawn(move || forking.fork());
            let mut opens = 0;
            let used = process.forks.open_unseen(|_| {
                let at = opens;
                opens += 1;
                process.open.lock().push(at);
                process.listed[at].store(true, Ordering::Relaxed);
                Ok::<_, ()>(at)
            });
            let kept = fork.join().unwrap();
            assert!(!kept.contains(&used.unwrap()), "the child has it and cannot know");
        });
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    /// A fork that never ends, as one whose handlers wait for the thread that opens.
    #[test]
    fn a_fork_that_does_not_end_holds_an_open_up_for_a_while_only() {
        let forks = Forks::new();
        forks.begin();
        assert_eq!(forks.open_unseen(|_| Ok::<_, ()>(1)), Ok(1));
        forks.end();
        assert!(forks.at_rest().is_some());
    }

    #[test]
    fn a_fork_during_the_open_makes_it_anew() {
        let forks = Forks::new();
        let mut opens = 0;
        let opened = forks.open_unseen(|earlier| {
            opens += 1;
            assert_eq!(earlier, (opens == 2).then_some(1));
            if opens == 1 {
                forks.begin();
                forks.end();
            }
            Ok::<_, ()>(opens)
        });
        assert_eq!(opened, Ok(2));
    }

    #[test]
    fn a_child_has_no_forks_under_way() {
        let forks = Forks::new();
        forks.begin();
        forks.begin();
        forks.forget();
        assert_eq!(forks.at_rest(), Some(2));
    }

    /// One that began before the handlers were set up, and ended after that.
    #[test]
    fn an_end_without_a_beginning_stands_for_no_other_fork() {
        let forks = Forks::new();
        forks.end();
        forks.begin();
        assert_eq!(forks.at_rest(), None, "one is under way");
        forks.end();
        assert_eq!(forks.at_rest(), Some(1));
    }

    /// As in a signal handler that forks, and returns in the child.
    #[test]
    fn an_open_of_the_parent_that_ends_in_the_child_is_not_counted_there() {
        let forks = Forks::new();
        let opened = forks.open_unseen(|_| {
            forks.begin();
            forks.forget();
            Ok::<_, ()>(forks.opening.load(Ordering::Relaxed))
        });
        assert_eq!(opened, Ok(0));
        assert_eq!(forks.opening.load(Ordering::Relaxed), 0);
    }
}
