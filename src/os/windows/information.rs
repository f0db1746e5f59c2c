//! What the system says of an open file: its number, and the names that lead to it.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::windows::io::AsRawHandle;

use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_ID_INFO, FILE_INFO_BY_HANDLE_CLASS, FILE_STANDARD_INFO,
    FileIdInfo, FileStandardInfo, GetFileInformationByHandle, GetFileInformationByHandleEx,
};

use crate::os::Identity;

/// Some path still leads to the file, and it is not on its way to deletion.
pub(super) fn is_linked(file: &File) -> io::Result<bool> {
    let standard: FILE_STANDARD_INFO = information(file, FileStandardInfo)?;
    Ok(standard.NumberOfLinks > 0 && !standard.DeletePending)
}

pub(super) fn has_other_names(file: &File) -> io::Result<bool> {
    let standard: FILE_STANDARD_INFO = information(file, FileStandardInfo)?;
    Ok(standard.NumberOfLinks > 1)
}

pub(super) fn number(file: &File, by_handle: &BY_HANDLE_FILE_INFORMATION) -> Identity {
    match information::<FILE_ID_INFO>(file, FileIdInfo) {
        Ok(id) => Identity {
            device: id.VolumeSerialNumber,
            inode: u128::from_le_bytes(id.FileId.Identifier),
        },
        // Older file systems, and wine, have the shorter one only.
        Err(_) => Identity {
            device: by_handle.dwVolumeSerialNumber.into(),
            inode: u128::from(by_handle.nFileIndexHigh) << 32 | u128::from(by_handle.nFileIndexLow),
        },
    }
}

pub(super) fn by_handle(file: &File) -> io::Result<BY_HANDLE_FILE_INFORMATION> {
    let mut information = MaybeUninit::uninit();
    // SAFETY: the handle is open, and the pointer valid for the call.
    let known =
        unsafe { GetFileInformationByHandle(file.as_raw_handle(), information.as_mut_ptr()) };
    if known == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on success it is filled in.
    Ok(unsafe { information.assume_init() })
}

/// The structure that belongs to this class.
fn information<T>(file: &File, class: FILE_INFO_BY_HANDLE_CLASS) -> io::Result<T> {
    let mut information = MaybeUninit::<T>::zeroed();
    let size = u32::try_from(mem::size_of::<T>()).expect("a small structure");
    // SAFETY: the handle is open, and the pointer valid for as many bytes as it says.
    let known = unsafe {
        GetFileInformationByHandleEx(
            file.as_raw_handle(),
            class,
            information.as_mut_ptr().cast(),
            size,
        )
    };
    if known == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain data, of which all zeros is valid, and the call has filled it in.
    Ok(unsafe { information.assume_init() })
}
