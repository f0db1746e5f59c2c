//! A progress bar for people who watch; nothing for a pipe or a log.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::Error;
use crate::index::Index;

const PERIOD: Duration = Duration::from_millis(100);

/// Shows how much of the index is done until it is dropped.
pub(crate) struct Progress {
    shown: Option<(ProgressBar, JoinHandle<Result<(), Error>>)>,
}

impl Progress {
    pub(crate) fn start(index: Index, files: usize) -> Self {
        let shown = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(files as u64);
            (bar.clone(), tokio::spawn(watch(index, bar)))
        });
        Self { shown }
    }
}

/// Readers share the lock: watching holds up the writers, but not other watchers.
async fn watch(mut index: Index, bar: ProgressBar) -> Result<(), Error> {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        bar.set_position(index.recorded().await?);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((bar, watching)) = self.shown.take() {
            // Perhaps it waits for the lock just now. A wait can be dropped at any point.
            watching.abort();
            bar.finish_and_clear();
        }
    }
}
