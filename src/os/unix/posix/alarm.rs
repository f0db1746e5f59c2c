//! Signals for a thread: there are no timers that send them, so threads do.

pub(in crate::os::unix) use crate::os::unix::thread_alarm::ThreadAlarm as Alarm;

use crate::os::unix::signal;

impl Alarm {
    /// `None` if no signal is to be had.
    pub(in crate::os::unix) fn new() -> Option<Self> {
        signal::number().map(Self::of_signal)
    }
}
