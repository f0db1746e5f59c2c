//! Windows does not tell whose lock calls wait. So a waiter may be on its way to its call when a test
//! goes on; what the tests that run here assert holds all the same.

use std::path::Path;

pub(crate) fn await_waiting_calls(_file: &Path, _count: usize) {}
