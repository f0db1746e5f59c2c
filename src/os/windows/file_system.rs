//! Whether a lock file is on this machine.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::windows::io::AsRawHandle;

use windows_sys::Win32::Storage::FileSystem::{
    FILE_REMOTE_PROTOCOL_INFO, FileRemoteProtocolInfo, GetFileInformationByHandleEx,
};

use crate::os::file_system::{FileSystem, Keyed, Kind};

/// Only a remote file has a protocol. Waits there are those of the server, so they are asked for
/// anew from time to time.
pub(in crate::os) fn of(file: &File) -> io::Result<Kind> {
    let mut remote = MaybeUninit::<FILE_REMOTE_PROTOCOL_INFO>::zeroed();
    let size = u32::try_from(mem::size_of::<FILE_REMOTE_PROTOCOL_INFO>()).expect("small");
    // SAFETY: the handle is open, and the pointer valid for as many bytes as it says.
    let is_remote = unsafe {
        GetFileInformationByHandleEx(
            file.as_raw_handle(),
            FileRemoteProtocolInfo,
            remote.as_mut_ptr().cast(),
            size,
        )
    };
    let file_system = if is_remote == 0 { FileSystem::Local } else { FileSystem::Nfs };
    Ok(Kind { file_system, keyed: Keyed::ByNumber })
}
