//! Replaces all files of a volume at once: a new directory is written, then the `..data` link is moved to it.
//!
//! ```text
//! volume/..2026_11_22_10_00_00.123456789/key     the files
//! volume/..data -> ..2026_11_22_10_00_00.123456789
//! volume/key -> ..data/key                        what users see
//! ```

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink,
};
use std::path::Path;

use jiff::Timestamp;

use super::payload::Payload;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";
/// What a group may do beyond the file's own mode when the pod has an fsGroup.
const GROUP_READ: u32 = 0o440;

/// Makes the volume show exactly `payload`; false if it did already. `group` is the pod's fsGroup.
pub(crate) fn write(
    volume: &Path,
    payload: &Payload,
    group: Option<u32>,
    now: Timestamp,
) -> io::Result<bool> {
    let old = fs::read_link(volume.join(DATA)).ok();
    if let Some(old) = &old
        && shows(&volume.join(old), payload, group)?
    {
        return Ok(false);
    }
    let name = format!("..{}", now.strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    let fresh = volume.join(&name);
    DirBuilder::new().mode(0o755).create(&fresh)?;
    chown(&fresh, None, group)?;
    let mode = if group.is_some() { 0o2755 } else { 0o755 };
    fs::set_permissions(&fresh, Permissions::from_mode(mode))?;
    for (path, file) in payload {
        write_file(&fresh, path, file, group)?;
    }
    let staged = volume.join(DATA_NEW);
    drop(fs::remove_file(&staged));
    symlink(&name, &staged)?;
    fs::rename(&staged, volume.join(DATA))?;
    link_names(volume, payload)?;
    if let Some(old) = old {
        fs::remove_dir_all(volume.join(old))?;
    }
    Ok(true)
}

fn write_file(
    root: &Path,
    path: &str,
    file: &super::payload::File,
    group: Option<u32>,
) -> io::Result<()> {
    let target = root.join(path);
    if let Some(parent) = target.parent().filter(|p| *p != root) {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    let mut handle = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
    handle.write_all(&file.bytes)?;
    chown(&target, file.owner, group)?;
    handle.set_permissions(Permissions::from_mode(mode(file.mode, group)))
}

fn mode(own: u32, group: Option<u32>) -> u32 {
    if group.is_some() { own | GROUP_READ } else { own }
}

/// Whether `directory` has these files and no others.
fn shows(directory: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    let mut seen = BTreeSet::new();
    files_below(directory, Path::new(""), &mut seen)?;
    if seen.len() != payload.len() || !payload.keys().all(|k| seen.contains(k)) {
        return Ok(false);
    }
    for (path, file) in payload {
        let target = directory.join(path);
        let meta = fs::metadata(&target)?;
        if meta.len() != file.bytes.len() as u64 || meta.mode() & 0o777 != mode(file.mode, group) {
            return Ok(false);
        }
        let mut bytes = Vec::with_capacity(file.bytes.len());
        fs::File::open(&target)?.take(file.bytes.len() as u64 + 1).read_to_end(&mut bytes)?;
        if bytes != file.bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

fn files_below(root: &Path, inside: &Path, seen: &mut BTreeSet<String>) -> io::Result<()> {
    let entries = match fs::read_dir(root.join(inside)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let path = inside.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            files_below(root, &path, seen)?;
        } else {
            seen.insert(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// One link per top-level name, and none that leads nowhere.
fn link_names(volume: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|k| k.split('/').next()).collect();
    for name in &wanted {
        let link = volume.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
