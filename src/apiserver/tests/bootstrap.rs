//! What every cluster has comes back when it is deleted.

use super::support::{ask, server};
use std::time::Duration;
use store::EventKind;

/// Longer than bringing back takes, and shorter than the pause between attempts.
const SOON: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_millis(200);

#[tokio::test]
async fn deleted_objects_come_back_once() {
    let server = server().await;
    let store = server.config.store.clone();
    for (key, path) in [
        ("core/services/default", "/api/v1/namespaces/default/services"),
        ("core/endpoints/default", "/api/v1/namespaces/default/endpoints"),
        (
            "discovery.k8s.io/endpointslices/default",
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        ),
    ] {
        let path = format!("{path}/kubernetes");
        let (_, before) = ask(&server, "GET", &path, "").await;
        let key = format!("/registry/{key}/kubernetes");
        let mut changes = store.watch(&key, store.revision()).expect("watch");
        assert_eq!(ask(&server, "DELETE", &path, "").await.0, 200, "{path}");
        let mut back = false;
        while !back {
            let events = tokio::time::timeout(SOON, changes.next()).await.expect("it comes back");
            back = events.expect("events").iter().any(|event| event.kind == EventKind::Put);
        }
        let (code, after) = ask(&server, "GET", &path, "").await;
        assert_eq!(code, 200);
        assert_ne!(before["metadata"]["uid"], after["metadata"]["uid"]);
        for field in ["subsets", "endpoints", "ports"] {
            assert_eq!(before[field], after[field]);
        }
        assert_eq!(before["spec"]["clusterIP"], after["spec"]["clusterIP"]);
        let more = tokio::time::timeout(QUIET, changes.next()).await;
        assert!(more.is_err(), "{path} is written more than once");
    }
}

#[tokio::test]
async fn a_system_namespace_comes_back() {
    let server = server().await;
    let store = server.config.store.clone();
    let path = "/api/v1/namespaces/kube-node-lease";
    let key = "/registry/core/namespaces/kube-node-lease";
    assert_eq!(ask(&server, "DELETE", path, "").await.0, 200);
    let mut changes = store.watch(key, store.revision()).expect("watch");
    let body = r#"{"metadata":{"name":"kube-node-lease"},"spec":{"finalizers":[]}}"#;
    assert_eq!(ask(&server, "PUT", &format!("{path}/finalize"), body).await.0, 200);
    let mut back = false;
    while !back {
        let events = tokio::time::timeout(SOON, changes.next()).await.expect("it comes back");
        back = events.expect("events").iter().any(|event| event.kind == EventKind::Put);
    }
    let (_, namespace) = ask(&server, "GET", path, "").await;
    assert_eq!(namespace["status"]["phase"], "Active");
}
