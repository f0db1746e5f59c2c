//! The system calls of a thread of another process, one by one (ptrace(2)).
#![allow(unsafe_code)]

use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid};

/// Does something between two marks, for [`Traced::calls_between_marks`]. A mark is a call of getppid(2),
/// which nothing else makes.
pub(crate) fn between_marks<T>(act: impl FnOnce() -> T) -> T {
    getppid();
    let result = act();
    getppid();
    result
}

/// A thread that stops before and after each system call.
pub(crate) struct Traced {
    thread: Pid,
    entered: Option<libc::c_long>,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Before the system call of this number.
    Entered(libc::c_long),
    /// After it.
    Left(libc::c_long),
}

impl Traced {
    /// Stops the thread, which waits for something. It is traced until the thread of the test ends.
    #[track_caller]
    pub(crate) fn seize(thread: i32) -> Self {
        let traced = Self { thread: Pid::from_raw(thread), entered: None };
        ptrace::seize(traced.thread, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
        ptrace::interrupt(traced.thread).unwrap();
        assert!(matches!(traced.wait(), WaitStatus::PtraceEvent(..)));
        traced
    }

    /// Lets it go on to its next stop; `None` if it has ended well. The end of a call that it was in
    /// when it was seized is no stop.
    #[track_caller]
    pub(crate) fn next_stop(&mut self) -> Option<Stop> {
        loop {
            ptrace::syscall(self.thread, None).unwrap();
            match self.wait() {
                WaitStatus::PtraceSyscall(_) => {}
                WaitStatus::Exited(_, 0) => return None,
                status => panic!("{status:?}"),
            }
            let info = ptrace::syscall_info(self.thread).unwrap();
            if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                // SAFETY: the kernel says which one of the union it is.
                let call = unsafe { info.u.entry.nr } as libc::c_long;
                self.entered = Some(call);
                return Some(Stop::Entered(call));
            }
            if let Some(call) = self.entered.take() {
                return Some(Stop::Left(call));
            }
        }
    }

    /// The system calls that the thread makes in [`between_marks`], in their order. It stops at the second
    /// mark.
    #[track_caller]
    pub(crate) fn calls_between_marks(&mut self) -> Vec<libc::c_long> {
        let (mut calls, mut marks) = (Vec::new(), 0);
        while marks < 2 {
            match self.next_stop().expect("it makes both marks") {
                Stop::Entered(libc::SYS_getppid) => marks += 1,
                Stop::Entered(call) if marks == 1 => calls.push(call),
                Stop::Entered(_) | Stop::Left(_) => {}
            }
        }
        calls
    }

    /// Returns when the thread is gone; the process ends when its tracer has seen that.
    pub(crate) fn kill(self) {
        kill(self.thread, Signal::SIGKILL).unwrap();
        while !matches!(self.wait(), WaitStatus::Signaled(..)) {}
    }

    fn wait(&self) -> WaitStatus {
        waitpid(self.thread, Some(WaitPidFlag::__WALL)).unwrap()
    }
}
