//! A descriptor whose number does not stand for its file any more.
//!
//! A descriptor is a number, and any code of the process can close it or give the number to another file:
//! close_range(2) and closefrom(3) in a library that daemonizes, dup2(2). What is done through it then is done to
//! another file.

use std::error;
use std::fmt;
use std::io;

#[derive(Debug)]
struct Foreign;

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "other code of this process closed its descriptor, or gave the number to another file \
             (close_range, closefrom, dup2)",
        )
    }
}

impl error::Error for Foreign {}

/// The error that says so.
pub(crate) fn foreign_descriptor() -> io::Error {
    io::Error::other(Foreign)
}

/// The error says so.
#[cfg_attr(not(unix), allow(dead_code))]
pub(crate) fn is_foreign(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Foreign>())
}
