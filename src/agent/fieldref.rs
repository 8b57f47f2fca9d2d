//! The downward API: fields of the pod and resources of a container as text.

use std::collections::BTreeMap;

use api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::resources;

/// What only the node knows about a pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeFields {
    pub(crate) node_name: String,
    pub(crate) host_ips: Vec<String>,
    pub(crate) pod_ips: Vec<String>,
    /// Millicores; the value of `limits.cpu` where a container has none.
    pub(crate) allocatable_cpu: i64,
    pub(crate) allocatable_memory: i64,
}

/// The value of a `fieldRef` path.
pub(crate) fn field(pod: &Pod, node: &NodeFields, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((base, key)) = subscript(path) {
        let map = match base {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    match path {
        "metadata.name" => Ok(text(meta.name.as_ref())),
        "metadata.namespace" => Ok(text(meta.namespace.as_ref())),
        "metadata.uid" => Ok(text(meta.uid.as_ref())),
        "metadata.labels" => Ok(format_map(meta.labels.as_ref())),
        "metadata.annotations" => Ok(format_map(meta.annotations.as_ref())),
        "spec.nodeName" => Ok(node.node_name.clone()),
        "spec.serviceAccountName" => Ok(text(spec.and_then(|s| s.service_account_name.as_ref()))),
        "status.hostIP" => Ok(text(node.host_ips.first())),
        "status.hostIPs" => Ok(node.host_ips.join(",")),
        "status.podIP" => Ok(text(node.pod_ips.first())),
        "status.podIPs" => Ok(node.pod_ips.join(",")),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (base, rest) = path.split_once("['")?;
    Some((base, rest.strip_suffix("']")?))
}

fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

/// The value of a `resourceFieldRef`, in units of its divisor, rounded up.
pub(crate) fn resource(
    pod: &Pod,
    own: &Container,
    node: &NodeFields,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let container = match selector.container_name.as_deref() {
        None | Some("") => own,
        Some(name) => named(pod, name).ok_or_else(|| format!("container {name} not found"))?,
    };
    let (side, name) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let declared = container.resources.as_ref();
    let value = match (side, name) {
        ("limits", "cpu") => or(resources::limit(declared, name), node.allocatable_cpu),
        ("limits", "memory") => or(resources::limit(declared, name), node.allocatable_memory),
        ("limits", _) => resources::limit(declared, name),
        ("requests", _) => resources::request(declared, name),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    Ok(divide(value, selector.divisor.as_ref().map(|d| d.0.as_str()), name == "cpu"))
}

fn named<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    resources::containers(pod.spec.as_ref()?).find(|c| c.name == name)
}

fn or(value: i64, fallback: i64) -> i64 {
    if value > 0 { value } else { fallback }
}

/// `value` is in millis for CPU, so the divisor is compared in millis too.
fn divide(value: i64, divisor: Option<&str>, milli: bool) -> String {
    let unit = if milli { 1000 } else { 1 };
    let parsed = divisor.and_then(|d| Amount::parse(d).ok());
    let by: i64 = match parsed {
        Some(amount) if milli => amount.milli_value(),
        Some(amount) => amount.value(),
        None => unit,
    };
    let by = if by > 0 { by } else { unit };
    (value / by + i64::from(value % by > 0)).to_string()
}
