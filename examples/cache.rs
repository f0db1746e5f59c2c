//! A cache directory that tasks and processes share: `cargo run --example cache`.

use tokio_filelock::CacheDir;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let cache = CacheDir::open(directory.path().join("pages")).await?;

    // However many ask at the same time, in however many processes: one of them makes the value.
    let page = || async {
        println!("made once");
        Ok::<_, std::io::Error>(b"<html></html>".as_slice())
    };
    let asked = futures::future::join_all((0..10).map(|_| cache.get_or_insert_with("page", page)));
    for entry in asked.await {
        assert_eq!(entry?.read().await?, b"<html></html>");
    }

    println!("{:?}", cache.get("page").await?.map(|entry| entry.path().to_owned()));
    println!("{:?}", cache.stats().await?);
    cache.clear().await?;
    assert!(cache.get("page").await?.is_none());
    Ok(())
}
