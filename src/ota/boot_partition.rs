//! The boot partition, which is writable only while something is written to it.

use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::error::Error;

/// The folder in which the boot partition is mounted.
#[derive(Clone, Debug)]
pub struct BootPartition {
    folder: PathBuf,
    /// It is a read-only mount; otherwise a plain folder.
    is_mount: bool,
}

impl BootPartition {
    #[must_use]
    pub fn mounted(folder: PathBuf) -> BootPartition {
        BootPartition { folder, is_mount: true }
    }

    /// A folder that is writable anyway.
    #[must_use]
    pub fn plain(folder: PathBuf) -> BootPartition {
        BootPartition { folder, is_mount: false }
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes it writable, works, makes it read-only again.
    pub fn writable<T>(&self, work: impl FnOnce(&Path) -> Result<T, Error>) -> Result<T, Error> {
        self.remount(false)?;
        let result = work(&self.folder);
        let back = self.remount(true);
        let value = result?;
        back.map(|()| value)
    }

    fn remount(&self, readonly: bool) -> Result<(), Error> {
        if !self.is_mount {
            return Ok(());
        }
        let access = if readonly { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let flags = MsFlags::MS_REMOUNT | safe | access;
        mount(None::<&str>, &self.folder, None::<&str>, flags, None::<&str>)
            .map_err(|error| Error::file("remount", &self.folder)(error.into()))
    }
}
