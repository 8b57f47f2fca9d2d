//! What comes into a pod worker and what it asks for.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use runtime::protocol::Nanos;

use super::probes::{ProbeKind, ProbeOutcome};

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// The pod as the API server has it now.
    Pod(Arc<Pod>),
    /// The pod is no longer in the API server.
    Gone,
    Volumes(Result<(), Failure>),
    Sandbox(Result<Vec<IpAddr>, Failure>),
    Image {
        name: String,
        result: Result<ImageRef, ImageFailure>,
    },
    /// The container exists and is about to be started. `made` is when it was created: an attempt that is made
    /// again has another.
    Created {
        name: String,
        attempt: u32,
        made: Nanos,
    },
    /// The container runs (or does not: then with the reason of a waiting state).
    Started {
        name: String,
        attempt: u32,
        result: Result<Timestamp, Failure>,
    },
    /// The postStart hook ended.
    Hooked {
        name: String,
        attempt: u32,
        result: Result<(), String>,
    },
    Exited {
        name: String,
        attempt: u32,
        /// Which container of this attempt ended, as far as the runtime has said.
        made: Option<Nanos>,
        exit: Termination,
    },
    Probed {
        name: String,
        attempt: u32,
        kind: ProbeKind,
        outcome: ProbeOutcome,
    },
    Cleaned(Result<(), String>),
    /// Something the pod refers to has changed: what failed for want of it may work now.
    Retry,
    /// What the runtime has after its events were interrupted: the sandbox, and these containers with a process.
    Relisted {
        sandbox: bool,
        running: Vec<(String, u32)>,
    },
    /// Only the time has changed.
    Tick,
}

impl Input {
    /// What happened, without its details; for logs.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Input::Pod(_) => "pod",
            Input::Gone => "gone",
            Input::Volumes(_) => "volumes",
            Input::Sandbox(_) => "sandbox",
            Input::Image { .. } => "image",
            Input::Created { .. } => "created",
            Input::Started { .. } => "started",
            Input::Hooked { .. } => "hooked",
            Input::Exited { .. } => "exited",
            Input::Probed { .. } => "probed",
            Input::Cleaned(_) => "cleaned",
            Input::Retry => "retry",
            Input::Relisted { .. } => "relisted",
            Input::Tick => "tick",
        }
    }
}

/// What to do next. Every effect but `Event` and the probe ones is answered by exactly one input.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    MountVolumes,
    CreateSandbox {
        replace: bool,
    },
    PullImage {
        name: String,
    },
    StartContainer {
        name: String,
        attempt: u32,
    },
    PostStart {
        name: String,
        attempt: u32,
    },
    Stop(StopPlan),
    /// A record and files of an ended container that nothing refers to any more.
    Forget {
        name: String,
        attempt: u32,
    },
    StartProbe {
        name: String,
        attempt: u32,
        kind: ProbeKind,
    },
    StopProbes {
        name: String,
    },
    Event(EventNote),
    /// Remove sandbox, network and volumes; `last` also removes the pod's directory and logs.
    Cleanup {
        last: bool,
    },
    /// Everything is gone: take the pod out of the API server.
    Delete,
}

/// How to stop a container: hook, signal, wait, kill.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StopPlan {
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) grace: Duration,
    /// The pod is going away, so the preStop hook is due.
    pub(crate) hook: bool,
}

/// An event on the pod, or on one container of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EventNote {
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) container: Option<String>,
}

impl EventNote {
    pub(crate) fn normal(reason: &'static str, message: String) -> EventNote {
        EventNote { warning: false, reason, message, container: None }
    }

    pub(crate) fn warning(reason: &'static str, message: String) -> EventNote {
        EventNote { warning: true, reason, message, container: None }
    }

    pub(crate) fn on(mut self, container: &str) -> EventNote {
        self.container = Some(container.to_owned());
        self
    }
}

/// A reason in upstream's words and what exactly went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// The container was made but could not be started: it counts as an exit with code 128.
    pub(crate) fatal: bool,
}

impl Failure {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Failure {
        Failure { reason, message: message.into(), fatal: false }
    }
}

/// Why there is no image. `retry` is false where only a changed pod or store can help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageFailure {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The image a container runs, as its status reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ImageRef {
    /// What the store resolves: the digest of the configuration.
    pub(crate) id: String,
    /// `status.image`.
    pub(crate) name: String,
    /// `status.imageID`.
    pub(crate) status_id: String,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Termination {
    pub(crate) exit_code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Timestamp,
    pub(crate) container_id: Option<String>,
}

/// What a restarted agent finds of a container, from the runtime or from the pod's old status.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) image: Option<ImageRef>,
    pub(crate) made: Option<Nanos>,
    pub(crate) running_since: Option<Timestamp>,
    pub(crate) exit: Option<Termination>,
    pub(crate) previous: Option<Termination>,
    pub(crate) was_ready: bool,
    pub(crate) was_started: bool,
}
