//! A pod's status, computed from what the agent knows: phase, conditions, container statuses, and the patch that sends it.

mod compare;
mod conditions;
mod containers;
mod patch;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostIP, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::resources::{self, Qos};
use crate::worker::{Container, Phase, PodState, Role, Stage, Step};

pub(crate) use compare::{ready, same};
pub(crate) use patch::patch;

/// The name of a container in the runtime: the same for every agent, so that a restarted one finds it.
pub(crate) fn container_id(uid: &str, name: &str, attempt: u32) -> String {
    format!("{uid}-{name}-{attempt}")
}

pub(crate) fn compute(
    state: &PodState,
    host_ips: &[String],
    previous: &PodStatus,
    now: Timestamp,
) -> PodStatus {
    let phase = phase(state);
    let qos = state.pod.spec.as_ref().map_or(Qos::BestEffort, resources::qos);
    let ips = pod_ips(state, host_ips, previous);
    let list = |main: bool| -> Vec<_> {
        let of_kind = state.containers.iter().filter(|c| (c.role == Role::Main) == main);
        of_kind.map(|c| containers::status(state, c)).collect()
    };
    let init = list(false);
    // Their waiting would hide why the pod was refused.
    let refused = state.killed.is_some() && state.untouched();
    let (reason, message) = match &state.killed {
        Some((reason, message)) if phase == "Failed" => {
            (Some((*reason).to_owned()), Some(message.clone()))
        }
        _ => (None, None),
    };
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        start_time: Some(Time(whole_seconds(state.start_time))),
        qos_class: Some(qos.as_str().to_owned()),
        host_ip: host_ips.first().cloned(),
        host_ips: Some(host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        init_container_statuses: (!init.is_empty() && !refused).then_some(init),
        container_statuses: (!refused).then(|| list(true)),
        observed_generation: state.pod.metadata.generation,
        reason,
        message,
        ..PodStatus::default()
    };
    status.conditions = Some(conditions::conditions(state, &status, previous, now));
    status
}

/// Kubernetes times have whole seconds; keeping more would make equal statuses differ.
pub(crate) fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn pod_ips(state: &PodState, host_ips: &[String], previous: &PodStatus) -> Vec<String> {
    let host_network = state.pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true));
    if host_network && state.sandbox == Step::Ready {
        return host_ips.to_vec();
    }
    if state.ips.is_empty() {
        return previous.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect();
    }
    state.ips.iter().map(ToString::to_string).collect()
}

/// The pod is over as far as the agent can tell: nothing runs and nothing will.
fn over(state: &PodState) -> bool {
    let ending = state.stage != Stage::Active || state.mains_ended();
    ending && !state.containers.iter().any(Container::alive)
}

pub(crate) fn phase(state: &PodState) -> &'static str {
    if let Some(settled) = state.settled {
        return settled;
    }
    let mains = || state.containers.iter().filter(|c| c.role == Role::Main);
    if over(state) {
        let begun = state.containers.iter().any(|c| c.ended() || c.previous.is_some());
        let failed =
            state.killed.is_some() || state.init_failed() || mains().any(Container::failed);
        let complete = mains().all(Container::ended);
        return match (failed, complete) {
            (true, _) => "Failed",
            (false, true) => "Succeeded",
            // Deleted before all of it ran.
            (false, false) if begun && state.deleting() => "Failed",
            (false, false) => "Pending",
        };
    }
    let waiting = |c: &Container| {
        let fresh = !matches!(c.phase, Phase::Running { .. } | Phase::Exited { .. });
        fresh && c.previous.is_none()
    };
    let initializing = state.containers.iter().any(|c| c.role != Role::Main && !c.init_done());
    if initializing && mains().all(waiting) || mains().any(waiting) {
        return "Pending";
    }
    "Running"
}
