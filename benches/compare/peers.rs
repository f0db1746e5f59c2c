//! Who is compared, and how each is used.
//!
//! No peer is used in a way that its documentation advises against. Files stay open between two
//! locks wherever the peer's interface allows it, unlocking is done in place (a microsecond), and
//! locks that block a thread are taken in `spawn_blocking`, as tokio's documentation says. Each
//! task has a handle of its own, because a lock of flock(2) excludes other open files only.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs2::FileExt;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::stat::fstat;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio_filelock::{FileLock, OpenOptions, Protocol};

use crate::{Result, wire};

/// A handle of one of those who are compared.
pub(crate) trait Peer: Send + Sized + 'static {
    const NAME: &'static str;

    fn open(path: &Path) -> Result<Self>;

    /// A handle for each of so many tasks.
    fn open_for(tasks: usize, path: &Path) -> Result<Vec<Self>> {
        (0..tasks).map(|_| Self::open(path)).collect()
    }

    /// Locks, runs the section, unlocks.
    fn exclusive<T: Send + 'static>(
        &mut self,
        section: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> + Send;

    /// How often this process has acquired the lock of the kernel, if that is not for each guard.
    fn tenures(&self) -> Option<u64> {
        None
    }
}

/// Those that can share the lock.
pub(crate) trait SharingPeer: Peer {
    fn shared<T: Send>(
        &mut self,
        section: impl Future<Output = T> + Send,
    ) -> impl Future<Output = T> + Send;
}

fn open_file(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

// ---- this crate ----

/// This crate with options that are chosen by a type.
pub(crate) trait Options: Send + 'static {
    const NAME: &'static str;
    fn options() -> OpenOptions;
}

pub(crate) struct Ours<O> {
    pub(crate) lock: FileLock,
    options: std::marker::PhantomData<fn() -> O>,
}

impl<O: Options> Peer for Ours<O> {
    const NAME: &'static str = O::NAME;

    fn open(path: &Path) -> Result<Self> {
        let lock = O::options().blocking_open(path)?;
        Ok(Self { lock, options: std::marker::PhantomData })
    }

    fn open_for(tasks: usize, path: &Path) -> Result<Vec<Self>> {
        let Self { lock, options } = Self::open(path)?;
        Ok((0..tasks).map(|_| Self { lock: lock.clone(), options }).collect())
    }

    async fn exclusive<T: Send + 'static>(
        &mut self,
        section: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let guard = self.lock.lock().await.expect("lock");
        let answer = section.await;
        drop(guard);
        answer
    }

    fn tenures(&self) -> Option<u64> {
        Some(self.lock.counters().tenures)
    }
}

impl<O: Options> SharingPeer for Ours<O> {
    async fn shared<T: Send>(&mut self, section: impl Future<Output = T> + Send) -> T {
        let guard = self.lock.lock_shared().await.expect("lock");
        let answer = section.await;
        drop(guard);
        answer
    }
}

/// As a user gets it who chooses nothing.
pub(crate) struct Default;

impl Options for Default {
    const NAME: &'static str = "this crate";

    fn options() -> OpenOptions {
        FileLock::options()
    }
}

/// The default with byte ranges.
pub(crate) struct Fcntl;

impl Options for Fcntl {
    const NAME: &'static str = "this crate, Fcntl";

    fn options() -> OpenOptions {
        FileLock::options().protocol(Protocol::Fcntl)
    }
}

/// The default that leaves records.
pub(crate) struct Recording;

impl Options for Recording {
    const NAME: &'static str = "this crate, with records";

    fn options() -> OpenOptions {
        FileLock::options().record(true)
    }
}

// ---- system calls ----

/// flock(2) on this thread and nothing else.
pub(crate) struct RawFlock(File);

impl Peer for RawFlock {
    const NAME: &'static str = "flock(2)";

    fn open(path: &Path) -> Result<Self> {
        Ok(Self(open_file(path)?))
    }

    async fn exclusive<T: Send + 'static>(
        &mut self,
        section: impl Future<Output = T> + Send + 'static,
    ) -> T {
        FileExt::lock_exclusive(&self.0).expect("lock");
        let answer = section.await;
        FileExt::unlock(&self.0).expect("unlock");
        answer
    }
}

impl SharingPeer for RawFlock {
    async fn shared<T: Send>(&mut self, section: impl Future<Output = T> + Send) -> T {
        FileExt::lock_shared(&self.0).expect("lock");
        let answer = section.await;
        FileExt::unlock(&self.0).expect("unlock");
        answer
    }
}

/// When the turnstile is asked for: as this crate does.
#[derive(Default)]
struct Pace {
    checked: Option<Instant>,
    left: u32,
}

impl Pace {
    fn is_check_due(&mut self) -> bool {
        let now = Instant::now();
        let is_hot = |then: Instant| now.duration_since(then) < Duration::from_micros(50);
        if self.left > 0 && self.checked.is_some_and(is_hot) {
            self.left -= 1;
            return false;
        }
        (self.checked, self.left) = (Some(now), 15);
        true
    }
}

/// flock(2) with the two system calls that the promises of this crate cost: is another process at the
/// turnstile, which is asked once in 16 locks that follow each other within 50 µs; and is the file still linked.
pub(crate) struct RawFlockWithChecks(File, Pace);

/// The byte that is the turnstile of a file that is locked with flock(2).
const TURNSTILE: libc::off_t = wire::TURNSTILE_OF_FILE as libc::off_t;

impl Peer for RawFlockWithChecks {
    const NAME: &'static str = "flock(2), fstat(2), paced F_OFD_GETLK";

    fn open(path: &Path) -> Result<Self> {
        Ok(Self(open_file(path)?, Pace::default()))
    }

    async fn exclusive<T: Send + 'static>(
        &mut self,
        section: impl Future<Output = T> + Send + 'static,
    ) -> T {
        if self.1.is_check_due() {
            assert!(is_free(&self.0, TURNSTILE).expect("getlk"));
        }
        FileExt::try_lock_exclusive(&self.0).expect("lock");
        assert!(fstat(&self.0).expect("fstat").st_nlink > 0);
        let answer = section.await;
        FileExt::unlock(&self.0).expect("unlock");
        answer
    }
}

/// The same with open file description locks of fcntl(2).
pub(crate) struct RawFcntlWithChecks(File, Pace);

impl Peer for RawFcntlWithChecks {
    const NAME: &'static str = "F_OFD_SETLK, fstat(2), paced F_OFD_GETLK";

    fn open(path: &Path) -> Result<Self> {
        Ok(Self(open_file(path)?, Pace::default()))
    }

    async fn exclusive<T: Send + 'static>(
        &mut self,
        section: impl Future<Output = T> + Send + 'static,
    ) -> T {
        if self.1.is_check_due() {
            assert!(is_free(&self.0, wire::TURNSTILE_IN_SLOT as libc::off_t).expect("getlk"));
        }
        set(&self.0, libc::F_WRLCK);
        assert!(fstat(&self.0).expect("fstat").st_nlink > 0);
        let answer = section.await;
        set(&self.0, libc::F_UNLCK);
        answer
    }
}

/// The same with flock(2) and the calls that a record costs: it is read and written, and marked as released, before which
/// the file is asked for once more.
pub(crate) struct RawFlockWithRecord(File, Pace);

/// As long as a record without a label is.
const RECORD: [u8; 256] = [b'x'; 256];

impl Peer for RawFlockWithRecord {
    const NAME: &'static str = "flock(2), with the calls of a record";

    fn open(path: &Path) -> Result<Self> {
        Ok(Self(open_file(path)?, Pace::default()))
    }

    async fn exclusive<T: Send + 'static>(
        &mut self,
        section: impl Future<Output = T> + Send + 'static,
    ) -> T {
        if self.1.is_check_due() {
            assert!(is_free(&self.0, TURNSTILE).expect("getlk"));
        }
        FileExt::try_lock_exclusive(&self.0).expect("lock");
        assert!(fstat(&self.0).expect("fstat").st_nlink > 0);
        self.0.read_at(&mut [0; 512], 0).expect("pread");
        self.0.write_all_at(&RECORD, 0).expect("pwrite");
        let answer = section.await;
        assert!(fstat(&self.0).expect("fstat").st_nlink > 0);
        self.0.write_all_at(&RECORD[..8], 29).expect("pwrite");
        FileExt::unlock(&self.0).expect("unlock");
        answer
    }
}

fn byte(kind: libc::c_int, start: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: 1,
        l_pid: 0,
    }
}

fn is_free(file: &File, start: libc::off_t) -> nix::Result<bool> {
    let mut lock = byte(libc::F_WRLCK, start);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) == libc::F_UNLCK)
}

/// Locks the first byte, if it is free.
pub(crate) fn try_byte(file: &File) -> bool {
    fcntl(file, FcntlArg::F_OFD_SETLK(&byte(libc::F_WRLCK, 0))).is_ok()
}

fn set(file: &File, kind: libc::c_int) {
    fcntl(file, FcntlArg::F_OFD_SETLK(&byte(kind, 0))).expect("setlk");
}

// ---- other crates ----

/// `std::fs::File::lock` in `spawn_blocking`, the unlock in place.
pub(crate) struct Std(Arc<File>);

impl Std {
    async fn call(&self, lock: impl FnOnce(&File) -> io::Result<()> + Send + 'static) {
        let file = self.0.clone();
        spawn_blocking(move || lock(&file)).await.expect("no panic").expect("lock");
    }
}

impl Peer for Std {
    const NAME: &'static str = "std File::lock in spawn_blocking";

    fn open(path: &Path) -> Result<Self> {
        Ok(Self(open_file(path)?.into()))
    }

    async fn exclusive<T: Send + 'static>(
        &mut self,
        section: impl Future<Output = T> + Send + 'static,
    ) -> T {
        self.call(File::lock).await;
        let answer = section.await;
        self.0.unlock().expect("unlock");
        answer
    }
}

impl SharingPeer for Std {
    async fn shared<T: Send>(&mut self, section: impl Future<Output = T> + Send) -> T {
        self.call(File::lock_shared).await;
        let answer = section.await;
        self.0.unlock().expect("unlock");
        answer
    }
}

/// fs4 with its feature `tokio`. Its `lock` for tokio's files is no future: it blocks the worker.
pub(crate) struct Fs4(tokio::fs::File);

impl Peer for Fs4 {
    const NAME: &'static str = "fs4, tokio (blocks the worker)";

    fn open(path: &Path) -> Result<Self> {
        Ok(Self(open_file(path)?.into()))
    }

    async fn exclusive<T: Send + 'static>(
        &mut self,
        section: impl Future<Output = T> + Send + 'static,
    ) -> T {
        fs4::AsyncFileExt::lock(&self.0).expect("lock");
        let answer = section.await;
        fs4::AsyncFileExt::unlock(&self.0).expect("unlock");
        answer
    }
}

/// async-fd-lock. Its guard owns the file, and gives it back with `release`.
pub(crate) struct AsyncFdLock(Option<tokio::fs::File>);

impl Peer for AsyncFdLock {
    const NAME: &'static str = "async-fd-lock";

    fn open(path: &Path) -> Result<Self> {
        Ok(Self(Some(open_file(path)?.into())))
    }

    async fn exclusive<T: Send + 'static>(
        &mut self,
        section: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let file = self.0.take().expect("given back after each lock");
        let guard = async_fd_lock::LockWrite::lock_write(file).await.expect("lock");
        let answer = section.await;
        self.0 = Some(guard.release().expect("unlock"));
        answer
    }
}

/// fd-lock in `spawn_blocking`. Its guard borrows the lock, so the section runs there as well.
pub(crate) struct FdLock(Option<fd_lock::RwLock<File>>);

impl Peer for FdLock {
    const NAME: &'static str = "fd-lock in spawn_blocking";

    fn open(path: &Path) -> Result<Self> {
        Ok(Self(Some(fd_lock::RwLock::new(open_file(path)?))))
    }

    async fn exclusive<T: Send + 'static>(
        &mut self,
        section: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let mut lock = self.0.take().expect("given back after each lock");
        let runtime = Handle::current();
        let locked = move || {
            let guard = lock.write().expect("lock");
            let answer = runtime.block_on(section);
            drop(guard);
            (lock, answer)
        };
        let (lock, answer) = spawn_blocking(locked).await.expect("no panic");
        self.0 = Some(lock);
        answer
    }
}

/// fslock in `spawn_blocking`, the unlock in place.
pub(crate) struct Fslock(Option<fslock::LockFile>);

impl Peer for Fslock {
    const NAME: &'static str = "fslock in spawn_blocking";

    fn open(path: &Path) -> Result<Self> {
        Ok(Self(Some(fslock::LockFile::open(path)?)))
    }

    async fn exclusive<T: Send + 'static>(
        &mut self,
        section: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let mut file = self.0.take().expect("given back after each lock");
        let locking = spawn_blocking(move || file.lock().map(|()| file));
        let mut file = locking.await.expect("no panic").expect("lock");
        let answer = section.await;
        file.unlock().expect("unlock");
        self.0 = Some(file);
        answer
    }
}

/// filelock with its feature `tokio`: it tries again and again, with pauses of up to 50 ms.
pub(crate) struct Filelock(filelock::FileLock);

impl Peer for Filelock {
    const NAME: &'static str = "filelock, tokio (polls)";

    fn open(path: &Path) -> Result<Self> {
        Ok(Self(filelock::new(path)?))
    }

    async fn exclusive<T: Send + 'static>(
        &mut self,
        section: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let guard = self.0.lock_async().await.expect("lock");
        let answer = section.await;
        guard.unlock().expect("unlock");
        answer
    }
}

// ---- within one process ----

/// tokio's `Mutex`: no file, no system call, no other process.
pub(crate) struct TokioMutex(Arc<tokio::sync::Mutex<()>>);

impl Peer for TokioMutex {
    const NAME: &'static str = "tokio::sync::Mutex (one process)";

    fn open(_path: &Path) -> Result<Self> {
        Ok(Self(Arc::default()))
    }

    fn open_for(tasks: usize, _path: &Path) -> Result<Vec<Self>> {
        let lock = Arc::default();
        Ok((0..tasks).map(|_| Self(Arc::clone(&lock))).collect())
    }

    async fn exclusive<T: Send + 'static>(
        &mut self,
        section: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let guard = self.0.lock().await;
        let answer = section.await;
        drop(guard);
        answer
    }
}

/// tokio's `RwLock`, in the same way.
pub(crate) struct TokioRwLock(Arc<tokio::sync::RwLock<()>>);

impl Peer for TokioRwLock {
    const NAME: &'static str = "tokio::sync::RwLock (one process)";

    fn open(_path: &Path) -> Result<Self> {
        Ok(Self(Arc::default()))
    }

    fn open_for(tasks: usize, _path: &Path) -> Result<Vec<Self>> {
        let lock = Arc::default();
        Ok((0..tasks).map(|_| Self(Arc::clone(&lock))).collect())
    }

    async fn exclusive<T: Send + 'static>(
        &mut self,
        section: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let guard = self.0.write().await;
        let answer = section.await;
        drop(guard);
        answer
    }
}

impl SharingPeer for TokioRwLock {
    async fn shared<T: Send>(&mut self, section: impl Future<Output = T> + Send) -> T {
        let guard = self.0.read().await;
        let answer = section.await;
        drop(guard);
        answer
    }
}
