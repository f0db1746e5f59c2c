//! Other code of the process closes the descriptors of a value that is coming in, and gets their numbers.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use nix::libc;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_filelock::{ErrorKind, Protocol};

use super::{directory, options, temporary_files};
use crate::child::Role;
use crate::support::locker::is_free;
use crate::support::place::Place;
use crate::support::process::{Process, say};
use crate::support::{Mode, until};

/// What the cache writes at once.
const CHUNK: usize = 256 * 1024;

/// A chunk, and another one when it is told to go on.
struct Download {
    left: usize,
    go_on: Arc<AtomicBool>,
}

impl AsyncRead for Download {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left <= CHUNK && !self.go_on.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let more = buffer.remaining().min(self.left);
        buffer.put_slice(&vec![b'v'; more]);
        self.left -= more;
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_value_is_not_written_into_a_file_that_has_got_the_number() {
    let place = Place::new();
    let arguments = [directory(&place), place.at("own")];
    fs::create_dir(place.at("own")).unwrap();
    let arguments = arguments.each_ref().map(|path| path.to_str().unwrap());
    let process = Process::in_role(Role::InsertWithoutDescriptors, &arguments);
    process.expect("done");
    process.finish();
}

/// The role `InsertWithoutDescriptors`.
pub(crate) fn insert(arguments: &[String]) {
    let [path, own] = arguments else { panic!("two arguments") };
    let cache = options().blocking_open(path).unwrap();
    cache.blocking_insert("key", "before").unwrap();
    let go_on = Arc::new(AtomicBool::new(false));
    let mut insert =
        Box::pin(cache.insert("key", Download { left: 2 * CHUNK, go_on: go_on.clone() }));
    let mut context = Context::from_waker(Waker::noop());
    until("a chunk is written", || {
        assert!(insert.as_mut().poll(&mut context).is_pending());
        let length =
            |name: &String| fs::metadata(Path::new(path).join("tmp").join(name)).unwrap().len();
        temporary_files(Path::new(path)).iter().map(length).sum::<u64>() == CHUNK as u64
    });
    // SAFETY: this is what is tested: code that takes numbers which are not its own.
    assert_eq!(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) }, 0);
    let files: Vec<_> = (0..64).map(|number| Path::new(own).join(number.to_string())).collect();
    let open: Vec<_> = files
        .iter()
        .map(|path| {
            let mut file = File::create(path).unwrap();
            file.write_all(b"precious").unwrap();
            file
        })
        .collect();
    go_on.store(true, Ordering::Relaxed);
    let mut ended = None;
    until("the insert ends", || {
        if let Poll::Ready(done) = insert.as_mut().poll(&mut context) {
            ended = Some(done);
        }
        ended.is_some()
    });
    let error = ended.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains("close_range"), "{error}");
    drop(insert);
    for path in &files {
        assert_eq!(fs::read(path).unwrap(), b"precious", "{}", path.display());
    }
    for mut file in open {
        file.write_all(b" still").unwrap();
    }
    // The locks tell of it once, each.
    let inserted = (0..16).find_map(|_| cache.blocking_insert("key", "after").ok());
    assert_eq!(inserted.expect("it goes on").blocking_read().unwrap(), b"after");
    for path in &files {
        assert_eq!(fs::read(path).unwrap(), b"precious still", "{}", path.display());
        assert!(is_free(path, Protocol::Fcntl, Mode::Exclusive), "{}", path.display());
    }
    say("done");
}
