//! An event of the kernel: set once, seen by every thread that waits for it.
#![allow(unsafe_code)]

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;
use std::time::Duration;

use windows_sys::Win32::Foundation::{HANDLE, WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::Threading::{
    CreateEventW, INFINITE, SetEvent, WaitForMultipleObjects,
};

#[derive(Debug)]
pub(super) struct Event(OwnedHandle);

impl Event {
    /// Not set, and stays set once it is.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: neither attributes nor a name are given.
        let handle = unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle is new, and has no other owner.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(handle) }))
    }

    pub(super) fn set(&self) {
        // SAFETY: the handle is an event's, and open.
        let set = unsafe { SetEvent(self.handle()) };
        debug_assert_ne!(set, 0, "an event that exists");
    }

    pub(super) fn handle(&self) -> HANDLE {
        self.0.as_raw_handle()
    }
}

/// Which of the events is set, the first one of several; `None` if the time is up.
pub(super) fn wait_for_any(
    events: &[&Event],
    limit: Option<Duration>,
) -> io::Result<Option<usize>> {
    let handles: Vec<HANDLE> = events.iter().map(|event| event.handle()).collect();
    let count = u32::try_from(handles.len()).expect("a few events");
    // SAFETY: the handles are open for as long as the events are borrowed.
    let woken = unsafe { WaitForMultipleObjects(count, handles.as_ptr(), 0, milliseconds(limit)) };
    match woken {
        WAIT_TIMEOUT => Ok(None),
        woken if woken < WAIT_OBJECT_0 + count => Ok(Some((woken - WAIT_OBJECT_0) as usize)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Rounded up: an early end would be a busy loop.
fn milliseconds(limit: Option<Duration>) -> u32 {
    let Some(limit) = limit else { return INFINITE };
    u32::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(INFINITE - 1)
}
