//! A limit on a wait, and a wait that is given up for something else: `cargo run --example timeout_and_select`.

use std::time::Duration;

use tokio_filelock::{ErrorKind, FileLock};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let lock = FileLock::open(directory.path().join("app.lock")).await?;
    let guard = lock.lock().label("a long job").await?;

    // The error names the file, how long was waited, and who holds the lock.
    let error = lock.lock().timeout(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    println!("{error}");

    // A wait that loses a race is dropped: it loses its place in the queue, and nothing else.
    tokio::select! {
        guard = lock.lock() => println!("locked: {:?}", guard?),
        () = tokio::time::sleep(Duration::from_millis(50)) => println!("something else came first"),
    }

    drop(guard);
    println!("free again: {:?}", lock.lock().await?);
    Ok(())
}
