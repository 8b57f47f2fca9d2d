//! The admission of what nodes write: their Node without labels that steer pods to them, their Lease, the status of
//! their pods, mirror pods, and tokens of accounts of their pods.

use super::node_of;
use super::pods::{Kind, all_named};
use crate::answer::Result;
use crate::{ApiServer, User, object};
use api::{Resource, Status, Strategy};
use serde_json::{Value, json};

const MIRROR: &str = "kubernetes.io/config.mirror";
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels in the domains of Kubernetes that nodes may give themselves.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];
const OWN_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Refuses a node's writes to what is not its own. `old` is absent when creating.
pub(crate) async fn check(
    server: &ApiServer,
    user: &User,
    res: &'static Resource,
    subresource: &str,
    old: Option<&Value>,
    new: &Value,
) -> Result<()> {
    let Some(node) = node_of(user).filter(|_| !user.is_master()) else { return Ok(()) };
    let refusal = match (res.strategy, res.kind, old) {
        (Strategy::Node, ..) => {
            let server_node = server.config.server_node.as_deref() == Some(node);
            node_object(node, server_node, old, new)
        }
        (Strategy::Pod, _, None) => mirror_pod(server, node, new).await?,
        (Strategy::Pod, _, Some(old)) => pod_change(node, subresource, old, new),
        (_, "Lease", _) if object::namespace(new) != "kube-node-lease" => {
            Some("can only access leases in the \"kube-node-lease\" system namespace".to_owned())
        }
        (_, "Lease", _) if object::name(new) != node => {
            Some("can only access node lease with the same name as the requesting node".to_owned())
        }
        _ => None,
    };
    match refusal {
        Some(why) => Err(Status::forbidden(res, object::name(new), &why)),
        None => Ok(()),
    }
}

/// Refuses the deletion or eviction of what is not the node's.
pub(crate) fn check_delete(
    user: &User,
    res: &'static Resource,
    old: &Value,
    what: &str,
) -> Result<()> {
    let Some(node) = node_of(user).filter(|_| !user.is_master()) else { return Ok(()) };
    let name = object::name(old);
    let why = match res.strategy {
        Strategy::Pod if object::text(old, &["spec", "nodeName"]) != node => {
            format!("node {node:?} can only {what} pods with spec.nodeName set to itself")
        }
        Strategy::Node if name != node => {
            format!("node {node:?} is not allowed to modify node {name:?}")
        }
        _ => return Ok(()),
    };
    Err(Status::forbidden(res, name, &why))
}

/// Refuses a token that is not bound to a pod on the node; `pod` is the pod that the request names.
pub(crate) fn check_token(
    user: &User,
    reference: &Value,
    pod: Option<&Value>,
) -> std::result::Result<(), &'static str> {
    let Some(node) = node_of(user).filter(|_| !user.is_master()) else { return Ok(()) };
    let text = |field: &str| object::text(reference, &[field]);
    if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
        return Err("node requested token not bound to a pod");
    }
    if text("uid").is_empty() {
        return Err("node requested token with a pod binding without a uid");
    }
    match pod.map(|pod| object::text(pod, &["spec", "nodeName"])) {
        Some(home) if home != node => {
            Err("node requested token bound to a pod scheduled on a different node")
        }
        _ => Ok(()),
    }
}

fn node_object(node: &str, server_node: bool, old: Option<&Value>, new: &Value) -> Option<String> {
    let name = object::name(new);
    if name != node {
        return Some(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let same = |path: &[&str]| {
        let value = |object| object::at(object, path).filter(|v| **v != json!([]));
        old.is_none_or(|old| value(old) == value(new))
    };
    if !same(&["spec", "taints"]) {
        return Some(format!("node {node:?} is not allowed to modify taints"));
    }
    if !same(&["metadata", "ownerReferences"]) {
        return Some(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    let forbidden: Vec<String> = changed_labels(old, new)
        .into_iter()
        .filter(|label| is_forbidden(label) && !(server_node && label == CONTROL_PLANE))
        .collect();
    match (forbidden.is_empty(), old) {
        (true, _) => None,
        (false, None) => Some(format!(
            "node {node:?} is not allowed to set the following labels: {}",
            forbidden.join(", ")
        )),
        (false, Some(_)) => {
            Some(format!("is not allowed to modify labels: {}", forbidden.join(", ")))
        }
    }
}

fn changed_labels(old: Option<&Value>, new: &Value) -> Vec<String> {
    let nothing = Value::Null;
    let labels = |object: &Value| object::at(object, &["metadata", "labels"]).cloned();
    let (old, new) = (labels(old.unwrap_or(&nothing)), labels(new));
    let value = |labels: &Option<Value>, key: &str| {
        labels.as_ref().and_then(|labels| labels.get(key)).cloned()
    };
    let keys = [&old, &new].into_iter().flatten().filter_map(Value::as_object).flatten();
    let mut changed: Vec<String> = keys
        .map(|(key, _)| key.clone())
        .filter(|key| value(&old, key) != value(&new, key))
        .collect();
    changed.sort();
    changed.dedup();
    changed
}

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let below =
        |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|d| d.ends_with('.'));
    if below(RESTRICTED) {
        return true;
    }
    let kubernetes = below("kubernetes.io") || below("k8s.io");
    let own = OWN_LABELS.contains(&label) || OWN_DOMAINS.iter().any(|of| below(of));
    kubernetes && !own
}

/// Why a node may not create the pod.
async fn mirror_pod(server: &ApiServer, node: &str, pod: &Value) -> Result<Option<String>> {
    if object::text(pod, &["metadata", "annotations", MIRROR]).is_empty() {
        return Ok(Some(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        )));
    }
    if object::text(pod, &["spec", "nodeName"]) != node {
        return Ok(Some(format!(
            "node {node:?} can only create pods with spec.nodeName set to itself"
        )));
    }
    let nodes = api::find("", "v1", "nodes").ok_or_else(Status::no_such_resource)?;
    let entry = server.find(nodes, "", node).await?;
    let uid = match &entry {
        Some(entry) => object::uid(&object::decode(&entry.value)?).to_owned(),
        None => return Err(Status::not_found(nodes, node)),
    };
    if let Some(why) = wrong_owner(node, &uid, pod) {
        return Ok(Some(why));
    }
    let mut named = Vec::new();
    all_named(pod, &mut named);
    let names = |kind: Kind| named.iter().any(|(k, _)| *k == kind);
    for (kind, what) in [
        (Kind::Account, "a service account"),
        (Kind::Secret, "secrets"),
        (Kind::ConfigMap, "configmaps"),
        (Kind::Claim, "persistentvolumeclaims"),
    ] {
        if names(kind) {
            return Ok(Some(format!("node {node:?} can not create pods that reference {what}")));
        }
    }
    Ok(None)
}

/// A mirror pod goes with its node.
fn wrong_owner(node: &str, uid: &str, pod: &Value) -> Option<String> {
    let owners = object::at(pod, &["metadata", "ownerReferences"]).and_then(Value::as_array);
    let owner = match owners.map(Vec::as_slice) {
        Some([owner]) => owner,
        Some([_, ..]) => {
            return Some(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
        _ => {
            return Some(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
    };
    let text = |field: &str| object::text(owner, &[field]);
    if (text("apiVersion"), text("kind"), text("name")) != ("v1", "Node", node) {
        return Some(format!(
            "node {node:?} can only create pods with an owner reference set to itself"
        ));
    }
    if owner["controller"] != json!(true) {
        return Some(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner["blockOwnerDeletion"] == json!(true) {
        return Some(format!(
            "node {node:?} must not set blockOwnerDeletion on an owner reference"
        ));
    }
    let given = text("uid");
    (given != uid).then(|| format!("node {node} UID mismatch: expected {given} got {uid}"))
}

fn pod_change(node: &str, subresource: &str, old: &Value, new: &Value) -> Option<String> {
    let labels = |pod: &Value| {
        object::at(pod, &["metadata", "labels"]).filter(|labels| **labels != json!({})).cloned()
    };
    match subresource {
        "status" if object::text(old, &["spec", "nodeName"]) != node => Some(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        )),
        "status" if labels(old) != labels(new) => {
            Some(format!("node {node:?} cannot update labels through pod status"))
        }
        "status" => None,
        _ => Some("unexpected operation \"UPDATE\"".to_owned()),
    }
}
