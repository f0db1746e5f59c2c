//! Lock calls on an overlapped handle: they wait in the kernel, beside each other, and end early when
//! that is asked for.
//!
//! Invariants:
//! 1. The OVERLAPPED is on the heap, and lives until the kernel is done with it: a call that is
//!    under way is cancelled and waited for before its memory goes ([`Call::drop`]).
//! 2. A lock is granted when the call returned so, or when its status has *become* success. It is
//!    set to pending before the call, because a kernel that never completes a call (wine 8 and 10)
//!    never writes it either, and GetOverlappedResult takes zero for success. So exclusion does
//!    not rest on what [`is_usable`] found.
//! 3. Cancelling decides nothing. The call's own result does, whichever was first.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::AsRawHandle;
use std::ptr;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use windows_sys::Win32::Foundation::{
    ERROR_IO_PENDING, ERROR_OPERATION_ABORTED, HANDLE, STATUS_PENDING, STATUS_SUCCESS,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_DELETE_ON_CLOSE, FILE_FLAG_OVERLAPPED, LOCK_FILE_FLAGS, LOCKFILE_EXCLUSIVE_LOCK,
    LOCKFILE_FAIL_IMMEDIATELY, LockFileEx, UnlockFileEx,
};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED, OVERLAPPED_0_0};

use super::errors::{code, is_contention};
use super::event::{Event, wait_for_any};
use super::interrupt::Interrupt;
use crate::os::Waited;
use crate::os::file_system::FileSystem;

/// The bytes that a lock covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) length: u64,
}

/// Locks, and waits until the call has an answer. On a synchronous handle as on an overlapped one.
pub(super) fn call(file: &File, range: Range, flags: LOCK_FILE_FLAGS) -> io::Result<()> {
    match Call::start(file, range, flags)? {
        Started::Granted => Ok(()),
        Started::UnderWay(mut call) => call.answer(),
    }
}

/// Locks; gives up when the end is asked for, or after the limit (`None`).
pub(super) fn wait(
    file: &File,
    range: Range,
    flags: LOCK_FILE_FLAGS,
    end: &Interrupt,
    limit: Option<Duration>,
) -> io::Result<Option<Waited>> {
    if end.is_requested() {
        return Ok(Some(Waited::Interrupted));
    }
    let mut call = match Call::start(file, range, flags)? {
        Started::Granted => return Ok(Some(Waited::Acquired)),
        Started::UnderWay(call) => call,
    };
    let events: Vec<&Event> = [&call.event].into_iter().chain(end.requested()).collect();
    let woken = wait_for_any(&events, limit);
    if !matches!(woken, Ok(Some(0))) {
        call.cancel();
    }
    match call.answer() {
        // Also a grant that won the race: the queue gives the lock back, or to another request.
        Ok(()) => Ok(Some(Waited::Acquired)),
        Err(error) if code(&error) == Some(ERROR_OPERATION_ABORTED) => match woken? {
            None => Ok(None),
            Some(_) => Ok(Some(Waited::Interrupted)),
        },
        Err(error) => Err(error),
    }
}

pub(super) fn unlock(file: &File, range: Range) -> io::Result<()> {
    let mut overlapped = at(range.start, ptr::null_mut());
    let [low, high] = halves(range.length);
    // SAFETY: the handle is open. The structure only says where, and is valid for the call, which
    // has an end: an unlock is never pending.
    let unlocked = unsafe { UnlockFileEx(file.as_raw_handle(), 0, low, high, &mut overlapped) };
    if unlocked != 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

enum Started<'a> {
    Granted,
    UnderWay(Call<'a>),
}

/// A lock call that the kernel has begun.
struct Call<'a> {
    file: &'a File,
    event: Event,
    /// From a box. The kernel writes to it until the call has ended.
    overlapped: *mut OVERLAPPED,
    has_ended: bool,
}

impl<'a> Call<'a> {
    fn start(file: &'a File, range: Range, flags: LOCK_FILE_FLAGS) -> io::Result<Started<'a>> {
        let event = Event::new()?;
        let overlapped = Box::into_raw(Box::new(at(range.start, event.handle())));
        let mut call = Self { file, event, overlapped, has_ended: false };
        let [low, high] = halves(range.length);
        // SAFETY: the handle is open, and the structure lives until the call has ended.
        let granted = unsafe { LockFileEx(file.as_raw_handle(), flags, 0, low, high, overlapped) };
        let error = io::Error::last_os_error();
        if granted == 0 && code(&error) == Some(ERROR_IO_PENDING) {
            return Ok(Started::UnderWay(call));
        }
        call.has_ended = true;
        if granted == 0 { Err(error) } else { Ok(Started::Granted) }
    }

    /// Asks for an early end; whether there was something to end.
    fn cancel(&self) -> bool {
        // SAFETY: the handle is open, and the structure that of a call on it.
        unsafe { CancelIoEx(self.file.as_raw_handle(), self.overlapped) != 0 }
    }

    /// Waits for the end of the call. Asked once.
    fn answer(&mut self) -> io::Result<()> {
        let mut transferred = 0;
        // SAFETY: the handle is open, and the structure that of a call on it.
        let granted = unsafe {
            GetOverlappedResult(self.file.as_raw_handle(), self.overlapped, &mut transferred, 1)
        };
        let error = io::Error::last_os_error();
        self.has_ended = true;
        if granted == 0 {
            return Err(error);
        }
        // SAFETY: the call has ended, so the kernel writes to it no more.
        let status = unsafe { (*self.overlapped).Internal };
        if status == STATUS_SUCCESS as usize {
            Ok(())
        } else {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.cancel();
            let _ = self.answer();
        }
        // SAFETY: the pointer is from a box, and the kernel is done with it.
        drop(unsafe { Box::from_raw(self.overlapped) });
    }
}

pub(super) fn at(offset: u64, event: HANDLE) -> OVERLAPPED {
    // SAFETY: a structure of numbers and a null handle, for which all zeros is valid.
    let mut overlapped: OVERLAPPED = unsafe { MaybeUninit::zeroed().assume_init() };
    overlapped.Internal = STATUS_PENDING as usize;
    let [low, high] = halves(offset);
    overlapped.Anonymous.Anonymous = OVERLAPPED_0_0 { Offset: low, OffsetHigh: high };
    overlapped.hEvent = event;
    overlapped
}

fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

/// A call that was to wait came back at once, as wine's do: the lock is busy, no more.
pub(super) fn did_not_wait(error: &io::Error) -> bool {
    is_contention(error, FileSystem::Local) && !is_usable()
}

/// Whether calls that wait on an overlapped handle end, by a release and by being cancelled. Found
/// out once, on a file of our own. Where it cannot be found out, they count as ones that do not.
pub(super) fn is_usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| matches!(probe(), Ok(true)))
}

fn probe() -> io::Result<bool> {
    /// Only a kernel that does not do it, or a machine that has come to a halt, takes so long.
    const PATIENCE: Duration = Duration::from_secs(10);
    const BYTE: Range = Range { start: 0, length: 1 };
    const NOW: LOCK_FILE_FLAGS = LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY;

    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let name = format!("tokio-filelock-{}-{}.tmp", std::process::id(), since.as_nanos());
    let path = std::env::temp_dir().join(name);
    let open = |create| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(create);
        options.custom_flags(FILE_FLAG_OVERLAPPED | FILE_FLAG_DELETE_ON_CLOSE).open(&path)
    };
    let (holder, waiter) = (open(true)?, open(false)?);
    call(&holder, BYTE, NOW)?;
    for end in ["cancelled", "released"] {
        let Started::UnderWay(mut waiting) = Call::start(&waiter, BYTE, LOCKFILE_EXCLUSIVE_LOCK)?
        else {
            return Ok(false);
        };
        let to_end = match end {
            "cancelled" => waiting.cancel(),
            _ => unlock(&holder, BYTE).is_ok(),
        };
        if !to_end || wait_for_any(&[&waiting.event], Some(PATIENCE))?.is_none() {
            // The kernel may write to it one day: its memory is given up.
            mem::forget(waiting);
            return Ok(false);
        }
        let answer = waiting.answer();
        let as_expected = match end {
            "cancelled" => answer.is_err_and(|e| code(&e) == Some(ERROR_OPERATION_ABORTED)),
            _ => answer.is_ok(),
        };
        if !as_expected {
            return Ok(false);
        }
    }
    Ok(true)
}
