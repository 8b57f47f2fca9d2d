//! Tells the boot loader that this slot started healthily.

use std::fs;
use std::path::Path;

use disk::slot::Slot;
use disk::state::{FILES, State};
use nix::mount::{MsFlags, mount};

use crate::Error;
use crate::phases::BOOT;

/// Writes both copies of the slot state, one after the other, so that one of them is whole at any time.
///
/// The boot partition is writable only meanwhile.
pub(crate) fn confirm(slot: Slot) -> Result<(), Error> {
    remount(false)?;
    let written = write(slot);
    remount(true)?;
    written
}

fn write(slot: Slot) -> Result<(), Error> {
    let dir = Path::new(BOOT);
    let state = read(dir).confirmed(slot);
    let image = state.encode()?;
    for name in FILES {
        let path = dir.join(name);
        // In place: FAT has no atomic rename, and the boot loader takes the other copy when one is torn.
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(Error::file("open", &path))?;
        std::io::Write::write_all(&mut file, &image).map_err(Error::file("write", &path))?;
        file.sync_all().map_err(Error::file("sync", &path))?;
    }
    Ok(())
}

/// The first copy that is whole, or the defaults, as the boot script has them.
fn read(dir: &Path) -> State {
    let copies = FILES.iter().filter_map(|name| fs::read(dir.join(name)).ok());
    copies.filter_map(|image| State::decode(&image).ok()).next().unwrap_or_default()
}

fn remount(readonly: bool) -> Result<(), Error> {
    let access = if readonly { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let flags =
        MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | access;
    mount(None::<&str>, BOOT, None::<&str>, flags, None::<&str>).map_err(|error| Error::Mount {
        kind: "vfat",
        target: BOOT.into(),
        source: error.into(),
    })
}
