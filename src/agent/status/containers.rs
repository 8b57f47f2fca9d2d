//! The status of one container.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{container_id, whole_seconds};
use crate::go_duration;
use crate::worker::{Container, Phase, PodState, Role, Stage, Termination};

pub(super) fn status(state: &PodState, container: &Container) -> ContainerStatus {
    let spec = state.spec_of(&container.name);
    let (current, last, shown_attempt) = states(state, container);
    let running = matches!(container.phase, Phase::Running { .. });
    let has_id = running || current.terminated.is_some() || last.is_some();
    let id_attempt = match (&container.phase, last.is_some()) {
        (Phase::Running { .. } | Phase::Exited { .. }, _) => Some(container.attempt),
        (_, true) => container.attempt.checked_sub(1),
        (_, false) => Some(shown_attempt),
    };
    let id = id_attempt.filter(|_| has_id).map(|a| container_id(state.uid(), &container.name, a));
    // Until it has run, the image is what the pod asks for.
    let image = container.image.as_ref().filter(|_| has_id);
    let declared = spec.and_then(|s| s.resources.clone());
    ContainerStatus {
        name: container.name.clone(),
        ready: ready(container),
        started: Some(running && container.started),
        restart_count: i32::try_from(shown_attempt).unwrap_or(i32::MAX),
        image: image.map_or_else(
            || spec.and_then(|s| s.image.clone()).unwrap_or_default(),
            |i| i.name.clone(),
        ),
        image_id: image.map(|i| i.status_id.clone()).unwrap_or_default(),
        container_id: id.map(|id| format!("copepod://{id}")),
        allocated_resources: declared
            .as_ref()
            .and_then(|r| r.requests.clone())
            .filter(|r| !r.is_empty()),
        resources: declared.filter(|r| running && *r != ResourceRequirements::default()),
        volume_mounts: spec.map(volume_mounts).filter(|m| !m.is_empty()),
        state: Some(current),
        last_state: Some(last.map(terminated).unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

pub(super) fn ready(container: &Container) -> bool {
    match (&container.phase, container.role) {
        (Phase::Exited { exit, .. }, Role::Init) => exit.exit_code == 0,
        (Phase::Running { .. }, Role::Sidecar | Role::Main) => container.started && container.ready,
        _ => false,
    }
}

/// The current state, the last one, and the restart count that belongs to them.
fn states<'a>(
    state: &PodState,
    container: &'a Container,
) -> (ContainerState, Option<&'a Termination>, u32) {
    let last = container.previous.as_ref();
    match &container.phase {
        Phase::Running { since, .. } => {
            let running = ContainerStateRunning { started_at: Some(Time(whole_seconds(*since))) };
            (
                ContainerState { running: Some(running), ..ContainerState::default() },
                last,
                container.attempt,
            )
        }
        Phase::Exited { exit, .. } => {
            let coming_back =
                state.stage == Stage::Active && !state.mains_ended() && state.restarts(container);
            if coming_back {
                let delay = go_duration::text(container.crash.delay());
                let (name, pod) = (&container.name, state.display());
                let text = format!("back-off {delay} restarting failed container={name} pod={pod}");
                return (waiting("CrashLoopBackOff", Some(text)), Some(exit), container.attempt);
            }
            (terminated(exit), last, container.attempt)
        }
        _ => match (&container.obstacle, last) {
            (Some((reason, message)), _) => {
                (waiting(reason, Some(message.clone())), last, container.attempt)
            }
            // The new attempt is not there yet: users still see how the old one ended.
            (None, Some(exit)) => (terminated(exit), None, container.attempt.saturating_sub(1)),
            (None, None) => (waiting(first_reason(state), None), None, container.attempt),
        },
    }
}

fn first_reason(state: &PodState) -> &'static str {
    let init = state.containers.iter().any(|c| c.role != Role::Main);
    if init { "PodInitializing" } else { "ContainerCreating" }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(exit: &Termination) -> ContainerState {
    let time = |at: Timestamp| Time(whole_seconds(at));
    let terminated = ContainerStateTerminated {
        container_id: exit.container_id.as_ref().map(|id| format!("copepod://{id}")),
        exit_code: exit.exit_code,
        signal: exit.signal,
        reason: Some(exit.reason.clone()),
        message: exit.message.clone().filter(|m| !m.is_empty()),
        started_at: exit.started_at.map(time),
        finished_at: Some(time(exit.finished_at)),
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn volume_mounts(spec: &k8s_openapi::api::core::v1::Container) -> Vec<VolumeMountStatus> {
    let mounts = spec.volume_mounts.iter().flatten();
    mounts
        .map(|m| VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only: m.read_only,
            recursive_read_only: (m.read_only == Some(true)).then(|| "Disabled".to_owned()),
            ..VolumeMountStatus::default()
        })
        .collect()
}
