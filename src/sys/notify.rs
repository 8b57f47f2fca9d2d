//! Learning of changes in a folder.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// Bytes that hold at least one of the kernel's messages; what they say beyond "something changed" is not needed.
pub const MESSAGE_LEN: usize = 4096;

/// A descriptor that has something to read when a file of the folder was written, moved in or removed.
pub fn watch_folder(path: &Path) -> io::Result<OwnedFd> {
    watch(&[path], AddWatchFlags::empty())
}

/// Like `watch_folder` for several folders; folders made, moved in and out, and links count, too.
pub fn watch_folders(paths: &[impl AsRef<Path>]) -> io::Result<OwnedFd> {
    watch(paths, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_FROM)
}

fn watch(paths: &[impl AsRef<Path>], further: AddWatchFlags) -> io::Result<OwnedFd> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let kinds = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ONLYDIR;
    for path in paths {
        inotify.add_watch(path.as_ref(), kinds | further)?;
    }
    Ok(inotify.into())
}

/// Takes what such a descriptor has to read; `WouldBlock` when there is nothing.
pub fn take(watch: &OwnedFd) -> io::Result<()> {
    nix::unistd::read(watch, &mut [0; MESSAGE_LEN])?;
    Ok(())
}
