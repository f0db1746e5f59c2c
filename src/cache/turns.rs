//! Turns among the tasks of this process, where no lock of a file orders them.
//!
//! Where a turn ends the next task is woken; also where a task stops waiting whose turn it was. Its waker is foreign
//! code, and what that does must not come to the task that gives its turn up. So all that may wake is let
//! go of as what is foreign.

use std::future::{Future, poll_fn};
use std::sync::{Arc, OnceLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::foreign;

#[derive(Debug)]
pub(super) struct Turns(Arc<Semaphore>);

/// Until it is dropped another task may have to wait.
#[derive(Debug)]
pub(super) struct Turn(#[allow(dead_code)] LetGo<OwnedSemaphorePermit>); // held

impl Turns {
    /// For so many at once.
    pub(super) fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }

    /// First come, first served.
    pub(super) async fn turn(&self) -> Turn {
        let mut waiting = LetGo(Some(Box::pin(self.0.clone().acquire_owned())));
        let turn = poll_fn(|cx| waiting.0.as_mut().expect("not dropped").as_mut().poll(cx)).await;
        Turn(LetGo(Some(turn.expect("never closed"))))
    }
}

#[derive(Debug)]
struct LetGo<T>(Option<T>);

impl<T> Drop for LetGo<T> {
    fn drop(&mut self) {
        foreign::let_go(self.0.take());
    }
}

/// What is opened when it is needed first, by one task; others wait for that.
#[derive(Debug)]
pub(super) struct Opened<T> {
    opened: OnceLock<T>,
    opening: Turns,
}

impl<T> Opened<T> {
    pub(super) fn get(&self) -> Option<&T> {
        self.opened.get()
    }

    pub(super) async fn get_or_open<E>(
        &self,
        open: impl Future<Output = Result<T, E>>,
    ) -> Result<&T, E> {
        if let Some(opened) = self.get() {
            return Ok(opened);
        }
        let _turn = self.opening.turn().await;
        if let Some(opened) = self.get() {
            return Ok(opened);
        }
        let opened = open.await?;
        Ok(self.opened.get_or_init(|| opened))
    }
}

impl<T> Default for Opened<T> {
    fn default() -> Self {
        Self { opened: OnceLock::new(), opening: Turns::new(1) }
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;

    /// Of a task that panics where it is woken.
    #[derive(Default)]
    struct Panics(AtomicU32);

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
            panic!("a foreign waker");
        }
    }

    #[test]
    fn so_many_at_once_and_no_more() {
        let turns = Turns::new(2);
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(turns.turn())).collect();
        let mut had: Vec<_> =
            waiting.iter_mut().map(|turn| turn.as_mut().poll(&mut context)).collect();
        let are_had: Vec<_> = had.iter().map(Poll::is_ready).collect();
        assert_eq!(are_had, [true, true, false, false]);
        drop(had.remove(0));
        assert!(waiting[3].as_mut().poll(&mut context).is_pending(), "first come, first served");
        assert!(waiting[2].as_mut().poll(&mut context).is_ready());
    }

    /// A turn that ends, and one that was had and not seen.
    #[test]
    fn the_waker_of_the_next_one_does_not_panic_in_who_gives_its_turn_up() {
        let turns = Turns::new(1);
        let waker = Arc::new(Panics::default());
        let mut plain = Context::from_waker(Waker::noop());
        let Poll::Ready(first) = pin!(turns.turn()).poll(&mut plain) else { panic!("free") };
        let mut second = Box::pin(turns.turn());
        assert!(second.as_mut().poll(&mut plain).is_pending());
        let mut third = Box::pin(turns.turn());
        let foreign = Waker::from(waker.clone());
        assert!(third.as_mut().poll(&mut Context::from_waker(&foreign)).is_pending());
        drop(first);
        assert_eq!(waker.0.load(Ordering::Relaxed), 0);
        drop(second);
        assert_eq!(waker.0.load(Ordering::Relaxed), 1);
        assert!(third.as_mut().poll(&mut plain).is_ready());
    }

    #[test]
    fn what_cannot_be_opened_is_opened_by_the_next_one() {
        let opened = Opened::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut failing = Box::pin(opened.get_or_open(async { Err::<u32, _>("no") }));
        assert_eq!(failing.as_mut().poll(&mut context), Poll::Ready(Err("no")));
        let mut opening = Box::pin(opened.get_or_open(async { Ok::<_, &str>(1) }));
        assert_eq!(opening.as_mut().poll(&mut context), Poll::Ready(Ok(&1)));
        let mut never = Box::pin(opened.get_or_open(async { panic!("it is open") }));
        assert_eq!(never.as_mut().poll(&mut context), Poll::Ready(Ok::<_, &str>(&1)));
    }
}
