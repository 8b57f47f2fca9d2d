//! The files of a projected, configMap, secret or downwardAPI volume, computed from the objects they show.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIVolumeFile, KeyToPath, Pod, SecretProjection,
    VolumeProjection,
};

use super::plan::{TokenWish, wish};
use crate::env::Objects;
use crate::fieldref::{self, NodeFields};

/// More than the API server lets objects hold; a volume beyond it is refused.
const BYTES_MAX: usize = 16 << 20;

/// One file: content and permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
    /// Owned by this user instead of root (tokens of pods that run as one user).
    pub(crate) owner: Option<u32>,
}

/// Files by their path inside the volume.
pub(crate) type Payload = BTreeMap<String, File>;

/// Tokens by what was wished for, or why there is none.
pub(crate) type Tokens = BTreeMap<TokenWish, Result<String, String>>;

/// Everything a payload may draw from.
pub(crate) struct Sources<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) objects: &'a Objects,
    pub(crate) node: &'a NodeFields,
    pub(crate) tokens: &'a Tokens,
}

pub(crate) fn payload(
    sources: &Sources<'_>,
    projections: &[VolumeProjection],
    mode: i32,
) -> Result<Payload, String> {
    let mut files = Payload::new();
    for projection in projections {
        if let Some(source) = &projection.config_map {
            config_map(sources, source, mode, &mut files)?;
        }
        if let Some(source) = &projection.secret {
            secret(sources, source, mode, &mut files)?;
        }
        for item in projection.downward_api.iter().flat_map(|d| d.items.iter().flatten()) {
            let bytes = downward(sources, item)?.into_bytes();
            add(&mut files, &item.path, bytes, item.mode.unwrap_or(mode))?;
        }
        if let Some(source) = &projection.service_account_token {
            let none = || Err("service account token was not asked for".to_owned());
            let token = sources.tokens.get(&wish(source)).cloned().unwrap_or_else(none)?;
            add(&mut files, &source.path, token.into_bytes(), mode)?;
            restrict(sources.pod, files.get_mut(&source.path));
        }
    }
    let total: usize = files.values().map(|f| f.bytes.len()).sum();
    if total > BYTES_MAX {
        return Err(format!("volume holds {total} bytes, more than {BYTES_MAX}"));
    }
    Ok(files)
}

fn config_map(
    sources: &Sources<'_>,
    source: &ConfigMapProjection,
    mode: i32,
    files: &mut Payload,
) -> Result<(), String> {
    let optional = source.optional == Some(true);
    let Some(map) = sources.objects.config_map(&source.name) else {
        return if optional {
            Ok(())
        } else {
            Err(format!("configmap {:?} not found", source.name))
        };
    };
    let mut data: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    data.extend(map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes())));
    data.extend(map.binary_data.iter().flatten().map(|(k, ByteString(v))| (k.clone(), v.clone())));
    select(data, source.items.as_deref(), optional, "config key", mode, files)
}

fn secret(
    sources: &Sources<'_>,
    source: &SecretProjection,
    mode: i32,
    files: &mut Payload,
) -> Result<(), String> {
    let optional = source.optional == Some(true);
    let Some(secret) = sources.objects.secret(&source.name) else {
        return if optional { Ok(()) } else { Err(format!("secret {:?} not found", source.name)) };
    };
    let data =
        secret.data.iter().flatten().map(|(k, ByteString(v))| (k.clone(), v.clone())).collect();
    select(data, source.items.as_deref(), optional, "secret key", mode, files)
}

fn select(
    mut data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    what: &str,
    mode: i32,
    files: &mut Payload,
) -> Result<(), String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return data.into_iter().try_for_each(|(key, bytes)| add(files, &key, bytes, mode));
    };
    for item in items {
        match data.get_mut(&item.key) {
            Some(bytes) => add(files, &item.path, bytes.clone(), item.mode.unwrap_or(mode))?,
            None if optional => {}
            None => return Err(format!("references non-existent {what}: {}", item.key)),
        }
    }
    Ok(())
}

fn downward(sources: &Sources<'_>, item: &DownwardAPIVolumeFile) -> Result<String, String> {
    if let Some(field) = &item.field_ref {
        return fieldref::field(sources.pod, sources.node, &field.field_path);
    }
    let Some(selector) = &item.resource_field_ref else {
        return Err(format!("downwardAPI file {:?} names no field", item.path));
    };
    fieldref::resource(sources.pod, &Container::default(), sources.node, selector)
}

fn add(files: &mut Payload, path: &str, bytes: Vec<u8>, mode: i32) -> Result<(), String> {
    let inside = !path.is_empty()
        && path.split('/').all(|p| !p.is_empty() && p != "..")
        && !path.starts_with("..");
    if !inside {
        return Err(format!("invalid path: {path:?} must stay inside the volume"));
    }
    let mode = u32::try_from(mode).unwrap_or(0) & 0o777;
    files.insert(path.to_owned(), File { bytes, mode, owner: None });
    Ok(())
}

/// A token is for the pod's own user only, where the pod says who that is.
fn restrict(pod: &Pod, file: Option<&mut File>) {
    let (Some(file), Some(spec)) = (file, pod.spec.as_ref()) else { return };
    let pods = spec.security_context.as_ref();
    if pods.is_some_and(|s| s.fs_group.is_some()) {
        file.mode = 0o600;
        return;
    }
    let default = pods.and_then(|s| s.run_as_user);
    let mut users = crate::resources::containers(spec)
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(default));
    let Some(Some(first)) = users.next() else { return };
    if users.all(|u| u == Some(first)) {
        file.mode = 0o600;
        file.owner = u32::try_from(first).ok();
    }
}
