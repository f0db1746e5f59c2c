//! The crate against the real kernel, among real processes.
//!
//! One binary, one module per theme. Where a test needs other processes, the binary runs itself
//! again in a role ([`child`]). Processes meet on events, which are lines on pipes, and never on
//! sleeps; no test asserts how long something takes. What a test needs and does not find
//! (flock(1), mount(8), Python 3, `/proc`) makes it fail.
//!
//! `cargo test --test it -- --show-output` shows how many processes and acquisitions there were.

mod bad_input;
mod cache;
mod cancel;
mod child;
mod cooperative;
mod crash;
mod exclusion;
mod executors;
mod forked;
mod fuse;
mod guards;
mod holders;
mod identity;
mod interop;
mod lock_all;
mod network;
mod reach;
mod records;
mod remote;
mod replaced;
mod server;
mod shutdown;
mod signals;
mod space;
mod support;
#[cfg(feature = "tracing")]
mod traced;
mod turns;
mod waits;
