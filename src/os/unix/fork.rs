//! What a forked child has of the parent's locks: nothing.
//!
//! A child inherits the open file descriptions, and with them a part in the locks: an unlock
//! there would drop the parent's lock, and an open descriptor would keep it after the parent has
//! died. So a handler that `fork` runs in the child (pthread_atfork(3)) puts something that does
//! nothing in place of every lock file's descriptor, and counts the generation up. Whoever holds something of an
//! earlier generation knows by it that it is the parent's ([`Generation`]).
//!
//! One gap is left: a fork by another thread between the opening of a lock file and its entry in the
//! list, some instructions, leaves the child its descriptor. An unlock in the parent still
//! releases; only if the parent dies with the lock, that child keeps it until it ends or execs.
//!
//! The handler runs in a process that may have been forked in the middle of anything, so it is
//! limited to atomics, `close` and what [`stand_in`] calls. The descriptor's number
//! stays taken, so that its owner in the child closes the stand-in and not something that was opened
//! in between.
//!
//! `vfork` and `posix_spawn`, which `std::process::Command` uses, run no handlers; O_CLOEXEC closes
//! the descriptors at the exec that follows.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

use nix::libc;

use super::kernel::stand_in;

static GENERATION: AtomicUsize = AtomicUsize::new(0);

/// How many forks lie between this process and the first one of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(usize);

impl Generation {
    #[inline]
    pub(crate) fn current() -> Self {
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// What was made in this generation is the parent's, or a grandparent's.
    #[inline]
    pub(crate) fn is_past(self) -> bool {
        self != Self::current()
    }

    pub(crate) fn number(self) -> usize {
        self.0
    }
}

/// Listens for forks. What is made before the first call is not noticed to be the parent's.
pub(crate) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler is async-signal-safe. Out of memory, the one error there is, leaves
        // forks unnoticed.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

/// Descriptors are listed in chunks that are never freed, so the child can walk them whatever the
/// other threads of the parent were doing.
struct Chunk {
    descriptors: [AtomicI32; 64],
    next: OnceLock<Box<Chunk>>,
}

/// No descriptor in this place.
const VACANT: i32 = -1;

impl Chunk {
    const fn new() -> Self {
        Self { descriptors: [const { AtomicI32::new(VACANT) }; 64], next: OnceLock::new() }
    }
}

static DESCRIPTORS: Chunk = Chunk::new();

/// A descriptor that children do not keep, for as long as this exists.
#[derive(Debug)]
pub(crate) struct Disowned(&'static AtomicI32);

/// Children that are forked from now on lose this descriptor.
pub(in crate::os) fn disown_in_children(file: &File) -> Disowned {
    listen();
    let descriptor = file.as_raw_fd();
    let mut chunk = &DESCRIPTORS;
    loop {
        for place in &chunk.descriptors {
            let taken =
                place.compare_exchange(VACANT, descriptor, Ordering::Release, Ordering::Relaxed);
            if taken.is_ok() {
                return Disowned(place);
            }
        }
        chunk = chunk.next.get_or_init(|| Box::new(Chunk::new()));
    }
}

impl Drop for Disowned {
    fn drop(&mut self) {
        self.0.store(VACANT, Ordering::Release);
    }
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    let harmless = stand_in::open();
    let mut chunk = Some(&DESCRIPTORS);
    while let Some(listed) = chunk {
        for place in &listed.descriptors {
            let descriptor = place.load(Ordering::Acquire);
            if descriptor == VACANT {
                continue;
            }
            // The descriptor is that of a lock file, whose owner in this process, if it is dropped,
            // closes what is put in its place.
            if let Some(harmless) = harmless {
                stand_in::replace(descriptor, harmless);
                continue;
            }
            // All descriptors are in use, so there is room for one in this one's place.
            // SAFETY: the descriptor is that of a lock file; close is async-signal-safe.
            unsafe { libc::close(descriptor) };
            stand_in::open();
        }
        chunk = listed.next.get().map(|next| &**next);
    }
    if let Some(harmless) = harmless {
        // SAFETY: it is ours.
        unsafe { libc::close(harmless) };
    }
}
