//! Metadata of all kinds, and label selectors.

use std::collections::BTreeSet;

use api::{FieldError, LabelSelector, Resource, names};
use serde_json::{Value, json};

use super::path::Path;
use super::{Errors, fields, integer, invalid, list, text};

/// Bytes of all annotations of an object together.
const ANNOTATIONS_MAX: usize = 256 * 1024;
/// Finalizers that need no domain.
const STANDARD_FINALIZERS: &[&str] = &["orphan", "foregroundDeletion", "kubernetes"];

pub(super) fn object_meta(res: &Resource, object: &Value, errors: &mut Errors) {
    let path = Path::new("metadata");
    let meta = object.get("metadata").unwrap_or(&Value::Null);
    let check = name_check(res);
    let (name, prefix) = (text(meta, "name"), text(meta, "generateName"));
    if !prefix.is_empty() {
        invalid(&path.child("generateName"), prefix, check(&mask_dash(prefix)), errors);
    }
    match name {
        "" => {
            errors.push(FieldError::required("metadata.name", "name or generateName is required"))
        }
        name => invalid(&path.child("name"), name, check(name), errors),
    }
    match (res.namespaced, text(meta, "namespace")) {
        (true, "") => errors.push(FieldError::required("metadata.namespace", "")),
        (true, namespace) => {
            invalid(&path.child("namespace"), namespace, names::dns1123_label(namespace), errors)
        }
        (false, "") => {}
        (false, _) => {
            errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"))
        }
    }
    labels(&path.child("labels"), meta.get("labels"), errors);
    annotations(&path.child("annotations"), meta, errors);
    owners(&path.child("ownerReferences"), meta, errors);
    finalizers(&path.child("finalizers"), list(meta, "finalizers"), errors);
}

fn name_check(res: &Resource) -> fn(&str) -> Vec<String> {
    match res.kind {
        "Namespace" => names::dns1123_label,
        "Service" => names::dns1035_label,
        "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding" => names::path_segment,
        _ => names::dns1123_subdomain,
    }
}

/// A prefix may end in a dash, for random letters follow.
fn mask_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(start) if !start.is_empty() => format!("{start}a"),
        _ => prefix.to_owned(),
    }
}

pub(super) fn labels(path: &Path, labels: Option<&Value>, errors: &mut Errors) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        invalid(path, key, names::qualified_name(key), errors);
        let value = value.as_str().unwrap_or_default();
        invalid(path, value, names::label_value(value), errors);
    }
}

pub(super) fn annotations(path: &Path, meta: &Value, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in fields(meta, "annotations") {
        invalid(path, key, names::qualified_name(&key.to_lowercase()), errors);
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(path.to_string(), ANNOTATIONS_MAX));
    }
}

fn owners(path: &Path, meta: &Value, errors: &mut Errors) {
    let mut controller: Option<&str> = None;
    for owner in list(meta, "ownerReferences") {
        if text(owner, "apiVersion").rsplit('/').next().unwrap_or_default().is_empty() {
            let (at, value) = (path.child("apiVersion"), text(owner, "apiVersion"));
            errors.push(FieldError::invalid(at.to_string(), value, "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                errors.push(FieldError::invalid(
                    path.child(field).to_string(),
                    "",
                    "must not be empty",
                ));
            }
        }
        if super::flag(owner, "controller") {
            if let Some(first) = controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                    text(owner, "name")
                );
                errors.push(FieldError::invalid(
                    path.to_string(),
                    meta["ownerReferences"].clone(),
                    detail,
                ));
            }
            controller = Some(text(owner, "name"));
        }
    }
}

fn finalizers(path: &Path, finalizers: &[Value], errors: &mut Errors) {
    for finalizer in finalizers.iter().filter_map(Value::as_str) {
        let problems = names::qualified_name(finalizer);
        let plain = problems.is_empty()
            && !finalizer.contains('/')
            && !STANDARD_FINALIZERS.contains(&finalizer);
        invalid(path, finalizer, problems, errors);
        if plain {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(path.to_string(), finalizer, detail));
        }
    }
}

/// What must not change; what the new object leaves out counts as unchanged.
const IMMUTABLE: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

pub(super) fn object_meta_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (&new["metadata"], &old["metadata"]);
    let path = Path::new("metadata");
    for field in IMMUTABLE {
        if let Some(value) = new.get(*field).filter(|value| Some(*value) != old.get(*field)) {
            errors.push(FieldError::invalid(
                path.child(field).to_string(),
                value.clone(),
                "field is immutable",
            ));
        }
    }
    if integer(new, "generation").unwrap_or(i64::MAX) < integer(old, "generation").unwrap_or(0) {
        let value = new["generation"].clone();
        errors.push(FieldError::invalid("metadata.generation", value, "must not be decremented"));
    }
    if old.get("deletionTimestamp").is_some() {
        let before: BTreeSet<&str> =
            list(old, "finalizers").iter().filter_map(Value::as_str).collect();
        let is_new = |f: &&Value| !f.as_str().is_some_and(|f| before.contains(f));
        let added: Vec<&Value> = list(new, "finalizers").iter().filter(is_new).collect();
        if !added.is_empty() {
            let names: Vec<String> = added.iter().map(ToString::to_string).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                names.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", detail));
        }
    }
}

/// A `metav1.LabelSelector`.
pub(super) fn label_selector(path: &Path, selector: &Value, errors: &mut Errors) {
    labels(&path.child("matchLabels"), selector.get("matchLabels"), errors);
    for (i, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let (values, operator) = (list(expression, "values"), text(expression, "operator"));
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(path.child("values").to_string(), detail));
            }
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(path.child("values").to_string(), detail));
            }
            "Exists" | "DoesNotExist" => {}
            other => {
                let at = path.child("operator").to_string();
                errors.push(FieldError::invalid(at, other, "not a valid selector operator"));
            }
        }
        let key = text(expression, "key");
        invalid(&path.child("key"), key, names::qualified_name(key), errors);
        for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
            invalid(&path.child("values").index(i), value, names::label_value(value), errors);
        }
    }
}

/// Whether the selector parses and holds for the labels of a template's metadata.
pub(super) fn selects(selector: &Value, meta: &Value) -> Option<bool> {
    let selector = LabelSelector::from_value(selector).ok()?;
    Some(
        selector.is_everything()
            || selector.matches_value(meta.get("labels").unwrap_or(&json!({}))),
    )
}
