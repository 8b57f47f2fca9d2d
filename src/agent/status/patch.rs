//! The strategic merge patch that brings the API server's status to ours, leaving other writers' conditions alone.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

/// Fields that must be taken back explicitly when they are no longer set.
const REMOVABLE: [&str; 5] = ["reason", "message", "podIP", "podIPs", "initContainerStatuses"];

/// The patch from `old`, what was sent last, to `new`. The uid keeps it from reaching a namesake.
pub(crate) fn patch(
    uid: &str,
    new: &PodStatus,
    old: &PodStatus,
) -> Result<Value, serde_json::Error> {
    let mut status = object(serde_json::to_value(new)?);
    let old_status = object(serde_json::to_value(old)?);
    for field in REMOVABLE {
        if old_status.contains_key(field) && !status.contains_key(field) {
            status.insert(field.to_owned(), Value::Null);
        }
    }
    if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
        for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
            // Conditions are merged by type, so what is gone from one must be said.
            condition.entry("reason").or_insert(Value::Null);
            condition.entry("message").or_insert(Value::Null);
        }
    }
    if old_status.get("podIPs").is_some_and(|ips| Some(ips) != status.get("podIPs"))
        && let Some(Value::Array(ips)) = status.get_mut("podIPs")
    {
        ips.push(json!({"$patch": "replace"}));
    }
    Ok(json!({"metadata": {"uid": uid}, "status": status}))
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}
