//! `/stats/summary` and `/metrics/resource`: what metrics-server and people ask of a kubelet.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;
use runtime::protocol::Stats;
use serde_json::{Value, json};

use super::{Answer, internal, metrics, respond};
use crate::actor::View;
use crate::clock::from_nanos;
use crate::context::Context;

/// One container with what it uses; containers without a process are left out.
pub(super) struct Usage {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) uid: String,
    pub(super) container: String,
    pub(super) started: Timestamp,
    pub(super) stats: Stats,
}

async fn usages(ctx: &Context, pods: &[Arc<View>]) -> Vec<Usage> {
    let mut found = Vec::new();
    for view in pods {
        let meta = &view.pod.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        for status in view.status.container_statuses.iter().flatten() {
            let running = status.state.as_ref().and_then(|s| s.running.as_ref());
            let id = status.container_id.as_deref().and_then(|id| id.strip_prefix("copepod://"));
            let (Some(running), Some(id)) = (running, id) else { continue };
            // One that has just ended has no figures; the others count.
            let Ok(stats) = ctx.config.runtime.stats(id).await else { continue };
            found.push(Usage {
                namespace: text(&meta.namespace),
                pod: text(&meta.name),
                uid: text(&meta.uid),
                container: status.name.clone(),
                started: running.started_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0),
                stats,
            });
        }
    }
    found
}

pub(super) async fn summary(ctx: &Context, pods: &[Arc<View>]) -> Answer {
    let usages = usages(ctx, pods).await;
    let items: Vec<Value> = pods.iter().map(|view| pod_summary(view, &usages)).collect();
    let total = i64::try_from(sys::procfs::memory_total().map_err(internal)?).unwrap_or(i64::MAX);
    let free = i64::try_from(sys::procfs::memory_available().map_err(internal)?).unwrap_or(0);
    let summary = json!({
        "node": {
            "nodeName": ctx.config.node_name,
            "cpu": {
                "time": Timestamp::now().to_string(),
                "usageCoreNanoSeconds": metrics::node_cpu_seconds().map(|s| (s * 1e9) as u64),
            },
            "memory": {
                "time": Timestamp::now().to_string(),
                "availableBytes": free,
                "workingSetBytes": total.saturating_sub(free),
            },
        },
        "pods": items,
    });
    Ok(respond(StatusCode::OK, "application/json", summary.to_string()))
}

fn pod_summary(view: &View, usages: &[Usage]) -> Value {
    let meta = &view.pod.metadata;
    let own: Vec<&Usage> = usages.iter().filter(|u| Some(&u.uid) == meta.uid.as_ref()).collect();
    let sum = |of: fn(&Stats) -> u64| own.iter().map(|u| of(&u.stats)).sum::<u64>();
    let now = Timestamp::now().to_string();
    let containers: Vec<Value> = own
        .iter()
        .map(|u| json!({"name": u.container, "startTime": u.started.to_string(), "cpu": cpu(&u.stats), "memory": memory(&u.stats)}))
        .collect();
    json!({
        "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        "startTime": view.status.start_time,
        "containers": containers,
        "cpu": {"time": now, "usageCoreNanoSeconds": sum(|s| s.cpu_ns)},
        "memory": {"time": now, "workingSetBytes": sum(|s| s.working_set), "usageBytes": sum(|s| s.memory_bytes)},
    })
}

fn cpu(stats: &Stats) -> Value {
    json!({"time": from_nanos(stats.taken_at).to_string(), "usageCoreNanoSeconds": stats.cpu_ns})
}

fn memory(stats: &Stats) -> Value {
    json!({
        "time": from_nanos(stats.taken_at).to_string(),
        "usageBytes": stats.memory_bytes,
        "workingSetBytes": stats.working_set,
        "rssBytes": stats.rss,
        "pageFaults": stats.page_faults,
        "majorPageFaults": stats.major_page_faults,
    })
}

pub(super) async fn resource_metrics(ctx: &Context, pods: &[Arc<View>]) -> Answer {
    let usages = usages(ctx, pods).await;
    let mut text = metrics::Text(exposition(&usages));
    pods_and_node(&mut text, &usages);
    Ok(respond(StatusCode::OK, metrics::KIND, text.0))
}

/// What the pods use together, and the machine.
fn pods_and_node(text: &mut metrics::Text, usages: &[Usage]) {
    let mut sums: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for usage in usages {
        let sum = sums.entry((&usage.namespace, &usage.pod)).or_default();
        sum.0 += usage.stats.cpu_ns;
        sum.1 += usage.stats.working_set;
    }
    let seconds = |ns: u64| format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    let name = "pod_cpu_usage_seconds_total";
    text.family(
        name,
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    for ((namespace, pod), (cpu, _)) in &sums {
        text.sample(name, &[("namespace", namespace), ("pod", pod)], seconds(*cpu));
    }
    let name = "pod_memory_working_set_bytes";
    text.family(name, "gauge", "[STABLE] Current working set of the pod in bytes");
    for ((namespace, pod), (_, memory)) in &sums {
        text.sample(name, &[("namespace", namespace), ("pod", pod)], memory);
    }
    if let Some(cpu) = metrics::node_cpu_seconds() {
        let name = "node_cpu_usage_seconds_total";
        let help = "[STABLE] Cumulative cpu time consumed by the node in core-seconds";
        text.family(name, "counter", help);
        text.sample(name, &[], format!("{cpu:.2}"));
    }
    let (total, free) = (sys::procfs::memory_total(), sys::procfs::memory_available());
    if let (Ok(total), Ok(free)) = (total, free) {
        let name = "node_memory_working_set_bytes";
        text.family(name, "gauge", "[STABLE] Current working set of the node in bytes");
        text.sample(name, &[], total.saturating_sub(free));
    }
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    text.family("resource_scrape_error", "gauge", help);
    text.sample("resource_scrape_error", &[], 0);
}

/// The Prometheus text of a list of usages.
pub(super) fn exposition(usages: &[Usage]) -> String {
    let series = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the container in bytes",
        ),
        (
            "container_start_time_seconds",
            "gauge",
            "[STABLE] Start time of the container since unix epoch in seconds",
        ),
    ];
    let mut text = String::new();
    for (at, (name, kind, help)) in series.into_iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for usage in usages {
            let value = match at {
                0 => format!(
                    "{}.{:09}",
                    usage.stats.cpu_ns / 1_000_000_000,
                    usage.stats.cpu_ns % 1_000_000_000
                ),
                1 => usage.stats.working_set.to_string(),
                _ => usage.started.as_second().to_string(),
            };
            let time = usage.stats.taken_at / 1_000_000;
            let _ = writeln!(
                text,
                "{name}{{container={:?},namespace={:?},pod={:?}}} {value} {time}",
                usage.container, usage.namespace, usage.pod
            );
        }
    }
    text
}
