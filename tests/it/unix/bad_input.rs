//! What cannot be opened or locked: a clear error that names the path, and nothing created or
//! changed.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode as Bits, umask};
use tokio_filelock::{Error, ErrorKind, FileLock, OpenOptions, Protocol, TryLockError};

use crate::child::Role;
use crate::support::locker::Locker;
use crate::support::place::Place;
use crate::support::process::{Process, say};
use crate::support::snapshot::Snapshot;
use crate::support::{
    Mode, assert_names, assert_would_block, each_protocol, in_time, open, protocol,
};

/// The errors of every way to open: async or not, with the options that could make a difference.
async fn errors_of_opening(path: &Path) -> Vec<Error> {
    let options: [fn() -> OpenOptions; 4] = [
        FileLock::options,
        || FileLock::options().protocol(Protocol::Fcntl).verify_path(true).mode(0o600),
        || FileLock::options().create(false),
        || FileLock::options().read_only(true),
    ];
    let mut errors = Vec::new();
    for options in options {
        errors.push(options().open(path).await.expect_err("not to be opened"));
        errors.push(options().blocking_open(path).expect_err("not to be opened"));
    }
    errors
}

#[tokio::test]
async fn what_is_no_regular_file_is_refused_and_left_as_it_is() {
    type Make = fn(&Path);
    let table: [(&str, Make); 5] = [
        ("it is a directory", |path| fs::create_dir(path).unwrap()),
        ("it is a symbolic link", |path| symlink(path.with_file_name("target"), path).unwrap()),
        ("it is a symbolic link", |path| symlink("dangling", path).unwrap()),
        ("it is a FIFO", |path| nix::unistd::mkfifo(path, Bits::S_IRWXU).unwrap()),
        ("it is a socket", |path| drop(UnixListener::bind(path).unwrap())),
    ];
    for (says, make) in table {
        let place = Place::new();
        fs::write(place.at("target"), "untouched").unwrap();
        make(&place.lock_file());
        let look =
            || [place.directory(), &place.lock_file(), &place.at("target")].map(Snapshot::of);
        let before = look();
        for error in errors_of_opening(&place.lock_file()).await {
            assert_names(&error, ErrorKind::NotAFile, &place.lock_file());
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(look(), before, "{says}");
    }
}

#[tokio::test]
async fn a_device_is_refused() {
    let path = Path::new("/dev/null");
    for error in errors_of_opening(path).await {
        assert_names(&error, ErrorKind::NotAFile, path);
        assert!(error.to_string().contains("it is a device"), "{error}");
    }
    assert!(fs::symlink_metadata(path).unwrap().file_type().is_char_device());
}

#[tokio::test]
async fn paths_that_lead_nowhere_are_refused() {
    let place = Place::new();
    fs::write(place.at("file"), "").unwrap();
    // Of parts that are short enough.
    let mut long = place.directory().as_os_str().as_bytes().to_vec();
    long.resize(4095, b'x');
    long[place.directory().as_os_str().len()..].iter_mut().step_by(100).for_each(|at| *at = b'/');
    long.push(b'x');
    let long = PathBuf::from(OsStr::from_bytes(&long));
    // It has no name in Rust 1.85.
    let too_long = io::Error::from(Errno::ENAMETOOLONG).kind();
    let table: [(PathBuf, Option<Errno>, io::ErrorKind); 7] = [
        (place.at("missing/app.lock"), Some(Errno::ENOENT), io::ErrorKind::NotFound),
        (place.at("file/app.lock"), Some(Errno::ENOTDIR), io::ErrorKind::NotADirectory),
        (place.at("file/"), Some(Errno::ENOTDIR), io::ErrorKind::NotADirectory),
        (place.at(&"x".repeat(256)), Some(Errno::ENAMETOOLONG), too_long),
        (long, Some(Errno::ENAMETOOLONG), too_long),
        (place.at("nul\0.lock"), None, io::ErrorKind::InvalidInput),
        (PathBuf::new(), None, io::ErrorKind::InvalidInput),
    ];
    let before = Snapshot::of(place.directory());
    for (path, number, kind) in table {
        for error in errors_of_opening(&path).await {
            assert_names(&error, ErrorKind::Io, &path);
            assert_eq!(errno(&error), number, "{error}");
            let source = error.os_error().expect("the error of the system");
            assert!(error.to_string().contains(&source.to_string()), "{error}");
            assert_eq!(io::Error::from(error).kind(), kind, "{path:?}");
        }
    }
    assert_eq!(Snapshot::of(place.directory()), before);
}

/// Nor does a path reach the terminal as it stands: it may come from another user.
#[tokio::test]
async fn a_path_that_would_move_the_terminal_is_escaped_in_messages() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let table: [(&[u8], &str); 4] = [
        (b"\x1b[2J\x07.lock", "\\u{1b}[2J\\u{7}.lock"),
        (b"two\nlines.lock", "two\\nlines.lock"),
        ("\u{202e}kcol.\u{200b}ppa".as_bytes(), "\\u{202e}kcol.\\u{200b}ppa"),
        (b"Stick-\xdfe.lock", "Stick-\\xdfe.lock"),
    ];
    let place = Place::new();
    for (name, shown) in table {
        let path = place.directory().join("missing").join(OsStr::from_bytes(name));
        let error = FileLock::open(&path).await.unwrap_err();
        let message = error.to_string();
        assert!(message.contains(&format!("/missing/{shown}`")), "{message}");
        assert!(!message.contains(char::is_control), "{message:?}");
        assert_eq!(error.path(), path);
        // What is told while one waits, too.
        let path = place.directory().join(OsStr::from_bytes(name));
        let lock = FileLock::open(&path).await.unwrap();
        let guard = lock.lock().await.unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let waiting = lock.lock().on_wait(Duration::ZERO, move |waiting| {
            let _ = tell.send(waiting.to_string());
        });
        let mut waiting = tokio_test::task::spawn(waiting);
        let told = std::future::poll_fn(|cx| {
            assert!(waiting.poll().is_pending());
            cx.waker().wake_by_ref();
            told.poll_recv(cx)
        });
        let told = in_time(told).await.unwrap();
        assert!(told.contains(&format!("/{shown}`")) && !told.contains(char::is_control), "{told}");
        drop(guard);
    }
}

#[tokio::test]
async fn a_name_of_255_bytes_is_not_too_long() {
    let place = Place::new();
    let lock = open(place.at(&"x".repeat(255)), Protocol::Flock).await;
    drop(lock.lock().await.unwrap());
}

#[tokio::test]
async fn what_is_not_to_be_created_is_not() {
    let place = Place::new();
    let before = Snapshot::of(place.directory());
    for options in [FileLock::options().create(false), FileLock::options().read_only(true)] {
        let error = options.open(place.lock_file()).await.unwrap_err();
        assert_names(&error, ErrorKind::Io, &place.lock_file());
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
    }
    assert_eq!(Snapshot::of(place.directory()), before);
}

/// Changes the umask of the process, so it is one of a process of its own.
#[test]
fn a_lock_file_gets_the_mode_that_was_asked_for_and_keeps_the_one_it_has() {
    let place = Place::new();
    Process::in_role(Role::CreateWithModes, &[place.directory().to_str().unwrap()]).finish();
    let mode = |name| fs::metadata(place.at(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("default"), 0o640, "0666 less the umask");
    assert_eq!(mode("asked"), 0o666, "whatever the umask");
    assert_eq!(mode("existing"), 0o600);
}

/// The role `CreateWithModes`.
pub(crate) fn create_with_modes(arguments: &[String]) {
    let [directory] = arguments else { panic!("one argument") };
    let at = |name| Path::new(directory).join(name);
    umask(Bits::from_bits_truncate(0o027));
    fs::write(at("existing"), "").unwrap();
    fs::set_permissions(at("existing"), Permissions::from_mode(0o600)).unwrap();
    FileLock::options().blocking_open(at("default")).unwrap();
    FileLock::options().mode(0o666).blocking_open(at("asked")).unwrap();
    FileLock::options().mode(0o666).blocking_open(at("existing")).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

each_protocol!(#[test] fn without_permission_opening_is_an_error);
fn without_permission_opening_is_an_error(protocol: Protocol) {
    let place = Place::new();
    let (closed, read_only) = (place.at("closed"), place.at("read-only"));
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("app.lock"), "").unwrap();
    fs::create_dir(&read_only).unwrap();
    fs::write(place.at("secret.lock"), "secret").unwrap();
    set_mode(&place.at("secret.lock"), 0);
    set_mode(&closed, 0);
    set_mode(&read_only, 0o555);

    let mut nobody = Locker::new();
    nobody.become_nobody();
    let before = [place.directory(), &read_only].map(Snapshot::of);
    for path in [closed.join("app.lock"), read_only.join("app.lock"), place.at("secret.lock")] {
        let answer = nobody.try_open(&path, protocol);
        let expected = format!("Io: could not open lock file `{}`", path.display());
        assert!(answer.starts_with(&expected), "{answer}");
        assert!(answer.contains("Permission denied"), "{answer}");
    }
    assert_eq!([place.directory(), &read_only].map(Snapshot::of), before);
    nobody.finish();
    set_mode(&closed, 0o755);
    set_mode(&read_only, 0o755);
}

each_protocol!(#[test] fn a_read_only_file_in_a_read_only_directory_can_be_locked_shared);
/// A user who may only read takes shared locks; the exclusive one is what the protocol makes of it.
fn a_read_only_file_in_a_read_only_directory_can_be_locked_shared(protocol: Protocol) {
    let place = Place::new();
    let directory = place.at("read-only");
    fs::create_dir(&directory).unwrap();
    let path = directory.join("app.lock");
    fs::write(&path, "kept").unwrap();
    let mut writer = Locker::open(&path, protocol);
    set_mode(&path, 0o444);
    set_mode(&directory, 0o555);
    let before = [&directory, &path].map(|path| Snapshot::of(path));

    let mut nobody = Locker::new();
    nobody.become_nobody();
    assert_eq!(nobody.try_open(&path, protocol), "open");
    assert_eq!(nobody.try_lock(Mode::Shared), "held");
    assert_eq!(writer.try_lock(Mode::Exclusive), "would block", "{protocol:?}");
    nobody.unlock();
    assert_eq!(writer.try_lock(Mode::Exclusive), "held", "{protocol:?}");
    assert_eq!(nobody.try_lock(Mode::Shared), "would block", "{protocol:?}");
    writer.finish();
    let answer = nobody.try_lock(Mode::Exclusive);
    match protocol {
        Protocol::Flock => assert_eq!(answer, "held"),
        _ => {
            let expected = format!("WrongAccess: could not lock `{}`", path.display());
            assert!(answer.starts_with(&expected), "{answer}");
            assert!(answer.contains("take a shared lock"), "{answer}");
            assert_eq!(nobody.try_lock(Mode::Shared), "held", "after the error");
        }
    }
    nobody.finish();
    assert_eq!([&directory, &path].map(|path| Snapshot::of(path)), before);
    set_mode(&directory, 0o755);
}

each_protocol!(#[tokio::test] async fn a_lock_file_of_another_user_in_a_sticky_directory_opens);
/// `open(O_CREAT)` fails there even for root where the kernel protects such files
/// (`fs.protected_regular`).
async fn a_lock_file_of_another_user_in_a_sticky_directory_opens(protocol: Protocol) {
    let place = Place::new();
    let shared = place.at("shared");
    fs::create_dir(&shared).unwrap();
    set_mode(&shared, 0o1777);
    let mut nobody = Locker::new();
    nobody.become_nobody();
    assert_eq!(nobody.try_open(&shared.join("theirs.lock"), protocol), "open");
    drop(open(shared.join("theirs.lock"), protocol).await.lock().await.unwrap());

    let options = FileLock::options().protocol(protocol).mode(0o666);
    let ours = options.open(shared.join("ours.lock")).await.unwrap();
    assert_eq!(nobody.try_open(&shared.join("ours.lock"), protocol), "open");
    assert_eq!(nobody.try_lock(Mode::Exclusive), "held");
    assert_would_block(ours.try_lock());
    nobody.finish();
}

each_protocol!(
    #[tokio::test]
    async fn an_exclusive_lock_by_a_read_only_handle_is_what_the_protocol_makes_of_it
);
async fn an_exclusive_lock_by_a_read_only_handle_is_what_the_protocol_makes_of_it(
    protocol: Protocol,
) {
    let place = Place::new();
    fs::write(place.lock_file(), "").unwrap();
    let options = FileLock::options().protocol(protocol).read_only(true);
    let lock = options.open(place.lock_file()).await.unwrap();
    match protocol {
        Protocol::Flock => drop(lock.lock().await.unwrap()),
        _ => {
            let error = lock.lock().await.unwrap_err();
            assert_names(&error, ErrorKind::WrongAccess, &place.lock_file());
            let Err(TryLockError::Error(error)) = lock.try_lock() else { panic!("not refused") };
            assert_names(&error, ErrorKind::WrongAccess, &place.lock_file());
        }
    }
    drop(lock.lock_shared().await.unwrap());
}

/// The head of the line learns the error, and the next one has its own attempt.
#[tokio::test]
async fn an_error_for_one_is_no_error_for_the_next_in_line() {
    let place = Place::new();
    fs::write(place.lock_file(), "").unwrap();
    let options = FileLock::options().protocol(Protocol::Fcntl).read_only(true);
    let lock = options.open(place.lock_file()).await.unwrap();
    let reader = lock.lock_shared().await.unwrap();
    let mut refused = tokio_test::task::spawn(lock.lock());
    let mut next = tokio_test::task::spawn(lock.lock_shared());
    let mut also_refused = tokio_test::task::spawn(lock.lock());
    assert!(refused.poll().is_pending());
    assert!(next.poll().is_pending());
    assert!(also_refused.poll().is_pending());
    drop(reader);
    let error = in_time(refused).await.unwrap_err();
    assert_names(&error, ErrorKind::WrongAccess, &place.lock_file());
    let reader = in_time(next).await.unwrap();
    assert!(also_refused.poll().is_pending());
    drop(reader);
    let error = in_time(also_refused).await.unwrap_err();
    assert_names(&error, ErrorKind::WrongAccess, &place.lock_file());
}

each_protocol!(#[tokio::test] async fn locking_and_failing_to_lock_change_nothing_but_the_lock);
async fn locking_and_failing_to_lock_change_nothing_but_the_lock(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.lock_file(), "belongs to a program").unwrap();
    set_mode(&place.lock_file(), 0o640);
    let look = || [place.directory(), &place.lock_file()].map(Snapshot::of);
    let before = look();
    let holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    let lock = open(place.lock_file(), protocol).await;
    assert_would_block(lock.try_lock());
    assert_would_block(lock.try_lock_shared());
    let error = lock.lock().timeout(Duration::ZERO).await.unwrap_err();
    assert_names(&error, ErrorKind::TimedOut, &place.lock_file());
    let mut cancelled = tokio_test::task::spawn(lock.lock());
    assert!(cancelled.poll().is_pending());
    drop(cancelled);
    assert_eq!(look(), before, "{protocol:?}: changed by a failed try");
    holder.finish();
    drop(in_time(lock.lock()).await.unwrap());
    drop(lock.lock_shared().await.unwrap());
    assert_eq!(look(), before, "{protocol:?}: changed by a lock");
}

each_protocol!(#[test] fn without_descriptors_opening_is_an_error_and_what_is_open_works);
fn without_descriptors_opening_is_an_error_and_what_is_open_works(protocol: Protocol) {
    let place = Place::new();
    let holder = Locker::holding(&place.lock_file(), protocol, Mode::Exclusive);
    let path = place.lock_file();
    let arguments = [&format!("{protocol:?}"), path.to_str().unwrap()];
    let process = Process::in_role(Role::RunOutOfDescriptors, &arguments);
    process.expect("waiting");
    holder.finish();
    process.expect("held");
    process.expect("recovered");
    process.finish();
}

/// The role `RunOutOfDescriptors`.
pub(crate) fn run_out_of_descriptors(arguments: &[String]) {
    let [name, path] = arguments else { panic!("two arguments") };
    let (protocol, path) = (protocol(name), Path::new(path));
    let other = path.with_file_name("other.lock");
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, most).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let lock = open(path, protocol).await;
        let hoard: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        assert!(!hoard.is_empty());

        let out_of_descriptors = |error: Error, kind, path: &Path| {
            assert_names(&error, kind, path);
            assert_eq!(errno(&error), Some(Errno::EMFILE), "{error}");
        };
        let error = FileLock::open(&other).await.unwrap_err();
        out_of_descriptors(error, ErrorKind::Io, &other);

        // An open handle needs no more descriptors, not even to wait.
        let mut waiting = tokio_test::task::spawn(lock.lock());
        assert!(waiting.poll().is_pending());
        say("waiting");
        let guard = in_time(waiting).await.unwrap();
        say("held");
        let clone = open(path, protocol).await;
        assert_would_block(clone.try_lock());
        drop(guard);

        // A removed lock file does, to be opened anew.
        fs::remove_file(path).unwrap();
        let error = lock.lock().await.unwrap_err();
        out_of_descriptors(error, ErrorKind::Io, path);

        drop(hoard);
        drop(in_time(lock.lock()).await.unwrap());
        assert!(path.exists());
        drop(FileLock::open(&other).await.unwrap().lock().await.unwrap());
        say("recovered");
    });
}

/// The number of the system's error under this one.
fn errno(error: &Error) -> Option<Errno> {
    error.os_error()?.raw_os_error().map(Errno::from_raw)
}
