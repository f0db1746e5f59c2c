//! The engine of a simulated machine: files, processes and a kernel in memory.
//!
//! It implements the same contract as the file engine, with the same driver, queue, guards and records above it, and takes its
//! turns by the same steps (`os::turnstile`) on the same table of locks as the model for loom (`os::kernel`). What is
//! different: a wait takes no thread. It is left with the machine, which goes on when the lock is granted.
//!
//! [`Machine`] has all state, [`Process`] the open files of one process, [`Lock`] makes the calls for one lock, [`Origin`]
//! finds a lock again when its file was replaced. What users see of it is `crate::sim`.

mod foreign;
mod lock;
mod machine;
mod origin;
mod process;
mod random;

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests;

pub(crate) use foreign::Foreign;
pub(crate) use machine::{Machine, Status};
pub(crate) use origin::Origin;
pub(crate) use process::{Process, Run, Wanted};
