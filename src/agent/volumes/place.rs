//! Makes and removes the directories of volumes. Blocking; called from the blocking pool.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown,
};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostPathVolumeSource, Volume};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::atomic;
use super::payload::{self, Sources};
use super::plan::{Kind, kind};
use crate::paths::Paths;
use crate::resources;

/// The mode of the root of a volume in a pod with an fsGroup.
const GROUP_ROOT_MODE: u32 = 0o2777;
const EMPTY_DIR: &str = "kubernetes.io~empty-dir";

/// The directory (or file) that containers see as this volume; it need not exist yet.
pub(crate) fn source(paths: &Paths, uid: &str, volume: &Volume) -> Option<PathBuf> {
    match kind(volume) {
        Kind::EmptyDir { .. } => Some(paths.volume(uid, EMPTY_DIR, &volume.name)),
        Kind::HostPath(source) => Some(PathBuf::from(source.path)),
        Kind::Files { directory, .. } => Some(paths.volume(uid, directory, &volume.name)),
        Kind::Unsupported(_) => None,
    }
}

/// Makes one volume ready, or brings its files up to date. The error is upstream's, without the volume's name.
pub(crate) fn set_up(
    paths: &Paths,
    uid: &str,
    volume: &Volume,
    sources: &Sources<'_>,
) -> Result<(), String> {
    let pods = sources.pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let group = pods.and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok());
    let io = |what: &'static str, path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| format!("{what} {path}: {error}")
    };
    match kind(volume) {
        Kind::EmptyDir { memory, size } => {
            let directory = paths.volume(uid, EMPTY_DIR, &volume.name);
            let size = if memory { memory_size(sources, size) } else { size };
            empty_dir(&directory, memory, size, group).map_err(io("cannot make", &directory))
        }
        Kind::HostPath(source) => host_path(&source),
        Kind::Files { directory, memory, sources: projections, mode } => {
            let files = payload::payload(sources, &projections, mode)?;
            let directory = paths.volume(uid, directory, &volume.name);
            make_directory(&directory, 0o777).map_err(io("cannot make", &directory))?;
            if memory {
                memory_backed(&directory, None).map_err(io("cannot mount", &directory))?;
            }
            if let Some(group) = group {
                give(&directory, group).map_err(io("cannot change", &directory))?;
            }
            atomic::write(&directory, &files, group, Timestamp::now())
                .map_err(io("cannot write", &directory))?;
            Ok(())
        }
        Kind::Unsupported(name) => Err(format!("volume kind {name} is not supported by this node")),
    }
}

/// A volume in memory is never larger than the node or the pod may use, whatever the volume says.
fn memory_size(sources: &Sources<'_>, limit: Option<u64>) -> Option<u64> {
    let own = sources.pod.spec.as_ref().and_then(|s| resources::pod_settings(s).memory_limit);
    let bounds = [own, Some(sources.node.allocatable_memory)].into_iter().flatten();
    let bounds = bounds.filter_map(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
    bounds.chain(limit).min()
}

fn empty_dir(
    directory: &Path,
    memory: bool,
    size: Option<u64>,
    group: Option<u32>,
) -> io::Result<()> {
    let fresh = !directory.exists();
    make_directory(directory, 0o777)?;
    if memory {
        memory_backed(directory, size)?;
    }
    if let (Some(group), true) = (group, fresh || memory) {
        give(directory, group)?;
    }
    Ok(())
}

/// Gives the root of a volume to the pod's fsGroup; what is made in it has the group too.
fn give(directory: &Path, group: u32) -> io::Result<()> {
    let meta = fs::metadata(directory)?;
    if meta.gid() == group && meta.mode() & 0o7777 == GROUP_ROOT_MODE {
        return Ok(());
    }
    chown(directory, None, Some(group))?;
    fs::set_permissions(directory, Permissions::from_mode(GROUP_ROOT_MODE))
}

/// Makes a directory with exactly these permissions, whatever the umask.
pub(crate) fn make_directory(directory: &Path, mode: u32) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(mode))
}

/// A directory of the agent that only root may look into, also if it was there.
pub(crate) fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o750))
}

/// Puts a tmpfs on the directory unless one is there, so that secrets never reach the disk.
fn memory_backed(directory: &Path, size: Option<u64>) -> io::Result<()> {
    if is_mount_point(directory)? {
        return Ok(());
    }
    let options =
        size.map(|s| format!("size={s},mode=0777")).unwrap_or_else(|| "mode=0777".to_owned());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), directory, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(io::Error::from)
}

fn is_mount_point(directory: &Path) -> io::Result<bool> {
    let Some(parent) = directory.parent() else { return Ok(true) };
    Ok(fs::metadata(directory)?.dev() != fs::metadata(parent)?.dev())
}

fn host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let made = |error: io::Error| format!("cannot make {}: {error}", source.path);
    let wanted = source.type_.as_deref().unwrap_or_default();
    match wanted {
        "" => return Ok(()),
        "DirectoryOrCreate" if !path.exists() => {
            return DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(made);
        }
        "FileOrCreate" if !path.exists() => {
            return OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o644)
                .open(path)
                .map(drop)
                .map_err(made);
        }
        _ => {}
    }
    let meta = fs::metadata(path).ok().map(|m| m.file_type());
    let (fits, noun): (fn(&fs::FileType) -> bool, &str) = match wanted {
        "Directory" | "DirectoryOrCreate" => (fs::FileType::is_dir, "directory"),
        "File" | "FileOrCreate" => (fs::FileType::is_file, "file"),
        "Socket" => (FileTypeExt::is_socket, "socket file"),
        "CharDevice" => (FileTypeExt::is_char_device, "character device"),
        "BlockDevice" => (FileTypeExt::is_block_device, "block device"),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    if meta.as_ref().is_some_and(fits) {
        return Ok(());
    }
    Err(format!("hostPath type check failed: {} is not a {noun}", source.path))
}

/// Unmounts and removes everything of a pod below its directory. Bind mounts of hosts' paths are never below it.
pub(crate) fn tear_down(paths: &Paths, uid: &str) -> io::Result<()> {
    let volumes = paths.pod(uid).join("volumes");
    for kind in read_names(&volumes)? {
        for volume in read_names(&kind)? {
            unmount(&volume)?;
        }
    }
    remove_tree(&volumes)
}

/// Removes what is left of a pod.
pub(crate) fn remove_pod(paths: &Paths, uid: &str) -> io::Result<()> {
    tear_down(paths, uid)?;
    remove_tree(&paths.pod(uid))
}

pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read_names(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|e| e.map(|e| e.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn unmount(directory: &Path) -> io::Result<()> {
    while is_mount_point(directory)? {
        match umount2(directory, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL) => return Ok(()), // not a mount point after all
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;
    use crate::env::Objects;
    use crate::fieldref::NodeFields;
    use crate::volumes::payload::Tokens;

    #[test]
    fn memory_is_bounded_by_volume_pod_and_node() {
        let size = |limits: Value, limit: Option<u64>| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
                {"name": "a", "resources": {"limits": limits}}]}}))
            .expect("a pod");
            let node = NodeFields {
                node_name: "n1".into(),
                host_ips: Vec::new(),
                pod_ips: Vec::new(),
                allocatable_cpu: 1000,
                allocatable_memory: 4096,
            };
            let (objects, tokens) = (Objects::default(), Tokens::new());
            memory_size(
                &Sources { pod: &pod, objects: &objects, node: &node, tokens: &tokens },
                limit,
            )
        };
        assert_eq!(size(json!({}), None), Some(4096));
        assert_eq!(size(json!({"memory": "1Ki"}), None), Some(1024));
        assert_eq!(size(json!({"memory": "1Ki"}), Some(512)), Some(512));
        assert_eq!(size(json!({"memory": "8Ki"}), Some(1 << 20)), Some(4096));
    }
}
