//! The conditions the kubelet owns.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::containers::ready;
use super::whole_seconds;
use crate::worker::{Container, PodState, Role, Step};

/// A verdict: true, or false with reason and message.
type Verdict = Result<Option<&'static str>, (&'static str, Option<String>)>;

pub(super) fn conditions(
    state: &PodState,
    status: &PodStatus,
    previous: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let phase = status.phase.as_deref().unwrap_or_default();
    let sandboxed: Verdict = if state.sandbox == Step::Ready { Ok(None) } else { Err(("", None)) };
    let containers = containers_ready(state, phase);
    let ready = ready_verdict(state, &containers);
    let verdicts = [
        ("PodReadyToStartContainers", sandboxed),
        ("Initialized", initialized(state, phase)),
        ("Ready", ready),
        ("ContainersReady", containers),
        // It is here, so it was scheduled, by whomever.
        ("PodScheduled", Ok(None)),
    ];
    let generation = state.pod.metadata.generation;
    let make =
        |(kind, verdict): (&str, Verdict)| condition(kind, verdict, generation, previous, now);
    verdicts.into_iter().map(make).collect()
}

fn initialized(state: &PodState, phase: &str) -> Verdict {
    let incomplete: Vec<&str> = state
        .containers
        .iter()
        .filter(|c| c.role != Role::Main && !c.init_done())
        .map(|c| c.name.as_str())
        .collect();
    match phase {
        "Succeeded" => Ok(Some("PodCompleted")),
        _ if incomplete.is_empty() => Ok(None),
        "Failed" => Err(("PodFailed", None)),
        _ => {
            let text = format!("containers with incomplete status: [{}]", incomplete.join(" "));
            Err(("ContainersNotInitialized", Some(text)))
        }
    }
}

fn containers_ready(state: &PodState, phase: &str) -> Verdict {
    let counts = |c: &&Container| c.role != Role::Init;
    let unready: Vec<&str> = state
        .containers
        .iter()
        .filter(counts)
        .filter(|c| !ready(c))
        .map(|c| c.name.as_str())
        .collect();
    match phase {
        "Succeeded" => Err(("PodCompleted", None)),
        "Failed" => Err(("PodFailed", None)),
        _ if unready.is_empty() => Ok(None),
        _ => {
            let text = format!("containers with unready status: [{}]", unready.join(" "));
            Err(("ContainersNotReady", Some(text)))
        }
    }
}

fn ready_verdict(state: &PodState, containers: &Verdict) -> Verdict {
    if containers.is_err() {
        return containers.clone();
    }
    let gates = state.pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    let given =
        state.pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).collect::<Vec<_>>();
    let mut unmet = Vec::new();
    for gate in gates {
        let kind = &gate.condition_type;
        match given.iter().find(|c| c.type_ == *kind) {
            None => {
                unmet.push(format!(
                    "corresponding condition of pod readiness gate {kind:?} does not exist."
                ));
            }
            Some(c) if c.status != "True" => unmet.push(format!(
                "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                c.status
            )),
            Some(_) => {}
        }
    }
    if unmet.is_empty() {
        Ok(None)
    } else {
        Err(("ReadinessGatesNotReady", Some(unmet.join(", "))))
    }
}

fn condition(
    kind: &str,
    verdict: Verdict,
    generation: Option<i64>,
    previous: &PodStatus,
    now: Timestamp,
) -> PodCondition {
    let (status, reason, message) = match verdict {
        Ok(reason) => ("True", reason, None),
        Err((reason, message)) => ("False", Some(reason), message),
    };
    let before = previous.conditions.iter().flatten().find(|c| c.type_ == kind);
    let since = before
        .filter(|c| c.status == status)
        .and_then(|c| c.last_transition_time.clone())
        .unwrap_or(Time(whole_seconds(now)));
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.filter(|r| !r.is_empty()).map(str::to_owned),
        message,
        last_transition_time: Some(since),
        observed_generation: generation,
        ..PodCondition::default()
    }
}
