//! Values that tell by themselves whether they are whole, and whose they are.

/// Numbers from here on have a value of several chunks.
pub(crate) const LARGE: u64 = 1 << 32;

/// The bytes of a value: its key, a number that tells it from others of that key, and noise of a length
/// that the number says.
pub(crate) fn of(key: &str, number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    let length = if number < LARGE { random.usize(..3_000) } else { 700_000 };
    let mut bytes = format!("{key} {number}\n").into_bytes();
    bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(length));
    bytes
}

/// The number of a value of this key. Panics if the value is torn, or another key's.
#[track_caller]
pub(crate) fn number(key: &str, bytes: &[u8]) -> u64 {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let number = line.strip_prefix(key).and_then(|rest| rest.strip_prefix(' '));
    let number = number.and_then(|number| number.parse().ok());
    let number = number.unwrap_or_else(|| panic!("no value of {key}: `{line}`"));
    assert!(bytes == of(key, number), "a torn value of {key}, {} bytes", bytes.len());
    number
}
