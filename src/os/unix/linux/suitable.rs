//! Which signals can end a wait: real-time signals that a timer can send.

use nix::libc;

use super::timer::Timer;

pub(in crate::os::unix) const SUITABLE: &str =
    "the signal that ends waits must be one from SIGRTMIN to SIGRTMAX that a timer can send";

/// From the top: most programs count from SIGRTMIN.
pub(in crate::os::unix) fn preferred_signals() -> impl Iterator<Item = libc::c_int> + Clone {
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev().filter(|signal| is_suitable(*signal))
}

/// Emulators do not have all of them (qemu 7.2 lacks the two highest). A timer tells; that there is none
/// to be had tells nothing.
pub(in crate::os::unix) fn is_suitable(signal: libc::c_int) -> bool {
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal)
        && !matches!(Timer::new(signal), Err(error) if error.raw_os_error() == Some(libc::EINVAL))
}
