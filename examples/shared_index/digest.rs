//! The digest of a file of any size, without blocking the runtime.

use std::io;
use std::path::Path;

use tokio::fs::File;
use tokio::io::AsyncReadExt;

const BUFFER: usize = 128 * 1024;

/// The BLAKE3 digest of a file, and its length in bytes.
pub(crate) async fn digest(path: &Path) -> io::Result<(blake3::Hash, u64)> {
    let mut file = File::open(path).await?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = file.read(&mut buffer).await?;
        if length == 0 {
            return Ok((hasher.finalize(), hasher.count()));
        }
        hasher.update(&buffer[..length]);
    }
}
