//! What is cached: something that is made of a file, under a key that names both.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The BLAKE3 digest, in hexadecimal.
    Digest,
    /// The content, compressed by gzip.
    Compressed,
}

#[derive(Debug, Clone)]
pub(crate) struct Product {
    pub(crate) kind: Kind,
    /// Relative to the tree.
    pub(crate) name: PathBuf,
}

impl Product {
    /// Everything that is made of these files.
    pub(crate) fn all(names: &[PathBuf]) -> Vec<Self> {
        let of = |name: &PathBuf| {
            [Kind::Digest, Kind::Compressed].map(|kind| Self { kind, name: name.clone() })
        };
        names.iter().flat_map(of).collect()
    }

    pub(crate) fn key(&self) -> Vec<u8> {
        let kind: &[u8] = match self.kind {
            Kind::Digest => b"digest ",
            Kind::Compressed => b"gzip ",
        };
        [kind, self.name.as_os_str().as_bytes()].concat()
    }

    /// Makes it. Blocks.
    pub(crate) fn make(&self, root: &Path) -> io::Result<Vec<u8>> {
        let content = std::fs::read(root.join(&self.name))?;
        match self.kind {
            Kind::Digest => Ok(blake3::hash(&content).to_hex().as_bytes().to_vec()),
            Kind::Compressed => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
                encoder.write_all(&content)?;
                encoder.finish()
            }
        }
    }

    /// Whether a value is what the file makes. Blocks.
    pub(crate) fn is_right(&self, root: &Path, value: &[u8]) -> io::Result<bool> {
        let content = std::fs::read(root.join(&self.name))?;
        Ok(match self.kind {
            Kind::Digest => value == blake3::hash(&content).to_hex().as_bytes(),
            Kind::Compressed => {
                let mut read = Vec::new();
                GzDecoder::new(value).read_to_end(&mut read).is_ok() && read == content
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_right_and_what_is_damaged_is_not() -> io::Result<()> {
        let root = tempfile::tempdir()?;
        std::fs::write(root.path().join("a"), "content")?;
        let products = Product::all(&["a".into()]);
        assert_eq!(products.len(), 2);
        for product in products {
            let mut value = product.make(root.path())?;
            assert!(product.is_right(root.path(), &value)?);
            value.pop();
            assert!(!product.is_right(root.path(), &value)?);
        }
        Ok(())
    }
}
