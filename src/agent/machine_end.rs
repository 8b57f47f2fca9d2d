//! Stopping the node's containers because the machine goes down: ordinary pods first, then critical ones, in each pod the
//! sidecars last; every container gets its preStop hook, its stop signal and its grace, as when its pod is deleted.
//!
//! Unlike upstream's graceful node shutdown no pod is failed: the same pods run again after the next start.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use runtime::client::Events;
use runtime::protocol::{Container, Event, State};
use tokio::task::JoinSet;

use crate::actor::View;
use crate::adopt;
use crate::context::Context;
use crate::execute;
use crate::resources;
use crate::worker::StopPlan;

/// Longest time ordinary pods get (upstream: shutdownGracePeriod less that of critical pods).
const ORDINARY_LIMIT: Duration = Duration::from_secs(30);
/// Longest time critical pods get (upstream: shutdownGracePeriodCriticalPods).
const CRITICAL_LIMIT: Duration = Duration::from_secs(10);
/// Beyond the grace: for the signal after the hook, and for SIGKILL to be seen.
const OVERTIME: Duration = Duration::from_secs(3);
const GRACE_DEFAULT: i64 = 30;

/// A turn: containers that are stopped together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Ordinary,
    OrdinarySidecars,
    Critical,
    CriticalSidecars,
}

const TURNS: [(Turn, Duration); 4] = [
    (Turn::Ordinary, ORDINARY_LIMIT),
    (Turn::OrdinarySidecars, CRITICAL_LIMIT),
    (Turn::Critical, CRITICAL_LIMIT),
    (Turn::CriticalSidecars, CRITICAL_LIMIT),
];

/// Stops everything that runs; returns when nothing does or its time is over.
pub(crate) async fn stop_all(ctx: &Arc<Context>, views: &[Arc<View>]) {
    let containers = match ctx.config.runtime.list().await {
        Ok(snapshot) => snapshot.containers,
        Err(error) => {
            tracing::warn!(%error, "the runtime does not say what runs; nothing is stopped in order");
            return;
        }
    };
    for (turn, limit) in TURNS {
        let mut stops = JoinSet::new();
        // One that was only made has nothing to end; it goes with the machine.
        for container in containers.iter().filter(|c| c.state == State::Running) {
            let Some((view, name, attempt)) = owner(views, container) else { continue };
            if turn_of(&view.pod, name) == turn {
                let grace = grace(&view.pod, limit);
                let plan = StopPlan { name: name.to_owned(), attempt, grace, hook: true };
                let (ctx, view, id) = (Arc::clone(ctx), Arc::clone(view), container.id.clone());
                stops.spawn(async move { stop(&ctx, &view, plan, &id).await });
            }
        }
        stops.join_all().await;
    }
}

fn owner<'a>(
    views: &'a [Arc<View>],
    container: &'a Container,
) -> Option<(&'a Arc<View>, &'a str, u32)> {
    let (uid, name, attempt) = adopt::identity(container)?;
    let view = views.iter().find(|view| view.pod.metadata.uid.as_deref() == Some(uid))?;
    Some((view, name, attempt))
}

fn turn_of(pod: &Pod, name: &str) -> Turn {
    let Some(spec) = &pod.spec else { return Turn::Ordinary };
    let sidecar = spec.init_containers.iter().flatten().any(|container| container.name == name);
    match (resources::is_critical(spec), sidecar) {
        (false, false) => Turn::Ordinary,
        (false, true) => Turn::OrdinarySidecars,
        (true, false) => Turn::Critical,
        (true, true) => Turn::CriticalSidecars,
    }
}

fn grace(pod: &Pod, limit: Duration) -> Duration {
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let own = u64::try_from(own.unwrap_or(GRACE_DEFAULT)).unwrap_or(0);
    Duration::from_secs(own).min(limit)
}

async fn stop(ctx: &Context, view: &View, plan: StopPlan, id: &str) {
    let events = ctx.config.runtime.events();
    let ips: Vec<String> = view.status.pod_ip.clone().into_iter().collect();
    let limit = plan.grace + OVERTIME;
    let meta = &view.pod.metadata;
    tracing::info!(namespace = meta.namespace, pod = meta.name, container = plan.name, "stopping");
    let stopping = async {
        tokio::select! {
            _ = execute::stop(ctx, &view.pod, plan, &ips) => {}
            () = ended(events, id) => {}
        }
    };
    if tokio::time::timeout(limit, stopping).await.is_err() {
        tracing::warn!(container = id, "did not end within its grace");
    }
}

/// Waits for the container's exit; an event that was missed costs no more than the grace.
async fn ended(mut events: Events, id: &str) {
    while let Some(event) = events.next().await {
        if matches!(event, Event::ContainerExited { id: ended } if ended == id) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn critical_pods_and_sidecars_come_last() {
        for (priority, name, expected) in [
            (json!(null), "main", Turn::Ordinary),
            (json!(1_000_000_000), "main", Turn::Ordinary),
            (json!(0), "helper", Turn::OrdinarySidecars),
            (json!(2_000_000_000), "main", Turn::Critical),
            (json!(2_000_001_000), "helper", Turn::CriticalSidecars),
        ] {
            let pod: Pod = serde_json::from_value(json!({"spec": {
                "priority": priority,
                "initContainers": [{"name": "helper", "restartPolicy": "Always"}],
                "containers": [{"name": "main"}],
            }}))
            .expect("a pod");
            assert_eq!(turn_of(&pod, name), expected, "{priority} {name}");
        }
        assert!(TURNS.is_sorted_by_key(|(turn, _)| *turn));
    }

    #[test]
    fn a_grace_is_the_pods_own_up_to_the_turns() {
        for (seconds, expected) in
            [(json!(null), 30), (json!(5), 5), (json!(600), 30), (json!(0), 0)]
        {
            let spec =
                json!({"spec": {"containers": [], "terminationGracePeriodSeconds": seconds}});
            let pod: Pod = serde_json::from_value(spec).expect("a pod");
            assert_eq!(grace(&pod, ORDINARY_LIMIT).as_secs(), expected);
        }
    }
}
