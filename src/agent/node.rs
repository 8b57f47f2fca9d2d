//! The node object: registration, status on change (and rarely otherwise), and the lease that says "alive".

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Cache, Change, EventType, ListParams, Patch};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeSpec, NodeStatus, ObjectReference,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use runtime::protocol::Event;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::context::Context;
use crate::node_facts;
use crate::status::whole_seconds;

const HEARTBEAT: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(1);
/// How often a node that is not ready looks again, beside reacting to what changes.
const UNREADY_LOOK: Duration = Duration::from_secs(10);
const LEASE_EVERY: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Images named in the node's status, the largest first.
const IMAGES_MAX: usize = 50;

/// Registers the node and keeps its status; tells `ready` when pods can be attached to the network.
pub(crate) async fn run(ctx: Arc<Context>, ready: watch::Sender<bool>) {
    let name = ctx.config.node_name.clone();
    register_until_done(&ctx).await;
    let event = |reason: &str, message: String| node_event(&ctx, reason, message);
    event("Starting", "Starting kubelet.".to_owned());
    let params = ListParams::all().fields(format!("metadata.name={name}"));
    let cache: Cache<Node> = Cache::start(ctx.config.client.clone(), params);
    let mut changes = cache.subscribe();
    let mut runtime_events = ctx.config.runtime.events();
    let mut cidr = String::new();
    let mut was_ready = false;
    let mut next = Instant::now();
    loop {
        let due = tokio::select! {
            change = changes.next() => {
                if matches!(change, Change::Object { new: None, .. }) || cache.get("", &name).is_none() {
                    // Somebody deleted the node while its agent lives.
                    register_until_done(&ctx).await;
                }
                // Nobody heard of this agent for a while, and the node controller said so.
                cache.get("", &name).is_some_and(|node| ready_status(node.status.as_ref()) == Some("Unknown"))
            }
            Some(event) = runtime_events.next() => event == Event::Lost,
            () = tokio::time::sleep_until(next) => true,
        };
        match follow_cidr(&ctx, cache.get("", &name).as_deref(), &mut cidr).await {
            Range::New => {}
            Range::Same if due => {}
            Range::Same => continue,
            Range::Failed => {
                next = next.min(Instant::now() + RETRY);
                if !due {
                    continue;
                }
            }
        }
        ready.send_replace(ctx.config.network.ready());
        let status = status(&ctx, cache.get("", &name).as_deref()).await;
        let is_ready = ready_status(Some(&status)) == Some("True");
        let wait = match send(&ctx, &name, &status).await {
            Ok(()) if is_ready => HEARTBEAT,
            Ok(()) => UNREADY_LOOK,
            Err(error) => {
                tracing::warn!(%error, "node status not sent");
                RETRY
            }
        };
        next = Instant::now() + wait;
        if is_ready && !was_ready {
            event("NodeReady", format!("Node {name} status is now: NodeReady"));
        }
        was_ready = is_ready;
    }
}

/// What became of the node's pod range.
enum Range {
    Same,
    New,
    Failed,
}

/// Hands a new pod range to the network.
async fn follow_cidr(ctx: &Context, node: Option<&Node>, known: &mut String) -> Range {
    let spec = node.and_then(|n| n.spec.as_ref());
    let wanted = spec.and_then(|s| s.pod_cidr.clone()).unwrap_or_default();
    if wanted.is_empty() || wanted == *known {
        return Range::Same;
    }
    match ctx.config.network.set_pod_cidr(&wanted).await {
        Ok(()) => {
            *known = wanted;
            Range::New
        }
        Err(error) => {
            tracing::warn!(cidr = wanted, error, "pod network not set up");
            Range::Failed
        }
    }
}

fn node_event(ctx: &Context, reason: &str, message: String) {
    let name = ctx.config.node_name.clone();
    let object = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        uid: Some(name.clone()),
        name: Some(name),
        ..ObjectReference::default()
    };
    ctx.recorder.event(&object, EventType::Normal, reason, message);
}

async fn register_until_done(ctx: &Context) {
    while let Err(error) = register(ctx).await {
        tracing::warn!(%error, "node not registered");
        tokio::time::sleep(RETRY).await;
    }
}

async fn register(ctx: &Context) -> client::Result<()> {
    let client = &ctx.config.client;
    let name = ctx.config.node_name.as_str();
    let wanted = labels(ctx);
    if let Some(node) = client.get_opt::<Node>("", name).await? {
        let given = node.metadata.labels.clone().unwrap_or_default();
        if wanted.iter().any(|(k, v)| given.get(k) != Some(v)) {
            let patch = Patch::Merge(json!({"metadata": {"labels": wanted}}));
            client.patch::<Node>("", name, &patch).await?;
        }
        return Ok(());
    }
    let taints = ctx.config.registration.taints.clone();
    let node = Node {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(wanted),
            annotations: Some(ctx.config.registration.annotations.clone())
                .filter(|a| !a.is_empty()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!taints.is_empty()).then_some(taints),
            ..NodeSpec::default()
        }),
        status: Some(status(ctx, None).await),
    };
    match client.create(&node).await {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}

fn labels(ctx: &Context) -> BTreeMap<String, String> {
    let registration = &ctx.config.registration;
    let kind =
        Some(registration.instance_type.as_str()).filter(|t| !t.is_empty()).unwrap_or("copepod");
    let arch = node_facts::architecture();
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", ctx.config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
        ("node.kubernetes.io/instance-type", kind),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect();
    if registration.server {
        labels.insert("node-role.kubernetes.io/control-plane".to_owned(), "true".to_owned());
    }
    labels.extend(registration.labels.clone());
    labels
}

async fn status(ctx: &Context, node: Option<&Node>) -> NodeStatus {
    let given = node.and_then(|n| n.status.clone()).unwrap_or_default();
    let runtime = ctx.config.runtime.version().await.map_err(|e| e.to_string());
    let capacity = node_facts::capacity(&ctx.facts, ctx.config.max_pods);
    let port = i32::from(ctx.config.kubelet_port);
    NodeStatus {
        addresses: Some(addresses(ctx)),
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        conditions: Some(conditions(
            runtime.map(drop),
            ctx.config.network.ready(),
            &given,
            Timestamp::now(),
        )),
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
    let internal = ctx.config.node_ips.iter().map(|ip| of("InternalIP", ip.to_string()));
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

fn ready_status(status: Option<&NodeStatus>) -> Option<&str> {
    let conditions = status?.conditions.iter().flatten();
    conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.status.as_str())
}

async fn send(ctx: &Context, name: &str, status: &NodeStatus) -> client::Result<()> {
    let patch = Patch::Strategic(json!({"status": status}));
    ctx.config.client.patch_sub::<Node>("", name, "status", &patch).await.map(drop)
}

/// Renews the node's lease for as long as the task lives.
pub(crate) async fn keep_lease(ctx: Arc<Context>) {
    let mut current: Option<Lease> = None;
    let mut ticks = tokio::time::interval(LEASE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match renew(&ctx, current.take()).await {
            Ok(lease) => current = Some(lease),
            Err(error) => tracing::warn!(%error, "node lease not renewed"),
        }
    }
}

async fn renew(ctx: &Context, current: Option<Lease>) -> client::Result<Lease> {
    let client = &ctx.config.client;
    let name = ctx.config.node_name.as_str();
    let known = match current {
        Some(lease) => Some(lease),
        None => client.get_opt::<Lease>(LEASE_NAMESPACE, name).await?,
    };
    let now = MicroTime(Timestamp::now());
    if let Some(mut lease) = known {
        let spec = lease.spec.get_or_insert_default();
        spec.renew_time = Some(now);
        spec.holder_identity = Some(name.to_owned());
        spec.lease_duration_seconds = Some(LEASE_SECONDS);
        return client.replace(&lease).await;
    }
    let owner = client.get_opt::<Node>("", name).await?.map(|node| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: node.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            owner_references: owner.map(|o| vec![o]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    client.create(&lease).await
}
