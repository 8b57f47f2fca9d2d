//! What a bundle says of itself: for which board, which version, and which parts with which hashes.

use disk::slot::BLOCK_LEN;
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::blocks::{HASH_LEN, INDEX};
use crate::error::Refusal;

/// The format of bundles this code writes and reads.
pub const FORMAT: u32 = 1;
/// Name of the part that goes into the slot's root partition; all others are files of the boot partition.
pub const ROOT: &str = "root.img";
/// Bytes of the encoded manifest.
pub(crate) const MANIFEST_MAX: usize = 64 * 1024;
const PARTS_MAX: usize = 256;
const NAME_MAX: usize = 100;
/// No part is larger, as stored or as unpacked: a bound for sums, not for boards.
const PART_MAX: u64 = 1 << 30;
const INDEX_MAX: u64 = 8 << 20;
/// How long a trial may take, in seconds.
const HEALTHY_WITHIN: std::ops::RangeInclusive<u32> = 30..=3600;
const HEALTHY_WITHIN_DEFAULT: u32 = 300;

/// The signed description of a bundle.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    pub format: u32,
    /// The board's name, as in `board-configs/`.
    pub board: String,
    pub version: Version,
    /// Date of the build in seconds since 1970; orders builds of one version.
    pub build: u64,
    /// Oldest version from which this one can be installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Version>,
    /// Seconds within which the new version must be healthy.
    #[serde(default = "healthy_within")]
    pub healthy_within: u32,
    pub parts: Vec<Part>,
}

/// One thing that goes into the slot.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Part {
    /// `root.img`, `root.index`, or a file's path below the slot's folder on the boot partition.
    pub name: String,
    /// Bytes once unpacked, and their SHA-256 in hexadecimal.
    pub size: u64,
    pub sha256: String,
    /// Where the part begins, counted from the end of the bundle's head.
    pub offset: u64,
    /// Bytes in the bundle.
    pub stored: u64,
    #[serde(default)]
    pub compression: Compression,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    #[default]
    None,
    Zstd,
}

fn healthy_within() -> u32 {
    HEALTHY_WITHIN_DEFAULT
}

impl Manifest {
    /// Reads a manifest and checks that it makes sense in itself.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, Refusal> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let wrong = |error: serde_json::Error| Refusal::Manifest(error.to_string());
        let head: Head = serde_json::from_slice(bytes).map_err(wrong)?;
        if head.format != FORMAT {
            let text =
                format!("format is {}, this version of Copepod knows format {FORMAT}", head.format);
            return Err(Refusal::Manifest(text));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(wrong)?;
        manifest.check().map_err(Refusal::Manifest)?;
        Ok(manifest)
    }

    /// The encoded manifest; refused when it could not be read back.
    pub fn encode(&self) -> Result<Vec<u8>, Refusal> {
        self.check().map_err(Refusal::Manifest)?;
        let bytes =
            serde_json::to_vec(self).map_err(|error| Refusal::Manifest(error.to_string()))?;
        if bytes.len() > MANIFEST_MAX {
            return Err(Refusal::Manifest(format!(
                "it has {} bytes, more than {MANIFEST_MAX}",
                bytes.len()
            )));
        }
        Ok(bytes)
    }

    #[must_use]
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name == name)
    }

    /// The parts that are files of the boot partition.
    pub fn files(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.name != ROOT && part.name != INDEX)
    }

    /// Bytes behind the head.
    #[must_use]
    pub fn payload(&self) -> u64 {
        self.parts.iter().map(|part| part.offset.saturating_add(part.stored)).max().unwrap_or(0)
    }

    fn check(&self) -> Result<(), String> {
        if self.board.is_empty() {
            return Err("board is empty".to_owned());
        }
        if !HEALTHY_WITHIN.contains(&self.healthy_within) {
            let (low, high) = (HEALTHY_WITHIN.start(), HEALTHY_WITHIN.end());
            return Err(format!(
                "healthy-within is {}, expected {low} to {high} seconds",
                self.healthy_within
            ));
        }
        if self.parts.len() > PARTS_MAX {
            return Err(format!("it has {} parts, more than {PARTS_MAX}", self.parts.len()));
        }
        // In the order of the offsets, so that a source without ranges can be read in one go.
        let mut end = 0;
        for (index, part) in self.parts.iter().enumerate() {
            let name = &part.name;
            part.check().map_err(|reason| format!("part {name:?}: {reason}"))?;
            if part.offset < end {
                return Err(format!("part {name:?}: it overlaps the one before it"));
            }
            end = part.offset + part.stored;
            if self.parts.iter().take(index).any(|other| other.name == *name) {
                return Err(format!("part {name:?}: it is there twice"));
            }
        }
        self.check_root()
    }

    fn check_root(&self) -> Result<(), String> {
        let root = self.part(ROOT).ok_or(format!("part {ROOT:?} is missing"))?;
        let index = self.part(INDEX).ok_or(format!("part {INDEX:?} is missing"))?;
        if root.compression != Compression::None || index.compression != Compression::None {
            return Err(format!("parts {ROOT:?} and {INDEX:?} cannot be compressed"));
        }
        if root.size == 0 || root.size % BLOCK_LEN != 0 {
            return Err(format!("part {ROOT:?}: its size is no multiple of {BLOCK_LEN}"));
        }
        let wanted = root.size / BLOCK_LEN * HASH_LEN as u64;
        if index.size != wanted {
            return Err(format!("part {INDEX:?}: its size is {}, expected {wanted}", index.size));
        }
        let at = |name: &str| self.parts.iter().position(|part| part.name == name);
        if at(INDEX) > at(ROOT) {
            return Err(format!("part {INDEX:?} must come before {ROOT:?}"));
        }
        Ok(())
    }
}

impl Part {
    fn check(&self) -> Result<(), String> {
        if !is_path(&self.name) {
            return Err("its name is no plain relative path".to_owned());
        }
        let max = if self.name == INDEX { INDEX_MAX } else { PART_MAX };
        if self.size > max || self.stored > max || self.offset > PART_MAX * 4 {
            return Err(format!("it is larger than {max} bytes"));
        }
        if self.compression == Compression::None && self.size != self.stored {
            return Err("size and stored differ although it is not compressed".to_owned());
        }
        if self.sha256.len() != HASH_LEN * 2
            || !self.sha256.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return Err("sha256 is not 64 hexadecimal digits".to_owned());
        }
        Ok(())
    }
}

/// Segments of letters, digits and `._+-` that name nothing above or hidden, and that FAT can hold.
fn is_path(name: &str) -> bool {
    let plain = |char: char| char.is_ascii_alphanumeric() || "._+-".contains(char);
    name.len() <= NAME_MAX
        && name.split('/').all(|segment| {
            !segment.is_empty() && !segment.starts_with('.') && segment.chars().all(plain)
        })
}
