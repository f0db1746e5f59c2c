//! Named locks in the files of a `LockSpace`.

use std::time::Duration;

use tokio_filelock::{ErrorKind, LockSpace};

use crate::support::assert_would_block;
use crate::support::place::Place;

#[tokio::test]
async fn keys_exclude_themselves_and_nobody_else() {
    let place = Place::new();
    let space = LockSpace::open(place.lock_file()).await.unwrap();
    let guard = space.key("a").lock().await.unwrap();
    assert_would_block(space.key("a").try_lock());
    assert_would_block(space.key(b"a").try_lock_shared());
    let other = space.key("b").lock().await.unwrap();
    // Another handle of the space is the same space.
    let again = LockSpace::open(place.lock_file()).await.unwrap();
    assert_would_block(again.key("b").try_lock());
    drop(other);
    assert!(again.key("b").try_lock().is_ok());
    drop((space, again));
    assert_eq!(guard.file_lock().key(), Some(&b"a"[..]));
}

#[tokio::test]
async fn errors_and_debug_say_which_key_of_which_file() {
    let place = Place::new();
    let space = LockSpace::open(place.lock_file()).await.unwrap();
    let key = space.key("say \"hi\"\n");
    let guard = key.lock().await.unwrap();
    let error = key.lock().timeout(Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let path = key.path().to_str().unwrap();
    assert!(path.starts_with(place.lock_file().to_str().unwrap()), "{path}");
    let begins = format!("could not lock key `say \\\"hi\\\"\\n` of `{path}` within ");
    assert!(error.to_string().starts_with(&begins), "{error}");
    assert!(format!("{guard:?}").contains(path), "{guard:?}");
    assert!(format!("{guard:?}").contains("say"), "{guard:?}");
}
