//! What an operator sees with the feature `tracing`.

use std::io;
use std::sync::{Arc, Mutex};

use tokio_filelock::{FileLock, Protocol};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::support::in_time;
use crate::support::locker::Locker;
use crate::support::place::Place;

/// Keeps the lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Lines {
    /// What one line says, less its time.
    #[track_caller]
    fn expect(&self, words: &[&str]) {
        let lines = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let found = lines.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?} in\n{lines}");
    }
}

#[test]
fn waits_guards_tenures_and_dead_holders_are_traced() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(lines.clone())
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
        .finish();
    let place = Place::new();
    let path = place.lock_file();
    Locker::holding_with_record(&path, Protocol::Flock, "half a job").kill();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let lock = FileLock::options().record(true).open(&path).await.unwrap();
            let guard = lock.lock().await.unwrap();
            let mut waiting = tokio_test::task::spawn(lock.lock());
            assert!(waiting.poll().is_pending());
            drop(guard);
            let guard = in_time(waiting).await.unwrap();
            drop(guard);
        });
    });
    let path = format!("path={}", path.display());
    lines.expect(&["WARN", "tokio_filelock: the last holder died", &path, "label=\"half a job\""]);
    lines.expect(&[
        "DEBUG",
        "wait{",
        &path,
        "mode=Exclusive",
        "got the lock after a wait",
        "waited=",
    ]);
    lines.expect(&["DEBUG", "held{", "token=2", "close"]);
    lines.expect(&["TRACE", "gave the lock back to the operating system", "handovers=1", "held="]);
}
