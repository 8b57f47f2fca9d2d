//! What a node's own user may touch: its Node, its Lease and the pods bound to it (upstream's NodeRestriction, the part
//! that needs no look at other objects).

use crate::answer::Result;
use crate::{User, object};
use api::{Resource, Status, Strategy};
use serde_json::{Value, json};

const USER_PREFIX: &str = "system:node:";

/// The node a user is, if it is one.
pub(crate) fn node_of(user: &User) -> Option<&str> {
    let member = user.groups.iter().any(|g| g == "system:nodes");
    user.name.strip_prefix(USER_PREFIX).filter(|name| member && !name.is_empty())
}

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

/// Refuses a node's writes to what is not its own. `old` is absent when creating.
pub(crate) fn check_node_restriction(
    user: &User,
    res: &'static Resource,
    subresource: &str,
    old: Option<&Value>,
    new: &Value,
) -> Result<()> {
    let Some(node) = node_of(user) else { return Ok(()) };
    let name = object::name(new);
    let refuse = |why: String| Err(Status::forbidden(res, name, &why));
    match (res.strategy, res.kind) {
        (Strategy::Node, _) if name != node => {
            refuse(format!("node {node:?} is not allowed to modify node {name:?}"))
        }
        (Strategy::Pod, _) => {
            let bound = object::text(old.unwrap_or(new), &["spec", "nodeName"]);
            let mirror =
                !object::text(new, &["metadata", "annotations", "kubernetes.io/config.mirror"])
                    .is_empty();
            match old {
                None if !mirror => refuse(format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
                )),
                // Else a node could name an account or a Secret in a mirror pod and then read it.
                None if !object::text(new, &["spec", "serviceAccountName"]).is_empty() => refuse(
                    format!("node {node:?} can not create pods that reference a service account"),
                ),
                _ if bound != node => refuse(format!(
                    "node {node:?} can only modify pods with spec.nodeName set to itself"
                )),
                Some(_) if subresource.is_empty() && old != Some(new) => {
                    refuse(format!("node {node:?} may change the status of its pods only"))
                }
                _ => Ok(()),
            }
        }
        (_, "Lease") if object::namespace(new) == "kube-node-lease" && name != node => {
            refuse(format!(
                "can only access node lease with the same name as the requesting node ({node})"
            ))
        }
        _ => Ok(()),
    }
}
