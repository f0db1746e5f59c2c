//! Foreign code: wakers, subscribers of `tracing`, and what else users hand in. It may panic wherever it
//! is called or dropped, and then it must not take a lock, or the wake-up of another task, with it.
//!
//! Nothing here decides by a panic: it ends here, reported by the panic hook, and what was under way goes
//! on. Where panics abort, the process ends, and the kernel frees its locks.

use std::mem;
use std::panic::{self, AssertUnwindSafe};

/// Calls foreign code. `None` if it panicked.
#[inline]
pub(crate) fn contained<T>(call: impl FnOnce() -> T) -> Option<T> {
    // What is seen afterwards is foreign, or was in order before the call.
    match panic::catch_unwind(AssertUnwindSafe(call)) {
        Ok(value) => Some(value),
        Err(payload) => {
            // The payload is foreign as well.
            if let Err(worse) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                mem::forget(worse);
            }
            None
        }
    }
}

/// Drops something foreign.
#[inline]
pub(crate) fn let_go<T>(foreign: T) {
    if mem::needs_drop::<T>() {
        contained(|| drop(foreign));
    }
}
