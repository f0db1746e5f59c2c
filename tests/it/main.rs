//! The crate against the real kernel, among real processes.
//!
//! One binary, one module per theme. Where a test needs other processes, the binary runs itself
//! again in a role ([`child`]). Processes meet on events, which are lines on pipes, and never on
//! sleeps; no test asserts how long something takes. A test that needs more than an ordinary user
//! has says so ([`support::needs`]).
//!
//! `cargo test --test it -- --show-output` shows how many processes and acquisitions there were.

mod cache;
mod cancel;
mod child;
mod cooperative;
mod crash;
mod exclusion;
mod executors;
mod guards;
mod identity;
mod paused_clock;
mod replaced;
mod shutdown;
mod support;
#[cfg(feature = "tracing")]
mod traced;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;
