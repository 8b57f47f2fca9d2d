//! What this machine runs and from where: the release in the image, and what PID 1 tells of the start.

use std::fs;
use std::path::{Path, PathBuf};

use disk::slot::Slot;
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The image's own description, `/etc/copepod/release.json`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Release {
    pub board: String,
    pub version: Version,
    /// Date of the build in seconds since 1970.
    pub build: u64,
}

impl Release {
    pub fn read(path: &Path) -> Result<Release, Error> {
        read_json(path)
    }
}

/// What PID 1 found out and others need, `/run/copepod/boot.json`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BootFacts {
    /// The slot that runs.
    #[serde(with = "slot_name")]
    pub slot: Slot,
    /// Whether the boot loader has been told that this slot is good.
    pub confirmed: bool,
    /// Identifier in the partition table of the disk.
    pub disk: u32,
    /// The device of each slot's root.
    pub root_a: PathBuf,
    pub root_b: PathBuf,
    /// This start ended an update, one way or the other.
    pub settled: bool,
    /// This start is the trial of an update.
    pub trial: bool,
}

impl BootFacts {
    pub fn read(path: &Path) -> Result<BootFacts, Error> {
        read_json(path)
    }

    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let bytes = serde_json::to_vec(self)
            .map_err(|source| Error::Format { path: path.to_owned(), source })?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        }
        sys::replace_file(path, &bytes, 0o644).map_err(Error::file("write", path))
    }

    #[must_use]
    pub fn root(&self, slot: Slot) -> &Path {
        match slot {
            Slot::A => &self.root_a,
            Slot::B => &self.root_b,
        }
    }
}

/// A slot by its name.
pub(crate) mod slot_name {
    use disk::slot::Slot;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(slot: &Slot, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(slot.name())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Slot, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let bytes = fs::read(path).map_err(Error::file("read", path))?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Format { path: path.to_owned(), source })
}
