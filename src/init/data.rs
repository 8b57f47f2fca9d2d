//! The data partition's way to being mounted: grown to the card, made anew when asked for, checked, mounted, and then the
//! file system grown too.
//!
//! Every step finds out by itself what is left to do, so a loss of power anywhere is made up for at the next start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use disk::layout;
use disk::mbr::{SECTOR_LEN, grown};
use nix::fcntl::OFlag;
use nix::mount::MsFlags;

use crate::fsck::Verdict;
use crate::phases::{BOOT, DATA, Machine};
use crate::reset::Found;
use crate::{Error, boot_disk, fsck, mounts, notices, reset};

const CHECK_LOG: &str = "/run/log/e2fsck.log";
const CHECK_LINES_MAX: usize = 20;
/// The file system as the image was made with it: mostly zeros.
const PRISTINE: &str = "/usr/share/copepod/data.img";
/// The kernel reads and writes a little of each 128 MiB that it adds.
const GROW_LIMIT: Duration = Duration::from_secs(1800);
const COPY_LIMIT: Duration = Duration::from_secs(600);
const COPY_LEN: usize = 1024 * 1024;
const ZERO_LEN: u64 = 32 * 1024 * 1024;
/// The superblock begins here; 24 bytes into it is the logarithm of the block size.
const SUPERBLOCK: u64 = 1024;
const BLOCK_LEN_AT: u64 = 24;
const BLOCK_LEN_MIN: u64 = 1024;
const BLOCK_LEN_LOG_MAX: u32 = 6;

/// The phase: ends with the file system mounted and as large as its partition.
pub(crate) fn partition(machine: &mut Machine) -> Result<(), Error> {
    let device = boot_disk::partition(machine.disk()?, layout::DATA)?;
    if let Err(error) = grow_partition(&device, machine) {
        machine.say(&format!("data partition stays as small as it is: {error}"));
    }
    reset_if_asked(&device, machine)?;
    check(&device, machine);
    // A damaged file system stops the machine, and is mended at the next start, rather than be written on.
    let options = Some("errors=panic");
    if let Err(error) = mounts::partition(&device, DATA, "ext4", MsFlags::MS_NOATIME, options) {
        machine.say(
            "the data partition cannot be used. To begin anew, put an empty file named factory-reset next to \
             copepod.yaml: what this board stored and its identity are lost then, its settings stay",
        );
        return Err(error);
    }
    if let Err(error) = machine.at_length(GROW_LIMIT, || grow_file_system(&device)) {
        machine.say(&format!("data file system stays as small as it is: {error}"));
    }
    Ok(())
}

/// Makes the partition's entry, and the kernel's idea of it, reach to the end of the disk.
fn grow_partition(device: &Path, machine: &mut Machine) -> Result<(), Error> {
    let disk = disk_of(device).map_err(Error::file("look up the disk of", device))?;
    let open =
        OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_SYNC.bits()).open(&disk);
    let file = open.map_err(Error::file("open", &disk))?;
    let size = sys::machine::block_device_size(&file).map_err(Error::file("measure", &disk))?;
    let mut sector = [0; SECTOR_LEN];
    file.read_exact_at(&mut sector, 0).map_err(Error::file("read", &disk))?;
    let len = SECTOR_LEN as u64;
    let Some((bytes, entry)) = grown(&sector, layout::DATA, size / len)? else { return Ok(()) };
    let (start, length) = (u64::from(entry.start) * len, u64::from(entry.sectors) * len);
    // The kernel first: a table that says more than it grants would leave the growth to the next start.
    let number = i32::try_from(layout::DATA).unwrap_or_default();
    sys::block::resize_partition(&file, number, start, length)
        .map_err(Error::file("resize the data partition of", &disk))?;
    file.write_all_at(&bytes, 0).map_err(Error::file("write", &disk))?;
    file.sync_all().map_err(Error::file("sync", &disk))?;
    machine.say(&format!("data partition grown to {} MiB", length / 1024 / 1024));
    Ok(())
}

/// `/dev/mmcblk0` for `/dev/mmcblk0p4`.
fn disk_of(device: &Path) -> io::Result<PathBuf> {
    let name = device.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let partition = fs::canonicalize(Path::new("/sys/class/block").join(name))?;
    let disk = partition.parent().and_then(Path::file_name).ok_or(io::ErrorKind::NotFound)?;
    Ok(Path::new("/dev").join(disk))
}

fn grow_file_system(device: &Path) -> Result<(), Error> {
    let file = File::open(device).map_err(Error::file("open", device))?;
    let size = sys::machine::block_device_size(&file).map_err(Error::file("measure", device))?;
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, SUPERBLOCK + BLOCK_LEN_AT)
        .map_err(Error::file("read", device))?;
    let logarithm = u32::from_le_bytes(bytes).min(BLOCK_LEN_LOG_MAX);
    let inside = File::open(DATA).map_err(Error::file("open", Path::new(DATA)))?;
    sys::block::grow_ext4(&inside, size / (BLOCK_LEN_MIN << logarithm))
        .map_err(Error::file("grow", device))
}

/// Makes the partition anew when the owner has asked for it and the boot partition takes notes of it.
fn reset_if_asked(device: &Path, machine: &mut Machine) -> Result<(), Error> {
    let found = Found::on(Path::new(BOOT));
    if found.is_wanted() {
        if let Err(error) = reset::on_boot(|boot| found.begin(boot)) {
            let text = format!("no factory reset, which could not be noted as begun: {error}");
            machine.complain(&text);
            // The node can do without this notice.
            let _ = notices::warn("reset", "FactoryResetRefused", &[text]);
            return Ok(());
        }
        machine.say("factory reset: the data partition is made anew");
        remake(device, machine)?;
    }
    if found.is_wanted() || found.is_left_over() {
        // The note itself says whether it is done, and a start without it is none the worse.
        if let Err(error) = reset::on_boot(reset::finish) {
            machine.complain(&format!("the note of the factory reset stays: {error}"));
        }
    }
    Ok(())
}

/// Puts the image's empty file system onto the partition.
fn remake(device: &Path, machine: &mut Machine) -> Result<(), Error> {
    let pristine = Path::new(PRISTINE);
    let mut source = File::open(pristine).map_err(Error::file("open", pristine))?;
    let length = source.metadata().map_err(Error::file("read", pristine))?.len();
    let open = OpenOptions::new().read(true).write(true).open(device);
    let mut target = open.map_err(Error::file("open", device))?;
    let room = sys::machine::block_device_size(&target).map_err(Error::file("measure", device))?;
    if room < length {
        return Err(Error::file("make anew", device)(io::ErrorKind::StorageFull.into()));
    }
    let mut start = 0;
    while start < length {
        let step = ZERO_LEN.min(length - start);
        sys::block::zero(&target, start, step).map_err(Error::file("clear", device))?;
        start += step;
        machine.feed_watchdog();
    }
    machine.at_length(COPY_LIMIT, || {
        copy_data(&mut source, &mut target).map_err(Error::file("write", device))?;
        target.sync_all().map_err(Error::file("sync", device))
    })
}

/// Copies what is not zero.
fn copy_data(source: &mut File, target: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; COPY_LEN];
    loop {
        let read = source.read(&mut buffer)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.iter().any(|byte| *byte != 0) {
            target.write_all(bytes)?;
        } else {
            target.seek(SeekFrom::Current(i64::try_from(read).map_err(io::Error::other)?))?;
        }
    }
}

/// Has the file system mended. Mounting shows whether it helped.
fn check(device: &Path, machine: &mut Machine) {
    let found = match fsck::mend(device, Path::new(CHECK_LOG), &mut || machine.feed_watchdog()) {
        Ok(verdict) => verdict,
        Err(error) => return machine.say(&format!("data partition is not checked: {error}")),
    };
    let text = match found {
        Verdict::Sound => return,
        Verdict::Repaired => "the data partition was damaged and has been repaired",
        Verdict::Damaged => "the data partition is damaged beyond repair",
    };
    let log = fs::read_to_string(CHECK_LOG).unwrap_or_default();
    for line in log.lines().filter(|line| !line.trim().is_empty()).take(CHECK_LINES_MAX) {
        machine.say(&format!("e2fsck: {line}"));
    }
    machine.say(text);
    // The node can do without this notice.
    let _ = notices::warn("storage", "DataPartitionRepaired", &[text.to_owned()]);
}
