//! What a process makes once, and keeps for good.
//!
//! As `OnceLock`, but no thread waits for another one: those that come first together make one each, and that of the first to
//! be done counts. For a process may fork while one of its threads makes it, and the child would wait for a thread that it
//! has not got.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

pub(crate) struct MadeOnce<T: Send + Sync + 'static> {
    made: AtomicPtr<T>,
}

impl<T: Send + Sync + 'static> MadeOnce<T> {
    pub(crate) const fn new() -> Self {
        Self { made: AtomicPtr::new(ptr::null_mut()) }
    }

    pub(crate) fn get(&self) -> Option<&'static T> {
        // SAFETY: null, or it came out of a box and is never freed.
        unsafe { self.made.load(Ordering::Acquire).as_ref() }
    }

    pub(crate) fn get_or_make(&self, make: impl FnOnce() -> T) -> &'static T {
        self.get().unwrap_or_else(|| self.keep(Box::new(make())))
    }

    #[cold]
    fn keep(&self, new: Box<T>) -> &'static T {
        let new = Box::into_raw(new);
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        match self.made.compare_exchange(ptr::null_mut(), new, success, failure) {
            // SAFETY: it came out of a box, and is never freed from now on.
            Ok(_) => unsafe { &*new },
            Err(earlier) => {
                // SAFETY: it came out of a box just now, and no other thread knows of it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: it came out of a box, and is never freed.
                unsafe { &*earlier }
            }
        }
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use std::sync::{Arc, Barrier};
    use std::thread;

    use super::*;

    #[test]
    fn all_have_the_same_one() {
        for _ in 0..100 {
            let cell: &'static MadeOnce<usize> = Box::leak(Box::new(MadeOnce::new()));
            let together = Arc::new(Barrier::new(4));
            let threads = [0, 1, 2, 3].map(|number| {
                let together = together.clone();
                thread::spawn(move || {
                    together.wait();
                    ptr::from_ref(cell.get_or_make(|| number)).addr()
                })
            });
            let made = threads.map(|thread| thread.join().unwrap());
            assert!(made.iter().all(|one| *one == made[0]));
        }
    }
}
