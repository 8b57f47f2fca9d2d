//! Whether the node is as it was before an update: what is noted before, and what is missing after.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use client::{Backoff, Client, ListParams};
use k8s_openapi::api::core::v1::{Node, Pod};
use ota::{Before, Health, Places};
use tokio::time::Instant;
use tracing::{info, warn};

/// Pods of a node that are looked at.
const PODS_MAX: usize = 500;
/// How long the API server is asked for what works before the update.
const ASK_MAX: Duration = Duration::from_secs(60);
const ASK_PAUSE_FIRST: Duration = Duration::from_secs(1);
const ASK_PAUSE_MAX: Duration = Duration::from_secs(8);
const HEALTH_EVERY: Duration = Duration::from_secs(3);
/// Everything must be as before for this long.
const HEALTHY_FOR: Duration = Duration::from_secs(10);

/// What works now. The trial of a server is worth nothing without it; an agent's server may be away, and need not be there
/// after the update then.
pub(crate) async fn before(
    client: &Client,
    node: &str,
    is_server: bool,
) -> Result<Before, ota::Error> {
    match tried(|| pods_of(client, node)).await {
        Ok(pods) => Ok(noted(&pods)),
        Err(error) if is_server => Err(ota::Error::Before(format!("{error:#}"))),
        Err(error) => {
            warn!(%error, "the API server does not answer before the update, so it need not after it");
            Ok(Before::default())
        }
    }
}

/// Asks until there is an answer, for a bounded time.
async fn tried<T, F: Future<Output = Result<T>>>(ask: impl Fn() -> F) -> Result<T> {
    let end = Instant::now() + ASK_MAX;
    let mut backoff = Backoff::new(ASK_PAUSE_FIRST, ASK_PAUSE_MAX);
    loop {
        let answer = tokio::time::timeout_at(end, ask()).await;
        let error = match answer.unwrap_or_else(|_| Err(anyhow!("no answer came"))) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let pause = backoff.failed();
        if Instant::now() + pause >= end {
            return Err(error.context(format!("within {} s", ASK_MAX.as_secs())));
        }
        tokio::time::sleep(pause).await;
    }
}

fn noted(pods: &[Pod]) -> Before {
    let ready = pods.iter().filter(|pod| is_ready(pod) && is_kept(pod)).take(PODS_MAX);
    Before { server: true, pods: ready.map(|pod| (name(pod), containers(pod))).collect() }
}

/// Tells PID 1 whether the node is as it was before the update, until the process ends.
pub(crate) async fn judge(client: Client, node: String, before: Before) {
    let mut healthy_since = None;
    let mut told = None;
    let mut ticks = tokio::time::interval(HEALTH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let missing = missing_now(&client, &node, &before).await;
        let since = match missing.is_empty() {
            true => *healthy_since.get_or_insert_with(Instant::now),
            false => {
                healthy_since = None;
                Instant::now()
            }
        };
        let health = Health {
            healthy: missing.is_empty() && since.elapsed() >= HEALTHY_FOR,
            waiting: missing,
        };
        if told.as_ref() != Some(&health) {
            info!(healthy = health.healthy, missing = health.missing(), "trial");
            if let Err(error) = health.write(Path::new(Places::HEALTH)) {
                warn!(%error, "PID 1 does not hear of the node's health");
                continue;
            }
            told = Some(health);
        }
    }
}

/// What is still missing after the update; nothing when the node is as before.
async fn missing_now(client: &Client, node: &str, before: &Before) -> Vec<String> {
    let boot = sys::procfs::boot_id().unwrap_or_default();
    let found = async { Ok((client.get::<Node>("", node).await?, pods_of(client, node).await?)) };
    match found.await {
        Ok((found, pods)) => compare(&found, &pods, &boot, before),
        Err(_) if !before.server => Vec::new(),
        Err(error) => {
            let error: anyhow::Error = error;
            vec![format!("the API server does not answer: {error}")]
        }
    }
}

async fn pods_of(client: &Client, node: &str) -> Result<Vec<Pod>> {
    let params = ListParams::all().fields(format!("spec.nodeName={node}"));
    Ok(client.list::<Pod>("", &params).await?.items)
}

/// What differs from before. What the API server has may be older than the start: a status counts when it carries this
/// boot's identifier, a pod's when its containers are others than before.
fn compare(node: &Node, pods: &[Pod], boot: &str, before: &Before) -> Vec<String> {
    let mut missing = Vec::new();
    let status = node.status.as_ref();
    let is_fresh =
        status.and_then(|s| s.node_info.as_ref()).is_some_and(|info| info.boot_id == boot);
    let ready = status
        .and_then(|s| s.conditions.as_ref())
        .and_then(|list| list.iter().find(|condition| condition.type_ == "Ready"));
    match ready {
        Some(ready) if is_fresh && ready.status == "True" => {}
        Some(ready) if is_fresh => missing
            .push(format!("the node is not Ready: {}", ready.message.clone().unwrap_or_default())),
        _ => missing.push("the node has not said yet that it is Ready".to_owned()),
    }
    let by_name: BTreeMap<String, &Pod> = pods.iter().map(|pod| (name(pod), pod)).collect();
    for (name, containers_before) in &before.pods {
        // One that somebody deleted meanwhile is not waited for.
        let Some(pod) = by_name.get(name) else { continue };
        let is_new = containers(pod).iter().all(|id| !containers_before.contains(id));
        if !is_new || !is_ready(pod) {
            let why = waiting(pod).map_or(String::new(), |reason| format!(" ({reason})"));
            missing.push(format!("pod {name} ran before and is not ready{why}"));
        }
    }
    missing
}

fn name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    format!("{}/{}", text(&metadata.namespace), text(&metadata.name))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether the pod comes back after a restart of the machine.
fn is_kept(pod: &Pod) -> bool {
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    policy.is_none_or(|policy| policy == "Always")
}

fn containers(pod: &Pod) -> Vec<String> {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().filter_map(|status| status.container_id.clone()).collect()
}

fn waiting(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find_map(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(boot: &str, ready: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n"},
            "status": {"nodeInfo": {"bootID": boot, "machineID": "", "systemUUID": "", "kernelVersion": "",
                "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "",
                "operatingSystem": "", "architecture": ""},
                "conditions": [{"type": "Ready", "status": ready, "message": "no network"}]},
        }))
        .unwrap()
    }

    fn pod(name: &str, id: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default"},
            "status": {"conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [{"name": "c", "containerID": id, "ready": ready == "True", "image": "",
                    "imageID": "", "restartCount": 0, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
        }))
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_is_asked_again_for_a_bounded_time() {
        // After how many failures it answers; whether that is soon enough.
        for (failures, is_answer) in [(0, true), (1, true), (8, true), (20, false)] {
            let (asked, begin) = (std::cell::Cell::new(0), Instant::now());
            let answer = tried(|| {
                asked.set(asked.get() + 1);
                let count = asked.get();
                async move { if count > failures { Ok(()) } else { Err(anyhow!("refused")) } }
            });
            assert_eq!(answer.await.is_ok(), is_answer, "{failures}");
            assert!(begin.elapsed() <= ASK_MAX + ASK_PAUSE_MAX);
        }
        let silent = tried(std::future::pending::<Result<()>>).await;
        assert!(silent.unwrap_err().to_string().contains("within 60 s"));
    }

    #[test]
    fn a_node_is_compared_with_before() {
        let pods = [("default/a".to_owned(), vec!["1".to_owned()])].into();
        let before = Before { server: true, pods };
        let cases = [
            (node("new", "True"), vec![pod("a", "2", "True"), pod("b", "3", "False")], ""),
            (node("new", "True"), vec![], ""),
            (node("old", "True"), vec![], "has not said yet"),
            (node("new", "False"), vec![], "not Ready: no network"),
            (node("new", "True"), vec![pod("a", "1", "True")], "pod default/a ran before"),
            (node("new", "True"), vec![pod("a", "2", "False")], "not ready (CrashLoopBackOff)"),
        ];
        for (node, pods, expected) in cases {
            let text = compare(&node, &pods, "new", &before).join("; ");
            assert!(text.contains(expected) && text.is_empty() == expected.is_empty(), "{text}");
        }
    }
}
