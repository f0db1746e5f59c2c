//! Looks for the holders of a lock, shared by all who ask at one time.
//!
//! A crowd whose time runs out takes one thread, and so it does where the look hangs, at a server that
//! does not answer: no other one begins before it is over. Nobody holds a turn while it waits for the
//! look of another, so a future that is not polled any more keeps nobody from looking.

use std::time::Instant;

use tokio::sync::watch;

use super::Membership;
use crate::foreign;
use crate::holder::{Holder, Holders};
use crate::shim::{Arc, AtomicBool, Ordering};
use crate::wait;

#[derive(Debug)]
pub(super) struct Looks {
    is_under_way: AtomicBool,
    last: watch::Sender<Option<Look>>,
}

/// What a look showed, and when it began.
#[derive(Debug)]
struct Look {
    begun: Instant,
    seen: Holders,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self { is_under_way: AtomicBool::new(false), last: watch::Sender::new(None) }
    }
}

/// What a look shows that begins from now on: this one, on another thread, or that of somebody else.
pub(crate) async fn look_together(
    member: &Arc<Membership>,
    look: impl FnOnce() -> Vec<Holder> + Send + 'static,
) -> Holders {
    let asked = Instant::now();
    let looks = member.entry().looks();
    let mut look = Some(look);
    // Before the question whether one is under way, so that its end is not missed.
    let mut news = looks.last.subscribe();
    loop {
        // The news of an older look may come when the own one is over, and only its own news is not there.
        if look.is_some() && !looks.is_under_way.swap(true, Ordering::AcqRel) {
            let look = look.take().expect("looked at above");
            let member = member.clone();
            wait::errand(member.clone().pool(), move || {
                let begun = Instant::now();
                let seen = look().into();
                let looks = member.entry().looks();
                // First, so that whoever is told of this look can begin another one.
                looks.is_under_way.store(false, Ordering::Release);
                foreign::contained(|| looks.last.send_replace(Some(Look { begun, seen })));
            });
        }
        news.changed().await.expect("the membership keeps the sender");
        if let Some(look) = news.borrow().as_ref().filter(|look| look.begun >= asked) {
            return look.seen.clone();
        }
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::{Mutex, mpsc};
    use std::time::Duration;

    use super::*;
    use crate::holder::Source;
    use crate::mode::Mode;
    use crate::os::{Access, Protocol, Region};
    use crate::registry::{Registry, Tenure, Wanted};
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

    /// Whoever asks gives up in time, however many ask, and no more than one thread hangs there.
    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_takes_one_thread() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Arc::new(Registry::default());
        let member =
            Registry::join(&registry, &directory.path().join("lock").into(), &WANTED).unwrap();
        let begun = Arc::new(AtomicUsize::new(0));
        let (answer, answered) = mpsc::channel::<()>();
        let answered = Arc::new(Mutex::new(answered));
        let ask = || {
            let (member, begun, answered) = (member.clone(), begun.clone(), answered.clone());
            let look = move || {
                begun.fetch_add(1, Ordering::Relaxed);
                let _ = answered.lock().unwrap().recv();
                vec![Holder::new(Mode::Exclusive, false, Some(7), Source::LockTable)]
            };
            tokio::spawn(async move {
                tokio::time::timeout(Duration::from_secs(1), look_together(&member, look)).await
            })
        };
        let mut end = member.entry().looks().last.subscribe();
        for _ in 0..2 {
            let crowd: Vec<_> = (0..100).map(|_| ask()).collect();
            for asked in crowd {
                assert!(asked.await.unwrap().is_err(), "the server has answered");
            }
        }
        drop(answer);
        end.changed().await.unwrap();
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        assert_eq!(look_together(&member, Vec::new).await.len(), 0, "the look is a new one");
    }
}
