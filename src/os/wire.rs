//! Every offset and length of a byte range that programs must agree on. docs/WIRE.md says what they mean.
//!
//! Uses nothing of the crate: the benchmarks include this file.

/// A lock of a byte range, and what belongs to it, has so much room: a slot.
pub(crate) const SLOT_LENGTH_BITS: u32 = 23;
pub(crate) const SLOT_LENGTH: u64 = 1 << SLOT_LENGTH_BITS;

/// The turnstile of a byte range is so far behind its beginning: a pid is less than this, so the range, which is 1 + pid long,
/// ends before.
pub(crate) const TURNSTILE_IN_SLOT: u64 = 1 << (SLOT_LENGTH_BITS - 1);

/// The turnstile of a lock of the whole file (`Flock`).
pub(crate) const TURNSTILE_OF_FILE: u64 = 1 << 61;

/// The books of a cache have one slot.
pub(crate) const BOOKS: u64 = 1 << 58;

/// Pins of directories in a cache begin here, each in a slot of its own.
pub(crate) const FIRST_PIN: u64 = 1 << 59;
pub(crate) const PIN_BITS: u32 = 36;

/// Marks, by which an open file is recognized, begin in the bytes from here up to twice this.
pub(crate) const FIRST_MARK: u64 = 1 << 60;
pub(crate) const MARK_LENGTH_BITS: u32 = 20;

/// Writers of a cache begin here, each in a slot of its own.
pub(crate) const FIRST_WRITER: u64 = 1 << 61;
pub(crate) const WRITER_BITS: u32 = 38;

/// Keys of a space begin here, each in a slot of its own, in one of so many files.
pub(crate) const FIRST_KEY: u64 = 1 << 62;
pub(crate) const KEY_BITS: u32 = 39;
pub(crate) const SPACE_FILE_BITS: u32 = 3;

/// On Windows locks are mandatory: a byte range stands for one byte, which lies here or beyond.
pub(crate) const BEYOND_DATA: u64 = 1 << 61;

/// Areas follow each other and do not meet; the last one ends at 2^63, so every range has a last byte that fits an `off_t`.
const _: () = {
    assert!(BOOKS + SLOT_LENGTH <= FIRST_PIN);
    assert!(FIRST_PIN + (1 << (PIN_BITS + SLOT_LENGTH_BITS)) <= FIRST_MARK);
    assert!(2 * FIRST_MARK <= FIRST_WRITER);
    assert!(FIRST_WRITER + (1 << (WRITER_BITS + SLOT_LENGTH_BITS)) <= FIRST_KEY);
    assert!(FIRST_KEY + (1 << (KEY_BITS + SLOT_LENGTH_BITS)) == 1 << 63);
};
