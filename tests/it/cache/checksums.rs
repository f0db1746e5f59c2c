//! Values whose checksums are kept.

use std::fs::File;
use std::process::Command;

use super::{directory, options};
use crate::support::in_time;
use crate::support::needs::{Need, lacks, passed_in};
use crate::support::place::Place;

/// Longer than can be read in the time that a test has.
const VERY_LONG: u64 = 1 << 42;

#[tokio::test]
async fn a_value_of_another_length_is_not_read() {
    let place = Place::new();
    let cache = options().checksums(true).open(directory(&place)).await.unwrap();
    let path = cache.insert("key", "value").await.unwrap().path().to_owned();
    File::options().write(true).open(&path).unwrap().set_len(VERY_LONG).unwrap();
    assert!(in_time(cache.get("key")).await.unwrap().is_none());
    let fill = || async { Ok::<_, std::io::Error>("again") };
    let entry = in_time(cache.get_or_insert_with("key", fill)).await.unwrap();
    assert_eq!(entry.read().await.unwrap(), b"again");
    assert_eq!(cache.read("key").await.unwrap().unwrap(), b"again");
    // Nor one that lost its end.
    File::options().write(true).open(&path).unwrap().set_len(3).unwrap();
    assert!(cache.get("key").await.unwrap().is_none());
}

/// The last step fails, again and again: what has a mount on it is not replaced.
#[test]
fn inserts_that_fail_leave_what_was_there() {
    if lacks(&[Need::Mounts]) || passed_in(&["--mount"]) {
        return;
    }
    let mount = |arguments: &[&str]| {
        assert!(Command::new(arguments[0]).args(&arguments[1..]).status().unwrap().success());
    };
    let place = Place::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for max_size in [1000, u64::MAX] {
            let options = options().checksums(true).max_size(max_size);
            let cache = options.open(directory(&place)).await.unwrap();
            for before in ["v1", "w1"] {
                let path = cache.insert("key", before).await.unwrap().path().to_owned();
                let path = path.to_str().unwrap();
                mount(&["mount", "--bind", path, path]);
                // Of the same length, and of others.
                for value in ["v2", "v3", "longer", "v4", "w"] {
                    let error = cache.insert("key", value).await.unwrap_err();
                    assert!(error.to_string().contains("busy"), "{error}");
                    let read = cache.read("key").await.unwrap();
                    assert_eq!(read.as_deref(), Some(before.as_bytes()), "after {value}");
                }
                mount(&["umount", path]);
                let read = cache.read("key").await.unwrap();
                assert_eq!(read.as_deref(), Some(before.as_bytes()));
            }
            cache.insert("key", "v5").await.unwrap();
            assert_eq!(cache.read("key").await.unwrap().unwrap(), b"v5");
        }
    });
}
