//! The lease that says "alive". It is kept in memory by the API server, so that a heartbeat costs no write.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};

use crate::context::Context;

const LEASE_EVERY: Duration = Duration::from_secs(10);
pub(crate) const LEASE_SECONDS: i32 = 40;
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Renews the node's lease for as long as the task lives.
pub(crate) async fn keep(ctx: Arc<Context>) {
    let mut current: Option<Lease> = None;
    let mut refused = false;
    let mut ticks = tokio::time::interval(LEASE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let renewed = tokio::time::timeout(LEASE_EVERY, renew(&ctx, current.take())).await;
        match renewed {
            Ok(Ok(lease)) => {
                current = Some(lease);
                refused = false;
            }
            // A server that is away is told of once, by the link.
            Ok(Err(error)) if !ctx.server_away() && !refused => {
                tracing::warn!(%error, "node lease not renewed");
                refused = true;
            }
            _ => {}
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
        // The first lease may have come before the node's registration.
        if lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty) {
            lease.metadata.owner_references = owner(ctx).await?;
        }
        return client.replace(&lease).await;
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            owner_references: owner(ctx).await?,
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

/// The node itself: the lease goes with it.
async fn owner(ctx: &Context) -> client::Result<Option<Vec<OwnerReference>>> {
    let name = ctx.config.node_name.as_str();
    let node = ctx.config.client.get_opt::<Node>("", name).await?;
    Ok(node.map(|node| {
        vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.to_owned(),
            uid: node.metadata.uid.unwrap_or_default(),
            ..OwnerReference::default()
        }]
    }))
}
