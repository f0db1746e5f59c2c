//! What kind of file system a lock file is on: whether lock calls may be made on a thread that must
//! not block, and whether the kernel can be trusted to wake a wait. The platform tells which it is.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))] // not every system tells them apart
pub(super) enum FileSystem {
    /// A lock call that does not wait for a holder returns at once.
    Local,
    /// Waits can be interrupted, and wake up, mostly: wake-ups that were lost for 30 to 60 s have
    /// been reported. With lockd (NFS 3) they had better not be interrupted.
    Nfs,
    /// Waits may not be interruptible or may never wake up (CIFS), or fail instead of waiting
    /// (9p): nothing is known.
    Other,
    /// The same, and EACCES may mean that another process holds the lock: CIFS, and on other Unix systems
    /// than Linux all that is unknown (POSIX leaves the choice between EACCES and EAGAIN).
    OtherWithEacces,
}

/// What a file system is, as far as the crate has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) file_system: FileSystem,
    pub(super) keyed: Keyed,
}

/// By what the kernel finds the inode of a file, and with it the file's locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), allow(dead_code))]
pub(super) enum Keyed {
    /// By the number that `stat` shows: there is one inode to each.
    ByNumber,
    /// By its file handle (name_to_handle_at(2)); the number may be shown for several inodes.
    ByHandle,
    /// Not known, or not shown: several inodes may look like one.
    Unknown,
}
