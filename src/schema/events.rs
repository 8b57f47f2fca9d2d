//! The two Event kinds are one object under two names for some fields; the core form is the stored one.

use serde_json::{Value, json};

/// (core name, events.k8s.io name)
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// A stored event as events.k8s.io/v1 shows it.
pub fn event_from_core(event: &mut Value) {
    rename(event, |core, new| (core, new), "events.k8s.io/v1");
}

/// An events.k8s.io/v1 event as it is stored.
pub fn event_to_core(event: &mut Value) {
    rename(event, |core, new| (new, core), "v1");
}

fn rename(
    event: &mut Value,
    direction: fn(&'static str, &'static str) -> (&'static str, &'static str),
    version: &str,
) {
    let Some(fields) = event.as_object_mut() else { return };
    for (core, new) in NAMES {
        let (from, to) = direction(core, new);
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
    fields.insert("apiVersion".to_owned(), json!(version));
}
