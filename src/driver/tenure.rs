//! How long a process keeps the OS lock for tasks of its own.

use std::time::Duration;

/// When a process gives the lock of the operating system back although more of its own tasks wait
/// for it.
///
/// Within a tenure the lock goes from task to task without a system call. A tenure ends at the
/// next release
/// - when another process that uses this crate waits, which is looked for every 16 handovers, if
///   those take 50 µs, and every millisecond;
/// - after so many [`handovers`](Tenure::handovers);
/// - when the tasks of the process have handed over among themselves for so long a
///   [`time`](Tenure::time): then the process backs off for 100 µs, so that programs that know
///   nothing of turns get in.
///
/// Shared requests join the shared holders whatever the bounds, until another process is
/// seen to wait. A tenure also ends, whatever the bounds, when no task of the process waits any more.
/// docs/FAIRNESS.md says which programs are promised what.
///
/// Handles of one file share the tenure: the strictest bounds count, for as long as the process has
/// the file open.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tokio_filelock::{FileLock, Tenure};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("app.lock");
/// let tenure = Tenure::default().handovers(16).time(Duration::from_millis(2));
/// let lock = FileLock::options().tenure(tenure).open(&path).await?;
/// # drop(lock);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a tenure does nothing until it is given to OpenOptions::tenure"]
pub struct Tenure {
    pub(super) handovers: u32,
    pub(super) time: Duration,
}

impl Tenure {
    /// The lock of the operating system is given back after every guard, or group of shared guards
    /// that entered together.
    pub fn single() -> Self {
        Self { handovers: 0, ..Self::default() }
    }

    /// The most handovers in a tenure; 1,024 by default.
    pub fn handovers(mut self, most: u32) -> Self {
        self.handovers = most;
        self
    }

    /// The longest time of handing over, measured from the first contended release; 10 ms by
    /// default. The guard that is held when it is up is not hurried.
    pub fn time(mut self, longest: Duration) -> Self {
        self.time = longest;
        self
    }
}

impl Default for Tenure {
    fn default() -> Self {
        Self { handovers: 1024, time: Duration::from_millis(10) }
    }
}
