//! What an operator can watch with the feature `tracing`; without it, nothing, at no cost.
//!
//! | level | what | fields |
//! |---|---|---|
//! | WARN | event `the last holder died with the lock` | path, pid, token, program, label: of the dead holder |
//! | INFO | event `got the lock after a long wait`: a second or more | path, mode, waited |
//! | DEBUG | event `got the lock after a wait` | path, mode, waited |
//! | DEBUG | span `wait`, while a task waits | path, mode |
//! | DEBUG | span `held`, for the life of a guard | path, mode, token |
//! | TRACE | event `gave the lock back to the operating system` | device, inode, held, handovers: of the tenure |
//!
//! The target of all of them is `tokio_filelock`. Nothing is told under a mutex: a subscriber is foreign
//! code, and one that panics takes no lock away ([`foreign`](crate::foreign)).

pub(crate) use imp::{Held, Tenure, Wait};

pub(crate) const IS_ON: bool = cfg!(feature = "tracing");

#[cfg(feature = "tracing")]
mod imp {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use tracing::{Level, Span, debug, debug_span, enabled, info, trace, warn};

    use crate::foreign;
    use crate::holder::{Record, Shown};
    use crate::mode::Mode;
    use crate::os::Identity;
    use crate::shim;

    const TARGET: &str = "tokio_filelock";

    /// A request that has waited for so long had a reason to ask why.
    const LONG: Duration = Duration::from_secs(1);

    /// A task waits, from the first poll that was not enough.
    #[derive(Debug, Default)]
    pub(crate) struct Wait(Option<(Instant, Span)>);

    impl Wait {
        /// Does nothing if it has begun.
        pub(crate) fn begin<'a>(&mut self, path: impl FnOnce() -> &'a Path, mode: Mode) {
            self.0.get_or_insert_with(|| {
                let path = Shown::path(path());
                let span = span(|| debug_span!(target: TARGET, "wait", %path, ?mode));
                (shim::now(), span)
            });
        }

        /// The lock is there.
        pub(crate) fn end<'a>(&mut self, path: impl FnOnce() -> &'a Path, mode: Mode) {
            let Some((since, span)) = self.0.take() else { return };
            let waited = shim::now().saturating_duration_since(since);
            let path = Shown::path(path());
            foreign::contained(move || {
                span.in_scope(|| {
                    if waited >= LONG {
                        info!(target: TARGET, %path, ?mode, ?waited, "got the lock after a long wait");
                    } else {
                        debug!(target: TARGET, %path, ?mode, ?waited, "got the lock after a wait");
                    }
                });
            });
        }
    }

    impl Drop for Wait {
        fn drop(&mut self) {
            foreign::let_go(self.0.take());
        }
    }

    fn span(enter: impl FnOnce() -> Span) -> Span {
        foreign::contained(enter).unwrap_or_else(Span::none)
    }

    /// A guard is alive.
    #[derive(Debug)]
    pub(crate) struct Held(Option<Span>);

    impl Held {
        pub(crate) fn begin<'a>(
            path: impl FnOnce() -> &'a Path,
            mode: Mode,
            token: Option<u64>,
            abandoned: Option<&Record>,
        ) -> Self {
            let path = Shown::path(path());
            if let Some(dead) = abandoned {
                let (pid, token) = (dead.pid(), dead.token());
                let (program, label) = (dead.program(), dead.label());
                foreign::contained(|| {
                    warn!(
                        target: TARGET, %path, pid, token, program, label,
                        "the last holder died with the lock"
                    );
                });
            }
            Self(Some(span(|| debug_span!(target: TARGET, "held", %path, ?mode, token))))
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            foreign::let_go(self.0.take());
        }
    }

    /// The process has the OS lock.
    #[derive(Debug)]
    pub(crate) struct Tenure {
        since: Instant,
    }

    impl Tenure {
        /// `None` if no subscriber watches.
        pub(crate) fn begin() -> Option<Self> {
            let is_watched = foreign::contained(|| enabled!(target: TARGET, Level::TRACE));
            is_watched.unwrap_or(false).then(|| Self { since: shim::now() })
        }

        pub(crate) fn end(self, file: Identity, handovers: u64) {
            let Identity { device, inode } = file;
            let held = shim::now().saturating_duration_since(self.since);
            foreign::contained(|| {
                trace!(
                    target: TARGET, device, inode, ?held, handovers,
                    "gave the lock back to the operating system"
                );
            });
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod imp {
    use std::path::Path;

    use crate::holder::Record;
    use crate::mode::Mode;
    use crate::os::Identity;

    #[derive(Debug, Default)]
    pub(crate) struct Wait(());

    impl Wait {
        pub(crate) fn begin<'a>(&mut self, _path: impl FnOnce() -> &'a Path, _mode: Mode) {}
        pub(crate) fn end<'a>(&mut self, _path: impl FnOnce() -> &'a Path, _mode: Mode) {}
    }

    #[derive(Debug)]
    pub(crate) struct Held;

    impl Held {
        pub(crate) fn begin<'a>(
            _path: impl FnOnce() -> &'a Path,
            _mode: Mode,
            _token: Option<u64>,
            _abandoned: Option<&Record>,
        ) -> Self {
            Self
        }
    }

    #[derive(Debug)]
    pub(crate) enum Tenure {}

    impl Tenure {
        pub(crate) fn begin() -> Option<Self> {
            None
        }

        pub(crate) fn end(self, _file: Identity, _handovers: u64) {
            match self {}
        }
    }
}
