//! Probe results: thresholds, and what they do to a container.

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Probe};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

/// One try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProbeOutcome {
    Success,
    Failure(String),
    /// The probe itself did not work; it counts neither way.
    Unknown(String),
}

/// Successes and failures in a row, per kind.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    startup: Run,
    readiness: Run,
    liveness: Run,
}

#[derive(Debug, Clone, Copy, Default)]
struct Run {
    successes: i32,
    failures: i32,
}

impl ProbeKind {
    pub(crate) fn label(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        }
    }

    pub(crate) fn of(self, spec: &ContainerSpec) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => spec.startup_probe.as_ref(),
            ProbeKind::Readiness => spec.readiness_probe.as_ref(),
            ProbeKind::Liveness => spec.liveness_probe.as_ref(),
        }
    }

    /// The probes that should run: the startup probe alone until it has succeeded.
    pub(crate) fn due(spec: &ContainerSpec, started: bool) -> impl Iterator<Item = ProbeKind> {
        let kinds: &[ProbeKind] = if started {
            &[ProbeKind::Readiness, ProbeKind::Liveness]
        } else {
            &[ProbeKind::Startup]
        };
        kinds.iter().copied().filter(|kind| kind.of(spec).is_some())
    }
}

impl Counters {
    /// Counts one result; `Some` once a threshold is reached.
    pub(crate) fn count(
        &mut self,
        kind: ProbeKind,
        probe: &Probe,
        outcome: &ProbeOutcome,
    ) -> Option<bool> {
        let run = match kind {
            ProbeKind::Startup => &mut self.startup,
            ProbeKind::Readiness => &mut self.readiness,
            ProbeKind::Liveness => &mut self.liveness,
        };
        match outcome {
            ProbeOutcome::Success => {
                *run = Run { successes: run.successes.saturating_add(1), failures: 0 };
                (run.successes >= probe.success_threshold.unwrap_or(1)).then_some(true)
            }
            ProbeOutcome::Failure(_) => {
                *run = Run { successes: 0, failures: run.failures.saturating_add(1) };
                (run.failures >= probe.failure_threshold.unwrap_or(3)).then_some(false)
            }
            ProbeOutcome::Unknown(_) => None,
        }
    }
}
