//! one
use tokio_filelock::*;
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let d = tempfile::tempdir().unwrap();
    let l = FileLock::open(d.path().join("a.lock")).await.unwrap();
    let n: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    for _ in 0..n {
        drop(l.lock().await.unwrap());
    }
}
