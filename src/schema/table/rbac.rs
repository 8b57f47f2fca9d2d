//! Rows of roles and their bindings.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Column, NAME, age, cell, list, name, text};

pub(super) const ROLE: &[Column] = &[NAME, ("Created At", "string", 0)];
pub(super) const BINDING: &[Column] = &[
    NAME,
    ("Role", "string", 0),
    AGE,
    ("Users", "string", 1),
    ("Groups", "string", 1),
    ("ServiceAccounts", "string", 1),
];

pub(super) fn role(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![cell(name(object)), cell(text(&object["metadata"], "creationTimestamp"))]
}

pub(super) fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = &object["roleRef"];
    let subjects = |kind: &str| {
        let named = list(object, "subjects").iter().filter(|s| text(s, "kind") == kind);
        let shown: Vec<String> = named
            .map(|s| match kind {
                "ServiceAccount" => format!("{}/{}", text(s, "namespace"), text(s, "name")),
                _ => text(s, "name").to_owned(),
            })
            .collect();
        cell(shown.join(", "))
    };
    vec![
        cell(name(object)),
        cell(format!("{}/{}", text(role, "kind"), text(role, "name"))),
        age::age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}
