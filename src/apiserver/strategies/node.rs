//! New nodes.

use crate::object;
use serde_json::{Value, json};

/// A new node takes no pods until the node controller has seen it ready.
pub(super) fn taint(value: &mut Value) {
    const NOT_READY: &str = "node.kubernetes.io/not-ready";
    let Some(spec) = object::object_mut(value, &["spec"]) else { return };
    let Some(taints) = spec.entry("taints").or_insert_with(|| json!([])).as_array_mut() else {
        return;
    };
    let tainted = taints.iter().any(|t| {
        object::text(t, &["key"]) == NOT_READY && object::text(t, &["effect"]) == "NoSchedule"
    });
    if !tainted {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}
