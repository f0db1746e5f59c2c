//! Whether the cache is complete and right, and every value was made once, judged by the cache, the
//! tree and the log of fills alone: what the processes say about themselves is not asked.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::SystemTime;

use crate::Error;
use crate::copied::Copied;
use crate::product::Product;
use crate::worker::{log, open};
use crate::{fill_log, tree};

#[derive(Debug, Default)]
pub(crate) struct Verification {
    /// What is lost, double or wrong, a sentence each.
    pub(crate) faults: Vec<String>,
    /// Values that are right.
    pub(crate) right: usize,
    /// Files that have changed since the start, or cannot be read.
    pub(crate) changed: usize,
    /// Fills that ended with their process.
    pub(crate) ended: usize,
}

/// What there must be.
pub(crate) struct Expected<'a> {
    pub(crate) root: &'a Path,
    pub(crate) products: &'a [Product],
    pub(crate) copies: &'a [Copied],
    pub(crate) killed: &'a BTreeSet<u32>,
    pub(crate) since: SystemTime,
}

impl Verification {
    pub(crate) async fn of(home: &Path, expected: &Expected<'_>) -> Result<Self, Error> {
        let mut verification = Self::default();
        verification.check_values(home, expected).await?;
        verification.check_fills(home, expected)?;
        Ok(verification)
    }

    async fn check_values(&mut self, home: &Path, expected: &Expected<'_>) -> Result<(), Error> {
        let cache = open(home).await?;
        for product in expected.products {
            let Some(value) = cache.read(product.key()).await? else {
                self.faults.push(format!("{product:?}: lost"));
                continue;
            };
            match product.is_right(expected.root, &value) {
                Ok(true) => self.right += 1,
                Ok(false) if !is_changed(&expected.root.join(&product.name), expected.since) => {
                    self.faults.push(format!("{product:?}: wrong"));
                }
                _ => self.changed += 1,
            }
        }
        for copied in expected.copies {
            let Some(directory) = cache.get_dir(copied.key()).await? else {
                self.faults.push(format!("{copied:?}: lost"));
                continue;
            };
            match copied.is_right(expected.root, directory.path()) {
                Ok(true) => self.right += 1,
                Ok(false) if !has_changed(&expected.root.join(&copied.name), expected.since) => {
                    self.faults.push(format!("{copied:?}: wrong"));
                }
                _ => self.changed += 1,
            }
        }
        let (count, keys) =
            (cache.stats().await?.values, expected.products.len() + expected.copies.len());
        if count != keys as u64 {
            self.faults.push(format!("{count} values for {keys} keys"));
        }
        // Opening it has removed what the dead had half written.
        let left = tree::Tree::list(&cache.path().join("tmp"))?.files;
        self.faults.extend(left.iter().map(|file| format!("left behind: {file:?}")));
        if !expected.copies.is_empty() {
            let directories = std::fs::read_dir(cache.path().join("dirs"))?.count();
            if directories != expected.copies.len() {
                let text = format!("{directories} directories for {} keys", expected.copies.len());
                self.faults.push(text);
            }
        }
        Ok(())
    }

    /// One fill a product. Before the last one there may be others, of processes that were killed.
    fn check_fills(&mut self, home: &Path, expected: &Expected<'_>) -> Result<(), Error> {
        let fills = fill_log::read(&log(home))?;
        let products = expected.products.iter().map(|product| format!("{product:?}"));
        let copies = expected.copies.iter().map(|copied| format!("{copied:?}"));
        for (number, product) in products.chain(copies).enumerate() {
            let by = fills.get(&number).map_or(&[][..], Vec::as_slice);
            let Some((_, before)) = by.split_last() else {
                self.faults.push(format!("{product}: never filled"));
                continue;
            };
            self.ended += before.len();
            if before.iter().any(|process| !expected.killed.contains(process)) {
                self.faults.push(format!("{product}: filled {} times, by {by:?}", by.len()));
            }
        }
        Ok(())
    }
}

/// Of a directory: one of its files, or their names.
fn has_changed(directory: &Path, since: SystemTime) -> bool {
    let entries = directory.read_dir().into_iter().flatten().flatten();
    is_changed(directory, since) || entries.into_iter().any(|it| is_changed(&it.path(), since))
}

fn is_changed(path: &Path, since: SystemTime) -> bool {
    path.metadata().and_then(|metadata| metadata.modified()).map_or(true, |time| time >= since)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The faults of a cache of one file.
    async fn faults(values: [Option<&'static [u8]>; 2], log: &str) -> Result<Vec<String>, Error> {
        let home = tempfile::tempdir()?;
        std::fs::write(home.path().join("a"), "x")?;
        let products = Product::all(&["a".into()]);
        let cache = open(home.path()).await?;
        for (product, value) in products.iter().zip(values) {
            let made = product.make(home.path())?;
            cache.insert(product.key(), value.unwrap_or(&made)).await?;
        }
        std::fs::write(super::log(home.path()), log)?;
        let expected = Expected {
            root: home.path(),
            products: &products,
            copies: &[],
            killed: &BTreeSet::from([13]),
            since: SystemTime::now() + std::time::Duration::from_secs(60),
        };
        Ok(Verification::of(home.path(), &expected).await?.faults)
    }

    #[tokio::test]
    async fn each_fault_is_noticed() -> Result<(), Error> {
        let right = [None, None];
        assert_eq!(faults(right, "1 0\n2 1\n").await?, [""; 0]);
        assert_eq!(faults(right, "13 0\n13 0\n2 0\n13 1\n").await?, [""; 0]);
        assert_eq!(faults(right, "1 0\n2 0\n2 1\n").await?.len(), 1, "filled twice");
        assert_eq!(faults(right, "1 0\n13 0\n2 1\n").await?.len(), 1, "filled after a living one");
        assert_eq!(faults(right, "1 0\n").await?.len(), 1, "not in the log");
        assert_eq!(faults([Some(b"y"), None], "1 0\n2 1\n").await?.len(), 1, "wrong digest");
        assert_eq!(faults([None, Some(b"y")], "1 0\n2 1\n").await?.len(), 1, "wrong copy");
        Ok(())
    }
}
