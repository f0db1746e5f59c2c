//! Who holds a lock, and who waits: `cargo run --example holders`. With two processes: `who_holds_it`.

use std::time::Duration;

use tokio_filelock::FileLock;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let lock = FileLock::open(directory.path().join("app.lock")).await?;
    println!("no holder: {:?}", lock.holders().await?);

    let guard = lock.lock().label("import 17").await?;
    for holder in lock.holders().await? {
        println!("{holder} (pid {:?}, since {:?})", holder.pid(), holder.since());
    }

    // Told while a task waits, and again when other processes hold the lock.
    let told = |waiting: &tokio_filelock::Waiting<'_>| println!("{waiting}");
    let wait = lock.lock().on_wait(Duration::from_millis(10), told);
    let wait = tokio::spawn(wait);
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(guard);
    println!("locked: {:?}", wait.await??);
    Ok(())
}
