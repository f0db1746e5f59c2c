//! Who holds the locks of a file, as the kernel sees it (Linux: proc_locks(5), proc_pid_fdinfo(5)).
//!
//! Three sources, in this order:
//! 1. `/proc/locks` has a line for each lock, and for each call that waits. It names the process
//!    that *took* the lock. In a pid namespace it leaves out the locks of processes outside.
//! 2. Where the taker does not keep the lock any more, a child that inherited the descriptor does:
//!    `/proc/PID/fdinfo` of every process is looked through. Processes of other users can be
//!    looked into by root only.
//!    All shared locks of a file look the same there: a process that took one is taken to keep that one.
//! 3. OFD locks have no pid there, as they belong to no process. Those of this crate carry it in
//!    the length of the range, which is believed unless what is seen of that process contradicts.
//!    `F_OFD_GETLK` tells the same where there is no `/proc`.

mod process;
mod table;

use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

pub(crate) use process::{look_up, this_process};

use super::fcntl;
use super::lock::turnstile_start;
use crate::holder::{Holder, Mode, Source};
use crate::os::{Effort, Identity, Protocol, Region};
use table::{Kind, Line};

/// Whether the system can tell who holds a lock of this protocol.
pub(crate) fn tells_holders(protocol: Protocol) -> bool {
    cfg!(any(target_os = "linux", target_os = "android")) || protocol == Protocol::Fcntl
}

/// A glance that meets a process with more open files does not look whether it keeps its lock.
const GLANCED_FILES: usize = 64;

/// Those who hold the lock of the region, and those whose calls wait for it.
pub(in crate::os) fn of(
    file: &File,
    inode: &Inode,
    protocol: Protocol,
    region: Region,
    effort: Effort,
) -> Vec<Holder> {
    if effort == Effort::Ask {
        return blocker(file, protocol, region).into_iter().collect();
    }
    let Ok(locks) = fs::read_to_string("/proc/locks") else {
        return blocker(file, protocol, region).into_iter().collect();
    };
    let lines = locks.lines().filter_map(Line::parse);
    let lines: Vec<Line> =
        lines.filter(|line| inode.is_of(line) && concerns(line, protocol, region)).collect();
    let takers = lines.iter().filter_map(|line| taker(line, protocol, region).0).collect();
    let look = Look { file, inode, protocol, region, effort, takers };
    let mut holders = Vec::new();
    for line in &lines {
        for holder in look.identify(line) {
            if !holders.contains(&holder) {
                holders.push(holder);
            }
        }
    }
    if holders.is_empty() && effort >= Effort::Search && !process::sees_all() {
        // A lock that was taken outside of this pid namespace is not in the table.
        for (pid, line) in look.keepers() {
            if concerns(&line, protocol, region) {
                holders.push(named(line.mode, line.waits, Some(pid), Source::OpenFiles, effort));
            }
        }
    }
    holders
}

/// The kernel lists a call that waits for the lock itself, and not for the turnstile. `false` also where
/// it is not listed: there is no `/proc`, or the holder is of another pid namespace.
pub(in crate::os) fn is_lock_waited_for(inode: &Inode, protocol: Protocol, region: Region) -> bool {
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return false };
    let mut lines = locks.lines().filter_map(Line::parse);
    lines.any(|line| {
        line.waits
            && inode.is_of(&line)
            && concerns(&line, protocol, region)
            && !waits_for_turn(&line, protocol, region)
    })
}

/// The inode, as the kernel's tables name it: not always as stat(2) does.
#[derive(Debug)]
pub(in crate::os) struct Inode {
    device: (u32, u32),
    number: u64,
}

impl Inode {
    /// Asks the kernel only, and no server that the file may be on.
    pub(in crate::os) fn of(file: &File, identity: Identity) -> Self {
        let Identity { device, inode } = identity;
        let stated = Self { device: halves_of(device), number: inode };
        Self::as_mounted(file).unwrap_or(stated)
    }

    /// btrfs and overlayfs show other numbers in stat(2) than the file system's own.
    fn as_mounted(file: &File) -> Option<Self> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
        let value =
            |key: &str| info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
        let number = value("ino")?.parse().ok()?;
        let mount = value("mnt_id")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let device = mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            (words.next()? == mount).then(|| words.nth(1))?
        })?;
        let (major, minor) = device.split_once(':')?;
        Some(Self { device: (major.parse().ok()?, minor.parse().ok()?), number })
    }

    fn is_of(&self, line: &Line) -> bool {
        line.device == self.device && line.inode == self.number
    }
}

#[cfg(target_os = "linux")]
fn halves_of(device: u64) -> (u32, u32) {
    use nix::sys::stat::{major, minor};

    (major(device) as u32, minor(device) as u32)
}

/// There is no table in which it could be looked for; but on Android, whose mounts are asked first.
#[cfg(not(target_os = "linux"))]
fn halves_of(_device: u64) -> (u32, u32) {
    (0, 0)
}

/// A lock, or a waiting call, that has to do with the lock of the region.
fn concerns(line: &Line, protocol: Protocol, region: Region) -> bool {
    match (protocol, line.kind) {
        (Protocol::Flock, Kind::Flock) => true,
        (Protocol::Fcntl, Kind::Posix | Kind::OpenFileDescription) => {
            line.overlaps(own_range(region)) || waits_for_turn(line, protocol, region)
        }
        (Protocol::Flock, _) => waits_for_turn(line, protocol, region),
        (Protocol::Fcntl, _) => false,
    }
}

/// What this process would lock: programs that know nothing of this crate may lock any part of it.
fn own_range(region: Region) -> fcntl::Range {
    fcntl::Range::of(region, std::process::id())
}

/// A call that waits at the turnstile waits for the lock behind it.
fn waits_for_turn(line: &Line, protocol: Protocol, region: Region) -> bool {
    let turnstile = turnstile_start(protocol, region);
    line.waits && line.kind != Kind::Flock && line.start == turnstile
}

/// Who took the lock, or makes the call, and where that is from.
fn taker(line: &Line, protocol: Protocol, region: Region) -> (Option<u32>, Source) {
    match line.kind {
        Kind::Flock | Kind::Posix => (line.pid, Source::LockTable),
        Kind::OpenFileDescription => {
            let is_ours = line.start == region.start || waits_for_turn(line, protocol, region);
            let length = line.length().filter(|_| is_ours);
            (length.and_then(pid_of_length), Source::RangeLength)
        }
    }
}

/// One look at the locks of one file.
#[derive(Debug)]
struct Look<'a> {
    file: &'a File,
    inode: &'a Inode,
    protocol: Protocol,
    region: Region,
    effort: Effort,
    /// All that the table names.
    takers: Vec<u32>,
}

impl Look<'_> {
    /// The holders that a line stands for: one mostly, more if children keep an inherited lock.
    fn identify(&self, line: &Line) -> Vec<Holder> {
        let named = |pid, source| named(line.mode, line.waits, pid, source, self.effort);
        let (pid, source) = taker(line, self.protocol, self.region);
        let kept = match (pid, line.kind) {
            (Some(pid), Kind::OpenFileDescription) if line.waits => Some(!process::is_gone(pid)),
            // The kernel's own word, of a living thread.
            (Some(_), _) if line.waits || line.kind == Kind::Posix => Some(true),
            (Some(pid), _) => self.keeps(pid, line),
            (None, _) => Some(false),
        };
        if kept == Some(true) {
            return vec![named(pid, source)];
        }
        if self.effort >= Effort::Search && !line.waits {
            let keepers = self.keepers().into_iter();
            let keepers =
                keepers.filter(|(pid, kept)| kept.is_same_lock(line) && !self.takers.contains(pid));
            let keepers: Vec<_> =
                keepers.map(|(pid, _)| named(Some(pid), Source::OpenFiles)).collect();
            if !keepers.is_empty() {
                return keepers;
            }
        }
        match kept {
            // Its files can not be seen. What the table says was true once; what a length says may be
            // meant for another namespace.
            None if source == Source::LockTable => vec![named(pid, source)],
            None => vec![Holder::new(line.mode, line.waits, pid, source)],
            Some(_) => vec![named(None, Source::LockTable)],
        }
    }

    /// Whether the process keeps this lock by one of its descriptors; `None` if that can not be seen.
    fn keeps(&self, pid: u32, line: &Line) -> Option<bool> {
        let is_kept = |kept: &Line| self.inode.is_of(kept) && kept.is_same_lock(line);
        if pid == process::own_pid() && process::locks_of(self.file).iter().any(is_kept) {
            return Some(true);
        }
        let most = if self.effort == Effort::Glance { GLANCED_FILES } else { usize::MAX };
        match process::locks(pid, most) {
            Ok(kept) => Some(kept.iter().any(is_kept)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !process::is_hidden(pid) => {
                Some(false)
            }
            Err(_) => None,
        }
    }

    /// All processes that can be looked into and keep a lock of the file.
    fn keepers(&self) -> Vec<(u32, Line)> {
        let mut keepers = Vec::new();
        for pid in process::all() {
            let kept = process::locks(pid, usize::MAX).unwrap_or_default();
            let kept = kept.into_iter().filter(|line| self.inode.is_of(line));
            keepers.extend(kept.map(|line| (pid, line)));
        }
        keepers
    }
}

/// The lock that would keep this process out, where there is no `/proc`.
fn blocker(file: &File, protocol: Protocol, region: Region) -> Option<Holder> {
    if protocol != Protocol::Fcntl {
        return None;
    }
    let blocker = fcntl::blocker(file, own_range(region)).ok()??;
    let told = blocker.pid.map(|pid| (pid, Source::LockTable));
    let carried = Some(blocker.range.length).filter(|_| blocker.range.start == region.start);
    let carried = carried.and_then(pid_of_length).map(|pid| (pid, Source::RangeLength));
    let (pid, source) = told.or(carried).unzip();
    let source = source.unwrap_or(Source::LockTable);
    Some(named(blocker.mode, false, pid, source, Effort::Glance))
}

/// The pid that a range of this crate carries in its length.
fn pid_of_length(length: u64) -> Option<u32> {
    u32::try_from(length.checked_sub(1)?).ok().filter(|&pid| pid > 0)
}

fn named(mode: Mode, waits: bool, pid: Option<u32>, source: Source, effort: Effort) -> Holder {
    let mut holder = Holder::new(mode, waits, pid, source);
    let Some(pid) = pid else { return holder };
    holder.is_this_process = pid == process::own_pid();
    holder.program = process::name(pid).map(|name| (name, Source::Process));
    if effort == Effort::Thorough {
        holder.user = process::user(pid);
    }
    holder
}

/// The directory of a process in `/proc`.
fn directory(pid: u32) -> std::path::PathBuf {
    Path::new("/proc").join(pid.to_string())
}
