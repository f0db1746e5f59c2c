//! The log of all fills: a line for each, appended before it begins.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Appends a line: the process, and the number of the product. Blocks.
pub(crate) fn note(log: &Path, product: usize) -> io::Result<()> {
    let line = format!("{} {product}\n", std::process::id());
    // One call, and at the end of the file: the lines of several processes do not mix.
    OpenOptions::new().append(true).create(true).open(log)?.write_all(line.as_bytes())
}

/// Who has begun to fill each product, in order.
pub(crate) fn read(log: &Path) -> io::Result<BTreeMap<usize, Vec<u32>>> {
    let mut fills = BTreeMap::<usize, Vec<u32>>::new();
    for line in fs::read_to_string(log)?.lines() {
        let words = line
            .split_once(' ')
            .and_then(|(process, product)| Some((process.parse().ok()?, product.parse().ok()?)));
        let Some((process, product)) = words else {
            return Err(io::Error::other(format!("damaged line in the log: `{line}`")));
        };
        fills.entry(product).or_default().push(process);
    }
    Ok(fills)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_are_told_in_order() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let log = directory.path().join("log");
        for product in [7, 3, 7] {
            note(&log, product)?;
        }
        let me = std::process::id();
        assert_eq!(read(&log)?, BTreeMap::from([(3, vec![me]), (7, vec![me, me])]));
        fs::write(&log, "1 2\n1\n")?;
        assert!(read(&log).is_err());
        Ok(())
    }
}
