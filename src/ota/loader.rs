//! The two boot loaders' ways to choose a slot: try one, keep one, leave one out.

use std::ffi::CStr;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use disk::slot::{Slot, kernel_arguments};
use disk::state::{FILES, State};

use crate::boot_partition::BootPartition;
use crate::error::{Error, Refusal};
use crate::install::forget_cached;

/// What a slot says of itself, and the kernel's arguments where they are a file.
const DESCRIPTION: &str = "slot.env";
const ARGUMENTS: &str = "cmdline.txt";

/// How the boot loader is told which slot to start.
pub trait Loader {
    /// Whether a slot can be tried on this board at all.
    fn ready(&self) -> Result<(), Refusal>;
    /// Lets the slot be tried a bounded number of times. Returns what the restart has to say to the firmware, if anything.
    fn try_slot(&self, slot: Slot) -> Result<Option<&'static CStr>, Error>;
    /// Makes what only the boot loader's own slot needs beside the bundle's files; the boot partition is writable.
    fn complete(&self, slot: Slot, disk: u32) -> Result<(), Error>;
    /// The slot that runs is good: it is started from now on.
    fn confirm(&self, slot: Slot) -> Result<(), Error>;
    /// The slot is broken or incomplete: the other one is started.
    fn reject(&self, slot: Slot) -> Result<(), Error>;
    /// The slot that was confirmed last, where that is known.
    fn good(&self) -> Option<Slot>;
    /// The slot that runs is good, but another one was confirmed: that stays what is started first.
    fn stand_in(&self, slot: Slot) -> Result<(), Error>;
}

impl dyn Loader {
    /// The loader this boot partition is for: only where the firmware chooses the slot there is a file for its trial.
    #[must_use]
    pub fn of(boot: &BootPartition) -> Box<dyn Loader> {
        if boot.folder().join(Tryboot::TRIAL).is_file() {
            return Box::new(Tryboot { boot: boot.clone(), firmware: Firmware::BOARD });
        }
        Box::new(Uboot { boot: boot.clone() })
    }
}

/// U-Boot with the script of `image/boot.cmd`: counters in two checksummed copies.
#[derive(Clone, Debug)]
pub struct Uboot {
    pub boot: BootPartition,
}

impl Uboot {
    fn change(&self, change: impl FnOnce(&State) -> State) -> Result<(), Error> {
        let state = change(&read(self.boot.folder()));
        self.boot.writable(|folder| write(folder, &state))
    }
}

impl Loader for Uboot {
    fn ready(&self) -> Result<(), Refusal> {
        Ok(())
    }

    /// The boot script puts the kernel's arguments together itself.
    fn complete(&self, _: Slot, _: u32) -> Result<(), Error> {
        Ok(())
    }

    fn try_slot(&self, slot: Slot) -> Result<Option<&'static CStr>, Error> {
        self.change(|state| state.trying(slot)).map(|()| None)
    }

    fn confirm(&self, slot: Slot) -> Result<(), Error> {
        self.change(|state| state.confirmed(slot))
    }

    fn reject(&self, slot: Slot) -> Result<(), Error> {
        self.change(|state| state.rejected(slot))
    }

    fn good(&self) -> Option<Slot> {
        read(self.boot.folder()).good
    }

    fn stand_in(&self, slot: Slot) -> Result<(), Error> {
        self.change(|state| state.standing_in(slot))
    }
}

/// Writes both copies, one after the other, so that one of them is whole at any time.
fn write(folder: &Path, state: &State) -> Result<(), Error> {
    let wrong = |source| Error::SlotState { path: folder.to_owned(), source };
    let image = state.encode().map_err(wrong)?;
    for name in FILES {
        // In place: FAT has no atomic rename, and the boot loader takes the other copy when one is torn.
        write_in_place(&folder.join(name), &image)?;
    }
    Ok(())
}

/// The first copy that is whole, or the defaults, as the boot script has them.
fn read(folder: &Path) -> State {
    let copies = FILES.iter().filter_map(|name| fs::read(folder.join(name)).ok());
    copies.filter_map(|image| State::decode(&image).ok()).next().unwrap_or_default()
}

/// The Raspberry Pi's firmware: `config.txt` names the slot's folder in `os_prefix`, `tryboot.txt` is read instead of it
/// for the one start after a flag was set. Raspberry Pi's kernels clear the flag at a restart unless that is asked for with
/// the word `0 tryboot`, others leave it alone. Not tried on hardware.
#[derive(Clone, Debug)]
pub struct Tryboot {
    pub boot: BootPartition,
    pub firmware: Firmware,
}

/// How the firmware's flags for the next start are read and set.
#[derive(Clone, Copy, Debug)]
pub struct Firmware {
    pub flags: fn() -> io::Result<u32>,
    pub set_flags: fn(u32) -> io::Result<()>,
}

impl Firmware {
    const BOARD: Firmware =
        Firmware { flags: sys::firmware::reboot_flags, set_flags: sys::firmware::set_reboot_flags };
    /// Lets the next start be one from `tryboot.txt`.
    const TRY: u32 = 1;
}

impl Tryboot {
    const CONFIG: &str = "config.txt";
    const TRIAL: &str = "tryboot.txt";
    const PREFIX: &str = "os_prefix=";
    const RESTART: &CStr = c"0 tryboot";

    /// `config.txt` with another slot's folder.
    fn config_for(&self, slot: Slot) -> Result<String, Error> {
        let path = self.boot.folder().join(Self::CONFIG);
        let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.retain(|line| !line.trim_start().starts_with(Self::PREFIX));
        // First, so that it stands in no conditional section.
        lines.insert(0, format!("{}{slot}/", Self::PREFIX));
        Ok(lines.join("\n") + "\n")
    }
}

impl Loader for Tryboot {
    /// Without the flag the firmware starts the old slot, and every update would fall back.
    fn ready(&self) -> Result<(), Refusal> {
        (self.firmware.flags)().map(drop).map_err(|error| Refusal::NoTrials(error.to_string()))
    }

    /// The firmware takes the kernel's arguments from a file, and they name the slot.
    fn complete(&self, slot: Slot, disk: u32) -> Result<(), Error> {
        let folder = self.boot.folder().join(slot.name());
        let path = folder.join(DESCRIPTION);
        let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().to_owned()
        };
        let verity = value("verity")
            .parse()
            .map_err(|source| Error::SlotState { path: path.clone(), source })?;
        let arguments = kernel_arguments(slot, disk, &verity, &value("extra")) + "\n";
        let path = folder.join(ARGUMENTS);
        write_in_place(&path, arguments.as_bytes())?;
        read_back(&path, arguments.as_bytes(), slot)
    }

    fn try_slot(&self, slot: Slot) -> Result<Option<&'static CStr>, Error> {
        let text = self.config_for(slot)?;
        self.boot.writable(|folder| write_in_place(&folder.join(Self::TRIAL), text.as_bytes()))?;
        (self.firmware.set_flags)(Firmware::TRY).map_err(Error::Firmware)?;
        Ok(Some(Self::RESTART))
    }

    fn confirm(&self, slot: Slot) -> Result<(), Error> {
        let text = self.config_for(slot)?;
        let path = self.boot.folder().join(Self::CONFIG);
        if fs::read_to_string(&path).is_ok_and(|now| now == text) {
            return Ok(());
        }
        self.boot.writable(|folder| replace(folder, Self::CONFIG, text.as_bytes()))
    }

    /// `config.txt` still names the other slot, so there is nothing to take back but the trial.
    fn reject(&self, slot: Slot) -> Result<(), Error> {
        self.confirm(slot.other())
    }

    fn good(&self) -> Option<Slot> {
        let text = fs::read_to_string(self.boot.folder().join(Self::CONFIG)).ok()?;
        let prefix = text.lines().find_map(|line| line.trim().strip_prefix(Self::PREFIX))?;
        prefix.trim_end_matches('/').parse().ok()
    }

    /// There are no counters, and `config.txt` names the other slot already.
    fn stand_in(&self, _: Slot) -> Result<(), Error> {
        Ok(())
    }
}

fn write_in_place(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let mut file = file.map_err(Error::file("open", path))?;
    file.write_all(bytes).map_err(Error::file("write", path))?;
    file.set_len(bytes.len() as u64).map_err(Error::file("shorten", path))?;
    file.sync_all().map_err(Error::file("sync", path))
}

/// Compares the file on the storage with what was written to it.
fn read_back(path: &Path, bytes: &[u8], slot: Slot) -> Result<(), Error> {
    let mut file = fs::File::open(path).map_err(Error::file("open", path))?;
    forget_cached(&file);
    let mut found = Vec::new();
    file.read_to_end(&mut found).map_err(Error::file("read", path))?;
    if found == bytes {
        return Ok(());
    }
    Err(Error::ReadBack { slot: slot.name(), part: ARGUMENTS.to_owned() })
}

/// The new file is complete on the disk before it takes the old one's name.
fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let (new, path) = (folder.join(format!("{name}.new")), folder.join(name));
    write_in_place(&new, bytes)?;
    fs::rename(&new, &path).map_err(Error::file("rename", &new))?;
    sys::files::sync_dir(folder).map_err(Error::file("sync", folder))
}
