//! Directories that tell by themselves whether they are whole, and whose they are.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::value;
use crate::support::place::names;

/// Fills a directory with the same value in several places.
pub(crate) fn fill(directory: &Path, key: &str, number: u64) -> io::Result<()> {
    let bytes = value::of(key, number);
    fs::write(directory.join("value"), &bytes)?;
    fs::create_dir(directory.join("below"))?;
    fs::write(directory.join("below/again"), &bytes)?;
    symlink("below/again", directory.join("link"))
}

/// The bytes of such a directory.
pub(crate) fn bytes(key: &str, number: u64) -> u64 {
    2 * value::of(key, number).len() as u64
}

/// The number of a directory of this key. Panics if it is torn, or another key's.
#[track_caller]
pub(crate) fn number(key: &str, directory: &Path) -> u64 {
    let numbers = ["value", "below/again", "link"].map(|name| {
        let bytes = fs::read(directory.join(name));
        value::number(key, &bytes.unwrap_or_else(|error| panic!("{directory:?}/{name}: {error}")))
    });
    assert!(numbers.iter().all(|number| *number == numbers[0]), "{directory:?}: {numbers:?}");
    numbers[0]
}

/// The names of directories that are complete, whether or not a key has them.
pub(crate) fn complete(cache: &Path) -> Vec<String> {
    let is_complete = |name: &String| name.find('-') == Some(40);
    all(cache).into_iter().filter(is_complete).collect()
}

/// These, and those on their way in or out.
pub(crate) fn all(cache: &Path) -> Vec<String> {
    let directories = cache.join("dirs");
    if directories.exists() { names(&directories) } else { Vec::new() }
}
