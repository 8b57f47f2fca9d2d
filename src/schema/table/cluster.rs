//! Rows of nodes, namespaces, events and the small kinds.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, cell, integer, list, name, or, size, text};

pub(super) fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let (status, info) = (&object["status"], &object["status"]["nodeInfo"]);
    vec![
        cell(name(object)),
        cell(node_status(object)),
        cell(roles(object)),
        age::age(object, now),
        cell(text(info, "kubeletVersion")),
        cell(address(status, "InternalIP")),
        cell(address(status, "ExternalIP")),
        cell(or(text(info, "osImage"), "<unknown>")),
        cell(or(text(info, "kernelVersion"), "<unknown>")),
        cell(or(text(info, "containerRuntimeVersion"), "<unknown>")),
    ]
}

fn node_status(node: &Value) -> String {
    let ready = list(&node["status"], "conditions").iter().find(|c| text(c, "type") == "Ready");
    let state = match ready.map(|c| text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let closed = node["spec"]["unschedulable"] == json!(true);
    if closed { format!("{state},SchedulingDisabled") } else { state.to_owned() }
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in node["metadata"]["labels"].as_object().into_iter().flatten() {
        let role = match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if key == "kubernetes.io/role" => value.as_str().unwrap_or_default(),
            None => "",
        };
        if !role.is_empty() && !roles.contains(&role) {
            roles.push(role);
        }
    }
    roles.sort_unstable();
    or(&roles.join(","), "<none>").to_owned()
}

fn address(status: &Value, kind: &str) -> String {
    let found = list(status, "addresses").iter().find(|a| text(a, "type") == kind);
    or(found.map_or("", |a| text(a, "address")), "<none>").to_owned()
}

pub(super) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![cell(name(object)), cell(text(&object["status"], "phase")), age::age(object, now)]
}

pub(super) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        cell(name(object)),
        cell(text(object, "type")),
        json!(size(object, "data")),
        age::age(object, now),
    ]
}

pub(super) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let keys = size(object, "data") + size(object, "binaryData");
    vec![cell(name(object)), json!(keys), age::age(object, now)]
}

pub(super) fn service_account(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![cell(name(object)), json!(list(object, "secrets").len()), age::age(object, now)]
}

pub(super) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![cell(name(object)), cell(text(&object["spec"], "holderIdentity")), age::age(object, now)]
}

pub(super) fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let present = |field: &str| object.get(field).filter(|time| !time.is_null());
    let first = age::since(present("firstTimestamp").unwrap_or(&object["eventTime"]), now);
    let mut last = present("lastTimestamp").map_or(first.clone(), |time| age::since(time, now));
    let mut count = integer(object, "count").max(1);
    if let Some(series) = present("series") {
        last = age::since(&series["lastObservedTime"], now);
        count = integer(series, "count");
    }
    let about = &object["involvedObject"];
    let mut target = text(about, "kind").to_lowercase();
    if !text(about, "name").is_empty() {
        target = format!("{target}/{}", text(about, "name"));
    }
    vec![
        cell(last),
        cell(text(object, "type")),
        cell(text(object, "reason")),
        cell(target),
        cell(text(about, "fieldPath")),
        cell(event_source(object)),
        cell(text(object, "message").trim()),
        cell(first),
        json!(count),
        cell(name(object)),
    ]
}

fn event_source(event: &Value) -> String {
    let component = or(text(&event["source"], "component"), text(event, "reportingComponent"));
    let host = or(text(&event["source"], "host"), text(event, "reportingInstance"));
    match host {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    }
}
