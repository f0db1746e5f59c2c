//! Opening: modes, leases, what is no file, and directories that have no path.
#![allow(unsafe_code)]

use std::fs::{self, OpenOptions, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode as Bits, umask};
use nix::unistd::{gettid, mkfifo};
use tokio_filelock::{ErrorKind, FileLock, LockSpace, Protocol, TryLockError};

use crate::child::Role;
use crate::support::locker::{become_nobody, is_free};
use crate::support::needs::{Need, lacks, passed_in};
use crate::support::place::Place;
use crate::support::process::{Process, commands, say};
use crate::support::tracer::Traced;
use crate::support::{Mode, each_protocol, in_time, protocol, returns, seccomp, until};

// ---- the mode ----

/// The role `OpenWhereChmodIsRefused`.
pub(crate) fn open_where_chmod_is_refused(arguments: &[String]) {
    let [path] = arguments else { panic!("a path") };
    refuse_chmod_by_path(Errno::EPERM);
    seccomp::refuse(libc::SYS_fchmod, &[], Errno::EPERM as i32);
    for _ in 0..2 {
        let lock = FileLock::options().mode(0o600).blocking_open(path).unwrap();
        drop(lock.try_lock().unwrap());
    }
    say("opened");
}

fn refuse_chmod_by_path(error: Errno) {
    #[cfg(target_arch = "x86_64")]
    seccomp::refuse(libc::SYS_chmod, &[], error as i32);
    seccomp::refuse(libc::SYS_fchmodat, &[], error as i32);
}

/// FAT, CIFS, a sandbox.
#[test]
fn where_modes_can_not_be_changed_files_are_locked_all_the_same() {
    let place = Place::new();
    let path = place.lock_file();
    let child = Process::in_role(Role::OpenWhereChmodIsRefused, &[path.to_str().unwrap()]);
    child.expect("opened");
    child.finish();
    assert_eq!(place.names(), ["app.lock"]);
}

/// The role `CreateStepByStep`: opens with a mode, when the tracer has come.
pub(crate) fn create_step_by_step(arguments: &[String]) {
    let [way, path] = arguments else { panic!("way, path") };
    umask(Bits::from_bits_truncate(0o077));
    if way == "under another name" {
        // As where there are no files without a name.
        refuse_chmod_by_path(Errno::ENOENT);
    }
    say(&gettid().to_string());
    commands().next();
    drop(FileLock::options().mode(0o666).blocking_open(path).unwrap());
    say("opened");
}

/// Kills the process at its `stops`th stop before or after a system call; `false` if it ended before.
fn killed_after(stops: usize, mut process: Process) -> bool {
    let mut thread = Traced::seize(process.event().parse().unwrap());
    process.tell("go");
    if (0..stops).any(|_| thread.next_stop().is_none()) {
        return false;
    }
    thread.kill();
    process.kill();
    true
}

/// No file of another user is ever there that this user has not got the right to open, and none that
/// a user would have to delete.
#[test]
fn killed_at_every_step_of_creating() {
    if lacks(&[Need::Ptrace]) {
        return;
    }
    // A file without a name (O_TMPFILE) is Linux's.
    let ways = ["without a name", "under another name"];
    for way in ways.into_iter().skip(usize::from(cfg!(tokio_filelock_posix))) {
        let mut left = Vec::new();
        for stops in 0.. {
            let place = Place::new();
            let path = place.lock_file();
            let process = Process::in_role(Role::CreateStepByStep, &[way, path.to_str().unwrap()]);
            let was_killed = killed_after(stops, process);
            if let Ok(found) = fs::metadata(&path) {
                assert_eq!(found.permissions().mode() & 0o777, 0o666, "{way}, {stops}");
            }
            let mut names = place.names();
            names.retain(|name| name != "app.lock");
            if way == "without a name" {
                assert_eq!(names, [""; 0], "{stops}");
            }
            assert!(names.iter().all(|name| name.starts_with(".tokio-filelock-")), "{names:?}");
            assert!(names.len() <= 1, "{names:?}");
            left.extend(names);
            // Whatever was left, the next one opens and locks.
            drop(FileLock::options().blocking_open(&path).unwrap().try_lock().unwrap());
            if !was_killed {
                assert_eq!(place.names(), ["app.lock"], "nothing is left without a kill");
                println!(
                    "{way}: killed at {stops} stops, {} of them leave another name",
                    left.len()
                );
                break;
            }
        }
    }
}

// ---- leases ----

/// The role `HaveALease`: gives it back when told to.
pub(crate) fn have_a_lease(arguments: &[String]) {
    let [path] = arguments else { panic!("a path") };
    // How the kernel asks for the lease; the test sees by itself when it does.
    // SAFETY: no handler is set.
    unsafe { signal(Signal::SIGIO, SigHandler::SigIgn) }.unwrap();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let lease = |kind: libc::c_int| {
        // SAFETY: takes numbers only.
        let failed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
        assert_eq!(failed, 0, "{}", Errno::last());
    };
    lease(libc::F_WRLCK);
    say("leased");
    commands().next();
    lease(libc::F_UNLCK);
    say("given back");
}

fn leased(path: &Path) -> Process {
    let process = Process::in_role(Role::HaveALease, &[path.to_str().unwrap()]);
    process.expect("leased");
    process
}

/// Returns when a process waits for the lease.
fn await_asked(path: &Path) {
    let inode = format!(":{} ", fs::metadata(path).unwrap().ino());
    until("a lease is asked for", || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("BREAKING") && line.contains(&inode))
    });
}

each_protocol!(
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn an_open_waits_for_a_lease
);
/// A file server of this machine: Samba, the NFS server.
async fn an_open_waits_for_a_lease(protocol: Protocol) {
    let place = Place::new();
    fs::write(place.lock_file(), "").unwrap();
    let mut server = leased(&place.lock_file());
    let open = tokio::spawn(FileLock::options().protocol(protocol).open(place.lock_file()));
    await_asked(&place.lock_file());
    assert!(!open.is_finished());
    server.tell("give it back");
    let lock = in_time(open).await.unwrap().unwrap();
    server.expect("given back");
    drop(in_time(lock.lock()).await.unwrap());
    server.finish();
}

/// A task's thread is not held up for as long as a lease may last.
#[tokio::test]
async fn a_try_on_a_replaced_file_does_not_wait_for_a_lease() {
    let place = Place::new();
    let path = place.lock_file();
    let lock = FileLock::open(&path).await.unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    let mut server = leased(&path);
    assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock(_))));
    await_asked(&path);
    server.tell("give it back");
    server.expect("given back");
    drop(lock.try_lock().unwrap());
    server.finish();
}

// ---- what is no file ----

/// It takes the place of the file again and again, also between the look and the open.
#[test]
fn a_fifo_that_is_planted_holds_nobody_up() {
    let place = Place::new();
    let path = place.lock_file();
    let (file, fifo) = (place.at("file"), place.at("fifo"));
    let end = AtomicBool::new(false);
    let opened = thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                fs::write(&file, "").unwrap();
                fs::rename(&file, &path).unwrap();
                mkfifo(&fifo, Bits::from_bits_truncate(0o600)).unwrap();
                fs::rename(&fifo, &path).unwrap();
            }
        });
        let path = path.clone();
        let opened = returns(move || {
            let (mut opened, mut refused) = (0, 0);
            while opened < 100 || refused < 100 {
                match FileLock::options().blocking_open(&path) {
                    Ok(lock) => {
                        opened += 1;
                        drop(lock);
                    }
                    Err(error) if error.kind() == ErrorKind::NotAFile => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            opened
        });
        end.store(true, Ordering::Relaxed);
        opened
    });
    assert!(opened >= 100);
}

// ---- directories without a path ----

/// The role `WorkInADirectory`: locks by relative paths, where others can too.
pub(crate) fn work_in_a_directory(arguments: &[String]) {
    let [kind, directory, name] = arguments else { panic!("kind, directory, protocol") };
    let work = Path::new(directory).join("work");
    fs::create_dir(&work).unwrap();
    fs::set_permissions(&work, Permissions::from_mode(0o777)).unwrap();
    std::env::set_current_dir(&work).unwrap();
    match kind.as_str() {
        "closed" => {
            fs::set_permissions(directory, Permissions::from_mode(0o000)).unwrap();
            become_nobody();
            assert!(fs::metadata(&work).is_err(), "out of reach");
        }
        "deep" => {
            let name = "d".repeat(200);
            for _ in 0..25 {
                fs::create_dir(&name).unwrap();
                std::env::set_current_dir(&name).unwrap();
            }
        }
        "unmounted" => {
            let nothing = None::<&str>;
            mount(Some("none"), &work, Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
            std::env::set_current_dir(&work).unwrap();
            umount2(&work, MntFlags::MNT_DETACH).unwrap();
        }
        _ => panic!("{kind}"),
    }
    lock_by_relative_paths(protocol(name));
    // To be removed by the test.
    if kind == "deep" {
        say("locked");
        commands().for_each(drop);
        return;
    }
    say("locked");
}

fn lock_by_relative_paths(protocol: Protocol) {
    fs::create_dir("below").unwrap();
    for name in ["app.lock", "below/app.lock"] {
        let options = FileLock::options().protocol(protocol).mode(0o666).verify_path(true);
        let lock = options.blocking_open(name).unwrap();
        drop(lock.try_lock().unwrap());
        // Also after the current directory has changed the path leads there.
        fs::remove_file(name).unwrap();
        let here = std::fs::File::open(".").unwrap();
        std::env::set_current_dir("/").unwrap();
        let guard = lock.blocking_lock().unwrap();
        nix::unistd::fchdir(&here).unwrap();
        assert!(fs::metadata(name).is_ok(), "made anew");
        drop(guard);
        fs::remove_file(name).unwrap();
    }
    let space = LockSpace::options().blocking_open("space.lock").unwrap();
    drop(space.key("a").blocking_lock().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let beside = runtime.block_on(FileLock::beside("data")).unwrap();
    drop(beside.try_lock().unwrap());
}

each_protocol!(#[test] fn below_a_directory_that_may_not_be_searched);
fn below_a_directory_that_may_not_be_searched(protocol: Protocol) {
    let place = Place::new();
    let directory = place.at("closed");
    fs::create_dir(&directory).unwrap();
    let arguments = ["closed", directory.to_str().unwrap(), &format!("{protocol:?}")];
    let child = Process::in_role(Role::WorkInADirectory, &arguments);
    let answer = child.event();
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(answer, "locked");
    child.finish();
}

each_protocol!(#[test] fn in_a_directory_whose_path_is_too_long);
fn in_a_directory_whose_path_is_too_long(protocol: Protocol) {
    let place = Place::new();
    let directory = place.directory().to_str().unwrap();
    let arguments = ["deep", directory, &format!("{protocol:?}")];
    let child = Process::in_role(Role::WorkInADirectory, &arguments);
    child.expect("locked");
    child.finish();
}

each_protocol!(#[test] fn on_a_file_system_that_was_unmounted_lazily);
fn on_a_file_system_that_was_unmounted_lazily(protocol: Protocol) {
    if lacks(&[Need::Mounts]) || passed_in(&["--mount"]) {
        return;
    }
    let place = Place::new();
    let directory = place.directory().to_str().unwrap();
    let arguments = ["unmounted", directory, &format!("{protocol:?}")];
    let child = Process::in_role(Role::WorkInADirectory, &arguments);
    child.expect("locked");
    child.finish();
}

/// The path that is shown is the absolute one, and messages name it.
#[test]
fn a_relative_path_is_shown_as_an_absolute_one() {
    let place = Place::new();
    let current = std::env::current_dir().unwrap();
    let up = "../".repeat(current.components().count() - 1);
    let relative = format!("{up}{}", place.lock_file().strip_prefix("/").unwrap().display());
    let lock = FileLock::options().blocking_open(&relative).unwrap();
    assert_eq!(lock.path(), std::path::absolute(&relative).unwrap());
    assert!(!is_held(&lock, Protocol::Flock));
    let guard = lock.try_lock().unwrap();
    assert!(is_held(&lock, Protocol::Flock));
    drop(guard);
}

fn is_held(lock: &FileLock, protocol: Protocol) -> bool {
    !is_free(lock.path(), protocol, Mode::Exclusive)
}
