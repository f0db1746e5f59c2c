//! What a process has once: the lock files that it has open, and the threads that block for it.
//!
//! A forked child begins with new ones: the parent's describe files and tasks that are not the child's, and their mutexes
//! may be locked for ever.

use crate::engine::file::Registry;
use crate::os::MadeOnce;
use crate::os::fork::{self, Generation};
use crate::shim::Arc;
use crate::wait::Pool;

/// The open lock files of this process.
pub(crate) fn registry() -> &'static Arc<Registry> {
    struct OfGeneration {
        registry: MadeOnce<Arc<Registry>>,
        next: MadeOnce<OfGeneration>,
    }
    impl OfGeneration {
        const fn new() -> Self {
            Self { registry: MadeOnce::new(), next: MadeOnce::new() }
        }
    }
    static FIRST: OfGeneration = OfGeneration::new();

    fork::listen();
    let mut of_generation = &FIRST;
    for _ in 0..Generation::current().number() {
        of_generation = of_generation.next.get_or_make(OfGeneration::new);
    }
    of_generation.registry.get_or_make(Arc::default)
}

/// The threads of this process that block.
pub(crate) fn pool() -> &'static Pool {
    registry().pool()
}
