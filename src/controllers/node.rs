//! The node controller: pod ranges, and what to do about nodes that fall silent.

mod cidr;
mod plan;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use client::{Controller, Error, Key, NODE_LEASE_NAMESPACE, Outcome, key_of};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::shell::{self, Shell};

pub(crate) use plan::{Observed, plan};

/// One, because two could give the same range to different nodes.
const WORKERS: usize = 1;

/// When each node's lease was seen to change, by a clock that cannot jump: neither the node's nor ours is trusted.
#[derive(Default)]
struct Heartbeats {
    seen: Mutex<BTreeMap<String, (Option<Timestamp>, Instant)>>,
}

impl Heartbeats {
    /// The time of the last sign of life, as seen from `now`.
    fn last(&self, node: &str, lease: Option<&Lease>, now: Timestamp) -> Timestamp {
        let renewed =
            lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref()).map(|time| time.0);
        let mut seen = self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let entry = seen.entry(node.to_owned()).or_insert((renewed, Instant::now()));
        if entry.0 != renewed {
            *entry = (renewed, Instant::now());
        }
        // Whole seconds, as all times of a plan.
        let silence = SignedDuration::from_secs(
            i64::try_from(entry.1.elapsed().as_secs()).unwrap_or(i64::MAX),
        );
        now.checked_sub(silence).unwrap_or(now)
    }

    fn forget(&self, node: &str) {
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(node);
    }
}

pub(crate) async fn run(shell: Arc<Shell>, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<String>::new("node");
    let heartbeats = Arc::new(Heartbeats::default());
    let name = |key: Key| vec![key.1];
    controller.feed(&shell.caches.nodes, move |old, new| {
        new.or(old).map(key_of).map(name).unwrap_or_default()
    });
    controller.feed(&shell.caches.node_leases, move |_, new| {
        new.map(key_of).map(name).unwrap_or_default()
    });
    shell::run(controller, WORKERS, shell, shutdown, move |shell, name| {
        let heartbeats = heartbeats.clone();
        async move { reconcile(shell, heartbeats, name).await }
    })
    .await;
}

async fn reconcile(
    shell: Arc<Shell>,
    heartbeats: Arc<Heartbeats>,
    name: String,
) -> Result<Outcome, Error> {
    let Some(node) = shell.caches.nodes.get("", &name) else {
        heartbeats.forget(&name);
        return Ok(Outcome::Done);
    };
    let now = shell::now();
    let lease = shell.caches.node_leases.get(NODE_LEASE_NAMESPACE, &name);
    let has_range = node.spec.as_ref().is_some_and(|spec| spec.pod_cidr.is_some());
    let used = |shell: &Shell| {
        let nodes = shell.caches.nodes.list();
        nodes.iter().filter_map(|node| node.spec.as_ref()?.pod_cidr.clone()).collect()
    };
    let observed = Observed {
        heartbeat: heartbeats.last(&name, lease.as_deref(), now),
        used: if has_range { Vec::new() } else { used(&shell) },
        cluster_cidr: shell.config.cluster_cidr,
        node_mask: shell.config.node_mask,
        node: (*node).clone(),
    };
    shell.perform(plan(&observed, now)).await
}
