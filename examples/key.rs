//! A lock for each name, in eight lock files: `cargo run --example key`.

use tokio_filelock::LockSpace;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let downloads = LockSpace::open(directory.path().join("downloads.lock")).await?;

    let guard = downloads.key("https://example.org/a.tar.gz").lock().await?;
    let other = downloads.key("https://example.org/b.tar.gz").try_lock()?;
    println!("two names, two locks: {guard:?}, {other:?}");

    // Another task, thread or process that wants one of them waits for that one only.
    let error = downloads.key("https://example.org/a.tar.gz").try_lock().unwrap_err();
    println!("{error}");

    drop((guard, other));
    let files = std::fs::read_dir(directory.path())?.count();
    println!("{files} files, however many names there are");
    Ok(())
}
