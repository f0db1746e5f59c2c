//! What a value may be given as.

use tokio::io::{AsyncRead, Empty};

/// What becomes a value: bytes (`Vec<u8>`, `String`, `&str`, `&[u8; N]`), or any [`AsyncRead`], such as a
/// file, a network stream, or `&[u8]`, which is read to its end.
///
/// `Form` tells the two apart. It is inferred, and this trait is not for other crates to implement.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("cache");
/// let cache = tokio_filelock::CacheDir::open(&path).await?;
/// cache.insert("a", vec![1, 2, 3]).await?;
/// cache.insert("b", format!("{}", 4)).await?;
/// cache.insert("c", &[5, 6][..]).await?;
/// cache.insert("d", tokio::fs::File::open("Cargo.toml").await?).await?;
/// # Ok(())
/// # }
/// ```
pub trait IntoValue<Form>: IntoSource<Form> {}

impl<Form, V: IntoSource<Form>> IntoValue<Form> for V {}

/// Private: only this crate can name it.
pub trait IntoSource<Form> {
    type Reader: AsyncRead;

    fn into_source(self) -> Source<Self::Reader>;
}

/// Where a value comes from.
#[derive(Debug)]
pub enum Source<R> {
    /// All of it is in memory.
    Bytes(Vec<u8>),
    Reader(R),
}

/// The form of what has all bytes in memory.
#[derive(Debug)]
pub enum Bytes {}

/// The form of what is read.
#[derive(Debug)]
pub enum Reader {}

impl<R: AsyncRead> IntoSource<Reader> for R {
    type Reader = R;

    fn into_source(self) -> Source<R> {
        Source::Reader(self)
    }
}

impl IntoSource<Bytes> for Vec<u8> {
    type Reader = Empty;

    fn into_source(self) -> Source<Empty> {
        Source::Bytes(self)
    }
}

impl IntoSource<Bytes> for String {
    type Reader = Empty;

    fn into_source(self) -> Source<Empty> {
        Source::Bytes(self.into_bytes())
    }
}

impl IntoSource<Bytes> for &str {
    type Reader = Empty;

    fn into_source(self) -> Source<Empty> {
        Source::Bytes(self.as_bytes().to_vec())
    }
}

impl<const N: usize> IntoSource<Bytes> for &[u8; N] {
    type Reader = Empty;

    fn into_source(self) -> Source<Empty> {
        Source::Bytes(self.to_vec())
    }
}
