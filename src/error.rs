//! Errors: opaque, with accessors, and a sentence that a tired operator can act on.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::holder::{HeldBy, Holder, Holders, Lasting, Shown};

/// Why a lock file could not be opened, locked or unlocked.
///
/// The message says what was tried on which path, what came of it, and what can be done about
/// it, in one line; letters that move a terminal or are not seen are escaped. The kind is for programs,
/// [`os_error`](Error::os_error) is the error of the operating system where there is one. The message has
/// its text, so [`source`](std::error::Error::source) does not give it once more.
///
/// # Examples
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// use tokio_filelock::{ErrorKind, FileLock};
///
/// let error = FileLock::open("/no/such/directory/app.lock").await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Io);
/// assert_eq!(error.path(), std::path::Path::new("/no/such/directory/app.lock"));
/// assert!(error.to_string().starts_with("could not open lock file `/no/such/directory/app.lock`"));
/// # });
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    operation: Operation,
    /// Shared with the handle: a refused try is to cost little.
    path: Arc<Path>,
    /// Which of the locks in the file, if there are several; as text.
    key: Option<String>,
    /// What came of it, where the source does not say it already.
    detail: Option<String>,
    source: Option<io::Error>,
    holders: Holders,
}

/// What kind of failure an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The time given with [`Acquire::timeout`](crate::Acquire::timeout) or
    /// [`Acquire::deadline`](crate::Acquire::deadline) ran out.
    TimedOut,
    /// Another task or process holds the lock, or waits for it, and the call does not wait.
    WouldBlock,
    /// An option that makes no sense, as it stands or together with another one.
    InvalidInput,
    /// The file system does not implement this kind of lock (`ENOSYS`, `EOPNOTSUPP`, `ENOTSUPP`,
    /// `EINVAL`, `EOVERFLOW`; see the ERRORS of flock(2) and fcntl(2)), or is known to exclude the programs of
    /// this machine only ([`OpenOptions::this_machine_only`](crate::OpenOptions::this_machine_only)).
    Unsupported,
    /// The lock service of a network file system does not answer, or the kernel is out of lock
    /// records (`ENOLCK`).
    LockServiceUnavailable,
    /// The lock needs another access to the file than the descriptor has (`EBADF`): an exclusive
    /// lock of most kinds needs write permission.
    WrongAccess,
    /// Something in this machine refuses the lock call itself, held or free: a security module
    /// (AppArmor without `k`, SELinux without `lock`) or a sandbox's filter (seccomp): `EACCES` where
    /// the file system does not say so of a lock that is held, `EPERM`, or `EAGAIN` from a call that waits.
    PermissionDenied,
    /// A server answers a try with `EDEADLK`, or a fill of a [`CacheDir`](crate::CacheDir) asks for its own
    /// key. (Answered to a wait `EDEADLK` means that the lock is held: an NFS server sees circles of waiting
    /// hosts that are none, so the wait goes on. Tasks that wait for each other in a circle do so for ever;
    /// see [`lock_all`](crate::lock_all).)
    Deadlock,
    /// The lock file was removed or replaced again and again, or once and may not be created; or it is to be
    /// removed, and its path leads to another one.
    Replaced,
    /// The lock file is to be removed, and there is something in it: a record, whose token would begin anew, or
    /// what is no lock file.
    NotEmpty,
    /// The lock file is to be removed, and has another name as well.
    Linked,
    /// This process has the file open for locks of another [`Protocol`](crate::Protocol).
    ProtocolMismatch,
    /// Another process holds the lock, and there is no thread to wait for it on: the process may not have
    /// another one. Tasks of this process hand the lock on without, and what ends by itself is done on
    /// the thread that asks.
    NoThread,
    /// The handle or guard belongs to a process that this one was forked from.
    Forked,
    /// Other code of this process closed the descriptor of the lock file, or gave its number to another
    /// file (`close_range`, `closefrom`, `dup2`): the locks that were held through it are gone. Told
    /// once; the next lock opens the file anew.
    ForeignDescriptor,
    /// Something that is not a regular file stands in place of the lock file, or of a cached value.
    NotAFile,
    /// Any other error of the operating system; it is the source of this one.
    Io,
}

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Open,
    LockExclusive,
    LockShared,
    Unlock,
    RemoveFile,
    RemoveUnused,
    FindHolders,
    OpenCache,
    ChangeCache,
    ClearCache,
    PruneCache,
    ListCache,
    ReadValue,
    CopyValue,
    ReadInput,
    StoreValue,
    RemoveValue,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Open => "open lock file",
            Operation::LockExclusive => "lock",
            Operation::LockShared => "lock (shared)",
            Operation::Unlock => "unlock",
            Operation::RemoveFile => "remove lock file",
            Operation::RemoveUnused => "remove unused lock files in",
            Operation::FindHolders => "find the holders of",
            Operation::OpenCache => "open cache directory",
            Operation::ChangeCache => "change cache directory",
            Operation::ClearCache => "clear cache directory",
            Operation::PruneCache => "prune cache directory",
            Operation::ListCache => "list cache directory",
            Operation::ReadValue => "read cached value",
            Operation::CopyValue => "copy cached value to",
            Operation::ReadInput => "read what was to become cached value",
            Operation::StoreValue => "store cached value",
            Operation::RemoveValue => "remove cached value",
        })
    }
}

impl Error {
    /// An error of the operating system; `kind` is what `os` makes of it.
    pub(crate) fn os(
        kind: ErrorKind,
        operation: Operation,
        path: impl AsRef<Path>,
        source: io::Error,
    ) -> Self {
        Self::new(kind, operation, path, None, Some(source))
    }

    /// An error that this crate finds itself.
    pub(crate) fn found(
        kind: ErrorKind,
        operation: Operation,
        path: impl AsRef<Path>,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(kind, operation, path, Some(detail.into()), None)
    }

    pub(crate) fn timed_out(
        operation: Operation,
        path: &Path,
        waited: Duration,
        holders: Holders,
    ) -> Self {
        let detail = format!("within {}: {}", Lasting(waited), HeldBy(&holders));
        let mut error = Self::found(ErrorKind::TimedOut, operation, path, detail);
        error.0.holders = holders;
        error
    }

    /// Put into words when it is shown: a refused try is to cost little.
    pub(crate) fn would_block(operation: Operation, path: Arc<Path>, holders: Holders) -> Self {
        let kind = ErrorKind::WouldBlock;
        let (key, detail, source) = (None, None, None);
        Self(Box::new(Inner { kind, operation, path, key, detail, source, holders }))
    }

    fn new(
        kind: ErrorKind,
        operation: Operation,
        path: impl AsRef<Path>,
        detail: Option<String>,
        source: Option<io::Error>,
    ) -> Self {
        let holders = Holders::default();
        let path = path.as_ref().into();
        Self(Box::new(Inner { kind, operation, path, key: None, detail, source, holders }))
    }

    /// The same error, met with one of several locks in the file.
    pub(crate) fn of_key(mut self, key: impl Into<String>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    /// The same error, met while an open lock file that was removed was opened again.
    pub(crate) fn met_while_reopening(mut self, operation: Operation) -> Self {
        // A name that can neither be opened nor made anew belongs, on CIFS, to a file that is
        // removed as soon as every process has closed it.
        let replaced = |source: &io::Error| {
            matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists)
        };
        if self.0.kind == ErrorKind::NotAFile || self.0.source.as_ref().is_some_and(replaced) {
            self.0.kind = ErrorKind::Replaced;
        }
        self.0.operation = operation;
        let reopening = "the lock file was removed and could not be opened again";
        self.0.detail = Some(match self.0.detail.take() {
            Some(detail) => format!("{reopening}: {detail}"),
            None => reopening.to_owned(),
        });
        self
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file can be opened when another process has given its lease on it back.
    pub(crate) fn is_for_a_lease(&self) -> bool {
        self.0.source.as_ref().is_some_and(|source| source.kind() == io::ErrorKind::WouldBlock)
    }

    /// The error of the operating system that this one is about, if there is one: for its
    /// [`raw_os_error`](io::Error::raw_os_error). The message has its text.
    #[must_use]
    pub fn os_error(&self) -> Option<&io::Error> {
        self.0.source.as_ref()
    }

    /// Something may not be written to, by permission or by the file system.
    pub(crate) fn is_refusal(&self) -> bool {
        let refused = [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem];
        self.0.kind == ErrorKind::WrongAccess
            || self.0.source.as_ref().is_some_and(|source| refused.contains(&source.kind()))
    }

    /// The lock file, the cache directory or the file in it, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Who held the lock, or waited for it, when a time ran out: as
    /// [`FileLock::holders`](crate::FileLock::holders) gives, but without the names of users. When a
    /// try was refused, what is known of that for nothing: this process, or, with
    /// [`Protocol::Fcntl`](crate::Protocol::Fcntl), one of the others. Empty for other errors, and if it
    /// was not known.
    #[must_use]
    pub fn holders(&self) -> &[Holder] {
        &self.0.holders
    }

    /// What the reader can do, where that does not follow from the rest.
    fn advice(&self) -> Option<&'static str> {
        let is_full = |source: &io::Error| {
            matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        if self.0.operation == Operation::StoreValue && self.0.source.as_ref().is_some_and(is_full)
        {
            return Some(
                "free some space, or limit the size of the cache; the value before it is unchanged",
            );
        }
        Some(match self.0.kind {
            ErrorKind::Unsupported if self.0.operation == Operation::FindHolders => {
                "let the holders leave a record"
            }
            ErrorKind::Unsupported
                if matches!(self.0.operation, Operation::RemoveFile | Operation::RemoveUnused) =>
            {
                "this system has no safe way to remove a lock file that may be in use, or not with this \
                 protocol: leave it, or remove it while no program uses it"
            }
            // Found by this crate, and the remedy is in the detail, if there is one.
            ErrorKind::Unsupported if self.0.source.is_none() => return None,
            ErrorKind::Unsupported => {
                "its file system, or the kernel, or a sandbox does not support this kind of lock: \
                 use the other protocol, or a lock file on a local file system"
            }
            ErrorKind::LockServiceUnavailable => {
                "check the lock service of the network file system (lockd, statd), \
                 or use a lock file on a local file system"
            }
            ErrorKind::PermissionDenied => {
                "a security module (AppArmor, SELinux) or a sandbox (seccomp) refuses to lock: \
                 allow it (`k` in AppArmor, `lock` in SELinux, the call in the sandbox), or use a \
                 lock file that this program may lock"
            }
            ErrorKind::NoThread => {
                "raise the limit of threads (RLIMIT_NPROC, the pids limit of the control group), or \
                 try again without waiting"
            }
            ErrorKind::WrongAccess => {
                "this needs a descriptor open for writing: check the permissions of the lock file, \
                 or take a shared lock, and leave no record"
            }
            ErrorKind::Replaced => {
                "something removes or replaces the lock file: keep it outside of directories \
                 that are cleaned while the lock is in use"
            }
            ErrorKind::ProtocolMismatch => {
                "use one protocol per lock file: locks of different protocols do not see each other"
            }
            ErrorKind::WouldBlock if !self.0.holders.iter().any(Holder::is_this_process) => {
                "`FileLock::holders` tells which one"
            }
            ErrorKind::Forked => "open the lock file again in the child",
            ErrorKind::ForeignDescriptor => {
                "locks that were held through it are gone, and the next one opens the file anew: open \
                 lock files after a program has become a daemon, or leave their descriptors open"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {}", self.0.operation)?;
        if let Some(key) = &self.0.key {
            write!(f, " key `{key}` of")?;
        }
        write!(f, " `{}`", Shown::path(&self.0.path))?;
        if let Some(detail) = &self.0.detail {
            let is_sentence = self.0.kind != ErrorKind::TimedOut;
            write!(f, "{}{detail}", if is_sentence { ": " } else { " " })?;
        }
        if self.0.kind == ErrorKind::WouldBlock {
            match &*self.0.holders {
                [] => f.write_str(" at once: another process holds it or waits for it")?,
                holders => write!(f, " at once: {}", HeldBy(holders))?,
            }
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        if let Some(advice) = self.advice() {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("operation", &self.0.operation)
            .field("path", &self.0.path)
            .field("key", &self.0.key)
            .field("detail", &self.0.detail)
            .field("source", &self.0.source)
            .field("holders", &self.0.holders)
            .finish()
    }
}

impl std::error::Error for Error {
    /// What is behind the error of the operating system, whose text the message has already.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.os_error().and_then(std::error::Error::source)
    }
}

impl From<Error> for io::Error {
    /// Keeps the whole error as the payload, under the closest [`io::ErrorKind`].
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::TimedOut => io::ErrorKind::TimedOut,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::WrongAccess | ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::Deadlock => io::ErrorKind::Deadlock,
            ErrorKind::WouldBlock => io::ErrorKind::WouldBlock,
            ErrorKind::ProtocolMismatch | ErrorKind::NotAFile | ErrorKind::InvalidInput => {
                io::ErrorKind::InvalidInput
            }
            ErrorKind::Replaced
            | ErrorKind::NotEmpty
            | ErrorKind::Linked
            | ErrorKind::LockServiceUnavailable
            | ErrorKind::NoThread
            | ErrorKind::Forked
            | ErrorKind::ForeignDescriptor
            | ErrorKind::Io => match &error.0.source {
                // Those mean that it may be asked again, and this may not.
                Some(source)
                    if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted]
                        .contains(&source.kind()) =>
                {
                    io::ErrorKind::Other
                }
                Some(source) => source.kind(),
                None => io::ErrorKind::Other,
            },
        };
        io::Error::new(kind, error)
    }
}

/// Why a lock was not taken by a call that does not wait.
///
/// Has the variants of [`std::fs::TryLockError`].
#[derive(Debug)]
pub enum TryLockError {
    /// Another task or process holds the lock, or waits for it. The error has
    /// [`ErrorKind::WouldBlock`], and names whom it names for nothing ([`Error::holders`]).
    WouldBlock(Error),
    /// The lock could not be asked for.
    Error(Error),
}

impl fmt::Display for TryLockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TryLockError::WouldBlock(error) | TryLockError::Error(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TryLockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TryLockError::WouldBlock(error) | TryLockError::Error(error) => error.source(),
        }
    }
}

impl From<Error> for TryLockError {
    fn from(error: Error) -> Self {
        TryLockError::Error(error)
    }
}

impl From<TryLockError> for io::Error {
    fn from(error: TryLockError) -> Self {
        match error {
            TryLockError::WouldBlock(error) | TryLockError::Error(error) => error.into(),
        }
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    const KINDS: [ErrorKind; 13] = [
        ErrorKind::TimedOut,
        ErrorKind::WouldBlock,
        ErrorKind::InvalidInput,
        ErrorKind::Unsupported,
        ErrorKind::LockServiceUnavailable,
        ErrorKind::WrongAccess,
        ErrorKind::PermissionDenied,
        ErrorKind::Deadlock,
        ErrorKind::Replaced,
        ErrorKind::ProtocolMismatch,
        ErrorKind::NoThread,
        ErrorKind::Forked,
        ErrorKind::Io,
    ];

    /// As anyhow's `{:#}` and other reporters do: a message, and what is behind it.
    fn report(error: &dyn std::error::Error) -> String {
        let mut report = error.to_string();
        let mut next = error.source();
        while let Some(error) = next {
            report = format!("{report}: {error}");
            next = error.source();
        }
        report
    }

    #[test]
    fn a_report_says_nothing_twice() {
        let path = Path::new("/var/lock/app.lock");
        let cause = "the cause of it all";
        for kind in KINDS {
            let sources = [
                io::Error::from_raw_os_error(2),
                io::Error::other(cause),
                io::Error::other(std::fmt::Error),
            ];
            for source in sources {
                let said = source.to_string();
                let error = || {
                    let source = match source.raw_os_error() {
                        Some(number) => io::Error::from_raw_os_error(number),
                        None => io::Error::other(said.clone()),
                    };
                    Error::os(kind, Operation::Open, path, source)
                };
                let reports = [
                    report(&error()),
                    report(&error().met_while_reopening(Operation::LockShared)),
                    report(&TryLockError::from(error())),
                    report(&io::Error::from(error())),
                ];
                for report in reports {
                    assert_eq!(report.matches(&said).count(), 1, "{report}");
                    assert_eq!(report.matches("app.lock").count(), 1, "{report}");
                }
                assert_eq!(error().os_error().unwrap().to_string(), said);
            }
            let found = Error::found(kind, Operation::Open, path, cause);
            assert_eq!(report(&found).matches(cause).count(), 1);
            assert!(found.os_error().is_none());
        }
    }

    /// Those kinds of io::Error mean that it may be asked again.
    #[test]
    fn only_contention_would_block() {
        for kind in KINDS {
            let source = io::Error::from(io::ErrorKind::WouldBlock);
            let error = io::Error::from(Error::os(kind, Operation::Open, "app.lock", source));
            let would_block = error.kind() == io::ErrorKind::WouldBlock;
            assert_eq!(would_block, kind == ErrorKind::WouldBlock, "{kind:?}");
        }
    }
}
