//! Which signals can end a wait.

use nix::libc;

pub(in crate::os::unix) const SUITABLE: &str =
    "the signal that ends waits must be SIGURG, SIGIO, SIGUSR1, SIGUSR2 or SIGWINCH";

/// Programs rarely use it, debuggers let it pass, and the default disposition is to ignore it.
pub(in crate::os::unix) fn preferred_signals() -> impl Iterator<Item = libc::c_int> + Clone {
    [libc::SIGURG].into_iter()
}

pub(in crate::os::unix) fn is_suitable(signal: libc::c_int) -> bool {
    [libc::SIGURG, libc::SIGIO, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH].contains(&signal)
}
