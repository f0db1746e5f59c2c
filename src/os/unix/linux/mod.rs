//! What Linux has of its own: timers that signal a thread, open file description locks, magic
//! numbers of file systems, eventfd, access times that stay.

pub(super) mod access_time;
pub(super) mod alarm;
pub(in crate::os) mod file_system;
pub(in crate::os) mod record;
pub(super) mod stand_in;
