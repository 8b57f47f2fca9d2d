//! What the agent knows about one pod, and how a restarted agent builds it anew.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodSpec};
use runtime::protocol::Nanos;

use super::probes::{Counters, ProbeKind};
use super::types::{Effect, ImageRef, Input, Known, Termination};
use crate::backoff::BackOff;
use crate::clock::Now;
use crate::restart;

/// A pod on this node.
#[derive(Debug)]
pub(crate) struct PodState {
    pub(crate) pod: Arc<Pod>,
    pub(crate) volumes: Step,
    pub(crate) sandbox: Step,
    pub(crate) ips: Vec<IpAddr>,
    /// In the order of the spec, init containers first.
    pub(crate) containers: Vec<Container>,
    pub(crate) stage: Stage,
    pub(crate) start_time: Timestamp,
    /// The pod has left the API server.
    pub(crate) gone: bool,
    /// The API server had the pod in a final phase when the agent first saw it: nothing of it is run.
    pub(crate) settled: Option<&'static str>,
    /// Why the agent itself ended the pod (`DeadlineExceeded`), with the message for its status.
    pub(crate) killed: Option<(&'static str, String)>,
    /// Effects that adoption owes, delivered by the first step.
    pub(super) owed: Vec<Effect>,
}

/// Something the pod needs once, before its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Absent,
    Busy { failures: u32 },
    Ready,
    Failed { until: Duration, failures: u32 },
}

/// Where the pod stands as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Containers are started and restarted.
    Active,
    /// The pod must end: stop what runs.
    Ending,
    /// Nothing runs any more; sandbox and volumes are being removed.
    Cleaning {
        last: bool,
    },
    CleanFailed {
        last: bool,
        until: Duration,
    },
    /// Removed. With `last` nothing of the pod is left on the node.
    Cleaned {
        last: bool,
    },
    /// The API server was asked to delete the pod, or it knows nothing of it any more.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Init,
    /// An init container with restartPolicy Always.
    Sidecar,
    Main,
}

/// One container of the pod: its current attempt and what is remembered of the one before.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) phase: Phase,
    /// The restart count.
    pub(crate) attempt: u32,
    /// The image of the spec that the current attempt was made from.
    pub(super) spec_image: String,
    pub(crate) image: Option<ImageRef>,
    pub(crate) previous: Option<Termination>,
    pub(crate) crash: BackOff,
    pub(super) pull: BackOff,
    /// The startup probe has succeeded, or there is none.
    pub(crate) started: bool,
    /// What the readiness probe said last; true if there is none.
    pub(crate) ready: bool,
    pub(super) counters: Counters,
    /// When a stop that is under way will have killed the container.
    pub(super) stop_by: Option<Duration>,
    /// Start again whatever the restart policy says: the definition has changed.
    pub(super) redo: bool,
    /// The current crash back-off has been reported.
    pub(super) announced: bool,
    /// What kept the container from running last; shown until it runs, also while it is tried again.
    pub(crate) obstacle: Option<(&'static str, String)>,
    pub(super) start_failures: u32,
    /// When the container of the current attempt was created, once that is known.
    pub(super) made: Option<Nanos>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    /// Not its turn yet.
    Idle,
    Pulling,
    PullFailed {
        until: Duration,
        backing_off_at: Duration,
        reason: &'static str,
        message: String,
    },
    /// The image is there.
    Prepared,
    Starting,
    StartFailed {
        until: Duration,
        reason: &'static str,
        message: String,
    },
    /// `hooking`: the postStart hook has not ended.
    Running {
        since: Timestamp,
        hooking: bool,
    },
    /// `at` is when it was noticed, on the monotonic clock.
    Exited {
        at: Duration,
        exit: Termination,
    },
}

impl PodState {
    /// A pod that has never been here.
    pub(crate) fn new(pod: Arc<Pod>, now: Now) -> PodState {
        let mut state = PodState {
            volumes: Step::Absent,
            sandbox: Step::Absent,
            ips: Vec::new(),
            containers: Vec::new(),
            stage: Stage::Active,
            start_time: now.wall,
            gone: false,
            settled: None,
            killed: None,
            owed: Vec::new(),
            pod,
        };
        if let Some(time) = state.pod.status.as_ref().and_then(|s| s.start_time.as_ref()) {
            state.start_time = time.0;
        }
        state.settled = match state.pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
            Some("Succeeded") => Some("Succeeded"),
            Some("Failed") => Some("Failed"),
            _ => None,
        };
        let spec = Arc::clone(&state.pod);
        for (container, role) in roles(spec.spec.as_ref()) {
            state.containers.push(Container::new(container, role));
        }
        state
    }

    /// A pod that an earlier agent had: `known` containers, and the sandbox's addresses if it still stands.
    pub(crate) fn adopt(
        pod: Arc<Pod>,
        now: Now,
        known: Vec<Known>,
        sandbox: Option<Vec<IpAddr>>,
    ) -> PodState {
        let mut state = PodState::new(pod, now);
        let kept = sandbox.is_some();
        if let Some(ips) = sandbox {
            state.sandbox = Step::Ready;
            state.ips = ips;
        }
        for known in known {
            let Some(at) = state.containers.iter().position(|c| c.name == known.name) else {
                continue;
            };
            state.containers[at].recall(known, now);
        }
        if !kept && !state.mains_ended() {
            for container in &mut state.containers {
                if container.role == Role::Init {
                    container.rewind();
                }
            }
        }
        state.owe_probes();
        state
    }

    /// Folds one input in and says what to do next.
    pub(crate) fn step(&mut self, input: Input, now: Now) -> Vec<Effect> {
        let mut out = std::mem::take(&mut self.owed);
        self.observe(input, now, &mut out);
        self.decide(now, &mut out);
        out
    }

    pub(crate) fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn deleting(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    pub(crate) fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    pub(super) fn container_mut(&mut self, name: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|c| c.name == name)
    }

    pub(crate) fn spec_of(&self, name: &str) -> Option<&ContainerSpec> {
        roles(self.pod.spec.as_ref()).map(|(c, _)| c).find(|c| c.name == name)
    }

    /// `name_namespace(uid)`, as upstream writes a pod into messages.
    pub(crate) fn display(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }

    /// Something is under way that will soon change how the pod looks.
    pub(crate) fn starting(&self) -> bool {
        let busy = |step: &Step| matches!(step, Step::Busy { .. });
        let soon =
            |c: &Container| matches!(c.phase, Phase::Pulling | Phase::Prepared | Phase::Starting);
        self.stage == Stage::Active
            && (busy(&self.volumes) || busy(&self.sandbox) || self.containers.iter().any(soon))
    }

    /// Whether an ended container is to be started again.
    pub(crate) fn restarts(&self, container: &Container) -> bool {
        let Phase::Exited { exit, .. } = &container.phase else { return false };
        if container.redo {
            return true;
        }
        let pods = self.pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
        self.spec_of(&container.name).is_some_and(|spec| {
            restart::again(spec, pods, container.role == Role::Init, exit.exit_code)
        })
    }

    /// An init container failed for good, so the containers will never start.
    pub(crate) fn init_failed(&self) -> bool {
        self.containers.iter().any(|c| c.role == Role::Init && c.failed() && !self.restarts(c))
    }

    /// All ordinary containers have ended for good (or will never start).
    pub(crate) fn mains_ended(&self) -> bool {
        self.settled.is_some()
            || self.init_failed()
            || self
                .containers
                .iter()
                .filter(|c| c.role == Role::Main)
                .all(|c| c.ended() && !self.restarts(c))
    }

    fn owe_probes(&mut self) {
        let pod = Arc::clone(&self.pod);
        for (spec, _) in roles(pod.spec.as_ref()) {
            let Some(container) = self.container_mut(&spec.name) else { continue };
            if !matches!(container.phase, Phase::Running { .. }) {
                continue;
            }
            // The last status may not have reached the API server.
            container.started |= spec.startup_probe.is_none();
            container.ready |= spec.readiness_probe.is_none();
            let effects: Vec<Effect> = ProbeKind::due(spec, container.started)
                .map(|kind| container.probe_effect(kind))
                .collect();
            self.owed.extend(effects);
        }
    }
}

impl Step {
    pub(super) fn due(&self, now: Now) -> bool {
        match self {
            Step::Absent => true,
            Step::Failed { until, .. } => *until <= now.mono,
            Step::Busy { .. } | Step::Ready => false,
        }
    }

    pub(super) fn failures(&self) -> u32 {
        match self {
            Step::Failed { failures, .. } | Step::Busy { failures } => *failures,
            Step::Absent | Step::Ready => 0,
        }
    }

    pub(super) fn wake(&self) -> Option<Duration> {
        if let Step::Failed { until, .. } = self { Some(*until) } else { None }
    }
}

impl Container {
    fn new(spec: &ContainerSpec, role: Role) -> Container {
        Container {
            name: spec.name.clone(),
            role,
            phase: Phase::Idle,
            attempt: 0,
            spec_image: spec.image.clone().unwrap_or_default(),
            image: None,
            previous: None,
            crash: BackOff::default(),
            pull: BackOff::default(),
            started: false,
            ready: false,
            counters: Counters::default(),
            stop_by: None,
            redo: false,
            announced: false,
            obstacle: None,
            start_failures: 0,
            made: None,
        }
    }

    fn recall(&mut self, known: Known, now: Now) {
        self.attempt = known.attempt;
        self.image = known.image;
        self.made = known.made;
        self.previous = known.previous;
        self.started = known.was_started;
        self.ready = known.was_ready;
        if let Some(exit) = known.exit {
            let ago = now.wall.duration_since(exit.finished_at);
            let ago = Duration::try_from(ago).unwrap_or_default();
            self.phase = Phase::Exited { at: now.mono.saturating_sub(ago), exit };
        } else if let Some(since) = known.running_since {
            self.phase = Phase::Running { since, hooking: false };
        }
    }

    /// Makes an init container run again in a new sandbox.
    fn rewind(&mut self) {
        if let Phase::Exited { exit, .. } = std::mem::replace(&mut self.phase, Phase::Idle) {
            self.previous = Some(exit);
            self.attempt += 1;
        }
    }

    /// It has run, so what was in its way no longer is.
    pub(super) fn overcome(&mut self) {
        self.obstacle = None;
        self.start_failures = 0;
    }

    /// The runtime has, or is about to have, a process for it.
    pub(crate) fn alive(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running { .. })
    }

    /// Whether an exit is this container's own, and not that of one which was removed to make room for it.
    pub(super) fn owns(&self, made: Option<Nanos>) -> bool {
        match (made, self.made) {
            (None, _) => true,
            (Some(_), None) => self.phase != Phase::Starting,
            (Some(of), Some(own)) => of == own,
        }
    }

    pub(crate) fn ended(&self) -> bool {
        matches!(self.phase, Phase::Exited { .. })
    }

    pub(crate) fn failed(&self) -> bool {
        matches!(&self.phase, Phase::Exited { exit, .. } if exit.exit_code != 0)
    }

    pub(crate) fn init_done(&self) -> bool {
        match (&self.phase, self.role) {
            (Phase::Running { .. }, Role::Sidecar) => self.started,
            // A sidecar that had been up and restarts does not hold up the others again.
            (_, Role::Sidecar) => self.started && self.attempt > 0,
            (Phase::Exited { exit, .. }, _) => exit.exit_code == 0,
            _ => false,
        }
    }

    pub(super) fn probe_effect(&self, kind: ProbeKind) -> Effect {
        Effect::StartProbe { name: self.name.clone(), attempt: self.attempt, kind }
    }
}

/// The containers of a spec with their roles, init containers first.
pub(crate) fn roles(spec: Option<&PodSpec>) -> impl Iterator<Item = (&ContainerSpec, Role)> {
    let init = spec.into_iter().flat_map(|s| s.init_containers.iter().flatten()).map(|c| {
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        (c, if sidecar { Role::Sidecar } else { Role::Init })
    });
    let main = spec.into_iter().flat_map(|s| s.containers.iter()).map(|c| (c, Role::Main));
    init.chain(main)
}
