//! The metadata fields that belong to the server: set at creation, carried over at updates.

use crate::answer::Result;
use crate::object;
use api::{FieldError, Resource, Status, Strategy};
use serde_json::{Value, json};

/// Fields a client cannot set.
const SYSTEM: &[&str] =
    &["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"];
const DROPPED: &[&str] = &["managedFields", "selfLink", "resourceVersion"];

/// Whether `metadata.generation` follows the spec of a kind.
pub(crate) fn has_generation(res: &Resource) -> bool {
    matches!(res.strategy, Strategy::Workload | Strategy::Pod) || res.kind == "EndpointSlice"
}

/// Prepares the metadata of a new object.
pub(crate) fn begin(res: &Resource, value: &mut Value) -> Result<()> {
    let uid = object::new_uid()?;
    let Some(metadata) = object::object_mut(value, &["metadata"]) else {
        return Err(Status::bad_request("metadata must be an object"));
    };
    for field in SYSTEM.iter().chain(DROPPED) {
        metadata.remove(*field);
    }
    metadata.insert("uid".to_owned(), uid.into());
    metadata.insert("creationTimestamp".to_owned(), now().into());
    if has_generation(res) {
        metadata.insert("generation".to_owned(), 1.into());
    }
    drop_empty(value);
    Ok(())
}

/// Carries the server's fields over from the old object, and lets nobody add finalizers to a dying object.
pub(crate) fn carry_over(res: &Resource, old: &Value, new: &mut Value) -> Result<()> {
    let (old_finalizers, new_finalizers) = (object::finalizers(old), object::finalizers(new));
    let added: Vec<String> =
        new_finalizers.into_iter().filter(|f| !old_finalizers.contains(f)).collect();
    if object::is_deleting(old) && !added.is_empty() {
        let quoted: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            quoted.join(", ")
        );
        let error = FieldError::forbidden("metadata.finalizers", detail);
        return Err(Status::invalid(res, object::name(old), &[error]));
    }
    let Some(metadata) = object::object_mut(new, &["metadata"]) else {
        return Err(Status::bad_request("metadata must be an object"));
    };
    for field in SYSTEM.iter().chain(&["generateName"]) {
        match old.get("metadata").and_then(|m| m.get(*field)) {
            Some(value) => metadata.insert((*field).to_owned(), value.clone()),
            None => metadata.remove(*field),
        };
    }
    for field in DROPPED {
        metadata.remove(*field);
    }
    drop_empty(new);
    Ok(())
}

/// One more generation after a change of the spec.
pub(crate) fn bump_generation(res: &Resource, old: &Value, new: &mut Value) {
    if !has_generation(res) {
        return;
    }
    // A Deployment's annotations reach its ReplicaSets, so they count as its spec does.
    let annotations = ["metadata", "annotations"];
    let changed = match res.kind {
        "EndpointSlice" => {
            ["endpoints", "ports", "addressType"].iter().any(|f| old.get(*f) != new.get(*f))
        }
        "Deployment" => {
            old.get("spec") != new.get("spec")
                || object::at(old, &annotations) != object::at(new, &annotations)
        }
        _ => old.get("spec") != new.get("spec"),
    };
    if changed {
        let generation =
            object::at(old, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
        object::set(new, &["metadata", "generation"], generation + 1);
    }
}

/// Marks an object as dying.
pub(crate) fn mark_deleted(value: &mut Value, at: jiff::Timestamp, grace: i64) {
    let end = at.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(at);
    object::set(value, &["metadata", "deletionTimestamp"], api::time::rfc3339(end));
    object::set(value, &["metadata", "deletionGracePeriodSeconds"], grace);
}

pub(crate) fn now() -> String {
    api::time::rfc3339(jiff::Timestamp::now())
}

/// Empty collections and nulls in the metadata say the same as their absence; upstream leaves them out.
fn drop_empty(value: &mut Value) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata
            .retain(|_, v| !(v.is_null() || *v == json!({}) || *v == json!([]) || *v == json!("")));
    }
}
