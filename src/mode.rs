//! How a lock is held: the one word that every layer shares.

/// How a lock is held, or wanted. `Exclusive` is the stronger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Together with other shared locks.
    Shared,
    /// By one alone.
    Exclusive,
}
