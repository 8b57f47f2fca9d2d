//! Volumes of a pod.

use std::collections::BTreeSet;

use api::{FieldError, Quantity, names};
use serde_json::Value;

use super::container::{field_ref, resource_ref};
use super::path::Path;
use super::{Errors, integer, invalid, list, one_of, required, text};

const MODE_TEXT: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const TOKEN_SECONDS_MIN: i64 = 600;

/// The names of the volumes, for mounts to refer to.
pub(super) fn volumes<'a>(
    path: &Path,
    volumes: &'a [Value],
    errors: &mut Errors,
) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        source(&path, volume, errors);
        match text(volume, "name") {
            "" => required(&path.child("name"), errors),
            name => {
                let problems = names::dns1123_label(name);
                if !problems.is_empty() {
                    invalid(&path.child("name"), name, problems, errors);
                } else if !seen.insert(name) {
                    errors.push(FieldError::duplicate(path.child("name").to_string(), name));
                }
            }
        }
    }
    seen
}

fn source(path: &Path, volume: &Value, errors: &mut Errors) {
    let mut kinds = volume.as_object().into_iter().flatten().filter(|(key, _)| *key != "name");
    let Some((kind, inner)) = kinds.next() else {
        errors.push(FieldError::required(path.to_string(), "must specify a volume type"));
        return;
    };
    for (other, _) in kinds {
        errors.push(FieldError::forbidden(
            path.child(other).to_string(),
            "may not specify more than 1 volume type",
        ));
    }
    let path = path.child(kind);
    match kind.as_str() {
        "hostPath" => host_path(&path, inner, errors),
        "emptyDir" => empty_dir(&path, inner, errors),
        "configMap" => files(&path, inner, "name", "defaultMode", errors),
        "secret" => files(&path, inner, "secretName", "defaultMode", errors),
        "downwardAPI" => {
            mode(&path, inner, "defaultMode", errors);
            downward(&path, inner, errors);
        }
        "projected" => projected(&path, inner, errors),
        "persistentVolumeClaim" if text(inner, "claimName").is_empty() => {
            required(&path.child("claimName"), errors)
        }
        "nfs" => {
            for field in ["server", "path"] {
                if text(inner, field).is_empty() {
                    required(&path.child(field), errors);
                }
            }
        }
        _ => {}
    }
}

const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

fn host_path(path: &Path, inner: &Value, errors: &mut Errors) {
    match text(inner, "path") {
        "" => required(&path.child("path"), errors),
        host => no_back_steps(&path.child("path"), host, errors),
    }
    one_of(&path.child("type"), text(inner, "type"), HOST_PATH_TYPES, errors);
}

fn empty_dir(path: &Path, inner: &Value, errors: &mut Errors) {
    let limit = inner.get("sizeLimit").and_then(|limit| Quantity::from_json(limit).ok());
    if limit.is_some_and(|limit| limit.is_negative()) {
        errors.push(FieldError::forbidden(
            path.child("sizeLimit").to_string(),
            "SizeLimit field must be a valid resource quantity",
        ));
    }
}

fn mode(path: &Path, inner: &Value, field: &str, errors: &mut Errors) {
    if let Some(mode) = integer(inner, field).filter(|mode| !(0..=0o777).contains(mode)) {
        errors.push(FieldError::invalid(path.child(field).to_string(), mode, MODE_TEXT));
    }
}

fn files(path: &Path, inner: &Value, name: &str, mode_field: &str, errors: &mut Errors) {
    if text(inner, name).is_empty() {
        required(&path.child(name), errors);
    }
    mode(path, inner, mode_field, errors);
    for (i, item) in list(inner, "items").iter().enumerate() {
        let path = path.child("items").index(i);
        if text(item, "key").is_empty() {
            required(&path.child("key"), errors);
        }
        file_path(&path.child("path"), text(item, "path"), errors);
        mode(&path, item, "mode", errors);
    }
}

fn file_path(path: &Path, file: &str, errors: &mut Errors) {
    if file.is_empty() {
        required(path, errors);
        return;
    }
    descending(path, file, errors);
    if file.starts_with("..") && !file.starts_with("../") && file != ".." {
        errors.push(FieldError::invalid(path.to_string(), file, "must not start with '..'"));
    }
}

/// Paths that must stay below where they begin.
pub(super) fn descending(path: &Path, file: &str, errors: &mut Errors) {
    if file.starts_with('/') {
        errors.push(FieldError::invalid(path.to_string(), file, "must be a relative path"));
    }
    no_back_steps(path, file, errors);
}

fn no_back_steps(path: &Path, file: &str, errors: &mut Errors) {
    if file.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path.to_string(), file, "must not contain '..'"));
    }
}

const VOLUME_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

fn downward(path: &Path, inner: &Value, errors: &mut Errors) {
    for (i, item) in list(inner, "items").iter().enumerate() {
        let path = path.child("items").index(i);
        file_path(&path.child("path"), text(item, "path"), errors);
        mode(&path, item, "mode", errors);
        match (item.get("fieldRef"), item.get("resourceFieldRef")) {
            (Some(field), None) => field_ref(&path.child("fieldRef"), field, VOLUME_FIELDS, errors),
            (None, Some(resource)) => {
                if text(resource, "containerName").is_empty() {
                    required(&path.child("resourceFieldRef").child("containerName"), errors);
                }
                resource_ref(&path.child("resourceFieldRef"), resource, errors);
            }
            (Some(_), Some(_)) => {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path.to_string(), "resource", detail));
            }
            (None, None) => {
                errors.push(FieldError::required(
                    path.to_string(),
                    "one of fieldRef and resourceFieldRef is required",
                ));
            }
        }
    }
}

fn projected(path: &Path, inner: &Value, errors: &mut Errors) {
    mode(path, inner, "defaultMode", errors);
    for (i, projection) in list(inner, "sources").iter().enumerate() {
        let path = path.child("sources").index(i);
        let mut kinds = projection.as_object().into_iter().flatten();
        let Some((kind, inner)) = kinds.next() else { continue };
        if kinds.next().is_some() {
            let detail = "may not specify more than 1 volume type per source";
            errors.push(FieldError::forbidden(path.to_string(), detail));
        }
        let path = path.child(kind);
        match kind.as_str() {
            "configMap" | "secret" => files(&path, inner, "name", "", errors),
            "downwardAPI" => downward(&path, inner, errors),
            "serviceAccountToken" => token(&path, inner, errors),
            _ => {}
        }
    }
}

fn token(path: &Path, inner: &Value, errors: &mut Errors) {
    if let Some(seconds) = integer(inner, "expirationSeconds") {
        let at = path.child("expirationSeconds").to_string();
        if seconds < TOKEN_SECONDS_MIN {
            errors.push(FieldError::invalid(at, seconds, "may not be less than 10 minutes"));
        } else if seconds > 1 << 32 {
            errors.push(FieldError::invalid(at, seconds, "may not be larger than 2^32 seconds"));
        }
    }
    file_path(&path.child("path"), text(inner, "path"), errors);
}
