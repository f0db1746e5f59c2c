//! Whether a descriptor still stands for its file: the answer, and what is kept to find it.

/// Whether a descriptor still is that of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    Own,
    /// It stands for another file, or is not open.
    Other,
    /// It is open, and its numbers have changed. Nothing tells whether it is another file.
    #[cfg_attr(
        any(tokio_filelock_posix, not(any(target_os = "linux", target_os = "android"))),
        allow(dead_code)
    )]
    Unknown,
}

/// By what an open file is recognized when its numbers have changed: a digest, as the system makes it. 0 where they
/// do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lasting(pub(super) u32);
