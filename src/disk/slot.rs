//! The two slots and how the root of one is verified.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Bytes of one data or hash block of the verified root.
pub const BLOCK_LEN: u64 = 4096;
const SECTORS_PER_BLOCK: u64 = BLOCK_LEN / 512;
const DIGEST_HEX_LEN: usize = 64;
const SALT_HEX_MAX: usize = 128;

/// One of the two sets of kernel, initramfs and root partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    A,
    B,
}

impl Slot {
    pub const ALL: [Slot; 2] = [Slot::A, Slot::B];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Slot::A => "a",
            Slot::B => "b",
        }
    }

    #[must_use]
    pub fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Slot {
    type Err = Error;

    fn from_str(text: &str) -> Result<Slot, Error> {
        match text {
            "a" => Ok(Slot::A),
            "b" => Ok(Slot::B),
            _ => Err(Error::Slot(text.to_owned())),
        }
    }
}

/// What dm-verity needs to know of a root; as text `<data blocks>,<first hash block>,<root hash>,<salt>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verity {
    pub data_blocks: u64,
    pub hash_start: u64,
    pub root_hash: String,
    pub salt: String,
}

impl Verity {
    /// Length of the verified device in 512-byte sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.data_blocks.saturating_mul(SECTORS_PER_BLOCK)
    }

    /// The table text of a verity target whose data and hashes both lie on `device`.
    #[must_use]
    pub fn table(&self, device: &str) -> String {
        let Verity { data_blocks, hash_start, root_hash, salt } = self;
        format!(
            "1 {device} {device} {BLOCK_LEN} {BLOCK_LEN} {data_blocks} {hash_start} sha256 {root_hash} {salt}"
        )
    }
}

impl fmt::Display for Verity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{},{},{},{}",
            self.data_blocks, self.hash_start, self.root_hash, self.salt
        )
    }
}

impl FromStr for Verity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Verity, Error> {
        let wrong = |reason| Error::Verity { text: text.to_owned(), reason };
        let parts: Vec<&str> = text.split(',').collect();
        let [data, hash, root, salt] = parts.as_slice() else {
            return Err(wrong("not four fields"));
        };
        let data_blocks: u64 = data.parse().map_err(|_| wrong("data blocks are not a number"))?;
        let hash_start: u64 = hash.parse().map_err(|_| wrong("hash start is not a number"))?;
        if data_blocks == 0 || hash_start < data_blocks {
            return Err(wrong("hashes do not lie behind the data"));
        }
        if root.len() != DIGEST_HEX_LEN || !is_hex(root) {
            return Err(wrong("root hash is not 64 hex digits"));
        }
        if salt.is_empty() || salt.len() > SALT_HEX_MAX || !is_hex(salt) {
            return Err(wrong("salt is not hex"));
        }
        Ok(Verity {
            data_blocks,
            hash_start,
            root_hash: (*root).to_owned(),
            salt: (*salt).to_owned(),
        })
    }
}

/// The kernel's arguments of a slot, for boot loaders without a script; the boot script composes the same.
#[must_use]
pub fn kernel_arguments(slot: Slot, disk: u32, verity: &Verity, extra: &str) -> String {
    format!("{extra} copepod.slot={slot} copepod.disk={disk:08x} copepod.verity={verity} panic=10")
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
