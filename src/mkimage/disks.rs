//! The disks of this machine as the kernel describes them, and which of them may be written.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::show::mib;

const SECTOR_LEN: u64 = 512;
/// Block devices that are no disks: loop, memory, mapped and optical ones.
const NO_DISKS: [&str; 8] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];
/// How deep devices may be stacked (partition, RAID, LUKS, LVM, ...).
const STACK_MAX: usize = 16;

/// Where the kernel's descriptions and the device files are.
pub(crate) struct Host {
    sys: PathBuf,
    proc: PathBuf,
    dev: PathBuf,
}

impl Default for Host {
    fn default() -> Host {
        Host { sys: "/sys".into(), proc: "/proc".into(), dev: "/dev".into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) model: String,
    pub(crate) bus: Bus,
    pub(crate) removable: bool,
    pub(crate) read_only: bool,
    /// What this machine uses it for, such as `mounted at /boot`.
    pub(crate) uses: Vec<String>,
    partitions: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bus {
    Usb,
    /// A slot for cards.
    Card,
    /// Soldered flash memory.
    Emmc,
    Nvme,
    Ata,
    Virtio,
    Other,
}

impl fmt::Display for Bus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Bus::Usb => "USB",
            Bus::Card => "card slot",
            Bus::Emmc => "eMMC",
            Bus::Nvme => "NVMe",
            Bus::Ata => "SATA",
            Bus::Virtio => "virtio",
            Bus::Other => "other",
        })
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display().to_string();
        write!(formatter, "{path:16} {:>12}  {:9}  {}", mib(self.bytes), self.bus, self.model)?;
        if !self.uses.is_empty() {
            write!(formatter, "  ({})", self.uses.join(", "))?;
        }
        Ok(())
    }
}

impl Disk {
    /// Whether `needed` bytes may be written to it; the error says why not.
    ///
    /// A disk in use is never written; one that is not removable only when `force` names it.
    pub(crate) fn check(&self, needed: u64, force: Option<&Path>) -> Result<()> {
        let path = self.path.display();
        ensure!(
            self.uses.is_empty(),
            "{path} is in use: {}; nothing was written",
            self.uses.join(", ")
        );
        ensure!(
            self.removable || force == Some(&*self.path),
            "{path} ({}, {}) is not a removable disk; if it is the right one all the same, add --force {path}",
            self.bus,
            self.model
        );
        ensure!(!self.read_only, "{path} is read-only; a card may have a lock switch");
        ensure!(self.bytes > 0, "{path} holds no medium");
        ensure!(
            self.bytes >= needed,
            "{path} is too small: it has {}, the image needs {}",
            mib(self.bytes),
            mib(needed)
        );
        Ok(())
    }
}

impl Host {
    /// All disks, in the order of their names.
    pub(crate) fn disks(&self) -> Result<Vec<Disk>> {
        let uses = self.uses()?;
        let names = names(&self.sys.join("block"));
        let is_disk = |name: &&String| !NO_DISKS.iter().any(|kind| name.starts_with(kind));
        names.iter().filter(is_disk).map(|name| self.disk(name, &uses)).collect()
    }

    /// The disk at `path`, which may be a link to it.
    pub(crate) fn disk_at(&self, path: &Path) -> Result<Disk> {
        let real =
            fs::canonicalize(path).with_context(|| format!("find the disk {}", path.display()))?;
        let disks = self.disks()?;
        if let Some(disk) = disks.iter().find(|disk| disk.path == real) {
            return Ok(disk.clone());
        }
        let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match disks.iter().find(|disk| disk.partitions.contains(&name)) {
            Some(disk) => bail!(
                "{} is a partition of {}; the image is for a whole disk",
                path.display(),
                disk.path.display()
            ),
            None => bail!("{} is not a disk of this machine", path.display()),
        }
    }

    fn disk(&self, name: &str, uses: &BTreeMap<String, String>) -> Result<Disk> {
        let dir = self.sys.join("block").join(name);
        let sectors = text(&dir.join("size"));
        let sectors: u64 =
            sectors.parse().with_context(|| format!("{}/size is {sectors:?}", dir.display()))?;
        let bus = bus(&dir);
        let partitions: Vec<String> = names(&dir)
            .into_iter()
            .filter(|part| dir.join(part).join("partition").exists())
            .collect();
        let mut found = Vec::new();
        for folder in std::iter::once(dir.clone()).chain(partitions.iter().map(|p| dir.join(p))) {
            self.collect(&folder, uses, STACK_MAX, &mut found);
        }
        found.dedup();
        Ok(Disk {
            path: self.dev.join(name),
            bytes: sectors.saturating_mul(SECTOR_LEN),
            model: model(&dir),
            bus,
            removable: text(&dir.join("removable")) == "1" || matches!(bus, Bus::Usb | Bus::Card),
            read_only: text(&dir.join("ro")) == "1",
            uses: found,
            partitions,
        })
    }

    /// What the device described in `folder` is used for, and what the devices made from it are.
    fn collect(
        &self,
        folder: &Path,
        uses: &BTreeMap<String, String>,
        depth: usize,
        found: &mut Vec<String>,
    ) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let number = text(&folder.join("dev"));
        for key in [number.as_str(), &name] {
            found.extend(uses.get(key).cloned());
        }
        for holder in names(&folder.join("holders")) {
            found.push(format!("part of {holder}"));
            if depth > 0 {
                self.collect(&self.sys.join("block").join(holder), uses, depth - 1, found);
            }
        }
    }

    /// Uses by device number (`8:1`) and by device name (`sda1`), from the tables of mounts and of swap.
    fn uses(&self) -> Result<BTreeMap<String, String>> {
        let mut uses = BTreeMap::new();
        // PID 1 may see mounts that we do not.
        for table in ["self/mountinfo", "1/mountinfo"] {
            let path = self.proc.join(table);
            match fs::read_to_string(&path) {
                Ok(text) => mounts(&text, &mut uses),
                Err(error) if table.starts_with("self") => {
                    return Err(error).with_context(|| format!("read {}", path.display()));
                }
                Err(_) => {}
            }
        }
        for line in text(&self.proc.join("swaps")).lines().skip(1) {
            let name = line.split_whitespace().next().and_then(|path| path.rsplit('/').next());
            uses.extend(name.map(|name| (name.to_owned(), "swap".to_owned())));
        }
        Ok(uses)
    }
}

/// Adds the devices of a `mountinfo` table. File systems with numbers of their own (btrfs) count by their source.
fn mounts(table: &str, uses: &mut BTreeMap<String, String>) {
    for line in table.lines() {
        let Some((place, source)) = line.split_once(" - ") else { continue };
        let mut fields = place.split(' ').skip(2);
        let (Some(number), Some(target)) = (fields.next(), fields.nth(1)) else { continue };
        let used = format!("mounted at {target}");
        uses.entry(number.to_owned()).or_insert_with(|| used.clone());
        let device = source.split(' ').nth(1).and_then(|source| source.strip_prefix("/dev/"));
        if let Some(name) = device {
            uses.entry(name.to_owned()).or_insert(used);
        }
    }
}

/// The way to the device in the kernel's tree says how it is connected.
fn bus(dir: &Path) -> Bus {
    let way = fs::canonicalize(dir).unwrap_or_default();
    let has = |start: &str| way.iter().any(|part| part.to_string_lossy().starts_with(start));
    if has("mmc_host") || has("mmc") {
        return if text(&dir.join("device/type")) == "SD" { Bus::Card } else { Bus::Emmc };
    }
    let known =
        [("usb", Bus::Usb), ("nvme", Bus::Nvme), ("ata", Bus::Ata), ("virtio", Bus::Virtio)];
    known.iter().find(|(start, _)| has(start)).map_or(Bus::Other, |(_, bus)| *bus)
}

fn model(dir: &Path) -> String {
    let device = dir.join("device");
    let words = ["vendor", "model", "name"].map(|name| text(&device.join(name)));
    // A virtio device's vendor is a number and says nothing.
    let words: Vec<&str> = words
        .iter()
        .map(String::as_str)
        .filter(|w| !w.is_empty() && !w.starts_with("0x"))
        .collect();
    if words.is_empty() { "no name".to_owned() } else { words.join(" ") }
}

/// A small file's text without the white space around it; empty when there is no such file.
fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Names in a folder, sorted; none when there is no such folder.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const GIB: u64 = 1024 * 1024 * 1024;

    /// A machine with the files in which the kernel describes it.
    struct Fake {
        dir: tempfile::TempDir,
    }

    impl Fake {
        fn new() -> Fake {
            let fake = Fake { dir: tempfile::tempdir().unwrap() };
            fake.file("proc/self/mountinfo", "21 1 0:20 / /proc rw - proc proc rw\n");
            fake.file("proc/swaps", "Filename Type Size Used Priority\n");
            fake
        }

        fn file(&self, name: &str, text: &str) {
            let path = self.dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// A disk on a bus, with one partition; `number` is its minor number.
        fn disk(&self, name: &str, way: &str, number: u32, removable: &str) {
            let dir = format!("sys/devices/{way}/block/{name}");
            let part = if name.ends_with(char::is_numeric) {
                format!("{name}p1")
            } else {
                format!("{name}1")
            };
            self.file(&format!("{dir}/size"), &(32 * GIB / SECTOR_LEN).to_string());
            self.file(&format!("{dir}/dev"), &format!("8:{number}"));
            self.file(&format!("{dir}/removable"), removable);
            self.file(&format!("{dir}/ro"), "0");
            self.file(&format!("{dir}/device/model"), &format!("model of {name}"));
            self.file(&format!("{dir}/{part}/partition"), "1");
            self.file(&format!("{dir}/{part}/dev"), &format!("8:{}", number + 1));
            self.file(&format!("dev/{name}"), "");
            self.file(&format!("dev/{part}"), "");
            fs::create_dir_all(self.dir.path().join("sys/block")).unwrap();
            symlink(self.dir.path().join(dir), self.dir.path().join("sys/block").join(name))
                .unwrap();
        }

        fn host(&self) -> Host {
            let at = |name| fs::canonicalize(self.dir.path()).unwrap().join(name);
            Host { sys: at("sys"), proc: at("proc"), dev: at("dev") }
        }

        fn checked(&self, name: &str, needed: u64) -> Result<()> {
            let disk = self.host().disk_at(&self.host().dev.join(name))?;
            disk.check(needed, None)
        }
    }

    #[test]
    fn buses_tell_which_disks_are_removable() {
        let fake = Fake::new();
        let rows = [
            ("sda", "pci0/usb1/1-1/host0", "1", Bus::Usb, true),
            ("sdb", "pci0/usb1/1-2/host1", "0", Bus::Usb, true),
            ("sdc", "pci0/ata1/host2", "0", Bus::Ata, false),
            ("nvme0n1", "pci0/nvme/nvme0", "0", Bus::Nvme, false),
            ("mmcblk0", "soc/mmc_host/mmc0/mmc0:aaaa", "0", Bus::Card, true),
            ("mmcblk1", "soc/mmc_host/mmc1/mmc1:0001", "0", Bus::Emmc, false),
            ("vda", "pci0/virtio2", "0", Bus::Virtio, false),
        ];
        for (index, (name, way, removable, ..)) in (0..).zip(&rows) {
            fake.disk(name, way, index * 16, removable);
        }
        fake.file("sys/block/mmcblk0/device/type", "SD\n");
        fake.file("sys/block/mmcblk1/device/type", "MMC\n");
        fake.file("sys/block/loop0/size", "8");
        let disks = fake.host().disks().unwrap();
        assert_eq!(disks.len(), rows.len());
        for (name, _, _, bus, removable) in rows {
            let disk = disks.iter().find(|disk| disk.path.ends_with(name)).unwrap();
            assert_eq!((disk.bus, disk.removable), (bus, removable), "{name}");
            assert_eq!(disk.model, format!("model of {name}"));
        }
    }

    #[test]
    fn what_may_not_be_written_is_refused_with_the_reason() {
        let fake = Fake::new();
        for (index, name) in (0..).zip(["sda", "sdb", "sdc", "sdd", "sde", "sdf"]) {
            fake.disk(name, "pci0/usb1/host0", index * 16, "1");
        }
        fake.disk("vda", "pci0/virtio1", 240, "0");
        // sda: a mounted partition. sdb: swap. sdc: below LUKS below LVM. sdd: btrfs. sde: no medium. sdf: free.
        fake.file(
            "proc/self/mountinfo",
            "22 1 8:1 / /media/card rw,nosuid shared:1 - vfat /dev/sda1 rw\n\
             23 1 0:31 /@home /home rw - btrfs /dev/sdd1 rw,subvol=/@home\n\
             24 1 253:7 / / rw - ext4 /dev/mapper/system-root rw\n",
        );
        fake.file("proc/swaps", "Filename Type Size Used Priority\n/dev/sdb1 partition 8 0 -2\n");
        fake.file("sys/block/sdc/sdc1/holders/dm-0", "");
        fake.file("sys/block/dm-0/holders/dm-7", "");
        fake.file("sys/block/dm-7/dev", "253:7");
        fake.file("sys/block/sde/size", "0");
        let rows = [
            ("sda", "in use: mounted at /media/card"),
            ("sdb", "in use: swap"),
            ("sdc", "in use: part of dm-0, part of dm-7, mounted at /"),
            ("sdd", "in use: mounted at /home"),
            ("sde", "holds no medium"),
            ("sdf1", "a partition of"),
            ("vda", "not a removable disk"),
            ("nothing", "find the disk"),
        ];
        for (name, reason) in rows {
            let error = format!("{:#}", fake.checked(name, GIB).unwrap_err());
            assert!(error.contains(reason), "{name}: {error}");
        }
        let error = fake.checked("sdf", 33 * GIB).unwrap_err().to_string();
        assert!(
            error.contains("too small: it has 32768.0 MiB, the image needs 33792.0 MiB"),
            "{error}"
        );
        fake.checked("sdf", GIB).unwrap();
    }

    #[test]
    fn force_names_the_one_disk_it_is_for() {
        let fake = Fake::new();
        fake.disk("vda", "pci0/virtio1", 0, "0");
        fake.disk("vdb", "pci0/virtio2", 16, "0");
        fake.file("proc/1/mountinfo", "22 1 8:17 / / rw - ext4 /dev/vdb1 rw\n");
        let dev = fake.host().dev;
        let [free, used] = ["vda", "vdb"].map(|name| fake.host().disk_at(&dev.join(name)).unwrap());
        assert!(free.check(GIB, Some(&dev.join("vdb"))).is_err());
        free.check(GIB, Some(&dev.join("vda"))).unwrap();
        assert!(used.check(GIB, Some(&dev.join("vdb"))).is_err());
    }
}
