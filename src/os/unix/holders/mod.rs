//! The holders of the locks of a file, as the kernel sees them (Linux: proc_locks(5), proc_pid_fdinfo(5)).
//!
//! Three sources, in this order:
//! 1. `/proc/locks` has a line for each lock, and for each call that waits. It names the process
//!    that *took* the lock. In a pid namespace it leaves out the locks of processes outside.
//! 2. Where the taker does not keep the lock any more, a child that inherited the descriptor does:
//!    `/proc/PID/fdinfo` of every process is looked through. Processes of other users can be
//!    looked into by root only.
//!    All shared locks of a file look the same there: a process that took one is taken to keep that one.
//! 3. OFD locks have no pid there, as they belong to no process. Those of this crate carry it in
//!    the length of the range. It is the pid in the holder's own namespace, maybe on another machine, and
//!    so a claim, until the process that has it here is seen to keep this very lock, or to wait for
//!    it. `F_OFD_GETLK` tells the same where there is no `/proc`, and in one call.

mod pass;
mod process;
mod table;

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use process::{look_up, this_process};

use super::fcntl;
use super::lock::turnstile_start;
use super::range::Range;
use crate::holder::{Holder, Source};
use crate::mode::Mode;
use crate::os::{Effort, Identity, Protocol, Question};
use pass::Shown;
use table::{Kind, Line};

/// Whether the system can tell which process holds a lock of this protocol.
pub(crate) fn tells_holders(protocol: Protocol) -> bool {
    cfg!(any(target_os = "linux", target_os = "android")) || protocol == Protocol::Fcntl
}

/// So often the table is read again that shows no holder of a busy lock: it went from one to the next.
const READS: usize = 8;

/// No read of the table begins later than this after the first one: a query keeps the file of the lock open, and the machine's
/// locks waiting.
const LIMIT: Duration = Duration::from_secs(1);

fn is_later_than(limit: Duration) -> impl Fn() -> bool {
    let begun = Instant::now();
    move || begun.elapsed() >= limit
}

/// The processes that hold the lock of the region, and those whose calls wait for it.
pub(in crate::os) fn of(question: &Question<'_>, inode: &Inode, effort: Effort) -> Vec<Holder> {
    let (mut seen, mut in_doubt) = (Vec::new(), false);
    let is_late = is_later_than(LIMIT);
    for _ in 0..READS {
        let Ok(shown) = lines(question, inode, &is_late) else {
            return blocker(question).into_iter().collect();
        };
        (seen, in_doubt) = shown;
        let is_held = seen.iter().any(|line| !line.waits);
        let is_busy = effort == Effort::Search || !seen.is_empty();
        if is_held || !is_busy || is_late() {
            break;
        }
    }
    let takers = seen.iter().filter_map(|line| taker(line, question).0).collect();
    let query = Query { question, inode, effort, takers, keepers: OnceCell::new() };
    let mut holders = Vec::new();
    for line in &seen {
        for holder in query.identify(line) {
            if !holders.contains(&holder) {
                holders.push(holder);
            }
        }
    }
    // A lock that was taken outside of this pid namespace is not in the table.
    let may_be_hidden = holders.is_empty() && !process::sees_all();
    if may_be_hidden || in_doubt && holders.iter().all(Holder::is_waiting) {
        for (pid, line) in query.keepers() {
            if concerns(line, question) {
                holders.push(named(line.mode, line.waits, *pid, Source::OpenFiles, effort));
            }
        }
    }
    if holders.iter().all(Holder::is_waiting) {
        // On a file system that other machines reach the table is of this one only.
        holders.extend(blocker(question));
    }
    holders
}

/// The kernel lists a call that waits for the lock itself, and not for the turnstile. `false` also where
/// it is not listed: there is no `/proc`, or the holder is of another pid namespace.
pub(in crate::os) fn is_lock_waited_for(question: &Question<'_>, inode: &Inode) -> bool {
    let (lines, _) = lines(question, inode, is_later_than(LIMIT)).unwrap_or_default();
    lines.iter().any(|line| line.waits && !waits_for_turn(line, question))
}

/// What the kernel lists of the lock, and whether a holder may be missing.
fn lines(
    question: &Question<'_>,
    inode: &Inode,
    is_late: impl Fn() -> bool,
) -> io::Result<(Vec<Line>, bool)> {
    let concerned = |locks: &[u8]| {
        let locks = String::from_utf8_lossy(locks);
        let lines = locks.lines().filter_map(Line::parse);
        lines.filter(|line| inode.is_of(line) && concerns(line, question)).collect::<Vec<_>>()
    };
    let shows_holder = |lines: &[Line]| lines.iter().any(|line| !line.waits);
    let open = || File::open("/proc/locks");
    let Shown { passes, in_doubt } =
        pass::read(open, |locks| shows_holder(&concerned(locks)), is_late)?;
    let mut shown: Vec<_> = passes.iter().map(|locks| concerned(locks)).collect();
    let found = shown.iter().position(|lines| shows_holder(lines));
    Ok((shown.swap_remove(found.unwrap_or(0)), in_doubt && found.is_none()))
}

/// What this process has locked by POSIX record locks, in any file, where `/proc` tells.
pub(in crate::os::unix) struct RecordLocks(Vec<Line>);

impl RecordLocks {
    pub(in crate::os::unix) fn of_this_process() -> Self {
        // Whether a file may be closed depends on it, so it has all the time that it needs.
        let shown = pass::read(|| File::open("/proc/locks"), |_| false, || false);
        let locks = shown.map(|shown| shown.passes.concat()).unwrap_or_default();
        let locks = String::from_utf8_lossy(&locks);
        let own = process::own_pid();
        let is_own = |line: &Line| line.kind == Kind::Posix && line.pid == Some(own) && !line.waits;
        Self(locks.lines().filter_map(Line::parse).filter(is_own).collect())
    }

    pub(in crate::os::unix) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    pub(in crate::os::unix) fn are_in_file(&self, file: &File, identity: Identity) -> bool {
        let inode = || Inode::of(file, identity);
        self.any() && self.0.iter().any(|line| inode().is_of(line))
    }

    pub(in crate::os::unix) fn are_in(&self, inode: &Inode) -> bool {
        self.0.iter().any(|line| inode.is_of(line))
    }
}

/// The inode, as the kernel's tables name it: not always as stat(2) does.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::os) struct Inode {
    device: (u32, u32),
    number: u64,
}

impl Inode {
    /// Asks the kernel only, and no server that the file may be on.
    pub(in crate::os) fn of(file: &File, identity: Identity) -> Self {
        let stated = Self::by_number(identity);
        // This thread may have a mount namespace of its own.
        let thread = Path::new("/proc/thread-self");
        Self::as_mounted(thread, file.as_raw_fd()).unwrap_or(stated)
    }

    pub(in crate::os) fn by_number(identity: Identity) -> Self {
        let Identity { device, inode } = identity;
        Self { device: halves_of(device), number: inode }
    }

    /// btrfs and overlayfs show other numbers in stat(2) than the file system's own.
    fn as_mounted(process: &Path, descriptor: RawFd) -> Option<Self> {
        let info = process.join("fdinfo").join(descriptor.to_string());
        let info = process::text(info).ok()?;
        let value =
            |key: &str| info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
        let number = value("ino")?.parse().ok()?;
        let mount = value("mnt_id")?;
        // The name of a mount may be no text.
        let mounts = fs::read(process.join("mountinfo")).ok()?;
        let mounts = String::from_utf8_lossy(&mounts);
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
fn concerns(line: &Line, question: &Question<'_>) -> bool {
    let is_range = matches!(line.kind, Kind::Posix | Kind::OpenFileDescription);
    match question.protocol {
        Protocol::Flock if line.kind == Kind::Flock => true,
        // What this process would lock: programs that know nothing of this crate may lock any part of it.
        Protocol::Fcntl if is_range && line.overlaps(own_range(question)) => true,
        _ => waits_for_turn(line, question),
    }
}

/// What this process would lock.
fn own_range(question: &Question<'_>) -> Range {
    Range::of(question.region, question.pid)
}

/// A call that waits at the turnstile waits for the lock behind it.
fn waits_for_turn(line: &Line, question: &Question<'_>) -> bool {
    let turnstile = turnstile_start(question.protocol, question.region);
    line.waits && line.kind != Kind::Flock && line.start == turnstile
}

/// The process that took the lock, or makes the call, and where that is from.
fn taker(line: &Line, question: &Question<'_>) -> (Option<u32>, Source) {
    match line.kind {
        Kind::Flock | Kind::Posix => (line.pid, Source::LockTable),
        Kind::OpenFileDescription => {
            let is_ours = line.start == question.region.start || waits_for_turn(line, question);
            match line.length().filter(|_| is_ours).and_then(pid_of_length) {
                Some(pid) => (Some(pid), Source::RangeLength),
                None => (None, Source::LockTable),
            }
        }
    }
}

/// One query for the holders of a lock.
#[derive(Debug)]
struct Query<'a> {
    question: &'a Question<'a>,
    inode: &'a Inode,
    effort: Effort,
    /// All that the table names.
    takers: Vec<u32>,
    keepers: OnceCell<Vec<(u32, Line)>>,
}

impl Query<'_> {
    /// The holders that a line stands for: one mostly, more if children keep an inherited lock.
    fn identify(&self, line: &Line) -> Vec<Holder> {
        let named = |pid, source| named(line.mode, line.waits, pid, source, self.effort);
        let (taker, source) = taker(line, self.question);
        if let Some(pid) = taker {
            let is_seen = match line.kind {
                Kind::OpenFileDescription if line.waits => process::waits(pid, self.inode),
                // The kernel's own word, of a living thread.
                Kind::Flock if line.waits => true,
                Kind::Posix => true,
                // What the table says was true once, and is believed where it can not be seen.
                Kind::Flock => self.keeps(pid, line).unwrap_or(true),
                // The pid that a length carries may be meant for another namespace.
                Kind::OpenFileDescription => self.keeps(pid, line) == Some(true),
            };
            if is_seen {
                return vec![named(pid, source)];
            }
        }
        let keepers = self.keepers().iter().filter(|(pid, kept)| {
            let is_taker = source == Source::LockTable && self.takers.contains(pid);
            !line.waits && kept.is_same_lock(line) && !is_taker
        });
        let keepers: Vec<_> = keepers.map(|(pid, _)| named(*pid, Source::OpenFiles)).collect();
        if !keepers.is_empty() {
            return keepers;
        }
        let mut unseen = Holder::new(line.mode, line.waits, None, source);
        if source == Source::RangeLength {
            unseen.claimed = taker;
        }
        vec![unseen]
    }

    /// Whether the process keeps this lock by one of its descriptors; `None` if that can not be seen.
    fn keeps(&self, pid: u32, line: &Line) -> Option<bool> {
        let is_kept = |kept: &Line| self.inode.is_of(kept) && kept.is_same_lock(line);
        if pid == process::own_pid() && process::locks_of(self.question.file).iter().any(is_kept) {
            return Some(true);
        }
        match process::locks(pid) {
            Ok(kept) => Some(kept.iter().any(is_kept)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !process::is_hidden(pid) => {
                Some(false)
            }
            Err(_) => None,
        }
    }

    /// All processes that can be looked into and keep a lock of the file.
    fn keepers(&self) -> &[(u32, Line)] {
        self.keepers.get_or_init(|| {
            let mut keepers = Vec::new();
            for pid in process::all() {
                let kept = process::locks(pid).unwrap_or_default();
                let kept = kept.into_iter().filter(|line| self.inode.is_of(line));
                keepers.extend(kept.map(|line| (pid, line)));
            }
            keepers
        })
    }
}

/// The lock that would keep this process out, by the kernel's word. Makes one system call.
pub(in crate::os) fn blocker(question: &Question<'_>) -> Option<Holder> {
    if question.protocol != Protocol::Fcntl {
        return None;
    }
    let blocker = fcntl::blocker(question.file, own_range(question)).ok()??;
    let is_ours = blocker.range.start == question.region.start;
    let carried = Some(blocker.range.length).filter(|_| is_ours).and_then(pid_of_length);
    // A server may name the process of another machine.
    let told = blocker.pid.filter(|_| question.is_local);
    let source = match (blocker.pid, carried) {
        (None, Some(_)) => Source::RangeLength,
        _ => Source::LockTable,
    };
    let mut holder = Holder::new(blocker.mode, false, told, source);
    holder.is_this_process = told == Some(question.pid);
    holder.claimed = blocker.pid.or(carried).filter(|_| told.is_none());
    Some(holder)
}

/// The pid that a range of this crate carries in its length.
fn pid_of_length(length: u64) -> Option<u32> {
    u32::try_from(length.checked_sub(1)?).ok().filter(|&pid| pid > 0)
}

/// A process of this `/proc`.
fn named(mode: Mode, waits: bool, pid: u32, source: Source, effort: Effort) -> Holder {
    let mut holder = Holder::new(mode, waits, Some(pid), source);
    holder.is_this_process = pid == process::own_pid();
    describe(&mut holder, pid, effort);
    holder
}

fn describe(holder: &mut Holder, pid: u32, effort: Effort) {
    holder.program = process::name(pid).map(|name| (name, Source::Process));
    if effort == Effort::Thorough {
        holder.user = process::user(pid);
    }
}

/// What `/proc` says of this process, for a holder that is known to be it.
pub(crate) fn describe_this_process(holder: &mut Holder, effort: Effort) {
    describe(holder, process::own_pid(), effort);
}

/// The directory of a process in `/proc`.
fn directory(pid: u32) -> std::path::PathBuf {
    Path::new("/proc").join(pid.to_string())
}
