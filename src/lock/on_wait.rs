//! Telling while a task waits for a lock: for how long by now, and which processes hold it.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::FileLock;
use crate::driver::Key;
use crate::holder::{HeldBy, Holder, Holders, Lasting, Shown};
use crate::wait::timer::{self, Sleep};

/// How often the holders are asked for.
const QUERY_EVERY: Duration = Duration::from_secs(1);

/// A wait that lasts; given to the function of [`Acquire::on_wait`](crate::Acquire::on_wait).
///
/// Its text is a sentence: ``waiting for `/var/cache/index.lock` for 5 s: held by cargo (pid 4242)``.
#[derive(Debug)]
pub struct Waiting<'a> {
    path: &'a Path,
    key: Option<String>,
    waited: Duration,
    holders: &'a [Holder],
}

impl Waiting<'_> {
    /// The lock file, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.path
    }

    /// How long the lock has been waited for.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Who holds the lock, and who waits for it in the kernel, as
    /// [`FileLock::holders`](crate::FileLock::holders) gives. Empty if it could not be found out
    /// within 250 ms.
    #[must_use]
    pub fn holders(&self) -> &[Holder] {
        self.holders
    }
}

impl fmt::Display for Waiting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, key, waited, holders } = self;
        f.write_str("waiting for ")?;
        if let Some(key) = key {
            write!(f, "key `{key}` of ")?;
        }
        write!(f, "`{}` for {}: ", Shown::path(path), Lasting(*waited))?;
        HeldBy(holders).fmt(f)
    }
}

/// Looks from time to time, and tells what is new.
pub(super) struct OnWait {
    after: Duration,
    tell: Box<dyn FnMut(&Waiting<'_>) + Send + Sync>,
    /// Set at the first poll.
    since: Option<Instant>,
    step: Step,
    told: Option<Holders>,
}

enum Step {
    Start,
    Sleeping(Pin<Box<Sleep>>),
    Asking(Pin<Box<dyn Future<Output = Holders> + Send + Sync>>),
}

impl OnWait {
    pub(super) fn new(
        after: Duration,
        tell: impl FnMut(&Waiting<'_>) + Send + Sync + 'static,
    ) -> Self {
        Self { after, tell: Box::new(tell), since: None, step: Step::Start, told: None }
    }

    /// Looked for at the first poll, contended or not, as that of a limit.
    ///
    /// # Panics
    ///
    /// There is no timer.
    pub(super) fn start_timer(&mut self) {
        if let Step::Start = self.step {
            self.since = Some(Instant::now());
            self.step = Step::Sleeping(Box::pin(timer::sleep(self.after)));
        }
    }

    /// The lock is still waited for. Has the task woken when there may be something to tell.
    pub(super) fn poll(&mut self, lock: &FileLock, cx: &mut Context<'_>) {
        self.start_timer();
        let since = self.since.expect("set with the timer");
        loop {
            match &mut self.step {
                Step::Start => unreachable!("started above"),
                Step::Sleeping(sleep) => match sleep.as_mut().poll(cx) {
                    Poll::Ready(()) => {
                        self.step = Step::Asking(Box::pin(lock.clone().query_holders()))
                    }
                    Poll::Pending => return,
                },
                Step::Asking(query) => {
                    let Poll::Ready(holders) = query.as_mut().poll(cx) else { return };
                    // The function may panic: the query is not to be polled again.
                    self.step = Step::Sleeping(Box::pin(timer::sleep_again(QUERY_EVERY)));
                    if self.told.as_ref().is_none_or(|told| have_changed(told, &holders)) {
                        let (path, waited) = (lock.path(), since.elapsed());
                        let key = lock.handle.origin().key().map(Key::text);
                        self.told = Some(holders.clone());
                        (self.tell)(&Waiting { path, key, waited, holders: &holders });
                    }
                }
            }
        }
    }
}

/// Other processes are seen to hold the lock now. Waiters do not count, and neither does the time
/// since when it is held.
fn have_changed(before: &[Holder], now: &[Holder]) -> bool {
    let holding = |holders: &[Holder]| {
        let holding = holders.iter().filter(|holder| !holder.is_waiting());
        let mut holding: Vec<_> = holding
            .map(|holder| {
                let pid = holder.pid.or(holder.claimed);
                (pid, holder.elsewhere.clone(), holder.label.clone())
            })
            .collect();
        holding.sort();
        holding
    };
    let now = holding(now);
    !now.is_empty() && holding(before) != now
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holder::Source;
    use crate::mode::Mode;

    #[test]
    fn only_other_holders_are_news() {
        let by = |pid, waits| Holder::new(Mode::Exclusive, waits, Some(pid), Source::LockTable);
        let seven = [by(7, false)];
        let table: [(&[Holder], bool); 5] = [
            (&[by(7, false)], false),
            (&[by(8, false)], true),
            (&[by(8, true), by(7, false)], false),
            // On its way from one to the next, or the look came to nothing.
            (&[by(8, true)], false),
            (&[], false),
        ];
        for (now, expected) in table {
            assert_eq!(have_changed(&seven, now), expected, "{now:?}");
        }
        assert!(have_changed(&[], &seven));
    }
}
