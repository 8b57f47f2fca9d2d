//! Disk space kept for the moment when there is none: without it a full disk could not even be emptied, because a
//! deletion needs space in the log beside the database first.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

/// More than the log beside the database needs when it is folded into the file.
const SPARE_BYTES: i64 = 8 << 20;

/// A file that only takes up space.
pub(crate) struct Spare {
    path: PathBuf,
    held: bool,
}

impl Spare {
    /// Takes the space unless an earlier process has, or there is none.
    pub(crate) fn take(path: PathBuf) -> Spare {
        let mut spare = Spare { path, held: false };
        spare.hold();
        spare
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    /// Whether the space is taken, after trying to if it was not.
    pub(crate) fn hold(&mut self) -> bool {
        if !self.held {
            self.held = allocate(&self.path);
        }
        self.held
    }

    /// Gives the space to whoever needs it.
    pub(crate) fn release(&mut self) {
        self.held = false;
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "spare space is not released");
        }
    }
}

fn allocate(path: &Path) -> bool {
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    let Ok(file) = opened else { return false };
    if is_whole(&file) {
        return true;
    }
    match fallocate(&file, FallocateFlags::empty(), 0, SPARE_BYTES) {
        Ok(()) => true,
        // Some file systems cannot promise space; the store works on them without.
        Err(Errno::EOPNOTSUPP) => true,
        Err(_) => {
            // A part would be taken for the whole, and takes space from others.
            std::fs::remove_file(path).ok();
            false
        }
    }
}

fn is_whole(file: &File) -> bool {
    file.metadata().is_ok_and(|data| data.len() >= SPARE_BYTES.unsigned_abs())
}
