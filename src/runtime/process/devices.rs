//! Devices: which of the host's a container gets, and what it may do with which.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use sys::device_filter::{BLOCK, CHARACTER, MAKE, READ, Rule, WRITE};

use super::job::failure;
use super::oci::HostDevice;
use crate::protocol::{ContainerSpec, Device, Failure, FailureKind};

/// Deepest directory below `/dev` that is looked at, and most devices taken.
const DEVICE_DEPTH: u32 = 3;
const DEVICES_MAX: usize = 1024;

/// Character devices every container has, by major and minor number; none is any.
const USUAL: &[(u32, Option<u32>)] = &[
    // null, zero, full, random, urandom
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    // tty, console, ptmx
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    // terminals
    (136, None),
];

/// What a container may do with devices: make any, use the usual ones and those given to it.
pub(super) fn rules(devices: &[HostDevice]) -> Vec<Rule> {
    let any = |kind| Rule { kind, major: None, minor: None, access: MAKE };
    let usual = USUAL.iter().map(|(major, minor)| Rule {
        kind: CHARACTER,
        major: Some(*major),
        minor: *minor,
        access: READ | WRITE | MAKE,
    });
    let given = devices.iter().map(|device| Rule {
        kind: if device.kind == 'b' { BLOCK } else { CHARACTER },
        major: u32::try_from(device.major).ok(),
        minor: u32::try_from(device.minor).ok(),
        access: device.access.chars().fold(0, |bits, letter| {
            bits | match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MAKE,
                _ => 0,
            }
        }),
    });
    [any(CHARACTER), any(BLOCK)].into_iter().chain(usual).chain(given).collect()
}

/// Every device of the host the container gets besides the usual ones.
pub(super) fn of_host(spec: &ContainerSpec) -> Result<Vec<HostDevice>, Failure> {
    let mut found = Vec::new();
    if spec.privileged {
        collect_devices(Path::new("/dev"), &mut found, 0);
    }
    for device in &spec.devices {
        found.push(host_device(device)?);
    }
    Ok(found)
}

fn host_device(device: &Device) -> Result<HostDevice, Failure> {
    let metadata = fs::metadata(&device.source).map_err(|error| {
        failure(FailureKind::Invalid, format!("device {}: {error}", device.source.display()))
    })?;
    let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
    describe(&metadata, &device.destination, access).ok_or_else(|| {
        failure(FailureKind::Invalid, format!("{} is no device", device.source.display()))
    })
}

fn describe(metadata: &fs::Metadata, path: &Path, access: &str) -> Option<HostDevice> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return None,
    };
    let device = metadata.rdev();
    Some(HostDevice {
        path: path.to_owned(),
        kind,
        // The types of these differ between architectures.
        major: i64::try_from(nix::sys::stat::major(device as _)).ok()?,
        minor: i64::try_from(nix::sys::stat::minor(device as _)).ok()?,
        mode: metadata.mode() & 0o7777,
        access: access.to_owned(),
    })
}

/// Everything below `/dev` that a privileged container gets besides the usual devices.
fn collect_devices(dir: &Path, found: &mut Vec<HostDevice>, depth: u32) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let skipped =
            ["pts", "shm", "mqueue", "console", "ptmx", "fd"].iter().any(|skip| name == *skip);
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if skipped || found.len() >= DEVICES_MAX {
            continue;
        }
        if metadata.is_dir() && depth < DEVICE_DEPTH {
            collect_devices(&path, found, depth + 1);
        } else if let Some(device) = describe(&metadata, &path, "rwm") {
            found.push(device);
        }
    }
}
