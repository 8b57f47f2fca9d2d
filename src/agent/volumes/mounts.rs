//! A container's volumeMounts as mounts for the runtime, subPath included.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, PodSpec, VolumeMount};
use runtime::protocol::{Mount, MountKind, Propagation};

use super::{place, plan};
use crate::expand::{expand, unknown};
use crate::paths::Paths;
use crate::worker::Failure;

const CONFIG: &str = "CreateContainerConfigError";

/// The mounts of one container, in the order of the spec.
pub(crate) fn mounts(
    paths: &Paths,
    uid: &str,
    spec: &PodSpec,
    container: &Container,
    env: &[(String, String)],
) -> Result<Vec<Mount>, Failure> {
    container.volume_mounts.iter().flatten().map(|m| one(paths, uid, spec, m, env)).collect()
}

fn one(
    paths: &Paths,
    uid: &str,
    spec: &PodSpec,
    wanted: &VolumeMount,
    env: &[(String, String)],
) -> Result<Mount, Failure> {
    let volume = spec.volumes.iter().flatten().find(|v| v.name == wanted.name);
    // What the API server has is not changed through a container.
    let shows_objects = volume.is_some_and(|v| matches!(plan::kind(v), plan::Kind::Files { .. }));
    let source = volume.and_then(|v| place::source(paths, uid, v)).ok_or_else(|| {
        Failure::new(
            CONFIG,
            format!("cannot find volume {:?} to mount into container", wanted.name),
        )
    })?;
    let source = match sub_path(wanted, env)? {
        Some(inside) => resolve(&source, &inside, &wanted.name)?,
        None => {
            create_missing_host_path(&source);
            source
        }
    };
    Ok(Mount {
        source,
        destination: PathBuf::from(&wanted.mount_path),
        readonly: wanted.read_only == Some(true) || shows_objects,
        kind: MountKind::Bind,
        recursive: true,
        propagation: match wanted.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
    })
}

/// A hostPath without a type may be missing; container runtimes make it a directory then.
fn create_missing_host_path(source: &Path) {
    if !source.exists() {
        drop(DirBuilder::new().recursive(true).mode(0o755).create(source));
    }
}

fn sub_path(wanted: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>, Failure> {
    let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    if let Some(expression) = wanted.sub_path_expr.as_deref().filter(|s| !s.is_empty()) {
        if let Some(name) = unknown(expression, |n| lookup(n).is_some()).first() {
            return Err(Failure::new(
                CONFIG,
                format!("missing value for {name:?} in subPathExpr {expression:?}"),
            ));
        }
        return Ok(Some(expand(expression, lookup)));
    }
    Ok(wanted.sub_path.clone().filter(|s| !s.is_empty()))
}

/// The path below the volume, made as a directory if it is missing, and never outside of the volume.
fn resolve(volume: &Path, inside: &str, name: &str) -> Result<PathBuf, Failure> {
    let relative = Path::new(inside);
    if !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(Failure::new(
            CONFIG,
            format!("subPath {inside:?} of volume {name:?} must not leave the volume"),
        ));
    }
    let failed = |error: std::io::Error| {
        Failure::new(
            CONFIG,
            format!("failed to prepare subPath for volumeMount {name:?}: {inside}: {error}"),
        )
    };
    let root = volume.canonicalize().map_err(failed)?;
    // As roomy as the volume itself: the container's user may be anyone.
    let mode = fs::metadata(&root).map_err(failed)?.permissions();
    let mut at = root.clone();
    for part in relative.components().filter(|c| matches!(c, Component::Normal(_))) {
        let next = at.join(part);
        if fs::symlink_metadata(&next).is_err() {
            DirBuilder::new().mode(0o700).create(&next).map_err(failed)?;
            fs::set_permissions(&next, mode.clone()).map_err(failed)?;
        }
        at = next.canonicalize().map_err(failed)?;
        if !at.starts_with(&root) {
            let text = format!("subPath {inside:?} of volume {name:?} leads out of the volume");
            return Err(Failure::new(CONFIG, text));
        }
    }
    Ok(at)
}
