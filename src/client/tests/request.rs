//! Paths, bodies and errors.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use serde_json::{Value, json};

use super::script::{Script, config_map, status};
use crate::{DeleteParams, Patch, Propagation, ResourcePath};

#[test]
fn paths() {
    let deployments = ResourcePath::of::<Deployment>();
    for (path, expected) in [
        (deployments.path("", "", ""), "/apis/apps/v1/deployments"),
        (
            deployments.path("team", "web", "scale"),
            "/apis/apps/v1/namespaces/team/deployments/web/scale",
        ),
        (ResourcePath::of::<Node>().path("", "n1", "status"), "/api/v1/nodes/n1/status"),
        (
            ResourcePath::of::<Pod>().path("a/b", "../c?d", ""),
            "/api/v1/namespaces/a%2Fb/pods/..%2Fc%3Fd",
        ),
    ] {
        assert_eq!(path, expected);
    }
}

#[tokio::test]
async fn verbs() {
    let script = Script::default();
    let client = script.client();
    for _ in 0..4 {
        script.answer(200, config_map("a", 1));
    }
    script.answer(404, status(404, "NotFound"));
    let map: ConfigMap = client.get("team", "a").await.expect("get");
    client.create(&map).await.expect("create");
    client
        .patch::<ConfigMap>("team", "a", &Patch::Merge(json!({"data": null})))
        .await
        .expect("patch");
    let params = DeleteParams::default().grace(0).propagation(Propagation::Foreground).uid("u");
    client.delete::<ConfigMap>("team", "a", &params).await.expect("delete");
    assert!(client.get_opt::<ConfigMap>("team", "b").await.expect("get").is_none());
    let asked = script.asked();
    assert!(asked[1].starts_with("POST /api/v1/namespaces/default/configmaps {"), "{}", asked[1]);
    assert_eq!(asked[2], r#"PATCH /api/v1/namespaces/team/configmaps/a {"data":null}"#);
    let (head, body) = asked[3].split_once('{').expect("body");
    assert_eq!(head, "DELETE /api/v1/namespaces/team/configmaps/a ");
    let body: Value = serde_json::from_str(&format!("{{{body}")).expect("json");
    let expected = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
        "propagationPolicy": "Foreground", "preconditions": {"uid": "u"},
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn failures_keep_the_status() {
    let script = Script::default();
    script.answer(409, status(409, "AlreadyExists"));
    script.answer(409, status(409, "Conflict"));
    script.answer(502, json!("bad gateway"));
    script.answer(200, json!("not an object"));
    let client = script.client();
    let get = || client.get::<ConfigMap>("team", "a");
    assert!(get().await.expect_err("exists").is_already_exists());
    assert!(get().await.expect_err("conflict").is_conflict());
    let error = get().await.expect_err("gateway");
    assert_eq!(error.code(), Some(502));
    assert_eq!(
        error.to_string(),
        r#"Internal error occurred: /api/v1/namespaces/team/configmaps/a: "bad gateway""#
    );
    assert!(get().await.expect_err("decode").to_string().starts_with("decode /api/v1/"));
}
