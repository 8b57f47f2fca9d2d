//! Kernel modules: load one from an open file.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Loads the (uncompressed) module in `path` without parameters; one that is there already counts as loaded.
pub fn load(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let parameters: &CStr = c"";
    // SAFETY: the descriptor is open and the parameter text is a terminated string that outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), 0) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EEXIST) { Ok(()) } else { Err(error) }
}
