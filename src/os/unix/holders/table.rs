//! The lines in which the kernel describes locks: in `/proc/locks` and, behind `lock:`, in
//! `/proc/PID/fdinfo` (fs/locks.c, `lock_get_status`).
//!
//! ```text
//! 1: FLOCK  ADVISORY  WRITE 711 fe:00:4711 0 EOF
//! 1: -> FLOCK  ADVISORY  WRITE 712 fe:00:4711 0 EOF
//! 2: OFDLCK ADVISORY  READ -1 00:1a:12 0 4242
//! ```

use crate::mode::Mode;
use crate::os::unix::range::Range;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Flock,
    Posix,
    OpenFileDescription,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) waits: bool,
    pub(super) kind: Kind,
    pub(super) mode: Mode,
    /// `None` for OFD locks, and for processes of no pid in this namespace.
    pub(super) pid: Option<u32>,
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
    pub(super) start: u64,
    /// Inclusive; `None`: to the end of the file, however long.
    end: Option<u64>,
}

impl Line {
    /// `None` for leases, delegations, and what a later kernel may write.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (_, line) = line.split_once(": ")?;
        let mut words = line.split_ascii_whitespace();
        let mut kind = words.next()?;
        let waits = kind == "->";
        if waits {
            kind = words.next()?;
        }
        let kind = match kind {
            "FLOCK" => Kind::Flock,
            "POSIX" => Kind::Posix,
            "OFDLCK" => Kind::OpenFileDescription,
            _ => return None,
        };
        let _advisory = words.next()?;
        let mode = match words.next()? {
            "READ" => Mode::Shared,
            "WRITE" => Mode::Exclusive,
            _ => return None,
        };
        let pid = words.next()?.parse::<i64>().ok()?;
        let mut file = words.next()?.split(':');
        let mut part = |radix| u64::from_str_radix(file.next()?, radix).ok();
        let device = (part(16)?.try_into().ok()?, part(16)?.try_into().ok()?);
        let inode = part(10)?;
        let start = words.next()?.parse().ok()?;
        let end = match words.next()? {
            "EOF" => None,
            end => Some(end.parse().ok()?),
        };
        Some(Self {
            waits,
            kind,
            mode,
            pid: u32::try_from(pid).ok().filter(|&pid| pid > 0),
            device,
            inode,
            start,
            end,
        })
    }

    pub(super) fn overlaps(&self, range: Range) -> bool {
        self.start < range.start + range.length && self.end.is_none_or(|end| range.start <= end)
    }

    /// In bytes; `None` if it has no end.
    pub(super) fn length(&self) -> Option<u64> {
        self.end.and_then(|end| end.checked_sub(self.start)?.checked_add(1))
    }

    /// Both describe one lock of one file, as far as can be told: the pids may be those of two
    /// namespaces.
    pub(super) fn is_same_lock(&self, other: &Line) -> bool {
        self.kind == other.kind
            && self.mode == other.mode
            && (self.start, self.end) == (other.start, other.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let flock = Line {
            waits: false,
            kind: Kind::Flock,
            mode: Mode::Exclusive,
            pid: Some(711),
            device: (0xfe, 0x10),
            inode: 4711,
            start: 0,
            end: None,
        };
        let table = [
            ("1: FLOCK  ADVISORY  WRITE 711 fe:10:4711 0 EOF", flock.clone()),
            (
                "1: -> FLOCK  ADVISORY  READ  712 fe:10:4711 0 EOF",
                Line { waits: true, mode: Mode::Shared, pid: Some(712), ..flock.clone() },
            ),
            (
                "12: OFDLCK ADVISORY  READ -1 00:1a:12 100 4342",
                Line {
                    kind: Kind::OpenFileDescription,
                    mode: Mode::Shared,
                    pid: None,
                    device: (0, 0x1a),
                    inode: 12,
                    start: 100,
                    end: Some(4342),
                    ..flock.clone()
                },
            ),
            (
                "3: POSIX  ADVISORY  WRITE 0 fe:10:4711 0 0",
                Line { kind: Kind::Posix, pid: None, end: Some(0), ..flock },
            ),
        ];
        for (text, line) in table {
            assert_eq!(Line::parse(text), Some(line), "{text}");
        }
    }

    #[test]
    fn other_lines_are_left_out() {
        for text in [
            "",
            "1:",
            "1: LEASE  ACTIVE    READ  711 fe:00:4711 0 EOF",
            "1: DELEG  ACTIVE    READ  711 fe:00:4711 0 EOF",
            "1: FLOCK  ADVISORY  WRITE 711 fe:00 0 EOF",
            "1: FLOCK  ADVISORY  WRITE 711 fe:00:4711 0",
            "1: FLOCK  ADVISORY  WRITE nobody fe:00:4711 0 EOF",
            "1: POSIX  ADVISORY  WRITE 711 <none>:0 0 EOF",
        ] {
            assert_eq!(Line::parse(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_have_a_length() {
        let line = |range: &str| {
            Line::parse(&format!("1: OFDLCK ADVISORY WRITE -1 00:1a:12 {range}")).unwrap()
        };
        assert_eq!(line("8 8").length(), Some(1));
        assert_eq!(line("8 4250").length(), Some(4243));
        assert_eq!(line("8 EOF").length(), None);
        assert_eq!(line("8 7").length(), None);
        let range = |start, length| Range { start, length };
        for (start, length) in [(8, 1), (9, 1), (9, 10), (0, 9), (0, 100)] {
            assert!(line("8 9").overlaps(range(start, length)), "{start} {length}");
        }
        assert!(!line("8 9").overlaps(range(0, 8)) && !line("8 9").overlaps(range(10, 1)));
        assert!(line("8 EOF").overlaps(range(1 << 62, 1)));
    }
}
