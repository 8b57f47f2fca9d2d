//! Extended attributes by open descriptor: the calls neither std nor nix offers.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Longest value the kernel accepts (`XATTR_SIZE_MAX`).
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Sets `name` on the file or directory behind `fd`, replacing an earlier value. The descriptor must not be `O_PATH`.
pub fn set<Fd: AsFd>(fd: Fd, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: name is NUL-terminated and value is valid for value.len() bytes for the length of the call.
    let result = unsafe {
        libc::fsetxattr(
            fd.as_fd().as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads `name` of the file or directory behind `fd`; `None` if it has no such attribute.
pub fn get<Fd: AsFd>(fd: Fd, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; VALUE_BYTES_MAX];
    // SAFETY: name is NUL-terminated and value is writable for value.len() bytes for the length of the call.
    let result = unsafe {
        libc::fgetxattr(
            fd.as_fd().as_raw_fd(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    match usize::try_from(result) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
            error => Err(error),
        },
    }
}
