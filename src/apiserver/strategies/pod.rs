//! Pods: what every new pod is given (status, quality of service, priority, tolerations, service account), and how long
//! one may take to end.

use crate::answer::Result;
use crate::{ApiServer, object};
use api::{Quantity, Resource, Status};
use serde_json::{Value, json};

/// Seconds a pod stays on a node that became unreachable or not ready, unless it says otherwise.
const TOLERATION_SECONDS: u64 = 300;
const TOLERATED: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const CRITICAL: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(super) fn prepare_create(value: &mut Value) {
    object::set(value, &["status"], json!({"phase": "Pending"}));
    let gates = object::at(value, &["spec", "schedulingGates"]).and_then(Value::as_array);
    if gates.is_some_and(|gates| !gates.is_empty()) {
        let gated = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "lastProbeTime": null,
            "lastTransitionTime": null, "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
        object::set(value, &["status", "conditions"], gated);
    }
}

pub(super) async fn admit_create(
    server: &ApiServer,
    res: &'static Resource,
    value: &mut Value,
) -> Result<()> {
    super::pod_service_account::admit(server, res, value).await?;
    refuse_runtime_class(res, value)?;
    prioritize(res, value)?;
    tolerate(value);
    let class = qos_class(value);
    object::set(value, &["status", "qosClass"], class);
    Ok(())
}

/// Things a pod may say that have no effect or will not have one for long.
pub(super) fn warn(value: &Value, warnings: &mut Vec<String>) {
    for kind in ["initContainers", "containers"] {
        let containers = object::at(value, &["spec", kind]).and_then(Value::as_array);
        for (index, container) in containers.into_iter().flatten().enumerate() {
            let mut seen: Vec<&str> = Vec::new();
            for (i, variable) in container["env"].as_array().into_iter().flatten().enumerate() {
                let name = object::text(variable, &["name"]);
                if seen.contains(&name) {
                    warnings.push(format!(
                        "spec.{kind}[{index}].env[{i}]: hides previous definition of {name:?}, which may be dropped when using apply"
                    ));
                }
                seen.push(name);
            }
        }
    }
}

/// RuntimeClasses are not served, so none exists.
fn refuse_runtime_class(res: &Resource, value: &Value) -> Result<()> {
    match object::text(value, &["spec", "runtimeClassName"]) {
        "" => Ok(()),
        class => {
            let why = format!("pod rejected: RuntimeClass {class:?} not found");
            Err(Status::forbidden(res, object::name(value), &why))
        }
    }
}

fn prioritize(res: &Resource, value: &mut Value) -> Result<()> {
    let class = object::text(value, &["spec", "priorityClassName"]).to_owned();
    let priority = match CRITICAL.iter().find(|(name, _)| *name == class) {
        Some((_, priority)) => *priority,
        None if class.is_empty() => 0,
        None => {
            let why = format!("no PriorityClass with name {class} was found");
            return Err(Status::forbidden(res, object::name(value), &why));
        }
    };
    object::set(value, &["spec", "priority"], priority);
    if object::text(value, &["spec", "preemptionPolicy"]).is_empty() {
        object::set(value, &["spec", "preemptionPolicy"], "PreemptLowerPriority");
    }
    Ok(())
}

fn tolerate(value: &mut Value) {
    let Some(spec) = object::object_mut(value, &["spec"]) else { return };
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(tolerations) = tolerations.as_array_mut() else { return };
    for key in TOLERATED {
        let tolerated = tolerations.iter().any(|t| {
            matches!(
                object::text(t, &["key"]),
                "" | "node.kubernetes.io/not-ready" | "node.kubernetes.io/unreachable"
            ) && (object::text(t, &["key"]).is_empty() || object::text(t, &["key"]) == *key)
                && matches!(object::text(t, &["effect"]), "" | "NoExecute")
        });
        if !tolerated {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
}

/// `Guaranteed` if every container limits cpu and memory and requests as much, `BestEffort` if none asks for anything.
pub(crate) fn qos_class(value: &Value) -> &'static str {
    let (mut any, mut all) = (false, true);
    let containers = ["initContainers", "containers"]
        .into_iter()
        .filter_map(|kind| object::at(value, &["spec", kind]).and_then(Value::as_array))
        .flatten();
    for container in containers {
        for resource in ["cpu", "memory"] {
            let amount = |side: &str| {
                object::at(container, &["resources", side, resource])
                    .and_then(|v| Quantity::from_json(v).ok())
                    .filter(|q| !q.is_zero())
            };
            let (request, limit) = (amount("requests"), amount("limits"));
            any |= request.is_some() || limit.is_some();
            all &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What is asked, else what the pod says; a pod that runs nowhere, or no more, ends at once.
pub(super) fn grace_period(value: &Value, asked: Option<i64>) -> i64 {
    let own = || {
        object::at(value, &["spec", "terminationGracePeriodSeconds"])
            .and_then(Value::as_i64)
            .unwrap_or(0)
    };
    let unscheduled = object::text(value, &["spec", "nodeName"]).is_empty();
    let ended = matches!(object::text(value, &["status", "phase"]), "Succeeded" | "Failed");
    match asked.unwrap_or_else(own) {
        _ if unscheduled || ended => 0,
        negative if negative < 0 => 1,
        grace => grace,
    }
}
