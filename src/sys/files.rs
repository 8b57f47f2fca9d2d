//! Writing files so that a reader, or a power cut, sees the old or the new content and never a mixture.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Tries to find an unused temporary name before giving up.
const NAME_TRIES: u32 = 16;

static SEQUENCE: AtomicU32 = AtomicU32::new(0);

/// Replaces `path` by `bytes` so that the change survives power loss: temporary file in the same directory, `fsync`,
/// rename, `fsync` of the directory. The file has exactly `mode`, whatever the umask.
pub fn atomic_write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace(path, bytes, mode, true)
}

/// As [`atomic_write`] but without waiting for the disk: for state that a reboot makes worthless, or that [`settle`] makes
/// durable later.
pub fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace(path, bytes, mode, false)
}

/// Makes a file and its name durable. One that is gone meanwhile is fine.
pub fn settle(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => file.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes the entries of a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Lets two files or folders of one file system change names in one step. Not every file system can.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
    let (one, other) = (text(one)?, text(other)?);
    // SAFETY: the system call reads the two strings, which live for the call; the other arguments are constants.
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn replace(path: &Path, bytes: &[u8], mode: u32, durable: bool) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) => Path::new("."),
        None => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "path has no parent directory",
            ));
        }
    };
    let (temporary, mut file) = create_temporary(path, dir, mode)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(mode)))
        .and_then(|()| if durable { file.sync_all() } else { Ok(()) })
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // The temporary file is of no use; the error that matters is the first one.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    if durable { sync_dir(dir) } else { Ok(()) }
}

fn create_temporary(path: &Path, dir: &Path, mode: u32) -> io::Result<(PathBuf, File)> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "path has no file name"));
    };
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..NAME_TRIES {
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(
            ".{}.{}",
            std::process::id(),
            SEQUENCE.fetch_add(1, Ordering::Relaxed)
        ));
        let candidate = dir.join(hidden);
        // Never wider than 0600 before the content is complete.
        match OpenOptions::new().write(true).create_new(true).mode(mode & 0o600).open(&candidate) {
            Ok(file) => return Ok((candidate, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
