//! What is mounted where, as tables; and the way back at the end.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::Error;
use crate::phases::BOOT;

/// One row of a mount table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) kind: &'static str,
    pub(crate) target: &'static str,
    flags: MsFlags,
    data: &'static str,
}

const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const NO_DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

const fn row(kind: &'static str, target: &'static str, flags: MsFlags, data: &'static str) -> Row {
    Row { kind, target, flags, data }
}

/// Mounted by stage 1 and moved into the root.
pub(crate) const EARLY: &[Row] = &[
    row("proc", "/proc", SAFE, ""),
    row("sysfs", "/sys", SAFE, ""),
    row("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755"),
];

/// Mounted by PID 1; memory file systems are bounded by a share of the memory.
pub(crate) const LATE: &[Row] = &[
    row(
        "devpts",
        "/dev/pts",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        "mode=0620,gid=5,ptmxmode=0666",
    ),
    row("tmpfs", "/dev/shm", NO_DEVICES, "mode=1777,size=25%"),
    row("mqueue", "/dev/mqueue", SAFE, ""),
    row("tmpfs", "/run", NO_DEVICES, "mode=0755,size=20%"),
    row("tmpfs", "/tmp", NO_DEVICES, "mode=1777,size=25%"),
    row("cgroup2", "/sys/fs/cgroup", SAFE, "nsdelegate"),
];

/// Mounts all rows in order; what is mounted already stays as it is.
pub(crate) fn apply(rows: &[Row]) -> Result<(), Error> {
    for row in rows {
        // On a read-only root the directory exists already, and below /dev it must be made.
        let _ = fs::create_dir_all(row.target);
        if is_mount_point(Path::new(row.target)) {
            continue;
        }
        match mount(Some(row.kind), row.target, Some(row.kind), row.flags, Some(row.data)) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => {
                return Err(Error::Mount {
                    kind: row.kind,
                    target: row.target.into(),
                    source: error.into(),
                });
            }
        }
    }
    Ok(())
}

/// Whether another file system begins at `path`.
fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).ok().map(|data| data.dev());
    path.parent().is_some_and(|parent| device(path) != device(parent))
}

/// Mounts a partition.
pub(crate) fn partition(
    device: &Path,
    target: &str,
    kind: &'static str,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), Error> {
    mount(Some(device), target, Some(kind), flags, options).map_err(|error| Error::Mount {
        kind,
        target: target.into(),
        source: error.into(),
    })
}

/// How the boot partition is mounted, but for moments.
pub(crate) const BOOT_FLAGS: MsFlags = SAFE.union(MsFlags::MS_RDONLY);

/// Lets `work` write on the boot partition.
pub(crate) fn with_writable_boot<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let remount =
        |flags: MsFlags| {
            let flags = flags | MsFlags::MS_REMOUNT;
            mount(None::<&str>, BOOT, None::<&str>, flags, None::<&str>).map_err(|error| {
                Error::Mount { kind: "vfat", target: BOOT.into(), source: error.into() }
            })
        };
    remount(SAFE)?;
    let done = work();
    remount(BOOT_FLAGS)?;
    done
}

/// Which mount points to take away at the end, in order: everything but the kernel's own and the root.
pub(crate) fn teardown_order(points: &[PathBuf]) -> Vec<PathBuf> {
    let kept = ["/proc", "/sys", "/dev", "/run"];
    let stays =
        |point: &Path| point == Path::new("/") || kept.iter().any(|kept| point.starts_with(kept));
    points.iter().filter(|point| !stays(point)).cloned().collect()
}

/// Unmounts what [`teardown_order`] names; what is busy becomes read-only and is detached. Returns the failures.
pub(crate) fn teardown() -> Vec<String> {
    let points = sys::mount::below(Path::new("/")).unwrap_or_default();
    let mut failures = Vec::new();
    for point in teardown_order(&points) {
        let Err(error) = umount2(&point, MntFlags::UMOUNT_NOFOLLOW) else { continue };
        let readonly = MsFlags::MS_REMOUNT.union(MsFlags::MS_RDONLY);
        let _ = mount(None::<&str>, &point, None::<&str>, readonly, None::<&str>);
        let _ = umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        failures.push(format!("{}: {error}", point.display()));
    }
    failures
}
