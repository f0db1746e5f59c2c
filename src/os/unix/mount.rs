//! Whom the locks of a mount exclude: everybody who has the file system, or this machine only.
//!
//! Some mounts answer lock calls from the kernel's own table and tell no server: the lock is
//! granted, and another host gets it as well. Nothing in the answer tells; the mount's options do,
//! where they are known (proc_pid_mountinfo(5), nfs(5), mount.cifs(8)). What no option tells stays
//! unnoticed: a FUSE server that has no locks, a server that grants what it does not keep.

use std::fs::{self, File};
use std::os::fd::AsRawFd;

use crate::os::Protocol;

/// What a mount is, in the words of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::os) struct Mount {
    kind: String,
    options: String,
}

impl Mount {
    /// `None` where `/proc` does not tell.
    pub(in crate::os) fn of(file: &File) -> Option<Self> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        mounts.lines().find(|line| line.split(' ').next() == Some(id)).and_then(Self::parse)
    }

    /// `28 23 0:23 / /mnt rw,relatime shared:1 - nfs4 host:/ rw,vers=4.2,local_lock=none`
    fn parse(line: &str) -> Option<Self> {
        let (_, of_file_system) = line.split_once(" - ")?;
        let mut words = of_file_system.split(' ');
        let kind = words.next()?.to_owned();
        let options = words.nth(1)?.to_owned();
        Some(Self { kind, options })
    }

    fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|known| known == option)
    }

    /// A wait that is given up may leave the lock with the server, where nobody holds it and nobody
    /// gets it any more: lockd's, of NFS 3 and 2, when its grant and the cancel cross.
    pub(in crate::os) fn keeps_locks_given_up(&self) -> bool {
        let by_lockd = ["vers=3", "vers=2"].iter().any(|version| self.has(version));
        self.kind == "nfs" && by_lockd && !self.has("local_lock=all")
    }

    /// Why locks of this protocol exclude the programs of this machine only, if it is known that
    /// they do.
    pub(in crate::os) fn excludes_this_machine_only(
        &self,
        protocol: Protocol,
    ) -> Option<&'static str> {
        let has = |option| self.has(option);
        match (self.kind.as_str(), protocol) {
            ("nfs" | "nfs4", _) if has("local_lock=all") || has("nolock") => {
                Some("its NFS mount keeps locks on this machine (`nolock` or `local_lock`)")
            }
            ("nfs" | "nfs4", Protocol::Flock) if has("local_lock=flock") => {
                Some("its NFS mount keeps `flock` locks on this machine (`local_lock=flock`)")
            }
            ("nfs" | "nfs4", Protocol::Fcntl) if has("local_lock=posix") => {
                Some("its NFS mount keeps `fcntl` locks on this machine (`local_lock=posix`)")
            }
            ("cifs" | "smb3", _) if has("nobrl") => {
                Some("its CIFS mount keeps locks on this machine (`nobrl`)")
            }
            // A child process closes its copy of the descriptor, and the server takes that for an
            // unlock.
            ("9p", _) => Some("on 9p other machines may get the lock while it is held"),
            ("fuse.sshfs", _) => Some("sshfs keeps locks on this machine"),
            _ => None,
        }
    }
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    fn reach(line: &str) -> [bool; 2] {
        let mount = Mount::parse(line).unwrap();
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
        ];
        for (line, expected) in table {
            assert_eq!(reach(line), expected, "{line}");
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
            assert_eq!(Mount::parse(line).unwrap().keeps_locks_given_up(), keeps, "{line}");
        }
    }

    #[test]
    fn the_mount_of_an_open_file_is_found() {
        let mount = Mount::of(&File::open("/proc/self/status").unwrap()).unwrap();
        assert_eq!(mount.kind, "proc");
    }
}
