//! What may change in a pod once it exists.

use std::collections::HashSet;

use api::FieldError;
use serde_json::{Map, Value, json};

use super::{Errors, integer, list, text};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
/// Differences that are listed in the message.
const SHOWN_MAX: usize = 10;

pub(super) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (&new["spec"], &old["spec"]);
    for field in ["containers", "initContainers"] {
        if list(new, field).len() != list(old, field).len() {
            let at = format!("spec.{field}");
            errors.push(FieldError::forbidden(at, "pod updates may not add or remove containers"));
            return;
        }
    }
    deadline(new, old, errors);
    tolerations(new, old, errors);
    scheduling_gates(new, old, errors);
    let mut differences = Vec::new();
    compare("spec", &munged(new, old), old, &mut differences);
    if !differences.is_empty() {
        differences.truncate(SHOWN_MAX);
        let detail = format!(
            "pod updates may not change fields other than {UPDATABLE}\n{}",
            differences.join("\n")
        );
        errors.push(FieldError::forbidden("spec", detail));
    }
}

fn deadline(new: &Value, old: &Value, errors: &mut Errors) {
    let field = "activeDeadlineSeconds";
    match (integer(new, field), integer(old, field)) {
        (Some(new), Some(old)) if new > old => {
            let at = "spec.activeDeadlineSeconds";
            errors.push(FieldError::invalid(
                at,
                new,
                "must be less than or equal to previous value",
            ));
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid("spec.activeDeadlineSeconds", Value::Null, detail));
        }
        _ => {}
    }
}

fn tolerations(new: &Value, old: &Value, errors: &mut Errors) {
    let bare = |toleration: &Value| {
        let mut toleration = toleration.clone();
        if let Some(fields) = toleration.as_object_mut() {
            fields.remove("tolerationSeconds");
        }
        toleration.to_string()
    };
    let kept: HashSet<String> = list(new, "tolerations").iter().map(bare).collect();
    if list(old, "tolerations").iter().any(|toleration| !kept.contains(&bare(toleration))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", detail));
    }
}

fn scheduling_gates(new: &Value, old: &Value, errors: &mut Errors) {
    let before: HashSet<&str> =
        list(old, "schedulingGates").iter().map(|gate| text(gate, "name")).collect();
    for (i, gate) in list(new, "schedulingGates")
        .iter()
        .enumerate()
        .filter(|(_, gate)| !before.contains(text(gate, "name")))
    {
        let detail = format!(
            "only deletion is allowed, but found new scheduling gate '{}'",
            text(gate, "name")
        );
        errors.push(FieldError::forbidden(format!("spec.schedulingGates[{i}].name"), detail));
    }
}

/// The new spec with what may change taken from the old one.
fn munged(new: &Value, old: &Value) -> Value {
    let mut spec = new.clone();
    let Some(fields) = spec.as_object_mut() else { return spec };
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates", "ephemeralContainers"]
    {
        restore(fields, old, field);
    }
    if integer(old, "terminationGracePeriodSeconds").is_some_and(|s| s < 0)
        && new["terminationGracePeriodSeconds"] == json!(1)
    {
        restore(fields, old, "terminationGracePeriodSeconds");
    }
    for field in ["containers", "initContainers"] {
        let containers = fields.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, before) in containers.zip(list(old, field)) {
            if let Some(container) = container.as_object_mut() {
                restore(container, before, "image");
            }
        }
    }
    spec
}

fn restore(fields: &mut Map<String, Value>, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => fields.insert(field.to_owned(), value.clone()),
        None => fields.remove(field),
    };
}

fn compare(path: &str, new: &Value, old: &Value, differences: &mut Vec<String>) {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            for (key, value) in new {
                compare(
                    &format!("{path}.{key}"),
                    value,
                    old.get(key).unwrap_or(&Value::Null),
                    differences,
                );
            }
            for (key, value) in old.iter().filter(|(key, _)| !new.contains_key(*key)) {
                differences.push(format!("{path}.{key}: {value} removed"));
            }
        }
        (Value::Array(new), Value::Array(old)) if new.len() == old.len() => {
            for (i, (new, old)) in new.iter().zip(old).enumerate() {
                compare(&format!("{path}[{i}]"), new, old, differences);
            }
        }
        (new, Value::Null) if !new.is_null() => differences.push(format!("{path}: {new} added")),
        (new, old) if new != old => differences.push(format!("{path}: {old} changed to {new}")),
        _ => {}
    }
}
