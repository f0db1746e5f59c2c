//! Whom the locks of a mount exclude: every machine that has the file system, or this one only.
//!
//! Some mounts answer lock calls from the kernel's own table and tell no server: the lock is
//! granted, and another host gets it as well. Nothing in the answer tells; the mount's options do,
//! where they are known (proc_pid_mountinfo(5), nfs(5), mount.cifs(8)). What no option tells stays
//! unnoticed: a FUSE server that has no locks, a server that grants what it does not keep. Where the table of
//! mounts does not tell of the mount of a file that is not local, that is no answer, and no good one.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

use crate::os::Protocol;

/// What a mount is, in the words of `/proc/thread-self/mountinfo`: bytes, for names need not be text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::os) struct Mount {
    kind: Vec<u8>,
    options: Vec<u8>,
}

/// Whom the locks of a mount exclude, as far as it can be found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::os) enum Reach {
    Of(Mount),
    /// The system tells of its mounts, and not of this one: `/proc` is not mounted, or another
    /// namespace's, or the mount is out of the process's sight.
    Unknown,
    /// The system tells of no mount.
    Untold,
}

/// What the kernel says of a descriptor of this thread: threads need not share them, nor their mounts.
pub(super) fn descriptor(file: &File) -> io::Result<Vec<u8>> {
    fs::read(format!("/proc/thread-self/fdinfo/{}", file.as_raw_fd()))
}

/// The value of a line of [`descriptor`].
fn value<'a>(descriptor: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let mut lines = descriptor.split(|byte| *byte == b'\n');
    lines.find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b":\t"))
}

/// The line of a mount in the table of this thread.
fn line(mount: &[u8]) -> Option<Vec<u8>> {
    let table = fs::read("/proc/thread-self/mountinfo").ok()?;
    let mut lines = table.split(|byte| *byte == b'\n');
    lines.find(|line| words(line).next() == Some(mount)).map(<[u8]>::to_vec)
}

/// Spaces within a word are escaped.
fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b' ')
}

impl Reach {
    pub(in crate::os) fn of(file: &File) -> Self {
        let tells =
            cfg!(all(any(target_os = "linux", target_os = "android"), not(tokio_filelock_posix)));
        if !tells {
            return Reach::Untold;
        }
        Mount::of(file).map_or(Reach::Unknown, Reach::Of)
    }

    /// Why locks of this protocol may exclude the programs of this machine only, if it is not known that
    /// they reach others.
    pub(in crate::os) fn excludes_this_machine_only(
        &self,
        protocol: Protocol,
    ) -> Option<&'static str> {
        match self {
            Reach::Of(mount) => mount.excludes_this_machine_only(protocol),
            Reach::Unknown => Some(
                "whether its locks reach other machines cannot be found out, for \
                 `/proc/thread-self/mountinfo` does not tell of its mount",
            ),
            Reach::Untold => None,
        }
    }

    /// A wait that is given up may leave the lock with the server, where no process holds it and none
    /// gets it any more: lockd's, of NFS 3 and 2, when its grant and the cancel cross.
    pub(in crate::os) fn keeps_locks_given_up(&self) -> bool {
        match self {
            Reach::Of(mount) => mount.keeps_locks_given_up(),
            Reach::Unknown | Reach::Untold => true,
        }
    }
}

impl Mount {
    fn of(file: &File) -> Option<Self> {
        let descriptor = descriptor(file).ok()?;
        Self::parse(&line(value(&descriptor, "mnt_id")?)?)
    }

    /// `28 23 0:23 / /mnt rw,relatime shared:1 - nfs4 host:/ rw,vers=4.2,local_lock=none`
    fn parse(line: &[u8]) -> Option<Self> {
        let mut of_file_system = words(line).skip_while(|word| *word != b"-").skip(1);
        let kind = of_file_system.next()?.to_owned();
        let options = of_file_system.nth(1)?.to_owned();
        Some(Self { kind, options })
    }

    fn has(&self, option: &str) -> bool {
        self.options.split(|byte| *byte == b',').any(|known| known == option.as_bytes())
    }

    fn keeps_locks_given_up(&self) -> bool {
        let by_lockd = ["vers=3", "vers=2"].iter().any(|version| self.has(version));
        self.kind == b"nfs" && by_lockd && !self.has("local_lock=all")
    }

    /// Why locks of this protocol exclude the programs of this machine only, if it is known that
    /// they do.
    fn excludes_this_machine_only(&self, protocol: Protocol) -> Option<&'static str> {
        let has = |option| self.has(option);
        match (self.kind.as_slice(), protocol) {
            (b"nfs" | b"nfs4", _) if has("local_lock=all") || has("nolock") => {
                Some("its NFS mount keeps locks on this machine (`nolock` or `local_lock`)")
            }
            (b"nfs" | b"nfs4", Protocol::Flock) if has("local_lock=flock") => {
                Some("its NFS mount keeps `flock` locks on this machine (`local_lock=flock`)")
            }
            (b"nfs" | b"nfs4", Protocol::Fcntl) if has("local_lock=posix") => {
                Some("its NFS mount keeps `fcntl` locks on this machine (`local_lock=posix`)")
            }
            (b"cifs" | b"smb3", _) if has("nobrl") => {
                Some("its CIFS mount keeps locks on this machine (`nobrl`)")
            }
            // A child process closes its copy of the descriptor, and the server takes that for an
            // unlock.
            (b"9p", _) => Some("on 9p other machines may get the lock while it is held"),
            (b"fuse.sshfs", _) => Some("sshfs keeps locks on this machine"),
            (b"gfs2", _) if has("localflocks") => {
                Some("its GFS2 mount keeps locks on this machine (`localflocks`)")
            }
            (b"ocfs2", Protocol::Flock) if has("localflocks") => {
                Some("its OCFS2 mount keeps `flock` locks on this machine (`localflocks`)")
            }
            (b"lustre", _) if has("localflock") => {
                Some("its Lustre mount keeps locks on this machine (`localflock`)")
            }
            (b"afs", _) if has("flock=local") => {
                Some("its AFS mount keeps locks on this machine (`flock=local`)")
            }
            (b"pvfs2", _) if has("local_lock") => {
                Some("its OrangeFS mount keeps locks on this machine (`local_lock`)")
            }
            _ => None,
        }
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    fn reach(line: &str) -> [bool; 2] {
        let mount = Mount::parse(line.as_bytes()).unwrap();
        [Protocol::Flock, Protocol::Fcntl]
            .map(|protocol| mount.excludes_this_machine_only(protocol).is_none())
    }

    /// Lines as Linux 6.1 wrote them.
    #[test]
    fn options_tell_whom_a_lock_excludes() {
        let table = [
            (
                "28 23 0:23 / /mnt/a rw,relatime - nfs4 127.0.0.1:/ rw,vers=4.2,hard,proto=tcp,\
                 clientaddr=127.0.0.1,local_lock=none,addr=127.0.0.1",
                [true, true],
            ),
            (
                "31 23 0:27 / /mnt/b rw - nfs 127.0.0.1:/ex rw,vers=3,hard,nolock,\
                 nosharecache,local_lock=all,addr=127.0.0.1",
                [false, false],
            ),
            ("31 23 0:27 / /mnt/b rw - nfs h:/ rw,vers=3,local_lock=flock", [false, true]),
            ("31 23 0:27 / /mnt/b rw - nfs h:/ rw,vers=3,local_lock=posix", [true, false]),
            ("40 23 0:30 / /mnt/c rw - cifs //h/share rw,vers=3.0,nobrl", [false, false]),
            ("40 23 0:30 / /mnt/c rw - cifs //h/share rw,vers=3.0", [true, true]),
            ("41 23 0:31 / /mnt/d rw - 9p 127.0.0.1 rw,access=user,trans=tcp", [false, false]),
            ("42 23 0:32 / /mnt/e rw shared:7 - fuse.sshfs u@h: rw,user_id=0", [false, false]),
            ("42 23 0:32 / /mnt/e rw shared:7 - fuse server rw,user_id=0", [true, true]),
            ("42 23 0:32 / /mnt/a\\040-\\040b rw - 9p none rw", [false, false]),
        ];
        for (line, expected) in table {
            assert_eq!(reach(line), expected, "{line}");
        }
    }

    /// As the kernel's sources and the manuals of these file systems have the words; not seen on a mount.
    #[test]
    fn options_of_cluster_file_systems_tell_as_well() {
        let table = [
            ("gfs2 /dev/v rw,localflocks", [false, false]),
            ("gfs2 /dev/v rw,localcaching", [true, true]),
            ("ocfs2 /dev/v rw,heartbeat=local,localflocks,coherency=full", [false, true]),
            ("ocfs2 /dev/v rw,heartbeat=local,coherency=full", [true, true]),
            ("lustre h@tcp:/fs rw,localflock,lazystatfs", [false, false]),
            ("lustre h@tcp:/fs rw,flock,lazystatfs", [true, true]),
            ("afs #cell:volume rw,flock=local", [false, false]),
            ("afs #cell:volume rw,flock=strict", [true, true]),
            ("pvfs2 tcp://h:3334/fs rw,intr,local_lock", [false, false]),
            ("pvfs2 tcp://h:3334/fs rw,intr", [true, true]),
        ];
        for (of_file_system, expected) in table {
            let line = format!("44 23 0:34 / /mnt/f rw,relatime - {of_file_system}");
            assert_eq!(reach(&line), expected, "{line}");
        }
    }

    #[test]
    fn lockd_keeps_locks_that_were_given_up() {
        let table = [
            ("31 23 0:27 / /mnt/b rw - nfs h:/ rw,vers=3,hard,local_lock=none", true),
            ("31 23 0:27 / /mnt/b rw - nfs h:/ rw,vers=3,nolock,local_lock=all", false),
            ("28 23 0:23 / /mnt/a rw - nfs4 h:/ rw,vers=4.2,local_lock=none", false),
            ("40 23 0:30 / /mnt/c rw - cifs //h/share rw,vers=3.0", false),
        ];
        for (line, keeps) in table {
            let mount = Mount::parse(line.as_bytes()).unwrap();
            assert_eq!(mount.keeps_locks_given_up(), keeps, "{line}");
        }
        assert!(Reach::Unknown.keeps_locks_given_up() && Reach::Untold.keeps_locks_given_up());
    }

    #[test]
    fn names_need_not_be_text() {
        let line =
            b"43 23 0:33 / /mnt/Stick-\xdfe rw shared:8 - fuse.sshfs \xff@\xfe: rw,user_id=0";
        let mount = Mount::parse(line).unwrap();
        assert!(mount.excludes_this_machine_only(Protocol::Flock).is_some());
    }

    #[test]
    fn what_can_not_be_found_out_is_not_taken_for_good() {
        for protocol in [Protocol::Flock, Protocol::Fcntl] {
            assert!(Reach::Unknown.excludes_this_machine_only(protocol).is_some());
            assert!(Reach::Untold.excludes_this_machine_only(protocol).is_none());
        }
    }

    #[test]
    fn the_mount_of_an_open_file_is_found() {
        let mount = Mount::of(&File::open("/proc/self/status").unwrap()).unwrap();
        assert_eq!(mount.kind, b"proc");
    }
}
