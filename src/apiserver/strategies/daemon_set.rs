//! DaemonSets: the counts a new one starts with, and the generation of its template.

use crate::object;
use serde_json::{Value, json};

/// Counts changes of the template; old controllers label pods with it.
const TEMPLATE_GENERATION: &[&str] =
    &["metadata", "annotations", "deprecated.daemonset.template.generation"];

pub(super) fn prepare_create(value: &mut Value) {
    let status = json!({
        "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
    });
    object::set(value, &["status"], status);
    object::set(value, TEMPLATE_GENERATION, "1");
}

/// The annotation is the server's: it keeps its value until the template changes. `new` has no defaults yet, so it is
/// compared as it will be stored.
pub(super) fn prepare_update(old: &Value, new: &mut Value) {
    let mut complete = new.clone();
    if let Some(res) = api::find("apps", "v1", "daemonsets") {
        schema::default(res, &mut complete);
    }
    let template = |set: &Value| object::at(set, &["spec", "template"]).cloned();
    let changed = template(old) != template(&complete);
    let generation: i64 = object::text(old, TEMPLATE_GENERATION).parse().unwrap_or(0);
    let generation = if changed { generation + 1 } else { generation };
    object::set(new, TEMPLATE_GENERATION, generation.to_string());
}
