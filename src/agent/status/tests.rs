//! Conditions over time, and the patch between two statuses. What single states look like is in `cases/worker`.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodIP, PodStatus};
use serde_json::json;

use super::{compute, patch};
use crate::clock::Now;
use crate::worker::{ImageRef, Input, PodState};

fn at(second: i64) -> Now {
    let wall = Timestamp::from_second(1_800_000_000 + second).expect("a time");
    Now { wall, mono: Duration::from_secs(u64::try_from(second).expect("positive")) }
}

fn pod(gates: serde_json::Value, conditions: serde_json::Value) -> Arc<Pod> {
    let pod = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u1", "generation": 2},
        "spec": {"readinessGates": gates, "containers": [{"name": "a", "image": "app:1",
            "resources": {"requests": {"cpu": "1"}},
            "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]}]},
        "status": {"conditions": conditions}});
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn running(pod: Arc<Pod>) -> PodState {
    let mut state = PodState::new(pod, at(0));
    let image = ImageRef {
        id: "sha256:1".into(),
        name: "docker.io/library/app:1".into(),
        status_id: "d".into(),
    };
    for input in [
        Input::Tick,
        Input::Volumes(Ok(())),
        Input::Sandbox(Ok(vec![[10, 42, 0, 7].into()])),
        Input::Image { name: "a".into(), result: Ok(image) },
        Input::Started { name: "a".into(), attempt: 0, result: Ok(at(1).wall) },
    ] {
        state.step(input, at(1));
    }
    state
}

fn said(status: &PodStatus, kind: &str) -> (String, Option<String>, Option<String>, i64) {
    let condition =
        status.conditions.iter().flatten().find(|c| c.type_ == kind).expect("the condition");
    let since =
        condition.last_transition_time.as_ref().expect("a time").0.as_second() - 1_800_000_000;
    (condition.status.clone(), condition.reason.clone(), condition.message.clone(), since)
}

#[test]
fn a_running_pod_says_everything() {
    let host = ["192.168.1.5".to_owned()];
    let before = compute(
        &PodState::new(pod(json!([]), json!([])), at(0)),
        &host,
        &PodStatus::default(),
        at(0).wall,
    );
    let text = "containers with unready status: [a]".to_owned();
    assert_eq!(
        said(&before, "Ready"),
        ("False".into(), Some("ContainersNotReady".into()), Some(text), 0)
    );
    assert_eq!(said(&before, "Initialized").0, "True");
    let status = compute(&running(pod(json!([]), json!([]))), &host, &before, at(5).wall);
    assert_eq!(said(&status, "Ready"), ("True".into(), None, None, 5));
    assert_eq!(said(&status, "Initialized").3, 0, "unchanged conditions keep their time");
    let value = serde_json::to_value(&status).expect("JSON");
    assert_eq!(value["phase"], "Running");
    assert_eq!(value["podIPs"], json!([{"ip": "10.42.0.7"}]));
    assert_eq!(value["hostIP"], "192.168.1.5");
    assert_eq!(value["qosClass"], "Burstable");
    assert_eq!(value["observedGeneration"], 2);
    let container = &value["containerStatuses"][0];
    assert_eq!(container["containerID"], "copepod://u1-a-0");
    assert_eq!(container["image"], "docker.io/library/app:1");
    assert_eq!(container["state"], json!({"running": {"startedAt": "2027-01-15T08:00:01Z"}}));
    assert_eq!(container["allocatedResources"], json!({"cpu": "1"}));
    let mount =
        json!({"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "Disabled"});
    assert_eq!(container["volumeMounts"][0], mount);
    assert_eq!((&container["ready"], &container["started"]), (&json!(true), &json!(true)));
}

#[test]
fn readiness_gates_count() {
    let gate = json!([{"conditionType": "example.com/ok"}]);
    let ready = |conditions| {
        let status = compute(
            &running(pod(gate.clone(), conditions)),
            &[],
            &PodStatus::default(),
            at(5).wall,
        );
        let (status, reason, message, _) = said(&status, "Ready");
        (status, reason.unwrap_or_default(), message.unwrap_or_default())
    };
    let absent = "corresponding condition of pod readiness gate \"example.com/ok\" does not exist.";
    assert_eq!(ready(json!([])), ("False".into(), "ReadinessGatesNotReady".into(), absent.into()));
    let no = "the status of pod readiness gate \"example.com/ok\" is not \"True\", but False";
    let given = |status: &str| json!([{"type": "example.com/ok", "status": status}]);
    assert_eq!(ready(given("False")).2, no);
    assert_eq!(ready(given("True")).0, "True");
}

#[test]
fn the_patch_takes_back_what_is_gone() {
    let host = ["192.168.1.5".to_owned()];
    let old = PodStatus {
        reason: Some("Gone".into()),
        pod_ip: Some("10.42.0.1".into()),
        pod_ips: Some(vec![PodIP { ip: "10.42.0.1".into() }]),
        ..PodStatus::default()
    };
    let new =
        compute(&running(pod(json!([]), json!([]))), &host, &PodStatus::default(), at(5).wall);
    let patch = patch("u1", &new, &old).expect("a patch");
    assert_eq!(patch["metadata"]["uid"], "u1");
    assert!(patch["status"]["reason"].is_null() && patch["status"].get("reason").is_some());
    assert_eq!(patch["status"]["podIPs"], json!([{"ip": "10.42.0.7"}, {"$patch": "replace"}]));
    let ready = patch["status"]["conditions"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|c| c["type"] == "Ready");
    let ready = ready.and_then(|c| c.as_object()).expect("the condition");
    assert!(ready.contains_key("message") && ready["message"].is_null());
}
