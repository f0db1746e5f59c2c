//! What stands in on Windows for what the tests of Unix share.

pub(crate) mod kernel;
