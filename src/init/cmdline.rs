//! Our words on the kernel command line: `copepod.slot=`, `copepod.disk=`, `copepod.verity=`, and maybe `copepod.medium=`.

use std::path::Path;

use disk::slot::{Slot, Verity};

use crate::Error;

const PATH: &str = "/proc/cmdline";

/// What the boot loader said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandLine {
    pub(crate) slot: Slot,
    /// Identifier in the partition table of the disk to use.
    pub(crate) disk: u32,
    pub(crate) verity: Verity,
    /// What the boot loader read the kernel from, where it says so: `mmc`, `usb`, ...
    pub(crate) medium: Option<String>,
}

impl CommandLine {
    pub(crate) fn read() -> Result<CommandLine, Error> {
        let text = std::fs::read_to_string(PATH).map_err(Error::file("read", Path::new(PATH)))?;
        CommandLine::parse(&text)
    }

    pub(crate) fn parse(text: &str) -> Result<CommandLine, Error> {
        let slot = value(text, "copepod.slot").and_then(|value| value.parse().ok());
        let disk =
            value(text, "copepod.disk").and_then(|value| u32::from_str_radix(value, 16).ok());
        let verity = value(text, "copepod.verity").and_then(|value| value.parse().ok());
        Ok(CommandLine {
            slot: slot.ok_or(Error::CommandLine("copepod.slot"))?,
            disk: disk.ok_or(Error::CommandLine("copepod.disk"))?,
            verity: verity.ok_or(Error::CommandLine("copepod.verity"))?,
            medium: value(text, "copepod.medium").map(str::to_owned),
        })
    }
}

/// The last value given for `key`, as the kernel itself does it.
fn value<'text>(text: &'text str, key: &str) -> Option<&'text str> {
    let words = text.split_ascii_whitespace().rev();
    words
        .filter_map(|word| word.split_once('='))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value)
}
