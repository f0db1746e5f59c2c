//! The cache directory.

mod basics;
#[cfg(unix)]
mod checksums;
mod conveniences;
#[cfg(target_os = "linux")]
pub(crate) mod descriptors;
#[cfg(unix)]
pub(crate) mod directories;
#[cfg(unix)]
pub(crate) mod disk;
#[cfg(unix)]
pub(crate) mod fills;
#[cfg(unix)]
pub(crate) mod held_up;
#[cfg(target_os = "linux")]
pub(crate) mod many;
#[cfg(unix)]
pub(crate) mod network;
#[cfg(target_os = "linux")]
pub(crate) mod power;
#[cfg(unix)]
mod random;
#[cfg(unix)]
pub(crate) mod storm;
#[cfg(unix)]
pub(crate) mod strangers;
#[cfg(unix)]
pub(crate) mod stuck;
#[cfg(unix)]
pub(crate) mod systems;
#[cfg(unix)]
mod tree;
#[cfg(unix)]
pub(crate) mod user;
#[cfg(unix)]
pub(crate) mod users;
#[cfg(unix)]
mod value;

use std::fs;
use std::path::{Path, PathBuf};

use tokio_filelock::CacheDir;
use tokio_filelock::cache::{CacheOptions, SyncPolicy};

use crate::support::place::{Place, names};

/// Without the disk's delays, which nothing here is about.
fn options() -> CacheOptions {
    CacheDir::options().sync(SyncPolicy::Never)
}

fn directory(place: &Place) -> PathBuf {
    place.at("cache")
}

async fn open(place: &Place) -> CacheDir {
    options().open(directory(place)).await.unwrap()
}

/// Everything in the cache directory, by its path in there, sorted; but for the directories.
fn files(cache: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for name in names(cache) {
        let path = cache.join(&name);
        if path.is_dir() {
            files.extend(names(&path).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            files.push(name);
        }
    }
    files
}

fn temporary_files(cache: &Path) -> Vec<String> {
    if fs::exists(cache.join("tmp")).unwrap() { names(&cache.join("tmp")) } else { Vec::new() }
}
