//! The holders of the locks of a file: the kernel does not tell them. It tells whether the process that a
//! record names still lives.
//!
//! The Restart Manager names the processes that have a file open, holders, waiters and idlers alike, so
//! it is not asked.
#![allow(unsafe_code)]

use std::env;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::process;

use windows_sys::Win32::Foundation::{ERROR_INVALID_PARAMETER, FILETIME};
use windows_sys::Win32::System::Threading::{
    GetProcessTimes, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION,
};

use super::errors::code;
use crate::holder::{Circumstances, Holder, Process, Source, is_fit_for_a_record, program_name};
use crate::os::{Effort, Identity, Protocol, Question};

/// The start time of a process is a date here and not a time since the boot, so one boot need not be
/// told from the next.
const ANY_BOOT: &str = "any";

/// The system does not list the calls that wait.
pub(in crate::os) fn is_lock_waited_for(_: &Question<'_>, _inode: &Inode) -> bool {
    false
}

/// Whether the system can tell which process holds a lock of this protocol.
pub(crate) fn tells_holders(_protocol: Protocol) -> bool {
    false
}

pub(in crate::os) fn of(_: &Question<'_>, _inode: &Inode, _effort: Effort) -> Vec<Holder> {
    Vec::new()
}

pub(in crate::os) fn blocker(_: &Question<'_>) -> Option<Holder> {
    None
}

/// What this process can say of itself, for a holder that is known to be it.
pub(crate) fn describe_this_process(holder: &mut Holder, _effort: Effort) {
    let program = env::args_os().next().and_then(|path| program_name(&path));
    holder.program = program.map(|name| (name, Source::Process));
}

#[derive(Debug)]
pub(in crate::os) struct Inode;

impl Inode {
    pub(in crate::os) fn of(_file: &File, _identity: Identity) -> Self {
        Self
    }
}

/// What this process can say of itself.
pub(crate) fn this_process() -> Process {
    let pid = process::id();
    let start = match look_up(pid) {
        Circumstances::Started(start) => Some(start),
        _ => None,
    };
    Process {
        pid,
        host: env::var("COMPUTERNAME").ok().filter(|host| is_fit_for_a_record(host)),
        boot: Some(ANY_BOOT.to_owned()),
        pid_namespace: Some(0),
        time_namespace: Some(0),
        start,
        program: env::args_os().next().and_then(|path| program_name(&path)),
    }
}

/// Whether a recorded pid is still there, and since when.
pub(crate) fn look_up(pid: u32) -> Circumstances {
    // SAFETY: OpenProcess has no preconditions.
    let process = unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, pid) };
    if process.is_null() {
        return match code(&io::Error::last_os_error()) {
            Some(ERROR_INVALID_PARAMETER) => Circumstances::Gone,
            _ => Circumstances::Unknown,
        };
    }
    // SAFETY: the handle is new, and has no other owner.
    let process = unsafe { OwnedHandle::from_raw_handle(process) };
    let mut times = [const { MaybeUninit::<FILETIME>::zeroed() }; 4];
    let [start, end, kernel, user] = &mut times;
    // SAFETY: the handle is open, and the pointers valid for the call.
    let known = unsafe {
        GetProcessTimes(
            process.as_raw_handle(),
            start.as_mut_ptr(),
            end.as_mut_ptr(),
            kernel.as_mut_ptr(),
            user.as_mut_ptr(),
        )
    };
    if known == 0 {
        return Circumstances::Unknown;
    }
    let time = |time: MaybeUninit<FILETIME>| {
        // SAFETY: numbers, of which all zeros is valid, and the call has filled them in.
        let FILETIME { dwLowDateTime: low, dwHighDateTime: high } = unsafe { time.assume_init() };
        u64::from(high) << 32 | u64::from(low)
    };
    let [start, end, ..] = times.map(time);
    // The system remembers one that has ended for as long as any process has a handle.
    if end == 0 { Circumstances::Started(start) } else { Circumstances::Gone }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_knows_itself() {
        let this = this_process();
        assert_eq!(this.pid, process::id());
        assert!(this.host.is_some() && this.program.is_some());
        assert_eq!(look_up(this.pid), Circumstances::Started(this.start.unwrap()));
    }

    #[test]
    fn a_child_that_has_ended_is_gone() {
        let mut child = process::Command::new("cmd").args(["/c", "exit"]).spawn().unwrap();
        child.wait().unwrap();
        assert_eq!(look_up(child.id()), Circumstances::Gone, "while its handle is open");
    }
}
