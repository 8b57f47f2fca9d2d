//! Learning of changes in a folder.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// Bytes that hold at least one of the kernel's messages; what they say beyond "something changed" is not needed.
pub const MESSAGE_LEN: usize = 4096;

/// A descriptor that has something to read when a file of the folder was written, moved in or removed.
pub fn watch_folder(path: &Path) -> io::Result<OwnedFd> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let kinds = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ONLYDIR;
    inotify.add_watch(path, kinds)?;
    Ok(inotify.into())
}
