//! Taking turns with other processes: the turnstile, a second, tiny lock in the lock file.
//!
//! A process that has to wait takes the turnstile, then waits for the lock, then lets the turnstile
//! go. A process that finds the turnstile taken queues there instead of overtaking. So the one who
//! holds the turnstile is the next to get the lock, however often the others ask, and exclusive
//! sleepers of one byte are woken by the kernel in the order of their arrival.
//!
//! Order must never cost exclusion or liveness:
//! 1. The lock itself is taken in any case. The turnstile decides who asks, never who holds.
//! 2. Nobody waits for the turnstile without a limit, for its owner may be stopped. After each
//!    limit the waiter asks for the lock itself, without waiting: if nobody at all holds it, the
//!    owner of the turnstile is not taking it, and is passed. That readers hold it shows nothing:
//!    the owner may be a writer, who waits for them. The limits double, so the turnstile makes a
//!    wait at most [`FIRST_LIMIT`] or twice as long as it would have been, whichever is more; after
//!    [`LIMITS`] of them the waiter goes to the lock without its turn.
//! 3. A process that had to pass twice in a row does not look at the turnstile for [`DISTRUST`], so
//!    that a stopped owner costs the others a tenth of their time and not all of it. Once is not
//!    enough: an owner that was woken and has no processor yet looks the same.
//!
//! The steps are here, what they call is a [`Gate`]: the kernel's, or under loom the model's.

use std::io;
use std::time::Duration;

use super::{Attempt, Waited};

/// How long the turnstile is waited for before the lock itself is looked at, at first.
pub(super) const FIRST_LIMIT: Duration = Duration::from_millis(50);

/// How many limits, each twice the one before, until a waiter goes without its turn: 1.55 s.
pub(super) const LIMITS: u32 = 5;

/// How long the turnstile is not looked at after its owner had to be passed.
pub(super) const DISTRUST: Duration = Duration::from_secs(1);

/// What came of a wait for the turnstile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Taken,
    /// The time was up.
    TimedOut,
    /// There is no turnstile here, or it is not trusted at present.
    None,
    /// The wait was to end.
    Interrupted,
}

/// A lock and its turnstile.
pub(super) trait Gate {
    fn take_turnstile(&self, limit: Duration) -> Turn;
    fn leave_turnstile(&self);
    /// Its owner did not take the lock although it was free.
    fn passed_turnstile(&self);
    /// Takes the lock if nobody at all holds it.
    fn try_if_free(&self) -> io::Result<Attempt>;
    fn lock(&self) -> io::Result<Waited>;
}

/// Waits for the lock, in turn if possible.
pub(super) fn lock_in_turn(gate: &impl Gate) -> io::Result<Waited> {
    let mut limit = FIRST_LIMIT;
    for _ in 0..LIMITS {
        match gate.take_turnstile(limit) {
            Turn::Taken => {
                let waited = gate.lock();
                gate.leave_turnstile();
                return waited;
            }
            Turn::Interrupted => return Ok(Waited::Interrupted),
            Turn::None => break,
            Turn::TimedOut => {}
        }
        if gate.try_if_free()? == Attempt::Acquired {
            gate.passed_turnstile();
            return Ok(Waited::Acquired);
        }
        limit *= 2;
    }
    gate.lock()
}
