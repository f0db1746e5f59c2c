//! Queries for the holders of a lock, shared by all tasks that ask at one time.
//!
//! A crowd whose time runs out takes one thread, and so it does where the query hangs, at a server that
//! does not answer: no other one begins before it is over. No task holds a turn while it waits for the
//! query of another, so a future that is not polled any more keeps no other task from asking.

use std::sync::OnceLock;
use std::time::Instant;

use tokio::sync::watch;

use super::Registration;
use crate::foreign;
use crate::holder::{Holder, Holders};
use crate::shim::{Arc, AtomicBool, Ordering};

/// Made by the first query: most locks are never asked for.
#[derive(Debug)]
pub(super) struct Queries(OnceLock<Shared>);

#[derive(Debug)]
struct Shared {
    is_under_way: AtomicBool,
    last: watch::Sender<Option<Query>>,
}

/// What a query showed, and when it began.
#[derive(Debug)]
struct Query {
    begun: Instant,
    seen: Holders,
}

impl Query {
    /// Takes the place of the last one, unless that is newer: it may have ended first, before its task was told.
    fn replace(self, last: &mut Option<Self>) -> bool {
        let is_news = last.as_ref().is_none_or(|last| last.begun <= self.begun);
        if is_news {
            *last = Some(self);
        }
        is_news
    }
}

impl Queries {
    pub(super) fn new() -> Self {
        Self(OnceLock::new())
    }

    fn shared(&self) -> &Shared {
        self.0.get_or_init(|| Shared {
            is_under_way: AtomicBool::new(false),
            last: watch::Sender::new(None),
        })
    }
}

/// What a query shows that begins from now on: this one, on another thread, or that of another task.
pub(crate) async fn query_together(
    registration: &Arc<Registration>,
    query: impl FnOnce() -> Vec<Holder> + Send + 'static,
) -> Holders {
    let asked = Instant::now();
    let queries = registration.driver().queries.shared();
    let mut query = Some(query);
    // Before the question whether one is under way, so that its end is not missed.
    let mut news = queries.last.subscribe();
    loop {
        // The news of an older query may come when the own one is over, and only its own news is not there.
        if query.is_some() && !queries.is_under_way.swap(true, Ordering::AcqRel) {
            let query = query.take().expect("looked at above");
            let registration = registration.clone();
            registration.clone().engine().run(Box::new(move || {
                let begun = Instant::now();
                let seen = query().into();
                let queries = registration.driver().queries.shared();
                // First, so that a task that is told of this query can begin another one.
                queries.is_under_way.store(false, Ordering::Release);
                let query = Query { begun, seen };
                foreign::contained(|| queries.last.send_if_modified(|last| query.replace(last)));
            }));
        }
        news.changed().await.expect("the registration keeps the sender");
        if let Some(query) = news.borrow().as_ref().filter(|query| query.begun >= asked) {
            return query.seen.clone();
        }
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::{Mutex, mpsc};
    use std::time::Duration;

    use super::*;
    use crate::driver::Tenure;
    use crate::engine::file::{Registry, Wanted};
    use crate::holder::Source;
    use crate::mode::Mode;
    use crate::os::{Access, Protocol, Region};
    use crate::wait::WaitOn;

    const WANTED: Wanted = Wanted {
        record: None,
        label: None,
        this_machine_only: false,
        protocol: Protocol::Flock,
        region: Region::ONLY,
        access: Access { create: true, mode: None, read_only: false, in_use: false, patient: true },
        wait_on: WaitOn::WaitPool,
        tenure: Tenure { handovers: 0, time: Duration::ZERO },
    };

    #[test]
    fn an_older_query_that_ends_later_is_no_news() {
        let at = |begun| Query { begun, seen: Holders::default() };
        let (older, newer) = (Instant::now(), Instant::now() + Duration::from_nanos(1));
        let mut last = None;
        assert!(at(newer).replace(&mut last) && !at(older).replace(&mut last));
        assert_eq!(last.as_ref().unwrap().begun, newer);
        assert!(at(newer).replace(&mut last), "the same moment");
    }

    /// All tasks that ask give up in time, however many they are, and no more than one thread hangs there.
    #[tokio::test]
    async fn a_query_that_hangs_takes_one_thread() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Arc::new(Registry::default());
        let member =
            Registry::join(&registry, &directory.path().join("lock").into(), &WANTED).unwrap();
        let begun = Arc::new(AtomicUsize::new(0));
        let (answer, answered) = mpsc::channel::<()>();
        let answered = Arc::new(Mutex::new(answered));
        let ask = || {
            let (member, begun, answered) = (member.clone(), begun.clone(), answered.clone());
            let query = move || {
                begun.fetch_add(1, Ordering::Relaxed);
                let _ = answered.lock().unwrap().recv();
                vec![Holder::new(Mode::Exclusive, false, Some(7), Source::LockTable)]
            };
            tokio::spawn(async move {
                tokio::time::timeout(Duration::from_millis(10), query_together(&member, query))
                    .await
            })
        };
        let mut end = member.driver().queries.shared().last.subscribe();
        for _ in 0..2 {
            let crowd: Vec<_> = (0..100).map(|_| ask()).collect();
            for asked in crowd {
                assert!(asked.await.unwrap().is_err(), "the server has answered");
            }
        }
        drop(answer);
        end.changed().await.unwrap();
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        assert_eq!(query_together(&member, Vec::new).await.len(), 0, "the query is a new one");
    }
}
