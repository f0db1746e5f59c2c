//! What a test needs that not every user or machine has: a test that lacks it does not run, and the
//! end of the output names it, with what it lacks.
//!
//! libtest has no word for that: such a test begins with `if lacks(&[...]) { return; }`, and libtest
//! counts it as passed. The list is written when the process ends, and `.ci/run` fails if there is
//! one.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, Once};
use std::thread;

use nix::libc;
use nix::unistd::geteuid;

use crate::child::Role;
use crate::support::process;

/// Each is tried for real, once, in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(dead_code)] // not every need has a test at all times
pub(crate) enum Need {
    /// To be root, and to be able to become another user.
    Root,
    /// A mount namespace, and the right to mount in it: `&["--mount"]` for [`unshare`].
    Mounts,
    /// The same, with an overlay of other directories.
    Overlay,
    /// A pid namespace with a `/proc`: `&["--pid", "--fork", "--mount-proc"]`.
    PidNamespace,
    /// A time namespace: `&["--time", "--boottime", "1"]`.
    TimeNamespace,
    /// A mount namespace in which a FUSE file system can be mounted.
    Fuse,
    /// A file system of this kind, made by its mkfs and mounted from a file.
    Disk(&'static str),
    /// A program in the `PATH`, which answers `--version`.
    Program(&'static str),
    /// To stop another process at each of its system calls: an emulator has none of that.
    #[cfg(target_os = "linux")]
    Ptrace,
}

/// In a mount namespace that goes with the process.
const MOUNT: &str = "mount -t tmpfs tmpfs /tmp";
const OVERLAY: &str = "mount -t tmpfs tmpfs /tmp && cd /tmp && mkdir lower upper work merged &&
    mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged";
const DISK: &str = "mount -t tmpfs tmpfs /tmp && truncate -s 320M /tmp/image && mkdir /tmp/at &&
    mkfs.$0 -q /tmp/image && mount -o loop /tmp/image /tmp/at";

/// Whether something is not to be had; the test that asks is noted as not run then, and returns.
#[must_use = "a test that lacks something returns"]
pub(crate) fn lacks(needs: &[Need]) -> bool {
    // Probes of one kind are made once, and one after the other.
    static TRIED: Mutex<BTreeMap<Need, Result<(), String>>> = Mutex::new(BTreeMap::new());

    let mut tried = TRIED.lock().unwrap();
    let lacked = needs.iter().find_map(|need| {
        let outcome = tried.entry(*need).or_insert_with(|| need.probe());
        outcome.as_ref().err().map(|reason| format!("{need:?}: {reason}"))
    });
    drop(tried);
    let Some(lacked) = lacked else { return false };
    note(format!("{}: lacks {lacked}", name_of_test()));
    true
}

/// The words that start a process in new namespaces: `unshare` with these arguments, and with a user
/// namespace for those who are not root.
pub(crate) fn unshare<'a>(namespaces: &[&'a str]) -> Vec<&'a str> {
    let user: &[&str] = if geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    [&["unshare"], user, namespaces].concat()
}

/// Runs the test that asks once more, alone, in new namespaces: `true` where it has passed there, and
/// has nothing more to do here; `false` there. Panics if it failed.
#[must_use = "a test that has passed returns"]
pub(crate) fn passed_in(namespaces: &[&str]) -> bool {
    const INSIDE: &str = "TOKIO_FILELOCK_TEST_INSIDE";

    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let mut command = process::this_binary_under(&unshare(namespaces));
    command.args(["--exact", &name_of_test(), "--nocapture"]).env(INSIDE, "1");
    let Output { status, stdout, stderr } = command.output().expect("unshare(1) was tried before");
    for output in [stdout, stderr] {
        print!("{}", String::from_utf8_lossy(&output));
    }
    assert!(status.success(), "{command:?}: {status}");
    true
}

fn name_of_test() -> String {
    thread::current().name().expect("libtest names the thread").to_owned()
}

impl Need {
    fn probe(self) -> Result<(), String> {
        match self {
            Need::Root if !geteuid().is_root() => Err("this is an ordinary user".to_owned()),
            Need::Root => {
                succeeds(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "true"])
            }
            Need::Mounts => succeeds(&unshare(&["--mount", "sh", "-c", MOUNT])),
            Need::Overlay => succeeds(&unshare(&["--mount", "sh", "-c", OVERLAY])),
            Need::PidNamespace => succeeds(&unshare(&["--pid", "--fork", "--mount-proc", "true"])),
            Need::TimeNamespace => succeeds(&unshare(&["--time", "--boottime", "1", "true"])),
            Need::Fuse => {
                if !Path::new("/dev/fuse").exists() {
                    return Err("there is no /dev/fuse".to_owned());
                }
                ended_well(process::command_in_role(&unshare(&["--mount"]), Role::TryFuse, &[]))
            }
            Need::Disk(kind) => succeeds(&["unshare", "--mount", "sh", "-c", DISK, kind]),
            Need::Program(name) => succeeds(&[name, "--version"]),
            #[cfg(target_os = "linux")]
            Need::Ptrace => can_trace(),
        }
    }
}

#[cfg(target_os = "linux")]
fn can_trace() -> Result<(), String> {
    use nix::sys::ptrace;
    use nix::unistd::Pid;

    let mut child = Command::new("sleep").arg("1000").spawn().map_err(|error| error.to_string())?;
    let pid = Pid::from_raw(child.id() as i32);
    let tried = ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD);
    child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
    tried.map_err(|errno| format!("ptrace(2): {errno}"))
}

fn succeeds(words: &[&str]) -> Result<(), String> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    ended_well(command)
}

fn ended_well(mut command: Command) -> Result<(), String> {
    let Output { status, stderr, .. } =
        command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&stderr);
    Err(said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it fails").to_owned())
}

static NOT_RUN: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note(test: String) {
    static AT_EXIT: Once = Once::new();

    AT_EXIT.call_once(|| {
        // SAFETY: the handler takes nothing, returns, and does not unwind.
        assert_eq!(unsafe { libc::atexit(list) }, 0);
    });
    NOT_RUN.lock().unwrap().push(test);
}

/// The end of this process is the end of its tests.
extern "C" fn list() {
    let Ok(mut tests) = NOT_RUN.lock() else { return };
    tests.sort();
    let mut text =
        format!("\n{} of the tests could not run, although they count as passed:\n", tests.len());
    for test in tests.iter() {
        let _ = writeln!(text, "not run: {test}");
    }
    // To the descriptor, which libtest does not capture.
    let _ = io::stderr().write_all(text.as_bytes());
}
