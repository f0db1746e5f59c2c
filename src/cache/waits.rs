//! How long a handle waits for the locks of others, and whom it tells meanwhile.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::lock::{Acquire, ExclusiveGuard, FileLock, Guard, SharedGuard, Waiting};

type Tell = Arc<dyn Fn(&Waiting<'_>) + Send + Sync>;

#[derive(Clone, Default)]
pub(super) struct Waits {
    pub(super) limit: Option<Duration>,
    pub(super) tell: Option<(Duration, Tell)>,
}

impl Waits {
    /// No limit, and no caller to be told.
    pub(super) fn are_plain(&self) -> bool {
        self.limit.is_none() && self.tell.is_none()
    }

    pub(super) async fn lock(&self, lock: &FileLock) -> Result<ExclusiveGuard, Error> {
        self.wait(lock.lock()).await
    }

    pub(super) async fn lock_shared(&self, lock: &FileLock) -> Result<SharedGuard, Error> {
        self.wait(lock.lock_shared()).await
    }

    async fn wait<G: Guard>(&self, mut acquire: Acquire<G>) -> Result<G, Error> {
        if let Some(limit) = self.limit {
            acquire = acquire.timeout(limit);
        }
        if let Some((after, tell)) = self.tell.clone() {
            acquire = acquire.on_wait(after, move |waiting| tell(waiting));
        }
        acquire.await
    }
}

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waits").field("limit", &self.limit).finish_non_exhaustive()
    }
}
