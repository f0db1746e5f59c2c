//! Ending a parked wait: an event that the wait looks at beside that of its lock call.
//!
//! Nothing of the process is taken for it, no signal and no thread. Where overlapped waits do not
//! work ([`super::overlapped`]) a wait is not interrupted; it ends when the lock arrives.

use std::time::Duration;
use std::{io, thread};

use super::event::{Event, wait_for_any};
use crate::os::Waited;

/// One wait, as seen by the thread that waits and by the threads that may end it.
#[derive(Debug)]
pub(crate) struct Interrupt {
    /// Without one, for want of memory, the wait is not interrupted.
    requested: io::Result<Event>,
}

impl Default for Interrupt {
    fn default() -> Self {
        Self { requested: Event::new() }
    }
}

impl Interrupt {
    /// Makes the wait return, if that is possible, or not begin.
    pub(crate) fn request(&self) {
        if let Ok(requested) = &self.requested {
            requested.set();
        }
    }

    pub(super) fn requested(&self) -> Option<&Event> {
        self.requested.as_ref().ok()
    }

    pub(super) fn is_requested(&self) -> bool {
        self.pause(Duration::ZERO).is_some()
    }

    /// Lets this much time pass; returns early when the end of the wait is asked for.
    pub(crate) fn pause(&self, time: Duration) -> Option<Waited> {
        match &self.requested {
            Ok(requested) => {
                let woken = wait_for_any(&[requested], Some(time));
                matches!(woken, Ok(Some(_))).then_some(Waited::Interrupted)
            }
            Err(_) => {
                thread::sleep(time);
                None
            }
        }
    }
}
