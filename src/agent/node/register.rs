//! Making the node object, and keeping the labels that are the agent's own.

use std::collections::BTreeMap;

use client::Patch;
use k8s_openapi::api::core::v1::{Node, NodeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::notices::Board;
use super::status;
use crate::context::Context;
use crate::node_facts;

/// The node as the API server has it, made if it was not there.
pub(super) async fn register(ctx: &Context, notices: &Board) -> client::Result<Node> {
    let client = &ctx.config.client;
    let name = ctx.config.node_name.as_str();
    let wanted = labels(ctx);
    if let Some(node) = client.get_opt::<Node>("", name).await? {
        let given = node.metadata.labels.clone().unwrap_or_default();
        if wanted.iter().any(|(k, v)| given.get(k) != Some(v)) {
            let patch = Patch::Merge(json!({"metadata": {"labels": wanted}}));
            return client.patch::<Node>("", name, &patch).await;
        }
        return Ok(node);
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
        status: Some(status::compute(ctx, None, notices).await),
    };
    client.create(&node).await
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
