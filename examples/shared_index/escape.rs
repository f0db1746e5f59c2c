//! File names as words of a line of text.
//!
//! A name on Unix is any bytes but NUL and `/`; newlines, spaces and invalid UTF-8 included. What
//! is not a visible ASCII character becomes `%` and two hexadecimal digits, as in a URL. The
//! result is never empty where the name is not, and has no whitespace.

use std::fmt;
use std::str;

/// Bytes that are displayed escaped.
pub(crate) struct Escaped<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            if byte.is_ascii_graphic() && byte != b'%' {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// The bytes again, or `None` if the text is not what [`Escaped`] displays.
pub(crate) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        rest = after;
        bytes.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
    }
    // `+7` is a number, and `a b` would be two words: there is one way to write a name.
    (Escaped(&bytes).to_string() == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive() {
        let names: [&[u8]; 6] =
            [b"src/lib.rs", b"two words", b"100%", b"%41", b"line\nbreak\t\r", b"\xff\xfe\x80"];
        for name in names {
            let text = Escaped(name).to_string();
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
            assert_eq!(unescape(&text).as_deref(), Some(name), "{text}");
        }
    }

    #[test]
    fn every_byte_survives() {
        let name: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(&Escaped(&name).to_string()), Some(name));
    }

    #[test]
    fn damaged_text_is_noticed() {
        for text in ["%", "%4", "%zz", "%+7", "%41", "%FF", "a b", "é"] {
            assert_eq!(unescape(text), None, "{text}");
        }
    }
}
