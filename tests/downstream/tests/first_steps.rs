//! The examples of docs/TESTING.md, with nothing around them.

#[cfg(tokio_filelock_loom)]
mod with_loom {
    use std::sync::{Arc, Mutex};

    use tokio_filelock::sim::Machine;

    #[test]
    fn two_processes_count() {
        loom::model(|| {
            let (machine, count) = (Machine::new(), Arc::new(Mutex::new(0)));
            let threads = ["one", "other"].map(|name| {
                let (lock, count) =
                    (machine.process(name).open("/count.lock").unwrap(), count.clone());
                loom::thread::spawn(move || {
                    let _guard = lock.blocking_lock().unwrap();
                    *count.lock().unwrap() += 1;
                })
            });
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(*count.lock().unwrap(), 2);
        });
    }

    /// What is done under the lock comes after what was done under it before, also for loom.
    #[test]
    fn the_lock_orders_memory() {
        loom::model(|| {
            let machine = Machine::new();
            let count = Arc::new(loom::cell::UnsafeCell::new(0));
            let lock = machine.process("counts").open("/count.lock").unwrap();
            let threads = [(); 2].map(|()| {
                let (lock, count) = (lock.clone(), Unshared(count.clone()));
                loom::thread::spawn(move || {
                    let _guard = lock.blocking_lock().unwrap();
                    count.add();
                })
            });
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }

    struct Unshared(Arc<loom::cell::UnsafeCell<u32>>);

    // SAFETY: loom itself checks that no two threads are at it at one time.
    unsafe impl Send for Unshared {}

    impl Unshared {
        fn add(&self) {
            // SAFETY: as above: loom panics first.
            self.0.with_mut(|count| unsafe { *count += 1 });
        }
    }
}

#[cfg(tokio_filelock_shuttle)]
mod with_shuttle {
    use std::sync::{Arc, Mutex};

    use shuttle::rand::RngCore;
    use tokio_filelock::sim::Machine;

    #[test]
    fn many_processes_count() {
        shuttle::check_random(
            || {
                let machine = Machine::with_seed(shuttle::rand::thread_rng().next_u64());
                let count = Arc::new(Mutex::new(0));
                let count_once = |number: usize| {
                    let process = machine.process(&format!("number {number}"));
                    let (lock, count) = (process.open("/count.lock").unwrap(), count.clone());
                    shuttle::thread::spawn(move || {
                        let _guard = lock.blocking_lock().unwrap();
                        *count.lock().unwrap() += 1;
                    })
                };
                let threads: Vec<_> = (0..10).map(count_once).collect();
                threads.into_iter().for_each(|thread| thread.join().unwrap());
                assert_eq!(*count.lock().unwrap(), 10);
            },
            1_000,
        );
    }
}
