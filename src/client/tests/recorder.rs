//! The event recorder.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::{Value, json};

use super::script::{Script, status};
use crate::{EventType, Recorder};

fn pod() -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some("team".to_owned()),
        name: Some("web".to_owned()),
        uid: Some("u1".to_owned()),
        resource_version: Some("7".to_owned()),
        ..ObjectReference::default()
    }
}

async fn asked(script: &Script, count: usize, seconds: u32) -> Vec<String> {
    for _ in 0..seconds * 1000 {
        if script.asked().len() >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    script.asked()
}

#[tokio::test]
async fn repeats_are_counted_and_lost_events_made_again() {
    let script = Script::default();
    let event = json!({"metadata": {"name": "web.1"}, "involvedObject": {}});
    script.answer(201, event.clone());
    script.answer(200, event.clone());
    script.answer(404, status(404, "NotFound"));
    script.answer(201, event);
    let recorder = Recorder::new(script.client(), "kubelet", Some("n1"));
    for _ in 0..3 {
        recorder.event(&pod(), EventType::Warning, "BackOff", "Back-off restarting");
    }
    let asked = asked(&script, 4, 1).await;
    let methods: Vec<&str> = asked.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(methods, ["POST", "PATCH", "PATCH", "POST"], "{asked:#?}");
    let (head, body) = asked[0].split_once('{').expect("body");
    assert_eq!(head, "POST /api/v1/namespaces/team/events ");
    let made: Value = serde_json::from_str(&format!("{{{body}")).expect("json");
    assert_eq!(made["involvedObject"]["resourceVersion"], "7");
    assert_eq!((&made["count"], &made["type"]), (&json!(1), &json!("Warning")));
    assert_eq!(made["source"], json!({"component": "kubelet", "host": "n1"}));
    assert!(asked[1].contains(r#""count":2"#), "{}", asked[1]);
}

#[tokio::test]
async fn nobody_waits_for_the_recorder() {
    let script = Script::default();
    let recorder = Recorder::new(script.client(), "kubelet", None);
    for number in 0..5000 {
        recorder.event(
            &pod(),
            EventType::Normal,
            "Test",
            format!("event {number} {}", "é".repeat(2000)),
        );
    }
    let asked = asked(&script, 1, 1).await;
    assert_eq!(
        asked.len(),
        1,
        "the first waits for an answer that never comes, the others in a bounded queue"
    );
    assert!(asked[0].len() < 4000, "messages have a limit");
}

#[tokio::test]
async fn events_wait_for_a_server_that_is_away() {
    let script = Script::default();
    let event = json!({"metadata": {"name": "web.1"}, "involvedObject": {}});
    script.answer(503, status(503, "ServiceUnavailable"));
    let recorder = Recorder::new(script.client(), "kubelet", Some("n1"));
    recorder.event(&pod(), EventType::Normal, "Started", "Container started");
    assert_eq!(asked(&script, 1, 1).await.len(), 1);
    script.answer(201, event.clone());
    script.answer(201, event);
    for _ in 0..1000 {
        recorder.event(&pod(), EventType::Warning, "BackOff", "Back-off restarting");
    }
    let asked = asked(&script, 3, 10).await;
    let started = |line: &str| line.starts_with("POST") && line.contains("Container started");
    assert!(started(&asked[0]) && started(&asked[1]), "{asked:#?}");
    assert!(asked[2].contains(r#""count":1000"#), "repeats wait as one: {asked:#?}");
}
