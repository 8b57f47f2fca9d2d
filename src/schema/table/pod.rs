//! The row of a pod: the one word that says how it is doing comes from its phase, conditions and all containers.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, cell, integer, list, name, or, text};

#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += integer(status, "restartCount");
        let finished = text(&status["lastState"]["terminated"], "finishedAt");
        self.last = self.last.max(api::time::parse(finished));
    }

    fn show(&self, now: Timestamp) -> String {
        match (self.count, self.last) {
            (count, Some(last)) if count != 0 => {
                format!("{count} ({} ago)", age::human(now.duration_since(last).as_secs()))
            }
            (count, _) => count.to_string(),
        }
    }
}

struct Summary {
    reason: String,
    ready: usize,
    restarts: Restarts,
}

pub(super) fn pod(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let sidecars = list(spec, "initContainers")
        .iter()
        .filter(|c| text(c, "restartPolicy") == "Always")
        .count();
    let total = list(spec, "containers").len() + sidecars;
    let summary = summary(pod);
    let address = list(status, "podIPs").first().map_or("", |ip| text(ip, "ip"));
    vec![
        cell(name(pod)),
        cell(format!("{}/{total}", summary.ready)),
        cell(summary.reason),
        cell(summary.restarts.show(now)),
        age::age(pod, now),
        cell(or(address, "<none>")),
        cell(or(text(spec, "nodeName"), "<none>")),
        cell(or(text(status, "nominatedNodeName"), "<none>")),
        cell(readiness_gates(spec, status)),
    ]
}

pub(super) fn row_conditions(pod: &Value) -> Option<Value> {
    let (reason, message) = match text(&pod["status"], "phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{ "type": "Completed", "status": "True", "reason": reason, "message": message }]))
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    list(status, "conditions").iter().find(|c| text(c, "type") == kind).unwrap_or(&Value::Null)
}

fn is_true(status: &Value, kind: &str) -> bool {
    text(condition(status, kind), "status") == "True"
}

fn readiness_gates(spec: &Value, status: &Value) -> String {
    let gates = list(spec, "readinessGates");
    let passed = gates.iter().filter(|gate| is_true(status, text(gate, "conditionType"))).count();
    match gates.len() {
        0 => "<none>".to_owned(),
        total => format!("{passed}/{total}"),
    }
}

fn summary(pod: &Value) -> Summary {
    let status = &pod["status"];
    let phase = text(status, "phase");
    let mut reason = or(text(status, "reason"), phase).to_owned();
    if text(condition(status, "PodScheduled"), "reason") == "SchedulingGated" {
        reason = "SchedulingGated".to_owned();
    }
    let mut summary = Summary { reason, ready: 0, restarts: Restarts::default() };
    let sidecar_restarts = init_containers(pod, &mut summary);
    if let Some(restarts) = sidecar_restarts {
        summary.restarts = restarts;
        main_containers(status, &mut summary);
    }
    if pod["metadata"].get("deletionTimestamp").is_some() {
        if text(status, "reason") == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// The restarts of the sidecars when initialization is over, else none: then the init containers say it all.
fn init_containers(pod: &Value, summary: &mut Summary) -> Option<Restarts> {
    let (declared, status) = (list(&pod["spec"], "initContainers"), &pod["status"]);
    let is_sidecar = |name: &str| {
        declared.iter().any(|c| text(c, "name") == name && text(c, "restartPolicy") == "Always")
    };
    let mut sidecars = Restarts::default();
    let mut initializing = false;
    for (i, container) in list(status, "initContainerStatuses").iter().enumerate() {
        summary.restarts.add(container);
        let sidecar = is_sidecar(text(container, "name"));
        if sidecar {
            sidecars.add(container);
        }
        let state = &container["state"];
        if state["terminated"].is_object() && integer(&state["terminated"], "exitCode") == 0 {
            continue;
        }
        if sidecar && container["started"] == json!(true) {
            summary.ready += usize::from(container["ready"] == json!(true));
            continue;
        }
        summary.reason = match (&state["terminated"], text(&state["waiting"], "reason")) {
            (terminated, _) if terminated.is_object() => format!("Init:{}", ended(terminated)),
            (_, "" | "PodInitializing") => format!("Init:{i}/{}", declared.len()),
            (_, waiting) => format!("Init:{waiting}"),
        };
        initializing = true;
        break;
    }
    (!initializing || is_true(status, "Initialized")).then_some(sidecars)
}

fn ended(terminated: &Value) -> String {
    match (text(terminated, "reason"), integer(terminated, "signal")) {
        ("", 0) => format!("ExitCode:{}", integer(terminated, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn main_containers(status: &Value, summary: &mut Summary) {
    let mut running = false;
    for container in list(status, "containerStatuses").iter().rev() {
        summary.restarts.add(container);
        let state = &container["state"];
        let waiting = text(&state["waiting"], "reason");
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if state["terminated"].is_object() {
            summary.reason = ended(&state["terminated"]);
        } else if container["ready"] == json!(true) && state["running"].is_object() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = is_true(status, "Ready");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}
