//! Which slot of which lock file a name has.
//!
//! A wire format: two processes that disagree do not exclude each other. It is described on
//! [`LockSpace`](super::LockSpace), and the tests below pin it to values that other programs
//! computed.
//!
//! SHA-256 because every language has it. It need not resist an attacker, who could find a collision
//! in 42 bits with any hash, and would gain that two names wait for each other.
//!
//! All slots lie in the upper half of the offsets that fcntl(2) has: clear of data (locks are
//! mandatory on Windows), of byte 0, which programs lock that mean the whole file, and of the
//! turnstile of `Flock` at 2^61. The last one ends at 2^63, so every range has a last byte that
//! fits an `off_t`.

use sha2::{Digest, Sha256};

use crate::os::Region;
use crate::os::wire::{FIRST_KEY, KEY_BITS, SLOT_LENGTH_BITS, SPACE_FILE_BITS};

/// Lock files of a space.
pub(super) const FILES: usize = 1 << SPACE_FILE_BITS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) file: usize,
    pub(super) region: Region,
}

impl Slot {
    pub(super) fn of(name: &[u8]) -> Self {
        let digest = Sha256::digest(name);
        Self::of_hash(u64::from_be_bytes(*digest.first_chunk().expect("32 bytes")))
    }

    /// Of a name whose SHA-256 begins so.
    pub(super) fn of_hash(hash: u64) -> Self {
        let [file, slot] = split(hash);
        Self {
            file: file as usize,
            region: Region { start: FIRST_KEY + (slot << SLOT_LENGTH_BITS) },
        }
    }
}

/// The upper bits, and those below them.
fn split(hash: u64) -> [u64; 2] {
    let file = hash >> (u64::BITS - SPACE_FILE_BITS);
    let slot = (hash << SPACE_FILE_BITS) >> (u64::BITS - KEY_BITS);
    [file, slot]
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    /// Computed by Python's `hashlib`, with the lines in the documentation of `LockSpace`. SHA-256
    /// of the first two names is in FIPS 180-2 and everywhere: e3b0c442 98fc1c14…, ba7816bf
    /// 8f01cfea….
    #[test]
    fn a_name_has_its_slot_for_ever() {
        let million = vec![b'a'; 1_000_000];
        let all: Vec<u8> = (0..=255).collect();
        let golden: [(&[u8], usize, u64); 7] = [
            (b"", 7, 0x4761_8885_3180_0000),
            (b"abc", 5, 0x74f0_2d7f_1e00_0000),
            (b"https://example.org/a.tar.gz", 1, 0x7d62_03c9_e400_0000),
            ("schlüssel".as_bytes(), 6, 0x59d8_f51c_7c00_0000),
            (b"\xff\x00", 7, 0x54bb_7f2b_2d80_0000),
            (&all, 2, 0x415f_e5d3_a580_0000),
            (&million, 6, 0x5b8e_dcb9_3200_0000),
        ];
        for (name, file, start) in golden {
            let region = Region { start };
            assert_eq!(Slot::of(name), Slot { file, region }, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn names_are_spread_over_the_files() {
        let mut names = [0; FILES];
        (0..8_000_u32).for_each(|number| names[Slot::of(&number.to_le_bytes()).file] += 1);
        assert!(names.iter().all(|count| (800..1_200).contains(count)), "{names:?}");
    }

    #[test]
    fn slots_fill_the_upper_half_of_the_offsets() {
        assert_eq!(split(0), [0, 0]);
        assert_eq!(split(u64::MAX), [7, (1 << 39) - 1]);
        assert_eq!(split(1 << 61), [1, 0]);
        assert_eq!(split(1 << 22), [0, 1]);
        assert_eq!(split((1 << 22) - 1), [0, 0]);
        assert_eq!(split((1 << 61) - 1), [0, (1 << 39) - 1]);
        // The byte after the last slot would be the first that an off_t cannot name.
        let last = FIRST_KEY + (((1 << KEY_BITS) - 1) << SLOT_LENGTH_BITS);
        assert_eq!(last + (1 << SLOT_LENGTH_BITS), 1 << 63);
    }
}
