//! The one disk layout: boot partition, root of slot a, root of slot b, data; the last may grow.

use crate::Error;
use crate::mbr::{KIND_FAT32, KIND_LINUX, Mbr, Partition, SECTOR_LEN};
use crate::slot::Slot;

/// Partition numbers as the kernel counts them.
pub const BOOT: usize = 1;
pub const DATA: usize = 4;
/// Where the first partition starts; boards' boot code may lie before it.
pub const FIRST_MIB: u64 = 4;
const SECTORS_PER_MIB: u64 = 1024 * 1024 / SECTOR_LEN as u64;

/// Number of the partition that holds a slot's root.
#[must_use]
pub fn root(slot: Slot) -> usize {
    match slot {
        Slot::A => 2,
        Slot::B => 3,
    }
}

/// Sizes of the partitions in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub boot: u64,
    pub root: u64,
    pub data: u64,
}

impl Sizes {
    /// Length of the whole disk in MiB.
    #[must_use]
    pub fn total(&self) -> u64 {
        FIRST_MIB + self.boot + 2 * self.root + self.data
    }

    /// The partition table for these sizes.
    pub fn table(&self, disk_id: u32) -> Result<Mbr, Error> {
        let rows = [
            (self.boot, KIND_FAT32),
            (self.root, KIND_LINUX),
            (self.root, KIND_LINUX),
            (self.data, KIND_LINUX),
        ];
        let mut partitions = [None; 4];
        let mut start = FIRST_MIB;
        for (index, (entry, (size, kind))) in partitions.iter_mut().zip(rows).enumerate() {
            let sectors = |mib: u64| {
                let wrong = Error::Partition { number: index + 1, reason: "reaches beyond 2 TiB" };
                u32::try_from(mib.saturating_mul(SECTORS_PER_MIB)).map_err(|_| wrong)
            };
            *entry = Some(Partition {
                start: sectors(start)?,
                sectors: sectors(size)?,
                kind,
                bootable: index == 0,
            });
            start = start.saturating_add(size);
        }
        Ok(Mbr { disk_id, partitions })
    }
}
