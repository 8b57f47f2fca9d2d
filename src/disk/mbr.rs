//! The classic partition table in the first sector: four primary partitions and a disk identifier.

use crate::Error;

pub const SECTOR_LEN: usize = 512;
const ID_OFFSET: usize = 440;
const TABLE_OFFSET: usize = 446;
const ENTRY_LEN: usize = 16;
/// Partitions begin and end at multiples of this many sectors.
const ALIGNMENT: u64 = 2048;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// Partition type of a FAT32 partition with LBA addressing.
pub const KIND_FAT32: u8 = 0x0c;
/// Partition type of any Linux file system.
pub const KIND_LINUX: u8 = 0x83;

/// One entry, in sectors of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    pub start: u32,
    pub sectors: u32,
    pub kind: u8,
    pub bootable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mbr {
    pub disk_id: u32,
    /// Entry `n` is partition `n + 1`.
    pub partitions: [Option<Partition>; 4],
}

impl Mbr {
    pub fn encode(&self) -> Result<[u8; SECTOR_LEN], Error> {
        self.check()?;
        let mut sector = Vec::with_capacity(SECTOR_LEN);
        sector.resize(ID_OFFSET, 0);
        sector.extend_from_slice(&self.disk_id.to_le_bytes());
        sector.resize(TABLE_OFFSET, 0);
        for partition in &self.partitions {
            sector.extend_from_slice(&partition.map_or([0; ENTRY_LEN], entry));
        }
        sector.extend_from_slice(&SIGNATURE);
        sector.try_into().map_err(|_| Error::PartitionTable("not one sector long"))
    }

    pub fn decode(sector: &[u8]) -> Result<Mbr, Error> {
        let Some(sector) = sector.first_chunk::<SECTOR_LEN>() else {
            return Err(Error::PartitionTable("shorter than a sector"));
        };
        if !sector.ends_with(&SIGNATURE) {
            return Err(Error::PartitionTable("no signature"));
        }
        let (head, table) = sector.split_at(TABLE_OFFSET);
        let mut partitions = [None; 4];
        for (partition, bytes) in partitions.iter_mut().zip(table.chunks_exact(ENTRY_LEN)) {
            *partition = parse(bytes);
        }
        let disk_id = little_endian(head, ID_OFFSET);
        let mbr = Mbr { disk_id, partitions };
        mbr.check()?;
        Ok(mbr)
    }

    /// Refuses partitions that overlap each other or the table, or that reach beyond what 32 bits can say.
    fn check(&self) -> Result<(), Error> {
        let mut used: Vec<(u64, u64)> = vec![(0, 1)];
        for (index, partition) in self.partitions.iter().enumerate() {
            let Some(partition) = partition else { continue };
            let wrong = |reason| Error::Partition { number: index + 1, reason };
            let range = (
                u64::from(partition.start),
                u64::from(partition.start) + u64::from(partition.sectors),
            );
            if partition.sectors == 0 {
                return Err(wrong("is empty"));
            }
            if range.1 > u64::from(u32::MAX) {
                return Err(wrong("reaches beyond 2 TiB"));
            }
            if used.iter().any(|other| range.0 < other.1 && other.0 < range.1) {
                return Err(wrong("overlaps another one"));
            }
            used.push(range);
        }
        Ok(())
    }
}

fn entry(partition: Partition) -> [u8; ENTRY_LEN] {
    // The old cylinder addresses are filled with the value for "too large": everything reads the sector numbers.
    let [s0, s1, s2, s3] = partition.start.to_le_bytes();
    let [n0, n1, n2, n3] = partition.sectors.to_le_bytes();
    let active = if partition.bootable { 0x80 } else { 0 };
    [active, 0xfe, 0xff, 0xff, partition.kind, 0xfe, 0xff, 0xff, s0, s1, s2, s3, n0, n1, n2, n3]
}

fn parse(bytes: &[u8]) -> Option<Partition> {
    let kind = *bytes.get(4)?;
    let bootable = *bytes.first()? == 0x80;
    (kind != 0).then(|| Partition {
        start: little_endian(bytes, 8),
        sectors: little_endian(bytes, 12),
        kind,
        bootable,
    })
}

fn little_endian(bytes: &[u8], offset: usize) -> u32 {
    let mut value = [0; 4];
    for (target, source) in value.iter_mut().zip(bytes.iter().skip(offset)) {
        *target = *source;
    }
    u32::from_le_bytes(value)
}

/// The first sector with partition `number` reaching to the end of a disk of `disk_sectors`, in whole MiB; None when that
/// gains nothing or another partition lies behind it. All other bytes, boot code too, stay as they are.
pub fn grown(
    sector: &[u8; SECTOR_LEN],
    number: usize,
    disk_sectors: u64,
) -> Result<Option<([u8; SECTOR_LEN], Partition)>, Error> {
    let mut table = Mbr::decode(sector)?;
    let wrong = |reason| Error::Partition { number, reason };
    let index = number.checked_sub(1).ok_or(wrong("is not there"))?;
    let entry = table.partitions.get_mut(index).ok_or(wrong("is not there"))?;
    let old = (*entry).ok_or(wrong("is not there"))?;
    let last = disk_sectors.min(u32::MAX.into()) / ALIGNMENT * ALIGNMENT;
    let sectors = u32::try_from(last.saturating_sub(old.start.into()))
        .map_err(|_| wrong("reaches beyond 2 TiB"))?;
    if sectors <= old.sectors {
        return Ok(None);
    }
    let new = Partition { sectors, ..old };
    *entry = Some(new);
    if table.check().is_err() {
        return Ok(None);
    }
    let mut bytes = *sector;
    let offset = TABLE_OFFSET + index * ENTRY_LEN;
    for (target, source) in bytes.iter_mut().skip(offset + 12).zip(sectors.to_le_bytes()) {
        *target = source;
    }
    Ok(Some((bytes, new)))
}
