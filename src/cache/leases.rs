//! Waiting for another process to give a lease back (`F_SETLEASE`: Samba, NFS servers).
//!
//! Opening a file without waiting fails until then, and nothing tells when it is over: so it is tried again
//! after a moment. One thread keeps the time for all who wait, and few look at once.

use std::mem;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::turns::{Turn, Turns};
use crate::foreign;
use crate::process;
use crate::shim::{Arc, Mutex};

/// The kernel takes a lease away after 45 s (proc_sys_fs(5), `lease-break-time`).
pub(super) const LEASES_END: Duration = Duration::from_secs(90);

const MOMENT: Duration = Duration::from_millis(5);
const MOST_MOMENTS: u32 = 20;

const LOOKS_AT_ONCE: usize = 4;

#[derive(Debug)]
pub(super) struct Leases {
    waiting: Arc<Mutex<Vec<oneshot::Sender<()>>>>,
    looks: Turns,
}

impl Leases {
    /// Waits for some moments, more from round to round, and for a turn to look again.
    pub(super) async fn look_again(&self, round: u32) -> Turn {
        for _ in 0..round.clamp(1, MOST_MOMENTS) {
            self.moment().await;
        }
        self.looks.turn().await
    }

    async fn moment(&self) {
        let (tell, told) = oneshot::channel();
        let is_first = {
            let mut waiting = self.waiting.lock();
            waiting.push(tell);
            waiting.len() == 1
        };
        if is_first {
            let waiting = self.waiting.clone();
            process::pool().spawn(move || {
                thread::sleep(MOMENT);
                let waiting = mem::take(&mut *waiting.lock());
                for tell in waiting {
                    // Wakes the task.
                    foreign::contained(|| tell.send(()).is_ok());
                }
            });
        }
        // It is told, or the process ends.
        let _ = told.await;
    }
}

impl Default for Leases {
    fn default() -> Self {
        Self { waiting: Arc::default(), looks: Turns::new(LOOKS_AT_ONCE) }
    }
}
