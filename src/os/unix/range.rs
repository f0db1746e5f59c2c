//! Which bytes a lock of fcntl(2) covers.

use nix::libc;

use crate::os::{Region, wire};

/// A range of bytes, which need not exist in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::os) struct Range {
    pub(super) start: u64,
    pub(super) length: u64,
}

impl Range {
    /// The range that stands for a region, when this process locks it.
    pub(super) fn of(region: Region, pid: u32) -> Self {
        Self { start: region.start, length: 1 + u64::from(pid) }
    }

    /// From the first byte to the last one that there can be.
    pub(super) const ALL: Self = Self { start: 0, length: 0 };

    /// Beyond the slot of a file with one lock, but for the marks by which another process recognizes it.
    pub(super) const OF_KEYS: &[Self] = if size_of::<libc::off_t>() < 8 {
        &[Self { start: wire::SLOT_LENGTH, length: 0 }]
    } else {
        &[
            Self { start: wire::SLOT_LENGTH, length: wire::FIRST_MARK - wire::SLOT_LENGTH },
            Self { start: 2 * wire::FIRST_MARK, length: 0 },
        ]
    };

    pub(super) const fn byte(start: u64) -> Self {
        Self { start, length: 1 }
    }
}
