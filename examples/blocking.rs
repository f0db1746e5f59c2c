//! Without async, and without a runtime: `cargo run --example blocking`.

use std::thread;

use tokio_filelock::{FileLock, TryLockError};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let lock = FileLock::options().blocking_open(directory.path().join("app.lock"))?;

    let guard = lock.blocking_lock()?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock(error)) => println!("busy: {error}"),
        other => println!("unexpected: {other:?}"),
    }

    let waits = thread::spawn({
        let lock = lock.clone();
        move || lock.blocking_lock().map(|_| println!("the thread has had it"))
    });
    drop(guard);
    waits.join().expect("the thread does not panic")?;
    println!("locked {} times", lock.counters().acquisitions);
    Ok(())
}
