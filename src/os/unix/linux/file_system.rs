//! What kind of file system a lock file is on, by its magic number.
//!
//! An allow-list. On a file system that is not known to be local even a non-blocking lock call
//! may wait for a server (NFS, CIFS, 9p, FUSE), so unknown means remote. So it is with what proves that
//! two files are one: on a file system that is not known to have one inode for each number, the numbers
//! prove nothing.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::statfs::{Statfs, fstatfs, statfs};

use crate::os::file_system::{FileSystem, Keyed, Kind};

/// Magic numbers of file systems whose locks are the kernel's own, and by what it finds their inodes:
/// statfs(2), linux/magic.h. FUSE is absent on purpose: its locks may be a user-space server's.
const LOCAL: &[(u32, &str, Keyed)] = &[
    (0xef53, "ext2, ext3, ext4", Keyed::ByNumber),
    (0x5846_5342, "xfs", Keyed::ByNumber),
    (0x9123_683e, "btrfs", Keyed::ByNumber),
    // After 2^32 files the numbers begin anew where they have 32 bits (`inode32`).
    (0x0102_1994, "tmpfs", Keyed::ByHandle),
    (0x8584_58f6, "ramfs", Keyed::Unknown),
    (0x794c_7630, "overlayfs", Keyed::Unknown),
    (0xf2f5_2010, "f2fs", Keyed::Unknown),
    (0x2fc1_2fc1, "zfs", Keyed::Unknown),
    (0xca45_1a4e, "bcachefs", Keyed::Unknown),
    (0x3153_464a, "jfs", Keyed::Unknown),
    (0x5265_4973, "reiserfs", Keyed::Unknown),
    (0x3434, "nilfs2", Keyed::Unknown),
    (0x4d44, "vfat", Keyed::Unknown),
    (0x2011_bab0, "exfat", Keyed::Unknown),
    (0x7366_746e, "ntfs3", Keyed::Unknown),
    (0x7371_7368, "squashfs", Keyed::Unknown),
    (0xe0f5_e1e2, "erofs", Keyed::Unknown),
    (0x9660, "iso9660", Keyed::Unknown),
];

const NFS: u32 = 0x6969;
const FUSE: u32 = 0x6573_5546;

/// smbfs, cifs, smb2 and smb3. The client gives the server's "lock not granted" to programs as EACCES.
const CIFS: [u32; 3] = [0x517b, 0xff53_4d42, 0xfe53_4d42];

/// Layers over others, which copy a whole file up before anything of it is changed: overlayfs, aufs.
const LAYERED: [u32; 2] = [0x794c_7630, 0x6175_6673];

pub(in crate::os) fn of(file: &File) -> io::Result<Kind> {
    Ok(kind(&fstatfs(file)?))
}

/// Of what stands at the path, or of what a symbolic link there leads to.
pub(in crate::os) fn at(path: &Path) -> io::Result<Kind> {
    Ok(kind(&statfs(path)?))
}

fn kind(of: &Statfs) -> Kind {
    let magic = magic(of);
    let local = LOCAL.iter().find(|(local, ..)| *local == magic);
    let (file_system, keyed) = match (local, magic) {
        (Some((_, _, keyed)), _) => (FileSystem::Local, *keyed),
        (None, NFS) => (FileSystem::Nfs, Keyed::ByHandle),
        (None, FUSE) => (FileSystem::Other, Keyed::ByHandle),
        (None, magic) if CIFS.contains(&magic) => (FileSystem::OtherWithEacces, Keyed::Unknown),
        (None, _) => (FileSystem::Other, Keyed::Unknown),
    };
    Kind { file_system, keyed }
}

/// Whether a change of the file's times may copy all of it.
pub(in crate::os::unix) fn copies_to_change(file: &File) -> bool {
    fstatfs(file).is_ok_and(|of| LAYERED.contains(&magic(&of)))
}

/// Whether the client takes names and sizes for true that another machine has changed since, and keeps names
/// of files that were removed: no two hosts agree on what is in a directory.
pub(in crate::os::unix) fn is_seen_late(directory: impl AsFd) -> bool {
    fstatfs(directory).is_ok_and(|of| CIFS.contains(&magic(&of)))
}

/// Whether a client may tell by its times, and by nothing else, that a directory has changed: NFS 3. The magic number
/// is that of NFS 4 as well.
pub(in crate::os::unix) fn is_told_by_times(directory: impl AsFd) -> bool {
    fstatfs(directory).is_ok_and(|of| magic(&of) == NFS)
}

fn magic(of: &Statfs) -> u32 {
    // All magic numbers have 32 bits; the field has the platform's own width and sign.
    of.filesystem_type().0 as u32
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_magic_number_stands_twice() {
        for (at, (magic, name, _)) in LOCAL.iter().enumerate() {
            assert!(!LOCAL[..at].iter().any(|(other, ..)| other == magic), "{name}");
        }
    }

    #[test]
    fn proc_is_not_a_file_system_for_locks() {
        assert_eq!(
            of(&File::open("/proc/self/status").unwrap()).unwrap().file_system,
            FileSystem::Other
        );
    }

    #[test]
    fn shared_memory_is_local() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        assert_eq!(of(&file).unwrap().file_system, FileSystem::Local);
    }
}
