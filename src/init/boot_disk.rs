//! Finds partitions of the disk we booted from by the identifier in its partition table.
//!
//! Names such as vda or mmcblk0 depend on the board and on the order of discovery; the identifier does not.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use disk::mbr::{Mbr, SECTOR_LEN};

use crate::Error;
use crate::time::wait_for;

const SYSFS: &str = "/sys/class/block";
const APPEAR_LIMIT: Duration = Duration::from_secs(20);
const APPEAR_STEP: Duration = Duration::from_millis(20);

/// The device node of partition `number`, as soon as the disk is there.
pub(crate) fn partition(disk: u32, number: usize) -> Result<PathBuf, Error> {
    wait_for(APPEAR_LIMIT, APPEAR_STEP, || search(disk, number))
        .ok_or(Error::NoPartition { disk, number })
}

fn search(disk: u32, number: usize) -> Option<PathBuf> {
    let names = fs::read_dir(SYSFS).ok()?.flatten().map(|entry| entry.path());
    names.filter(|path| !path.join("partition").exists()).find_map(|path| {
        let node = device(&path)?;
        (identifier(&node)? == disk).then(|| numbered(&path, number)).flatten()
    })
}

fn device(path: &Path) -> Option<PathBuf> {
    let node = Path::new("/dev").join(path.file_name()?);
    node.exists().then_some(node)
}

fn identifier(node: &Path) -> Option<u32> {
    let mut sector = [0; SECTOR_LEN];
    File::open(node).ok()?.read_exact(&mut sector).ok()?;
    Mbr::decode(&sector).ok().map(|table| table.disk_id)
}

fn numbered(disk: &Path, number: usize) -> Option<PathBuf> {
    let entries = fs::read_dir(disk).ok()?.flatten().map(|entry| entry.path());
    let mut parts = entries.filter(|path| {
        let text = fs::read_to_string(path.join("partition")).unwrap_or_default();
        text.trim().parse() == Ok(number)
    });
    device(&parts.next()?)
}
