//! What of a node's status is worth a write.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeStatus;
use serde_json::json;

use super::status::{conditions, patch, says};

fn status(at: &str) -> NodeStatus {
    let now: Timestamp = at.parse().expect("a time");
    let mut status: NodeStatus = serde_json::from_value(json!({
        "addresses": [{"type": "InternalIP", "address": "10.0.0.7"}],
        "capacity": {"cpu": "4"},
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }))
    .expect("a status");
    status.conditions = Some(conditions(Ok(()), true, &NodeStatus::default(), now));
    status
}

#[test]
fn a_heartbeat_is_no_news() {
    let old = status("2026-11-22T10:00:00Z");
    let ours = status("2026-11-22T10:05:00Z");
    assert!(says(&old, &ours));
    let mut theirs = old.clone();
    theirs.conditions.get_or_insert_default().reverse();
    theirs.conditions.get_or_insert_default().push(
        serde_json::from_value(json!({"type": "NetworkUnavailable", "status": "False"}))
            .expect("a condition"),
    );
    theirs.images = Some(Vec::new());
    assert!(says(&theirs, &ours), "others may add conditions");
}

#[test]
fn what_others_should_know_is_news() {
    let ours = status("2026-11-22T10:05:00Z");
    let differs = |change: &dyn Fn(&mut NodeStatus)| {
        let mut theirs = ours.clone();
        change(&mut theirs);
        assert!(!says(&theirs, &ours));
    };
    differs(&|s| s.conditions.get_or_insert_default()[3].status = "Unknown".into());
    differs(&|s| s.conditions = None);
    differs(&|s| s.addresses.get_or_insert_default()[0].address = "10.0.0.8".into());
    differs(&|s| s.images = serde_json::from_value(json!([{"names": ["a"]}])).ok());
    differs(&|s| s.capacity = None);
}

#[test]
fn addresses_are_replaced_as_a_whole() {
    let body = patch(&status("2026-11-22T10:00:00Z"));
    assert_eq!(
        body["status"]["addresses"],
        json!([{"type": "InternalIP", "address": "10.0.0.7"}, {"$patch": "replace"}])
    );
}
