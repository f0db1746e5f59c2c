//! The crate against the real kernel, among real processes.
//!
//! One binary, one module per theme. Where a test needs other processes, the binary runs itself
//! again in a role ([`child`]). Processes meet on events, which are lines on pipes, and never on
//! sleeps; no test asserts how long something takes. A test that needs more than an ordinary user
//! has says so ([`support::needs`]).
//!
//! `cargo test --test it -- --show-output` shows how many processes and acquisitions there were.

#[cfg(unix)]
mod bad_input;
mod cache;
mod cancel;
mod child;
#[cfg(target_os = "linux")]
mod cleaned;
mod cooperative;
mod crash;
#[cfg(target_os = "linux")]
mod descriptors;
mod exclusion;
mod executors;
#[cfg(unix)]
mod foreign_code;
#[cfg(unix)]
mod forked;
#[cfg(unix)]
mod fuse;
mod guards;
#[cfg(unix)]
mod holders;
mod identity;
#[cfg(unix)]
mod interop;
#[cfg(unix)]
mod lock_all;
#[cfg(unix)]
mod network;
#[cfg(target_os = "linux")]
mod opening;
#[cfg(unix)]
mod reach;
#[cfg(unix)]
mod records;
#[cfg(target_os = "linux")]
mod refused;
#[cfg(unix)]
mod remote;
mod replaced;
#[cfg(unix)]
mod same;
#[cfg(unix)]
mod server;
mod shutdown;
#[cfg(unix)]
mod signals;
#[cfg(unix)]
mod space;
mod support;
#[cfg(feature = "tracing")]
mod traced;
#[cfg(unix)]
mod tries;
#[cfg(unix)]
mod turns;
#[cfg(unix)]
mod waits;
#[cfg(windows)]
mod windows;
