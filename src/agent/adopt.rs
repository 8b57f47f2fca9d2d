//! What the runtime says about a container, in the worker's terms; and how a restarted agent recognises its pods.

use std::io::Read;
use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodStatus};
use runtime::protocol::{Container, Snapshot, State};

use crate::clock::from_nanos;
use crate::container_spec::label;
use crate::logs;
use crate::paths::Paths;
use crate::worker::{ImageRef, Known, Termination};

/// Bounds of a termination message: from its file, and from the end of the log.
const MESSAGE_BYTES_MAX: usize = 4096;
const FALLBACK_BYTES_MAX: usize = 2048;
const FALLBACK_LINES_MAX: usize = 80;
const EXIT_LOST: i32 = 137;
const EXIT_NOT_STARTED: i32 = 128;

/// Pod uid, container name and attempt of a container of ours.
pub(crate) fn identity(container: &Container) -> Option<(&str, &str, u32)> {
    let uid = container.labels.get(label::POD_UID)?;
    let name = container.labels.get(label::CONTAINER)?;
    Some((uid, name, container.attempt))
}

pub(crate) fn stop_signal(container: &Container) -> Option<i32> {
    container.labels.get(label::STOP_SIGNAL).and_then(|s| signal_number(s))
}

/// `SIGQUIT`, `QUIT` or `3`.
pub(crate) fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let upper = text.to_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    if let Some(offset) = name.strip_prefix("SIGRTMIN+") {
        return offset.parse::<i32>().ok().map(|n| 34 + n);
    }
    name.parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
}

/// How the container ended; `None` while it has not.
pub(crate) async fn termination(paths: &Paths, container: &Container) -> Option<Termination> {
    if container.state != State::Exited {
        return None;
    }
    let (paths, container) = (paths.clone(), container.clone());
    tokio::task::spawn_blocking(move || terminated(&paths, &container)).await.ok()
}

fn terminated(paths: &Paths, container: &Container) -> Termination {
    let exit_code = container.exit_code.unwrap_or(EXIT_LOST);
    let reason = match (container.oom_killed, exit_code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    };
    // It was made, but its program could not be run.
    let never_ran = exit_code == EXIT_NOT_STARTED && container.started_at.is_none();
    let reason = if never_ran { "StartError" } else { reason };
    let message =
        if never_ran { container.message.clone() } else { message(paths, container, exit_code) };
    Termination {
        exit_code,
        signal: None,
        reason: reason.to_owned(),
        message: (!message.is_empty()).then_some(message),
        started_at: Some(container.started_at.map_or(Timestamp::UNIX_EPOCH, from_nanos)),
        finished_at: container.finished_at.map_or_else(Timestamp::now, from_nanos),
        container_id: Some(container.id.clone()),
    }
}

/// The termination message: from its file, or from the log where the pod wants that and the file is empty.
fn message(paths: &Paths, container: &Container, exit_code: i32) -> String {
    let Some((uid, name, attempt)) = identity(container) else { return String::new() };
    let text = read_start(&paths.termination_message(uid, name, attempt));
    let fallback = container.labels.get(label::MESSAGE_POLICY).map(String::as_str)
        == Some("FallbackToLogsOnError");
    if !text.is_empty() || !fallback || exit_code == 0 {
        return text;
    }
    logs::tail_text(&container.log_path, FALLBACK_LINES_MAX, FALLBACK_BYTES_MAX)
}

fn read_start(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        drop(file.take(MESSAGE_BYTES_MAX as u64).read_to_end(&mut bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is said of a container that ran once and that nobody knows any more, as after a reboot.
pub(crate) fn unknown_exit(now: Timestamp) -> Termination {
    Termination {
        exit_code: EXIT_LOST,
        signal: None,
        reason: "ContainerStatusUnknown".to_owned(),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        started_at: None,
        finished_at: now,
        container_id: None,
    }
}

/// Everything known of a pod's containers: from the runtime where it has them, from the pod's own status where not.
pub(crate) async fn known(
    paths: &Paths,
    pod: &Pod,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Vec<Known> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let mut found: Vec<Known> = Vec::new();
    let spec = pod.spec.clone().unwrap_or_default();
    for spec in crate::resources::containers(&spec) {
        let reported = reported(&status, &spec.name);
        let mut attempts: Vec<&Container> = snapshot
            .containers
            .iter()
            .filter(|c| identity(c).is_some_and(|(u, n, _)| u == uid && n == spec.name))
            // One that was made but never started will be made anew, as is one that an earlier agent was replacing.
            .filter(|c| c.state != State::Created && !c.removing)
            .collect();
        attempts.sort_by_key(|c| c.attempt);
        let known = match attempts.pop() {
            Some(newest) => Some(from_runtime(paths, newest, attempts.pop(), reported).await),
            None => reported.and_then(|s| from_status(s, now)),
        };
        found.extend(known);
    }
    found
}

fn reported<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let init = status.init_container_statuses.iter().flatten();
    init.chain(status.container_statuses.iter().flatten()).find(|s| s.name == name)
}

async fn from_runtime(
    paths: &Paths,
    newest: &Container,
    before: Option<&Container>,
    reported: Option<&ContainerStatus>,
) -> Known {
    let label = |key: &str| newest.labels.get(key).cloned().unwrap_or_default();
    let previous = match before {
        Some(container) => termination(paths, container).await,
        // The runtime may have lost it; what was said of it stays.
        None => reported
            .filter(|s| u32::try_from(s.restart_count) == Ok(newest.attempt))
            .and_then(|s| s.last_state.clone()?.terminated)
            .map(from_terminated),
    };
    let started = reported.is_some_and(|s| s.started == Some(true));
    Known {
        name: newest.name.clone(),
        attempt: newest.attempt,
        image: Some(ImageRef {
            id: label(label::IMAGE_ID),
            name: label(label::IMAGE_NAME),
            status_id: label(label::IMAGE_STATUS),
        }),
        made: Some(newest.created_at),
        running_since: newest.started_at.map(from_nanos),
        exit: termination(paths, newest).await,
        previous,
        was_ready: reported.is_some_and(|s| s.ready),
        was_started: started,
    }
}

/// Only the API server remembers the container: it ended, or it was lost with the machine's memory.
fn from_status(status: &ContainerStatus, now: Timestamp) -> Option<Known> {
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.clone().and_then(|s| s.terminated);
    let attempt = u32::try_from(status.restart_count).unwrap_or(0);
    let (exit, previous) = match (state.terminated, state.running, last) {
        (Some(ended), _, last) => (from_terminated(ended), last.map(from_terminated)),
        (None, Some(running), last) => {
            let mut exit = unknown_exit(now);
            exit.started_at = running.started_at.map(|t| t.0);
            exit.container_id = bare_id(status.container_id.as_deref());
            (exit, last.map(from_terminated))
        }
        // It was waiting to be restarted.
        (None, None, Some(last)) => (from_terminated(last), None),
        (None, None, None) => return None,
    };
    Some(Known {
        name: status.name.clone(),
        attempt,
        image: Some(ImageRef {
            id: String::new(),
            name: status.image.clone(),
            status_id: status.image_id.clone(),
        }),
        made: None,
        running_since: None,
        exit: Some(exit),
        previous,
        was_ready: false,
        was_started: false,
    })
}

fn from_terminated(state: ContainerStateTerminated) -> Termination {
    Termination {
        exit_code: state.exit_code,
        signal: state.signal,
        reason: state.reason.unwrap_or_default(),
        message: state.message,
        started_at: state.started_at.map(|t| t.0),
        finished_at: state.finished_at.map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        container_id: bare_id(state.container_id.as_deref()),
    }
}

fn bare_id(id: Option<&str>) -> Option<String> {
    id.and_then(|id| id.strip_prefix("copepod://")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A container `c` of the pod `u`: its attempt and state, and whether it is being removed.
    fn container((attempt, state, removing): (u32, &str, bool)) -> Container {
        serde_json::from_value(json!({
            "id": format!("u-c-{attempt}"), "sandbox": "u", "name": "c", "attempt": attempt,
            "labels": {label::POD_UID: "u", label::CONTAINER: "c"},
            "state": state, "pid": null, "created_at": 1, "started_at": 2, "finished_at": 3,
            "exit_code": (state == "exited").then_some(7), "signal": null, "oom_killed": false,
            "message": "", "log_path": "", "removing": removing,
        }))
        .expect("a container")
    }

    #[tokio::test]
    async fn what_a_restarted_agent_takes_over() {
        let ended = |code| json!({"terminated": {"exitCode": code}});
        let status = |count, last| json!({"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": count, "state": {"waiting": {}}, "lastState": last});
        let none = json!(null);
        let cases = [
            // what the runtime has, what the server has heard, then: attempt, exit code, exit code of the one before
            (vec![], none.clone(), None),
            (vec![(0, "running", false)], none.clone(), Some((0, None, None))),
            (vec![(0, "exited", false)], none.clone(), Some((0, Some(7), None))),
            (vec![(0, "created", false)], none.clone(), None),
            // An earlier agent was making room for a new one.
            (vec![(0, "exited", true)], none.clone(), None),
            (vec![(0, "running", true)], none.clone(), None),
            (
                vec![(0, "exited", false), (1, "exited", true)],
                none.clone(),
                Some((0, Some(7), None)),
            ),
            (
                vec![(0, "exited", false), (1, "running", false)],
                none.clone(),
                Some((1, None, Some(7))),
            ),
            (vec![(1, "running", false)], status(1, ended(5)), Some((1, None, Some(5)))),
            (vec![(2, "running", false)], status(1, ended(5)), Some((2, None, None))),
        ];
        let pod = |status: &serde_json::Value| -> Pod {
            let statuses: Vec<_> = [status].into_iter().filter(|s| !s.is_null()).collect();
            serde_json::from_value(json!({
                "metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c"}]}, "status": {"containerStatuses": statuses},
            }))
            .expect("a pod")
        };
        let paths = Paths::new(Path::new("/nonexistent"));
        for (has, reported, wanted) in cases {
            let containers = has.iter().copied().map(container).collect();
            let snapshot = Snapshot { sandboxes: Vec::new(), containers };
            let found = known(&paths, &pod(&reported), &snapshot, Timestamp::UNIX_EPOCH).await;
            let code = |exit: &Option<Termination>| exit.as_ref().map(|e| e.exit_code);
            let got = found.first().map(|k| (k.attempt, code(&k.exit), code(&k.previous)));
            assert_eq!(got, wanted, "{has:?} {reported}");
        }
    }
}
