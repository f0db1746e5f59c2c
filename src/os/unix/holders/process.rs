//! What `/proc` says of processes (proc(5)).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, Uid, User, gethostname};

use super::super::kernel::record;
use super::table::Line;
use super::{Inode, directory};
use crate::holder::{Circumstances, Process, is_fit_for_a_record, is_printable, program_name};
use crate::os::unix::mount;

/// The inode of the first pid namespace, `PROC_PID_INIT_INO`.
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;

/// What this process can say of itself.
pub(crate) fn this_process() -> Process {
    let fit = |text: String| Some(text).filter(|text| is_fit_for_a_record(text));
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    Process {
        pid: process::id(),
        host: gethostname().ok().and_then(|host| fit(host.to_string_lossy().into_owned())),
        boot: boot.and_then(|boot| fit(boot.trim_end().to_owned())),
        pid_namespace: pid_namespace(),
        time_namespace: time_namespace(),
        start: started("self"),
        program: std::env::args_os().next().and_then(|path| program_name(&path)),
    }
}

/// Whether a recorded pid is still there, and since when.
pub(crate) fn look_up(pid: u32) -> Circumstances {
    if is_gone(pid) {
        return Circumstances::Gone;
    }
    // In the `/proc` of another pid namespace a pid means another process.
    match started(&pid.to_string()) {
        Some(start) if is_of_own_namespace() => Circumstances::Started(start),
        _ => Circumstances::Unknown,
    }
}

/// No process has this pid. `/proc` does not tell: mounted with `hidepid`, it leaves out those of other
/// users.
pub(super) fn is_gone(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
}

/// `/proc` leaves out a process that exists.
pub(super) fn is_hidden(pid: u32) -> bool {
    !directory(pid).exists() && !is_gone(pid)
}

/// The pid of this process in the namespace that `/proc` is of.
pub(super) fn own_pid() -> u32 {
    let own = fs::read_link("/proc/self").ok();
    own.and_then(|own| own.to_str()?.parse().ok()).unwrap_or_else(process::id)
}

/// `/proc` is that of this process's own pid namespace: it lists the pids that a process has from there
/// on, down to its own namespace. To compare one pid would not do: a process may have one number in both.
fn is_of_own_namespace() -> bool {
    let status = text("/proc/self/status").unwrap_or_default();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    pids.is_some_and(|pids| pids.split_ascii_whitespace().count() == 1)
}

/// When the process started, in clock ticks after the boot: the 22nd field of `stat`. The kernel adds
/// what the time namespace of this process, which reads it, puts the boot back (time_namespaces(7)).
fn started(process: &str) -> Option<u64> {
    // qemu-user answers in place of the kernel where the path of its own process is written plainly, with a
    // time that is not the one that other processes see.
    let stat = text(format!("/proc/./{process}/stat")).ok()?;
    // The second field is the name, in parentheses, with whatever in it.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

fn pid_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.ino())
}

/// Whose clock `started` goes by; 0 where the kernel has one clock for all.
fn time_namespace() -> Option<u64> {
    match fs::metadata("/proc/self/ns/time") {
        Ok(namespace) => Some(namespace.ino()),
        // The directory is there, and this is not in it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => pid_namespace().map(|_| 0),
        Err(_) => None,
    }
}

/// This process is in the first pid namespace: no process, and no lock, is hidden from it.
pub(super) fn sees_all() -> bool {
    pid_namespace() == Some(FIRST_PID_NAMESPACE)
}

/// The command's name, 15 bytes at most, which may be no text.
pub(super) fn name(pid: u32) -> Option<String> {
    let name = fs::read(directory(pid).join("comm")).ok()?;
    let name = String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name));
    Some(shown(&name)).filter(|name| !name.is_empty())
}

fn shown(name: &str) -> String {
    let shown = |letter| if is_printable(letter) { letter } else { char::REPLACEMENT_CHARACTER };
    name.chars().map(shown).collect()
}

pub(super) fn user(pid: u32) -> Option<String> {
    let id = fs::metadata(directory(pid)).ok()?.uid();
    let user = User::from_uid(Uid::from_raw(id)).ok().flatten();
    Some(user.map_or_else(|| id.to_string(), |user| shown(&user.name)))
}

pub(super) fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A file of `/proc`, in which names need not be text.
pub(super) fn text(path: impl AsRef<Path>) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

/// The locks that a process keeps by its descriptors.
pub(super) fn locks(pid: u32) -> io::Result<Vec<Line>> {
    if let Some(locks) = locks_of_thread(&directory(pid))? {
        return Ok(locks);
    }
    // The first thread has ended: the others have the descriptors.
    let threads = fs::read_dir(directory(pid).join("task"))?.flatten();
    // Threads come and go.
    let mut locks = threads.filter_map(|thread| locks_of_thread(&thread.path()).ok().flatten());
    Ok(locks.next().unwrap_or_default())
}

/// `None` if it has no descriptors.
fn locks_of_thread(thread: &Path) -> io::Result<Option<Vec<Line>>> {
    let (mut locks, mut has_descriptors) = (Vec::new(), false);
    for descriptor in fs::read_dir(thread.join("fdinfo"))? {
        has_descriptors = true;
        // Descriptors come and go.
        let Ok(info) = descriptor.and_then(|entry| text(entry.path())) else {
            continue;
        };
        locks.extend(locks_in(&info));
    }
    Ok(has_descriptors.then_some(locks))
}

/// The locks that a file of this process keeps.
pub(super) fn locks_of(file: &File) -> Vec<Line> {
    let info = mount::descriptor(file).unwrap_or_default();
    locks_in(&String::from_utf8_lossy(&info)).collect()
}

/// A thread of the process is seen to wait for a byte-range lock of this file: it is in a system call
/// whose first arguments are a descriptor of the file and the command to wait.
pub(super) fn waits(pid: u32, inode: &Inode) -> bool {
    let is_of = |descriptor| {
        let opened = Inode::as_mounted(&directory(pid), descriptor);
        opened.is_some_and(|opened| opened == *inode)
    };
    let threads = fs::read_dir(directory(pid).join("task")).into_iter().flatten().flatten();
    threads.into_iter().any(|thread| {
        // A number, then the arguments; `running` for a thread that is in none (proc_pid_syscall(5)).
        let call = fs::read_to_string(thread.path().join("syscall")).unwrap_or_default();
        let mut arguments = call.split(' ').skip(1).map(|argument| {
            let digits = argument.strip_prefix("0x")?;
            i32::from_str_radix(digits, 16).ok()
        });
        let descriptor = arguments.next().flatten();
        arguments.next().flatten() == Some(record::WAIT) && descriptor.is_some_and(is_of)
    })
}

/// The locks in what `fdinfo` says of a descriptor.
fn locks_in(info: &str) -> impl Iterator<Item = Line> {
    info.lines().filter_map(|line| Line::parse(line.strip_prefix("lock:\t")?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn this_process_knows_itself() {
        let this = this_process();
        assert_eq!(this.pid, process::id());
        assert!(this.boot.is_some() && this.pid_namespace.is_some() && this.program.is_some());
        assert!(this.time_namespace.is_some() && is_of_own_namespace());
        assert_eq!(look_up(this.pid), Circumstances::Started(this.start.unwrap()));
        assert!(!is_gone(this.pid) && !is_hidden(this.pid));
        assert_eq!(own_pid(), this.pid);
    }

    #[test]
    fn a_child_that_was_reaped_is_gone() {
        let mut child = process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert_eq!(look_up(child.id()), Circumstances::Gone);
    }

    #[test]
    fn a_pid_that_can_not_be_is_not_known_to_be_gone() {
        for pid in [1 << 31, u32::MAX] {
            assert_eq!(look_up(pid), Circumstances::Unknown);
        }
    }

    /// A process chooses its name.
    #[test]
    fn a_name_with_a_parenthesis_hides_no_start_time() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("a) b (c");
        fs::copy("/bin/cat", &program).unwrap();
        let mut child = process::Command::new(&program)
            .stdin(process::Stdio::piped())
            .stdout(process::Stdio::piped())
            .spawn()
            .unwrap();
        // An emulator may return before the program runs: its answer says that it does.
        child.stdin.as_mut().unwrap().write_all(b"!").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let started = look_up(child.id());
        let ours = this_process().start.unwrap();
        assert!(matches!(started, Circumstances::Started(start) if start >= ours), "{started:?}");
        assert_eq!(name(child.id()).as_deref(), Some("a) b (c"));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
