//! What the node says of itself, and whether that is news.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::notices::Board;
use crate::context::Context;
use crate::node_facts;
use crate::status::whole_seconds;

/// Images named in the node's status, the largest first.
const IMAGES_MAX: usize = 50;

pub(super) async fn compute(ctx: &Context, node: Option<&Node>, notices: &Board) -> NodeStatus {
    let given = node.and_then(|n| n.status.clone()).unwrap_or_default();
    let runtime = ctx.config.runtime.version().await.map_err(|e| e.to_string());
    let capacity = node_facts::capacity(&ctx.facts, ctx.config.max_pods);
    let port = i32::from(ctx.config.kubelet_port);
    let now = Timestamp::now();
    let mut all = conditions(runtime.map(drop), ctx.config.network.ready(), &given, now);
    all.extend(notices.conditions(&given, now));
    NodeStatus {
        addresses: Some(addresses(ctx)),
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        conditions: Some(all),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port }),
        }),
        images: Some(images(ctx)),
        node_info: Some(ctx.facts.info.clone()),
        ..NodeStatus::default()
    }
}

fn addresses(ctx: &Context) -> Vec<NodeAddress> {
    let of = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let internal = ctx.host_ips().into_iter().map(|ip| of("InternalIP", ip));
    let external = ctx.config.external_ips.iter().map(|ip| of("ExternalIP", ip.to_string()));
    internal.chain(external).chain([of("Hostname", ctx.config.node_name.clone())]).collect()
}

fn images(ctx: &Context) -> Vec<ContainerImage> {
    let mut images = ctx.config.images.list();
    images.sort_by_key(|i| std::cmp::Reverse(i.size));
    let one = |image: runtime::image::Image| ContainerImage {
        names: Some(image.digests.into_iter().chain(image.references).collect()),
        size_bytes: i64::try_from(image.size).ok(),
    };
    images.into_iter().take(IMAGES_MAX).map(one).collect()
}

/// The node's conditions; a condition that did not change keeps its transition time.
pub(crate) fn conditions(
    runtime: Result<(), String>,
    network: bool,
    given: &NodeStatus,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let ready = match (runtime, network) {
        (Err(error), _) => Err(format!("[container runtime is down: {error}]")),
        (Ok(()), false) => Err("container runtime network not ready: NetworkReady=false \
                                reason:NetworkPluginNotReady message:Network plugin returns error: \
                                the node has no pod network yet"
            .to_owned()),
        (Ok(()), true) => Ok(()),
    };
    let ready = match ready {
        Ok(()) => ("Ready", "True", "KubeletReady", "kubelet is posting ready status".to_owned()),
        Err(message) => ("Ready", "False", "KubeletNotReady", message),
    };
    let calm = |kind, reason, message: &str| (kind, "False", reason, message.to_owned());
    let all = [
        calm(
            "MemoryPressure",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        calm("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        calm("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ready,
    ];
    let time = Time(whole_seconds(now));
    let make = |(kind, status, reason, message): (&str, &str, &str, String)| {
        let before =
            given.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(time.clone()),
            last_transition_time: before
                .and_then(|c| c.last_transition_time.clone())
                .or(Some(time.clone())),
        }
    };
    all.into_iter().map(make).collect()
}

pub(super) fn ready_status(status: Option<&NodeStatus>) -> Option<&str> {
    let conditions = status?.conditions.iter().flatten();
    conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.status.as_str())
}

/// Whether the API server has all of `ours`; the times of heartbeats do not count, the lease has those.
pub(super) fn says(theirs: &NodeStatus, ours: &NodeStatus) -> bool {
    let lasting = |status: &NodeStatus| NodeStatus {
        addresses: status.addresses.clone(),
        allocatable: status.allocatable.clone(),
        capacity: status.capacity.clone(),
        conditions: Some(own_conditions(status, ours)),
        daemon_endpoints: status.daemon_endpoints.clone(),
        images: status.images.clone().filter(|images| !images.is_empty()),
        node_info: status.node_info.clone(),
        ..NodeStatus::default()
    };
    lasting(theirs) == lasting(ours)
}

/// Conditions of the kinds that are in `ours`, in their order and without what changes all the time.
fn own_conditions(status: &NodeStatus, ours: &NodeStatus) -> Vec<NodeCondition> {
    let kinds = ours.conditions.iter().flatten().map(|c| &c.type_);
    let find = |kind: &String| status.conditions.iter().flatten().find(|c| c.type_ == *kind);
    let bare = |c: &NodeCondition| NodeCondition {
        last_heartbeat_time: None,
        last_transition_time: None,
        ..c.clone()
    };
    kinds.filter_map(find).map(bare).collect()
}

/// The patch that makes the API server's status ours. Addresses are merged by their type there, so they are replaced as a
/// whole.
pub(super) fn patch(ours: &NodeStatus) -> Value {
    let mut body = json!({"status": ours});
    if let Some(addresses) = body["status"]["addresses"].as_array_mut() {
        addresses.push(json!({"$patch": "replace"}));
    }
    body
}
