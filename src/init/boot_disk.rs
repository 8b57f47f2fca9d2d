//! Finds partitions of the disk we booted from by the identifier in its partition table.
//!
//! Names such as vda or mmcblk0 depend on the board and on the order of discovery; the identifier does not. All images
//! have the same one, so a second medium that was flashed has it too: stage 1 takes the medium that the boot loader names
//! or would look at first, and PID 1 the disk its root is on.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use disk::mbr::{Mbr, SECTOR_LEN};

use crate::Error;
use crate::cmdline::CommandLine;
use crate::time::{pause, wait_for};

const SYSFS: &str = "/sys/class/block";
const DEVICES: &str = "/sys/dev/block";
const CARD_READERS: &str = "/sys/class/mmc_host";
const APPEAR_LIMIT: Duration = Duration::from_secs(20);
const APPEAR_STEP: Duration = Duration::from_millis(20);
/// How long a card is waited for when another medium was found first.
const SETTLE: Duration = Duration::from_secs(2);

/// A disk with the identifier of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) name: String,
    /// How U-Boot calls what it is connected by: `mmc`, `usb`, `nvme`, `virtio`; empty for others.
    pub(crate) medium: &'static str,
}

impl Candidate {
    /// Of a disk's folder below /sys/devices.
    pub(crate) fn of(path: &Path) -> Option<Candidate> {
        let name = path.file_name()?.to_str()?.to_owned();
        let path = path.to_string_lossy();
        let media =
            [("mmc", "/mmc_host/"), ("usb", "/usb"), ("nvme", "/nvme/"), ("virtio", "/virtio")];
        let medium = media.into_iter().find(|(_, part)| path.contains(part));
        Some(Candidate { name, medium: medium.map_or("", |(medium, _)| medium) })
    }
}

/// The one to take: on the medium that the boot loader names, else in the order in which boot loaders look, else the first
/// by name.
pub(crate) fn choose<'all>(all: &'all [Candidate], told: Option<&str>) -> Option<&'all Candidate> {
    const ORDER: [&str; 4] = ["mmc", "nvme", "usb", "virtio"];
    all.iter().min_by_key(|one| {
        let order = ORDER.iter().position(|medium| *medium == one.medium).unwrap_or(ORDER.len());
        (told != Some(one.medium), order, one.name.len(), one.name.clone())
    })
}

/// The device node of partition `number`, as soon as the disk is there. PID 1's.
pub(crate) fn partition(disk: u32, number: usize) -> Result<PathBuf, Error> {
    let find = || {
        let name = of_root(disk).or_else(|| Some(choose(&candidates(disk), None)?.name.clone()))?;
        numbered(&Path::new(SYSFS).join(name), number)
    };
    wait_for(APPEAR_LIMIT, APPEAR_STEP, find).ok_or(Error::NoPartition { disk, number })
}

/// The same for stage 1, which has no root yet.
pub(crate) fn first_partition(line: &CommandLine, number: usize) -> Result<PathBuf, Error> {
    let CommandLine { disk, .. } = *line;
    let told = line.medium.as_deref();
    let find = || Some(choose(&candidates(disk), told)?.clone());
    let missing = || Error::NoPartition { disk, number };
    let mut chosen = wait_for(APPEAR_LIMIT, APPEAR_STEP, find).ok_or_else(missing)?;
    if chosen.medium != told.unwrap_or("mmc")
        && fs::read_dir(CARD_READERS).is_ok_and(|mut all| all.next().is_some())
    {
        pause(SETTLE);
        chosen = find().ok_or_else(missing)?;
    }
    let path = Path::new(SYSFS).join(chosen.name);
    wait_for(APPEAR_LIMIT, APPEAR_STEP, || numbered(&path, number)).ok_or_else(missing)
}

/// Other disks with the same identifier than the one `partition` is on, for people.
pub(crate) fn others(disk: u32, partition: &Path) -> Vec<String> {
    let used = partition.to_string_lossy();
    let names = candidates(disk).into_iter().map(|one| one.name);
    names.filter(|name| !used.starts_with(&format!("/dev/{name}"))).collect()
}

fn candidates(disk: u32) -> Vec<Candidate> {
    let entries = fs::read_dir(SYSFS).into_iter().flatten().flatten().map(|entry| entry.path());
    let whole = entries.filter(|path| !path.join("partition").exists());
    let ours = whole.filter(|path| device(path).and_then(|node| identifier(&node)) == Some(disk));
    ours.filter_map(|path| Candidate::of(&fs::canonicalize(path).ok()?)).collect()
}

/// The name of the disk below the verified root, if it has the identifier.
fn of_root(disk: u32) -> Option<String> {
    let number = fs::metadata("/").ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let slaves = Path::new(DEVICES).join(format!("{major}:{minor}")).join("slaves");
    let partition = fs::canonicalize(fs::read_dir(slaves).ok()?.flatten().next()?.path()).ok()?;
    let name = partition.parent()?.file_name()?.to_str()?.to_owned();
    (identifier(&Path::new("/dev").join(&name))? == disk).then_some(name)
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
