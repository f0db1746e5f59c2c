//! What the tests of Unix share.

#[cfg(target_os = "linux")]
pub(crate) mod disk;
pub(crate) mod foreign;
pub(crate) mod fuse;
pub(crate) mod kernel;
pub(crate) mod needs;
#[cfg(target_os = "linux")]
pub(crate) mod seccomp;
pub(crate) mod tracer;
