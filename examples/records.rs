//! A record in the lock file: a token that grows with every holder, and what a holder that died has left:
//! `cargo run --example records`.

use tokio_filelock::FileLock;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("leader.lock");
    let lock = FileLock::options().record(true).label("compaction").open(&path).await?;

    for _ in 0..2 {
        let guard = lock.lock().await?;
        // A storage that remembers the highest token it has seen can refuse a writer that comes too late.
        println!("token {:?}", guard.token());
        guard.unlock().await?;
    }
    println!("the lock file says:\n{}", std::fs::read_to_string(&path)?.trim_end());

    // As if its writer had died: the record says that the lock is held, and no process holds it.
    let text = std::fs::read_to_string(&path)?.replace("state=released", "state=held    ");
    std::fs::write(&path, text)?;
    let guard = lock.lock().await?;
    if let Some(dead) = guard.abandoned() {
        println!("process {} died in the middle of {:?}", dead.pid(), dead.label());
    }
    Ok(())
}
