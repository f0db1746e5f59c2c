//! Keys and the file names that they become.
//!
//! A key is any bytes. Its value is the file `<hash>-<key>`: the first 160 bits of the key's SHA-256, in hexadecimal,
//! and the key, escaped as in a URL, for people. The name of a longer one is `<hash>-<prefix>#<rest>`: the beginning of the
//! key, and the other 96 bits of its SHA-256. No escaped key has a `#`.
//!
//! So **a name belongs to one key**, and a file that is found under it needs no other look: it says the key, or all of the
//! key's SHA-256. 256 bits, for keys may come from strangers: two with the same 160 bits can be made with 2^80 tries, two with
//! the same 256 with 2^128. A longer key is stored beside the value, in `<hash>.key`, for those who list keys.
//!
//! Names begin with a hash, so none is hidden, reserved on some system, or longer than 137 bytes
//! (eCryptfs allows 143). The byte after the hash tells values (`-`) from what stands beside them
//! (`.`), whatever the key.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// Hexadecimal digits of the hash: 160 bits, as in the names of git's objects.
const HASH: usize = 40;

/// Bytes of an escaped key that a name says all of.
const WHOLE: usize = 96;

/// Between the beginning of a longer key and the rest of its hash.
const CUT: char = '#';

/// Hexadecimal digits of that rest: 96 bits.
const REST: usize = 24;

/// Bytes of the beginning.
const PREFIX: usize = WHOLE - 1 - REST;

const KEY: &str = ".key";
const CHECKSUM: &str = ".sha256";
const POINTER: &str = ".dir";

/// A key and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    bytes: Vec<u8>,
    /// The name of the value's file.
    value: String,
    /// The name says all of the key.
    is_whole: bool,
}

impl Key {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let digits = hexadecimal(&Sha256::digest(bytes));
        let (hash, rest) = digits.split_at(HASH);
        let mut value = String::with_capacity(HASH + 1 + WHOLE);
        value.push_str(hash);
        value.push('-');
        let is_whole = escape(bytes, &mut value, WHOLE);
        if !is_whole {
            value.truncate(HASH + 1);
            escape(bytes, &mut value, PREFIX);
            value.push(CUT);
            value.push_str(rest);
        }
        Self { bytes: bytes.to_vec(), value, is_whole }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The subdirectory that the files are in: the first two digits of the hash.
    pub(super) fn shard(&self) -> &str {
        shard(&self.value)
    }

    /// The name of the value's file.
    pub(super) fn value(&self) -> &str {
        &self.value
    }

    /// The name of the file with the key, for keys that the name of the value does not say.
    pub(super) fn key(&self) -> Option<String> {
        (!self.is_whole).then(|| beside(&self.value, KEY))
    }

    /// The hash that the names of its files begin with.
    pub(super) fn hash(&self) -> &str {
        &self.value[..HASH]
    }

    /// The name of the file that says which directory is the value, if that is a directory.
    pub(super) fn pointer(&self) -> String {
        beside(&self.value, POINTER)
    }

    /// The name of the file with the value's checksum.
    pub(super) fn checksum(&self) -> String {
        beside(&self.value, CHECKSUM)
    }
}

/// What a file is, going by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// A value, and the hash of its key.
    Value { hash: &'a str },
    /// A file beside a value.
    Beside { hash: &'a str },
    /// The file that says which directory is a value.
    Pointer { hash: &'a str },
    /// Nothing of ours.
    Foreign,
}

pub(super) fn kind(file_name: &str) -> Kind<'_> {
    let Some((hash, rest)) = file_name.split_at_checked(HASH) else { return Kind::Foreign };
    if !is_hash(hash) {
        return Kind::Foreign;
    }
    match rest {
        POINTER => Kind::Pointer { hash },
        KEY | CHECKSUM => Kind::Beside { hash },
        _ if rest.starts_with('-') => Kind::Value { hash },
        _ => Kind::Foreign,
    }
}

pub(super) fn is_hash(text: &str) -> bool {
    text.len() == HASH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a value or a pointer can have this name. Such a name leads nowhere else, on any system.
pub(super) fn is_of_value(file_name: &str) -> bool {
    match kind(file_name) {
        Kind::Pointer { .. } => true,
        Kind::Value { .. } => {
            let mut rest = file_name.bytes().skip(HASH + 1);
            let is_short = file_name.len() <= HASH + 1 + WHOLE;
            is_short
                && !file_name.ends_with('.')
                && rest.all(|byte| is_plain(byte) || b".%#".contains(&byte))
        }
        Kind::Beside { .. } | Kind::Foreign => false,
    }
}

/// The name of the pointer of a hash.
pub(super) fn pointer(hash: &str) -> String {
    beside(hash, POINTER)
}

/// The key of a value, if the file's name says it.
pub(super) fn key_in(file_name: &str) -> Option<Key> {
    let key = Key::new(&unescape(file_name.get(HASH + 1..)?)?);
    (key.value == file_name).then_some(key)
}

/// Whether a value has a name that none has since format 4: it says a part of a longer key, and not the rest of the
/// hash. No key leads there.
pub(super) fn is_of_format_before(file_name: &str) -> bool {
    may_be_cut(file_name) && !file_name.contains(CUT) && key_in(file_name).is_none()
}

/// The names of the files that may stand beside a value: its key only if its name does not say that.
pub(super) fn names_beside(value: &str) -> impl Iterator<Item = String> {
    let key = may_be_cut(value).then(|| beside(value, KEY));
    key.into_iter().chain([beside(value, CHECKSUM)])
}

/// A cut was made where no other byte, or no three of them, had room; and names of longer keys are as long.
fn may_be_cut(value: &str) -> bool {
    value.len() > HASH + 1 + WHOLE - 3
}

/// The name of the file with the key of a value whose name does not say it.
pub(super) fn key_beside(value: &str) -> String {
    beside(value, KEY)
}

/// The hash that the name of a value, or of what stands beside it, begins with.
pub(super) fn hash(file_name: &str) -> &str {
    &file_name[..HASH]
}

/// The subdirectory of a value's file.
pub(super) fn shard(value: &str) -> &str {
    &value[..2]
}

/// The names of all subdirectories for values.
pub(super) fn shards() -> impl Iterator<Item = String> {
    (0..=u8::MAX).map(|byte| format!("{byte:02x}"))
}

fn beside(value: &str, suffix: &str) -> String {
    format!("{}{suffix}", &value[..HASH])
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("strings take all");
    }
    text
}

/// Appends as much of the key as so many bytes have room for, escaped; whether that is all of it.
fn escape(key: &[u8], name: &mut String, room: usize) -> bool {
    let end = name.len() + room;
    for (at, &byte) in key.iter().enumerate() {
        // Windows drops dots at the end of a name.
        let is_plain = is_plain(byte) || byte == b'.' && at + 1 < key.len();
        let length = if is_plain { 1 } else { 3 };
        if name.len() + length > end {
            return false;
        }
        if is_plain {
            name.push(char::from(byte));
        } else {
            write!(name, "%{byte:02x}").expect("strings take all");
        }
    }
    true
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_+=@,~".contains(&byte)
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_documented() {
        let table: [(&[u8], &str); 4] = [
            (b"src/lib.rs", "src%2flib.rs"),
            (b"", ""),
            (b"..", ".%2e"),
            (b"caf\xc3\xa9 100%", "caf%c3%a9%20100%25"),
        ];
        for (key, prefix) in table {
            assert_eq!(&Key::new(key).value[HASH..], format!("-{prefix}"));
        }
        // SHA-256 of nothing and of `abc`, from FIPS 180-2.
        assert_eq!(Key::new(b"").value, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4-");
        assert_eq!(Key::new(b"abc").value, "ba7816bf8f01cfea414140de5dae2223b00361a3-abc");
        // And of a million times `a`.
        let cut = format!(
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48-{}#a497200e046d39ccc7112cd0",
            "a".repeat(71)
        );
        assert_eq!(Key::new(&[b'a'; 1_000_000]).value, cut);
        assert!(Key::new(&[b'/'; 100]).value.contains("%2f#"), "cut between escapes");
    }

    #[test]
    fn the_name_of_a_long_key_says_all_of_its_hash() {
        for length in [97, 98, 200] {
            let key = vec![b'a'; length];
            let value = Key::new(&key).value;
            let (hash, rest) = (&value[..HASH], &value[value.len() - REST..]);
            assert_eq!(format!("{hash}{rest}"), hexadecimal(&Sha256::digest(&key)));
        }
    }

    #[test]
    fn names_of_formats_before_are_known_and_no_others() {
        for (byte, cut) in
            [("a", "a".repeat(96)), ("/", "%2f".repeat(32)), ("a/", "a%2f".repeat(24))]
        {
            let key = byte.repeat(100);
            let before = format!("{}-{cut}", Key::new(key.as_bytes()).hash());
            assert!(is_of_format_before(&before) && is_of_value(&before), "{before}");
            assert_eq!(kind(&before), Kind::Value { hash: &before[..HASH] });
            // A cut where one or two bytes were left.
            for left in 1..=2 {
                let key = format!("{}{}", "a".repeat(96 - left), "/".repeat(9));
                let before =
                    format!("{}-{}", Key::new(key.as_bytes()).hash(), "a".repeat(96 - left));
                assert!(is_of_format_before(&before), "{before}");
            }
        }
        for length in 0..300 {
            for byte in [b'a', b'/', b'.', b'#', 0xff] {
                let key = Key::new(&vec![byte; length]);
                assert!(!is_of_format_before(&key.value), "{}", key.value);
                assert!(is_of_value(&key.value) && is_of_value(&key.pointer()), "{}", key.value);
            }
        }
    }

    #[test]
    fn a_short_key_can_be_read_from_the_name_and_a_long_one_cannot() {
        for length in 0..300 {
            for byte in [b'a', b'/', b'.', b'%', 0, 0xff] {
                let key = Key::new(&vec![byte; length]);
                assert!(key.value.len() <= 137, "{}", key.value);
                assert_eq!(key_in(&key.value), key.is_whole.then(|| key.clone()));
                assert_eq!(key.key().is_some(), !key.is_whole);
            }
        }
    }

    #[test]
    fn files_are_told_apart_whatever_the_key() {
        for bytes in [&b"id.key"[..], b"id.sha256", b"", b".key", &[b'x'; 200]] {
            let key = Key::new(bytes);
            let hash = &key.value[..HASH];
            assert_eq!(kind(&key.value), Kind::Value { hash });
            for name in names_beside(&key.value) {
                assert_eq!(kind(&name), Kind::Beside { hash });
            }
        }
        let hash = "0".repeat(HASH);
        for foreign in ["", "README", "-x", &hash, &hash[1..], &format!("{hash}.tmp"), "é"] {
            assert_eq!(kind(foreign), Kind::Foreign, "{foreign}");
        }
        assert_eq!(kind(&format!("{}-x", "A".repeat(HASH))), Kind::Foreign);
    }

    #[test]
    fn names_that_no_key_has_are_no_keys() {
        let hash = &Key::new(b"a").value[..HASH];
        for name in [format!("{hash}-b"), format!("{hash}-%61"), format!("{hash}-%zz"), "-".into()]
        {
            assert_eq!(key_in(&name), None, "{name}");
        }
    }
}
