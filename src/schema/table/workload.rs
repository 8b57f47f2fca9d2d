//! Rows of Deployments, ReplicaSets, DaemonSets and their revisions.

use api::LabelSelector;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, cell, integer, list, name, or, pairs, text};

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

pub(super) fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let mut cells = vec![cell(name(object))];
    let counts = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ];
    cells.extend(counts.map(|field| json!(integer(status, field))));
    cells.push(cell(pairs(&spec["template"]["spec"]["nodeSelector"])));
    cells.push(age::age(object, now));
    cells.extend(wide(spec));
    cells
}

pub(super) fn controller_revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let owners = list(&object["metadata"], "ownerReferences");
    let controller = owners.iter().find(|o| o["controller"] == json!(true)).map(|owner| {
        let group = text(owner, "apiVersion").split_once('/').map_or("", |(group, _)| group);
        let kind = text(owner, "kind").to_lowercase();
        let kind = if group.is_empty() { kind } else { format!("{kind}.{group}") };
        format!("{kind}/{}", text(owner, "name"))
    });
    vec![
        cell(name(object)),
        cell(controller.as_deref().unwrap_or("<none>")),
        json!(integer(object, "revision")),
        age::age(object, now),
    ]
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
