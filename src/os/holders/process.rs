//! What `/proc` says of processes (proc(5)).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::process;

use nix::unistd::{Uid, User, gethostname};

use super::directory;
use super::table::Line;
use crate::holder::{Circumstances, Process, is_fit_for_a_record, program_name};

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
        start: started("self"),
        program: std::env::args_os().next().and_then(|path| program_name(&path)),
    }
}

/// Whether a recorded pid is still there, and since when.
pub(crate) fn look_up(pid: u32) -> Circumstances {
    if let Some(start) = started(&pid.to_string()) {
        return Circumstances::Started(start);
    }
    // An unreadable or missing `/proc` shows nothing about a pid.
    match directory(pid).try_exists() {
        Ok(false) if directory(process::id()).exists() => Circumstances::Gone,
        _ => Circumstances::Unknown,
    }
}

/// When the process started, in clock ticks after the boot: the 22nd field of `stat`.
fn started(process: &str) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is the name, in parentheses, with whatever in it.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

fn pid_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.ino())
}

/// This process is in the first pid namespace: no process, and no lock, is hidden from it.
pub(super) fn sees_all() -> bool {
    pid_namespace() == Some(FIRST_PID_NAMESPACE)
}

pub(super) fn exists(pid: u32) -> bool {
    directory(pid).exists()
}

/// The command's name, 15 bytes at most.
pub(super) fn name(pid: u32) -> Option<String> {
    let name = fs::read_to_string(directory(pid).join("comm")).ok()?;
    let name: String = name.trim_end_matches('\n').chars().map(printable).collect();
    Some(name).filter(|name| !name.is_empty())
}

/// A process chooses its name; it does not choose what an operator's terminal does.
fn printable(letter: char) -> char {
    if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }
}

pub(super) fn user(pid: u32) -> Option<String> {
    let id = fs::metadata(directory(pid)).ok()?.uid();
    let user = User::from_uid(Uid::from_raw(id)).ok().flatten();
    Some(user.map_or_else(|| id.to_string(), |user| user.name))
}

pub(super) fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The locks that a process keeps by its descriptors.
pub(super) fn locks(pid: u32) -> io::Result<Vec<Line>> {
    let mut locks = Vec::new();
    for descriptor in fs::read_dir(directory(pid).join("fdinfo"))? {
        // Descriptors come and go.
        let Ok(info) = descriptor.and_then(|entry| fs::read_to_string(entry.path())) else {
            continue;
        };
        let lines = info.lines().filter_map(|line| line.strip_prefix("lock:\t"));
        locks.extend(lines.filter_map(Line::parse));
    }
    Ok(locks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_knows_itself() {
        let this = this_process();
        assert_eq!(this.pid, process::id());
        assert!(this.boot.is_some() && this.pid_namespace.is_some() && this.program.is_some());
        assert_eq!(look_up(this.pid), Circumstances::Started(this.start.unwrap()));
        assert!(exists(this.pid));
    }

    #[test]
    fn a_child_that_was_reaped_is_gone() {
        let mut child = process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert_eq!(look_up(child.id()), Circumstances::Gone);
    }

    /// A process chooses its name.
    #[test]
    fn a_name_with_a_parenthesis_hides_no_start_time() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("a) b (c");
        fs::copy("/bin/sleep", &program).unwrap();
        let mut child = process::Command::new(&program).arg("1000").spawn().unwrap();
        let started = look_up(child.id());
        let ours = this_process().start.unwrap();
        assert!(matches!(started, Circumstances::Started(start) if start >= ours), "{started:?}");
        assert_eq!(name(child.id()).as_deref(), Some("a) b (c"));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
