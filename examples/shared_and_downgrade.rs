//! Readers together, a writer alone, and a writer that goes on as a reader:
//! `cargo run --example shared_and_downgrade`.

use tokio_filelock::FileLock;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data.txt");
    // The lock lies beside the data, in `data.txt.lock`.
    let lock = FileLock::beside(&data).await?;

    let writer = lock.lock().await?;
    tokio::fs::write(&data, "version 1").await?;
    assert!(lock.try_lock_shared().is_err());
    println!("written, and no reader has seen it");

    // With no moment in between in which another writer could come.
    let reader = writer.downgrade();
    let another = lock.lock_shared().await?;
    println!("two readers see {:?}", tokio::fs::read_to_string(&data).await?);
    assert!(lock.try_lock().is_err(), "a writer waits for both");

    drop((reader, another));
    lock.lock().await?.unlock().await?;
    println!("the next writer was here");
    Ok(())
}
