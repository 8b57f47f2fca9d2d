//! Rows of Deployments and ReplicaSets.

use api::LabelSelector;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, cell, integer, list, name, or, text};

pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let mut cells = vec![
        cell(name(object)),
        cell(format!("{}/{}", integer(status, "readyReplicas"), integer(spec, "replicas"))),
        json!(integer(status, "updatedReplicas")),
        json!(integer(status, "availableReplicas")),
        age::age(object, now),
    ];
    cells.extend(wide(spec));
    cells
}

pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let mut cells = vec![
        cell(name(object)),
        json!(integer(spec, "replicas")),
        json!(integer(status, "replicas")),
        json!(integer(status, "readyReplicas")),
        age::age(object, now),
    ];
    cells.extend(wide(spec));
    cells
}

fn wide(spec: &Value) -> [Value; 3] {
    let containers = list(&spec["template"]["spec"], "containers");
    let joined =
        |field: &str| containers.iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",");
    let selector = match spec.get("selector").map(LabelSelector::from_value) {
        Some(Ok(selector)) => selector.to_string(),
        Some(Err(_)) => "<error>".to_owned(),
        None => String::new(),
    };
    [cell(joined("name")), cell(joined("image")), cell(or(&selector, "<none>"))]
}
