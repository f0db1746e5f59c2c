//! The signals that threads block.

use std::fs;

use nix::libc;

/// A set of signals: signal n is bit n - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signals(u128);

impl Signals {
    fn contains(self, signal: libc::c_int) -> bool {
        u32::try_from(signal - 1).is_ok_and(|bit| self.0.checked_shr(bit).unwrap_or(0) & 1 == 1)
    }

    /// `SigBlk` of a `status` file of `/proc`. `None` if it is not there, or says nothing about the
    /// program: with signals 32 and 33, which belong to the C library and which a program cannot block, it
    /// is the mask of a library call that lets no signal in for a moment, as posix_spawn(3) does.
    fn blocked(status: &[u8]) -> Option<Self> {
        const OF_THE_C_LIBRARY: u128 = 0b11 << 31;
        let digits =
            status.split(|byte| *byte == b'\n').find_map(|l| l.strip_prefix(b"SigBlk:"))?;
        let digits = std::str::from_utf8(digits).ok()?;
        let mask = u128::from_str_radix(digits.trim(), 16).ok()?;
        (mask & OF_THE_C_LIBRARY != OF_THE_C_LIBRARY).then_some(Self(mask))
    }
}

fn is_blocked(status: Option<Vec<u8>>, signal: libc::c_int) -> bool {
    status.and_then(|status| Signals::blocked(&status)).is_some_and(|set| set.contains(signal))
}

/// Whether the program may fetch this signal with sigwait(3) or signalfd(2). It must block it in all
/// threads for that, so in its first one. `false` without `/proc`.
pub(in crate::os::unix) fn may_be_fetched(signal: libc::c_int) -> bool {
    is_blocked(fs::read("/proc/self/status").ok(), signal)
}

/// Whether any thread blocks the signal. `false` without `/proc`.
pub(in crate::os::unix) fn is_blocked_in_any(signal: libc::c_int) -> bool {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return false };
    threads.flatten().any(|thread| is_blocked(fs::read(thread.path().join("status")).ok(), signal))
}

#[cfg(all(test, not(tokio_filelock_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_read_as_the_kernel_writes_it() {
        let status =
            |mask: &str| format!("Name:\t\u{fffd}\nSigPnd:\t0\nSigBlk:\t{mask}\nSigIgn:\t0\n");
        let some = Signals::blocked(status("8000000000000200").as_bytes()).unwrap();
        let blocked: Vec<_> = (0..=128).filter(|n| some.contains(*n)).collect();
        assert_eq!(blocked, [10, 64]);
        // All that a program can block, and all that the C library can.
        assert!(Signals::blocked(status("fffffffe7ffbfeff").as_bytes()).is_some());
        assert_eq!(Signals::blocked(status("fffffffffffbfeff").as_bytes()), None);
        for nothing in [&b""[..], b"SigBlk:\n", b"SigBlk:\t\xff\n", b"SigIgn:\t0\n"] {
            assert_eq!(Signals::blocked(nothing), None);
        }
    }
}
