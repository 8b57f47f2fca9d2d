//! Folding what happened into the state of a pod.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::probes::{Counters, ProbeKind, ProbeOutcome};
use super::state::{Phase, PodState, Stage, Step, roles};
use super::types::{
    Effect, EventNote, Failure, ImageFailure, ImageRef, Input, StopPlan, Termination,
};
use crate::clock::Now;
use crate::status::container_id;

/// Mounting is retried soon at first: what is missing is often just being created.
const MOUNT_RETRY: Duration = Duration::from_millis(500);
const MOUNT_RETRY_MAX: Duration = Duration::from_secs(122);
const SANDBOX_RETRY: Duration = Duration::from_secs(1);
const SANDBOX_RETRY_MAX: Duration = Duration::from_secs(60);
const CREATE_RETRY: Duration = Duration::from_secs(2);
const CREATE_RETRY_MAX: Duration = Duration::from_secs(60);
const CLEAN_RETRY: Duration = Duration::from_secs(2);
/// How long ErrImagePull is shown before it becomes ImagePullBackOff.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);
const DOUBLINGS_MAX: u32 = 10;

impl PodState {
    pub(super) fn observe(&mut self, input: Input, now: Now, out: &mut Vec<Effect>) {
        match input {
            Input::Pod(pod) => self.see_pod(pod, out),
            Input::Gone => self.gone = true,
            Input::Volumes(result) => self.see_volumes(result, now, out),
            Input::Sandbox(result) => self.see_sandbox(result, now, out),
            Input::Image { name, result } => self.see_image(&name, result, now, out),
            Input::Started { name, attempt, result } => {
                self.see_started(&name, attempt, result, now, out)
            }
            Input::Hooked { name, attempt, result } => self.see_hooked(&name, attempt, result, out),
            Input::Created { name, attempt, made } => {
                let container = self.container_mut(&name).filter(|c| c.attempt == attempt);
                if let Some(container) = container {
                    container.made = Some(made);
                }
            }
            Input::Exited { name, attempt, made, exit } => {
                if self.container(&name).is_some_and(|c| c.owns(made)) {
                    self.see_exit(&name, attempt, exit, now, out);
                }
            }
            Input::Probed { name, attempt, kind, outcome } => {
                self.see_probe(&name, attempt, kind, &outcome, out);
            }
            Input::Cleaned(result) => self.see_cleaned(result, now),
            Input::Retry => self.hurry(now),
            Input::Relisted { sandbox, running } => self.see_list(sandbox, &running, now, out),
            Input::Tick => {}
        }
        if self.deleting() && self.stage == Stage::Active {
            self.stage = Stage::Ending;
        }
    }

    /// Containers that the runtime has lost have ended in a way nobody knows; a lost sandbox is made again.
    fn see_list(
        &mut self,
        sandbox: bool,
        running: &[(String, u32)],
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let lost: Vec<(String, u32)> = self
            .containers
            .iter()
            .filter(|c| matches!(c.phase, Phase::Running { .. }))
            .map(|c| (c.name.clone(), c.attempt))
            .filter(|c| !running.contains(c))
            .collect();
        for (name, attempt) in lost {
            self.see_exit(&name, attempt, crate::adopt::unknown_exit(now.wall), now, out);
        }
        if !sandbox && self.sandbox == Step::Ready && self.stage == Stage::Active {
            self.sandbox = Step::Absent;
        }
    }

    /// Makes what waits for an object due at once.
    fn hurry(&mut self, now: Now) {
        if let Step::Failed { until, .. } = &mut self.volumes {
            *until = now.mono;
        }
        for container in &mut self.containers {
            if let Phase::StartFailed { until, reason: "CreateContainerConfigError", .. } =
                &mut container.phase
            {
                *until = now.mono;
            }
        }
    }

    fn see_pod(&mut self, pod: Arc<Pod>, out: &mut Vec<Effect>) {
        self.pod = pod;
        let pod = Arc::clone(&self.pod);
        for (spec, _) in roles(pod.spec.as_ref()) {
            let Some(container) = self.container_mut(&spec.name) else { continue };
            let image = spec.image.clone().unwrap_or_default();
            if container.spec_image == image {
                continue;
            }
            container.spec_image = image;
            match container.phase {
                Phase::Running { .. } if container.stop_by.is_none() => {
                    container.redo = true;
                    let reason =
                        format!("Container {} definition changed, will be restarted", spec.name);
                    self.stop(&spec.name, None, reason, out);
                }
                Phase::Prepared | Phase::PullFailed { .. } | Phase::StartFailed { .. } => {
                    container.phase = Phase::Idle;
                }
                _ => {}
            }
        }
    }

    fn see_volumes(&mut self, result: Result<(), Failure>, now: Now, out: &mut Vec<Effect>) {
        let failures = self.volumes.failures() + 1;
        self.volumes = match result {
            Ok(()) => Step::Ready,
            Err(failure) => {
                out.push(Effect::Event(EventNote::warning(failure.reason, failure.message)));
                Step::Failed {
                    until: now.mono + delay(MOUNT_RETRY, MOUNT_RETRY_MAX, failures),
                    failures,
                }
            }
        };
    }

    fn see_sandbox(
        &mut self,
        result: Result<Vec<IpAddr>, Failure>,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let failures = self.sandbox.failures() + 1;
        self.sandbox = match result {
            Ok(ips) => {
                self.ips = ips;
                Step::Ready
            }
            Err(failure) => {
                out.push(Effect::Event(EventNote::warning(failure.reason, failure.message)));
                Step::Failed {
                    until: now.mono + delay(SANDBOX_RETRY, SANDBOX_RETRY_MAX, failures),
                    failures,
                }
            }
        };
    }

    fn see_image(
        &mut self,
        name: &str,
        result: Result<ImageRef, ImageFailure>,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let Some(container) = self.container_mut(name) else { return };
        if container.phase != Phase::Pulling {
            return;
        }
        match result {
            Ok(image) => {
                container.image = Some(image);
                container.phase = Phase::Prepared;
            }
            Err(failure) => {
                container.pull.retry(now.mono, now.mono);
                out.push(Effect::Event(pull_event(&failure, &container.spec_image).on(name)));
                out.push(Effect::Event(
                    EventNote::warning("Failed", format!("Error: {}", failure.reason)).on(name),
                ));
                container.obstacle = Some((failure.reason, failure.message.clone()));
                container.phase = Phase::PullFailed {
                    until: now.mono + container.pull.delay(),
                    backing_off_at: now.mono + PULL_ERROR_SHOWN,
                    reason: failure.reason,
                    message: failure.message,
                };
            }
        }
    }

    fn see_started(
        &mut self,
        name: &str,
        attempt: u32,
        result: Result<Timestamp, Failure>,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let hook = self
            .spec_of(name)
            .and_then(|c| c.lifecycle.as_ref())
            .is_some_and(|l| l.post_start.is_some());
        let id = container_id(self.uid(), name, attempt);
        let Some(container) = self.container_mut(name).filter(|c| c.attempt == attempt) else {
            return;
        };
        match result {
            Ok(since) => {
                out.push(Effect::Event(
                    EventNote::normal("Created", "Container created".into()).on(name),
                ));
                out.push(Effect::Event(
                    EventNote::normal("Started", "Container started".into()).on(name),
                ));
                if container.phase != Phase::Starting {
                    return; // it has ended already
                }
                container.phase = Phase::Running { since, hooking: hook };
                container.counters = Counters::default();
                container.overcome();
                if hook {
                    out.push(Effect::PostStart { name: name.to_owned(), attempt });
                } else {
                    self.begin_probes(name, out);
                }
            }
            Err(failure) if container.phase != Phase::Starting => {
                // The runtime's event came first: its exit is known already.
                out.push(failed_event(&failure, name));
            }
            Err(failure) => {
                container.start_failures += 1;
                let failures = container.start_failures;
                container.obstacle = Some((failure.reason, failure.message.clone()));
                out.push(failed_event(&failure, name));
                if failure.fatal {
                    container.overcome();
                }
                container.phase = if failure.fatal {
                    Phase::Exited { at: now.mono, exit: start_error(id, failure.message, now) }
                } else {
                    let until = now.mono + delay(CREATE_RETRY, CREATE_RETRY_MAX, failures);
                    Phase::StartFailed { until, reason: failure.reason, message: failure.message }
                };
            }
        }
    }

    /// Starts what watches a running container; one without a startup probe counts as started at once.
    fn begin_probes(&mut self, name: &str, out: &mut Vec<Effect>) {
        let pod = Arc::clone(&self.pod);
        let Some((spec, _)) = roles(pod.spec.as_ref()).find(|(c, _)| c.name == name) else {
            return;
        };
        let Some(container) = self.container_mut(name) else { return };
        container.started = spec.startup_probe.is_none();
        container.ready = spec.readiness_probe.is_none();
        out.extend(
            ProbeKind::due(spec, container.started).map(|kind| container.probe_effect(kind)),
        );
    }

    fn see_hooked(
        &mut self,
        name: &str,
        attempt: u32,
        result: Result<(), String>,
        out: &mut Vec<Effect>,
    ) {
        let Some(container) = self.container_mut(name).filter(|c| c.attempt == attempt) else {
            return;
        };
        let Phase::Running { hooking, .. } = &mut container.phase else { return };
        *hooking = false;
        match result {
            Ok(()) => self.begin_probes(name, out),
            Err(_) => {
                let event =
                    EventNote::warning("FailedPostStartHook", "PostStartHook failed".into());
                out.push(Effect::Event(event.on(name)));
                self.stop(name, None, "FailedPostStartHook".into(), out);
            }
        }
    }

    fn see_exit(
        &mut self,
        name: &str,
        attempt: u32,
        exit: Termination,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let Some(container) = self.container_mut(name).filter(|c| c.attempt == attempt) else {
            return;
        };
        if !container.alive() {
            return;
        }
        container.phase = Phase::Exited { at: now.mono, exit };
        container.overcome();
        container.ready = false;
        container.stop_by = None;
        container.announced = false;
        if container.role != super::state::Role::Sidecar {
            container.started = false;
        }
        out.push(Effect::StopProbes { name: name.to_owned() });
    }

    fn see_probe(
        &mut self,
        name: &str,
        attempt: u32,
        kind: ProbeKind,
        outcome: &ProbeOutcome,
        out: &mut Vec<Effect>,
    ) {
        let Some(probe) = self.spec_of(name).and_then(|c| kind.of(c)).cloned() else { return };
        let Some(container) = self.container_mut(name).filter(|c| c.attempt == attempt) else {
            return;
        };
        if !matches!(container.phase, Phase::Running { .. }) || container.stop_by.is_some() {
            return;
        }
        if let Some(event) = unhealthy(kind, outcome) {
            out.push(Effect::Event(event.on(name)));
        }
        let verdict = container.counters.count(kind, &probe, outcome);
        match (kind, verdict) {
            (_, None) => {}
            (ProbeKind::Readiness, Some(ready)) => container.ready = ready,
            (ProbeKind::Liveness, Some(true)) => {}
            (ProbeKind::Startup, Some(true)) => {
                container.started = true;
                out.push(Effect::StopProbes { name: name.to_owned() });
                self.begin_started_probes(name, out);
            }
            (_, Some(false)) => {
                let word = kind.label().to_lowercase();
                let reason = format!("Container {name} failed {word} probe, will be restarted");
                self.stop(name, probe.termination_grace_period_seconds, reason, out);
            }
        }
    }

    fn begin_started_probes(&mut self, name: &str, out: &mut Vec<Effect>) {
        let Some(spec) = self.spec_of(name) else { return };
        let Some(container) = self.container(name) else { return };
        out.extend(ProbeKind::due(spec, true).map(|kind| container.probe_effect(kind)));
        let ready = spec.readiness_probe.is_none();
        if let Some(container) = self.container_mut(name) {
            container.ready = ready;
        }
    }

    fn see_cleaned(&mut self, result: Result<(), String>, now: Now) {
        let Stage::Cleaning { last } = self.stage else { return };
        self.stage = match result {
            Ok(()) => Stage::Cleaned { last },
            Err(_) => Stage::CleanFailed { last, until: now.mono + CLEAN_RETRY },
        };
    }

    /// Stops one running container although the pod goes on.
    pub(super) fn stop(
        &mut self,
        name: &str,
        grace: Option<i64>,
        message: String,
        out: &mut Vec<Effect>,
    ) {
        let grace = grace.map_or_else(|| self.grace(), super::ending::grace_of);
        let Some(container) = self.container_mut(name) else { return };
        container.stop_by = Some(Duration::MAX);
        out.push(Effect::Event(EventNote::normal("Killing", message).on(name)));
        out.push(Effect::StopProbes { name: name.to_owned() });
        let attempt = container.attempt;
        out.push(Effect::Stop(StopPlan { name: name.to_owned(), attempt, grace, hook: true }));
    }
}

fn failed_event(failure: &Failure, container: &str) -> Effect {
    let text = format!("Error: {}", failure.message);
    Effect::Event(EventNote::warning("Failed", text).on(container))
}

fn start_error(id: String, message: String, now: Now) -> Termination {
    Termination {
        exit_code: 128,
        signal: None,
        reason: "StartError".into(),
        message: Some(message),
        started_at: Some(Timestamp::UNIX_EPOCH),
        finished_at: now.wall,
        container_id: Some(id),
    }
}

fn pull_event(failure: &ImageFailure, image: &str) -> EventNote {
    match failure.reason {
        "ErrImageNeverPull" => EventNote::warning("ErrImageNeverPull", failure.message.clone()),
        "InvalidImageName" => EventNote::warning("InspectFailed", failure.message.clone()),
        _ => EventNote::warning(
            "Failed",
            format!("Failed to pull image {image:?}: {}", failure.message),
        ),
    }
}

fn unhealthy(kind: ProbeKind, outcome: &ProbeOutcome) -> Option<EventNote> {
    let label = kind.label();
    let message = match outcome {
        ProbeOutcome::Success => return None,
        ProbeOutcome::Failure(output) => format!("{label} probe failed: {output}"),
        ProbeOutcome::Unknown(error) => {
            format!("{label} probe errored and resulted in unknown state: {error}")
        }
    };
    Some(EventNote::warning("Unhealthy", message))
}

fn delay(first: Duration, max: Duration, failures: u32) -> Duration {
    (first * 2u32.pow(failures.saturating_sub(1).min(DOUBLINGS_MAX))).min(max)
}
