//! What only Unix has: signals, forks, `/proc`, users, file systems to mount, programs that lock.

pub(crate) mod bad_input;
#[cfg(target_os = "linux")]
mod cleaned;
#[cfg(target_os = "linux")]
pub(crate) mod descriptors;
pub(crate) mod foreign_code;
pub(crate) mod forked;
mod fuse;
pub(crate) mod holders;
mod interop;
pub(crate) mod lock_all;
pub(crate) mod network;
#[cfg(target_os = "linux")]
pub(crate) mod opening;
mod reach;
pub(crate) mod records;
#[cfg(target_os = "linux")]
pub(crate) mod refused;
mod remote;
pub(crate) mod removed;
pub(crate) mod same;
mod server;
pub(crate) mod signals;
pub(crate) mod space;
pub(crate) mod tries;
pub(crate) mod turns;
pub(crate) mod waits;
