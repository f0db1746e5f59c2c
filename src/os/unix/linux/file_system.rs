//! What kind of file system a lock file is on, by its magic number.
//!
//! An allow-list. On a file system that is not known to be local even a non-blocking lock call
//! may wait for a server (NFS, CIFS, 9p, FUSE), so unknown means remote.

use std::fs::File;
use std::io;

use nix::sys::statfs::fstatfs;

use crate::os::file_system::FileSystem;

/// Magic numbers of file systems whose locks are the kernel's own: statfs(2), linux/magic.h.
/// FUSE is absent on purpose: its locks may be a user-space server's.
const LOCAL: &[(u32, &str)] = &[
    (0xef53, "ext2, ext3, ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlayfs"),
    (0xf2f5_2010, "f2fs"),
    (0x2fc1_2fc1, "zfs"),
    (0xca45_1a4e, "bcachefs"),
    (0x3153_464a, "jfs"),
    (0x5265_4973, "reiserfs"),
    (0x3434, "nilfs2"),
    (0x4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0x7366_746e, "ntfs3"),
    (0x7371_7368, "squashfs"),
    (0xe0f5_e1e2, "erofs"),
    (0x9660, "iso9660"),
];

const NFS: u32 = 0x6969;

/// smbfs, cifs, smb2 and smb3. The client gives the server's "lock not granted" to programs as EACCES.
const CIFS: [u32; 3] = [0x517b, 0xff53_4d42, 0xfe53_4d42];

/// Layers over others, which copy a whole file up before anything of it is changed: overlayfs, aufs.
const LAYERED: [u32; 2] = [0x794c_7630, 0x6175_6673];

pub(in crate::os) fn of(file: &File) -> io::Result<FileSystem> {
    let magic = magic(file)?;
    Ok(if LOCAL.iter().any(|(local, _)| *local == magic) {
        FileSystem::Local
    } else if magic == NFS {
        FileSystem::Nfs
    } else if CIFS.contains(&magic) {
        FileSystem::OtherWithEacces
    } else {
        FileSystem::Other
    })
}

/// Whether a change of the file's times may copy all of it.
pub(in crate::os::unix) fn copies_to_change(file: &File) -> bool {
    magic(file).is_ok_and(|magic| LAYERED.contains(&magic))
}

fn magic(file: &File) -> io::Result<u32> {
    // All magic numbers have 32 bits; the field has the platform's own width and sign.
    Ok(fstatfs(file)?.filesystem_type().0 as u32)
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_magic_number_stands_twice() {
        for (at, (magic, name)) in LOCAL.iter().enumerate() {
            assert!(!LOCAL[..at].iter().any(|(other, _)| other == magic), "{name}");
        }
    }

    #[test]
    fn proc_is_not_a_file_system_for_locks() {
        assert_eq!(of(&File::open("/proc/self/status").unwrap()).unwrap(), FileSystem::Other);
    }

    #[test]
    fn shared_memory_is_local() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        assert_eq!(of(&file).unwrap(), FileSystem::Local);
    }
}
