//! Gives back what power cuts have left allocated on a FAT32 file system that is not mounted: clusters no file has.
//!
//! The kernel marks the file system while it is mounted writable, so only one with the mark is looked at. One in which
//! anything else is wrong is left alone.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const SECTOR_LEN: usize = 512;
/// Where the boot sector says whether the file system is in use, and the bit for it.
const STATE_AT: usize = 0x41;
const IN_USE: u8 = 1;
/// Counts of free clusters in the information sector; all ones mean that nobody has counted.
const COUNTS_AT: u64 = 488;
const COUNTS_LEN: usize = 8;
/// Bytes of a table that are taken into memory.
const TABLE_LEN_MAX: u64 = 16 << 20;
const ENTRY_LEN: usize = 32;
const ENTRY_MASK: u32 = 0x0fff_ffff;
const BAD: u32 = 0x0fff_fff7;
const LAST: u32 = 0x0fff_fff8;
const FOLDER: u8 = 0x10;
/// Labels, and parts of long names.
const NO_FILE: u8 = 0x08;

/// Frees lost clusters and takes the mark away. Returns how many there were; `None` where the mark is not set.
pub(crate) fn free_lost(device: &File) -> io::Result<Option<usize>> {
    let mut sector = [0; SECTOR_LEN];
    device.read_exact_at(&mut sector, 0)?;
    let state = byte(&sector, STATE_AT);
    if state & IN_USE == 0 {
        return Ok(None);
    }
    let shape = Shape::of(&sector)?;
    let mut table = vec![0; usize::try_from(shape.table_len).map_err(io::Error::other)?];
    device.read_exact_at(&mut table, shape.table_at)?;
    let used = Walk { device, shape: &shape, table: &table, used: BTreeSet::new() }.all()?;
    let lost: Vec<u32> = (2..shape.clusters + 2)
        .filter(|number| !matches!(next(&table, *number), 0 | BAD) && !used.contains(number))
        .collect();
    for number in &lost {
        for copy in 0..shape.tables {
            let at = shape.table_at + copy * shape.table_len + u64::from(*number) * 4;
            device.write_all_at(&[0; 4], at)?;
        }
    }
    if !lost.is_empty() && shape.information > 0 {
        let at = shape.information * shape.sector + COUNTS_AT;
        device.write_all_at(&[0xff; COUNTS_LEN], at)?;
    }
    device.sync_all()?;
    device.write_all_at(&[state & !IN_USE], STATE_AT as u64)?;
    device.sync_all()?;
    Ok(Some(lost.len()))
}

/// Where things lie, in bytes unless said otherwise.
struct Shape {
    sector: u64,
    cluster: u64,
    table_at: u64,
    table_len: u64,
    tables: u64,
    data_at: u64,
    clusters: u32,
    root: u32,
    /// The sector of the counts; 0 for none.
    information: u64,
}

impl Shape {
    fn of(sector: &[u8]) -> io::Result<Shape> {
        let short =
            |at: usize| u64::from(byte(sector, at)) | (u64::from(byte(sector, at + 1)) << 8);
        let long = |at: usize| short(at) | (short(at + 2) << 16);
        let (length, reserved, tables) = (short(11), short(14), u64::from(byte(sector, 16)));
        let cluster = length * u64::from(byte(sector, 13));
        let table_len = long(36) * length;
        if short(510) != 0xaa55 || short(17) != 0 || short(22) != 0 {
            return Err(wrong("it is no FAT32 file system"));
        }
        let data_at = reserved * length + tables * table_len;
        let total = long(32) * length;
        if !matches!(length, 512..=4096) || cluster == 0 || tables == 0 || total <= data_at {
            return Err(wrong("its measures are wrong"));
        }
        let clusters = (total - data_at) / cluster;
        if table_len > TABLE_LEN_MAX || (clusters + 2) * 4 > table_len {
            return Err(wrong("its table has another length than its clusters need"));
        }
        Ok(Shape {
            sector: length,
            cluster,
            table_at: reserved * length,
            table_len,
            tables,
            data_at,
            clusters: u32::try_from(clusters).map_err(io::Error::other)?,
            root: u32::try_from(long(44)).map_err(io::Error::other)?,
            information: short(48),
        })
    }
}

struct Walk<'a> {
    device: &'a File,
    shape: &'a Shape,
    table: &'a [u8],
    used: BTreeSet<u32>,
}

impl Walk<'_> {
    /// All clusters that files and folders have.
    fn all(mut self) -> io::Result<BTreeSet<u32>> {
        let mut folders = vec![self.shape.root];
        while let Some(folder) = folders.pop() {
            for number in self.chain(folder)? {
                let mut bytes =
                    vec![0; usize::try_from(self.shape.cluster).map_err(io::Error::other)?];
                let at = self.shape.data_at + u64::from(number - 2) * self.shape.cluster;
                self.device.read_exact_at(&mut bytes, at)?;
                for entry in bytes.chunks_exact(ENTRY_LEN) {
                    match (byte(entry, 0), byte(entry, 11)) {
                        (0, _) => break,
                        (0xe5 | b'.', _) => {}
                        (_, kind) if kind & NO_FILE != 0 => {}
                        (_, kind) if kind & FOLDER != 0 => folders.push(first(entry)),
                        _ if first(entry) == 0 => {}
                        _ => drop(self.chain(first(entry))?),
                    }
                }
            }
        }
        Ok(self.used)
    }

    /// The clusters from `first` on, each of which nobody else may have.
    fn chain(&mut self, first: u32) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        let mut number = first;
        while number < LAST {
            if number < 2 || number - 2 >= self.shape.clusters {
                return Err(wrong("a file leads to a cluster that is none"));
            }
            if !self.used.insert(number) {
                return Err(wrong("two files have the same cluster"));
            }
            found.push(number);
            number = next(self.table, number);
        }
        Ok(found)
    }
}

/// The number after `number` in its chain.
fn next(table: &[u8], number: u32) -> u32 {
    let at = usize::try_from(number).unwrap_or(usize::MAX).saturating_mul(4);
    let bytes = table.get(at..).and_then(|rest| rest.first_chunk());
    u32::from_le_bytes(bytes.copied().unwrap_or_default()) & ENTRY_MASK
}

/// The first cluster of a folder's entry.
fn first(entry: &[u8]) -> u32 {
    let bytes = [byte(entry, 26), byte(entry, 27), byte(entry, 20), byte(entry, 21)];
    u32::from_le_bytes(bytes) & ENTRY_MASK
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or_default()
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
