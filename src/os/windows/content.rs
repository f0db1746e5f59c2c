//! Reading and writing what a lock file carries besides its lock: the record.
//!
//! Through the handle that has the lock, for it keeps every other one out. That handle is overlapped, as a
//! rule, so each call has an event of its own: the end of a lock call on the same handle is not its end.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::windows::io::AsRawHandle;
use std::ptr;

use windows_sys::Win32::Foundation::{ERROR_HANDLE_EOF, ERROR_IO_PENDING, HANDLE};
use windows_sys::Win32::Storage::FileSystem::{ReadFile, WriteFile};
use windows_sys::Win32::System::IO::{GetOverlappedResult, OVERLAPPED};
use windows_sys::core::BOOL;

use super::errors::code;
use super::event::Event;
use super::information;
use super::overlapped::at;

pub(in crate::os) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
    let to = buffer.as_mut_ptr();
    let read = transfer(file, offset, |handle, overlapped| {
        // SAFETY: the handle is open, and the buffer has the length and outlives the call, whose end
        // `transfer` waits for.
        unsafe { ReadFile(handle, to, length, ptr::null_mut(), overlapped) }
    });
    match read {
        Err(error) if code(&error) == Some(ERROR_HANDLE_EOF) => Ok(0),
        read => read,
    }
}

pub(in crate::os) fn write_all_at(file: &File, content: &[u8], offset: u64) -> io::Result<()> {
    let length = u32::try_from(content.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let written = transfer(file, offset, |handle, overlapped| {
        // SAFETY: the handle is open, and the content has the length and outlives the call, whose end
        // `transfer` waits for.
        unsafe { WriteFile(handle, content.as_ptr(), length, ptr::null_mut(), overlapped) }
    })?;
    if written == content.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn transfer(
    file: &File,
    offset: u64,
    start: impl FnOnce(HANDLE, *mut OVERLAPPED) -> BOOL,
) -> io::Result<usize> {
    let event = Event::new()?;
    let mut overlapped = at(offset, event.handle());
    if start(file.as_raw_handle(), &mut overlapped) == 0 {
        let error = io::Error::last_os_error();
        if code(&error) != Some(ERROR_IO_PENDING) {
            return Err(error);
        }
    }
    let mut transferred = 0;
    // SAFETY: the handle is open, and the structure that of a call on it, whose end is waited for.
    let ended =
        unsafe { GetOverlappedResult(file.as_raw_handle(), &overlapped, &mut transferred, 1) };
    if ended == 0 { Err(io::Error::last_os_error()) } else { Ok(transferred as usize) }
}

pub(in crate::os) fn has_other_names(file: &File) -> io::Result<bool> {
    information::has_other_names(file)
}
