//! What names a lock file, and which of its names prove anything.
//!
//! The numbers that `stat` shows are names, and may be those of another file as well: on overlayfs two hard
//! links of a lower layer have the same, on FUSE any two files that the server likes. The kernel keeps locks by
//! inode. So two looks are at one file exactly where they show by what the kernel itself finds the inode
//! ([`Keyed`](super::file_system::Keyed)), and show the same; elsewhere the kernel is to be asked
//! ([`LockFile::ask`](super::LockFile::ask)).

use super::Identity;

/// What a look at a lock file shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) identity: Identity,
    pub(super) proof: Proof,
}

/// By what the inode is found among those of its file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proof {
    /// The number in the identity.
    Number,
    /// What the file system gives for its inode: only the kernel reads it.
    #[cfg_attr(
        any(tokio_filelock_posix, not(any(target_os = "linux", target_os = "android"))),
        allow(dead_code)
    )]
    Handle(Box<[u8]>),
    /// It does not show.
    #[cfg_attr(not(unix), allow(dead_code))]
    None,
}

/// Whether two open files are one file for the kernel, and so one lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sameness {
    Same,
    Other,
    Doubt,
}

/// Which of several files an open file is, as the kernel's locks show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recognized {
    #[cfg_attr(not(unix), allow(dead_code))]
    Is(usize),
    None,
    Doubt,
}

impl Names {
    pub(crate) fn compare(&self, other: &Self) -> Sameness {
        let same = |same| if same { Sameness::Same } else { Sameness::Other };
        match (&self.proof, &other.proof) {
            (Proof::Number, Proof::Number) => same(self.identity == other.identity),
            (Proof::Handle(one), Proof::Handle(two)) => {
                same(self.identity.device == other.identity.device && one == two)
            }
            // They are on two file systems, whatever numbers the one borrows from the other.
            (Proof::Number, _) | (_, Proof::Number) => Sameness::Other,
            (Proof::None, _) | (_, Proof::None) => Sameness::Doubt,
        }
    }
}
