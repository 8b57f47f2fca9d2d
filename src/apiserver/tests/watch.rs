//! What a watch tells: initial state, changes as a selection sees them, bookmarks, expiry.

use super::support::{admin, ask, json, request, server};
use crate::ApiServer;
use http_body_util::BodyExt;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

struct Stream {
    body: crate::Body,
    text: String,
}

impl Stream {
    async fn open(server: &Arc<ApiServer>, path: &str) -> Self {
        let response = server.handle(admin(), request("GET", path, "")).await;
        assert_eq!(response.status(), 200);
        Self { body: response.into_body(), text: String::new() }
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let event = serde_json::from_str(line).expect("event");
                self.text = rest.to_owned();
                return Some(event);
            }
            let frame = tokio::time::timeout(Duration::from_secs(5), self.body.frame())
                .await
                .expect("no event came");
            let data = frame?.expect("frame").into_data().expect("data");
            self.text.push_str(std::str::from_utf8(&data).expect("text"));
        }
    }

    /// The next events as `TYPE name`.
    async fn names(&mut self, count: usize) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..count {
            let event = self.next().await.expect("event");
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
            names.push(format!("{} {name}", event["type"].as_str().unwrap_or_default()));
        }
        names
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn create(server: &Arc<ApiServer>, name: &str, label: &str) -> String {
    let body = format!(r#"{{"metadata":{{"name":"{name}","labels":{{"app":"{label}"}}}}}}"#);
    let (code, object) = ask(server, "POST", MAPS, &body).await;
    assert_eq!(code, 201, "{object}");
    object["metadata"]["resourceVersion"].as_str().expect("revision").to_owned()
}

async fn relabel(server: &Arc<ApiServer>, name: &str, label: &str) {
    let body = format!(r#"{{"metadata":{{"labels":{{"app":"{label}"}}}}}}"#);
    assert_eq!(ask(server, "PATCH", &format!("{MAPS}/{name}"), &body).await.0, 200);
}

#[tokio::test]
async fn state_then_changes() {
    let server = server().await;
    create(&server, "a", "x").await;
    let mut stream = Stream::open(&server, &format!("{MAPS}?watch=true")).await;
    assert_eq!(stream.names(1).await, ["ADDED a"]);
    create(&server, "b", "x").await;
    relabel(&server, "a", "y").await;
    ask(&server, "DELETE", &format!("{MAPS}/b"), "").await;
    assert_eq!(stream.names(3).await, ["ADDED b", "MODIFIED a", "DELETED b"]);
}

#[tokio::test]
async fn from_a_revision_and_by_selection() {
    let server = server().await;
    let first = create(&server, "a", "x").await;
    create(&server, "other", "y").await;
    relabel(&server, "a", "y").await;
    relabel(&server, "a", "x").await;
    ask(&server, "DELETE", &format!("{MAPS}/a"), "").await;
    let path = format!("{MAPS}?watch=1&labelSelector=app%3Dx&resourceVersion={first}");
    let mut stream = Stream::open(&server, &path).await;
    let mut last = first.parse::<u64>().expect("number");
    for wanted in ["DELETED", "ADDED", "DELETED"] {
        let event = stream.next().await.expect("event");
        assert_eq!(event["type"], wanted);
        assert_eq!(
            event["object"]["metadata"]["labels"]["app"], "x",
            "the last matching state is told"
        );
        let revision = event["object"]["metadata"]["resourceVersion"]
            .as_str()
            .expect("revision")
            .parse()
            .expect("number");
        assert!(revision > last);
        last = revision;
    }
    let by_name =
        format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Dother&resourceVersion={first}");
    assert_eq!(Stream::open(&server, &by_name).await.names(1).await, ["ADDED other"]);
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let server = server().await;
    create(&server, "a", "x").await;
    let path = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut stream = Stream::open(&server, &path).await;
    assert_eq!(stream.next().await.expect("event")["type"], "ADDED");
    let bookmark = stream.next().await.expect("event");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    create(&server, "b", "x").await;
    assert_eq!(stream.names(1).await, ["ADDED b"]);
    let (code, status) =
        ask(&server, "GET", &format!("{MAPS}?watch=1&sendInitialEvents=true"), "").await;
    assert_eq!(code, 422, "{status}");
}

#[tokio::test]
async fn ends_in_time_with_a_last_bookmark() {
    let server = server().await;
    let first = create(&server, "a", "x").await;
    let path =
        format!("{MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={first}");
    let mut stream = Stream::open(&server, &path).await;
    // A change elsewhere moves the revision on.
    ask(&server, "POST", "/api/v1/namespaces", r#"{"metadata":{"name":"elsewhere"}}"#).await;
    assert_eq!(stream.names(1).await, ["BOOKMARK -"]);
    assert!(stream.next().await.is_none());
    server.close();
    let mut closed =
        Stream::open(&server, &format!("{MAPS}?watch=1&resourceVersion={first}")).await;
    assert!(closed.next().await.is_none());
}

#[tokio::test]
async fn tables_are_streamed() {
    let server = server().await;
    create(&server, "a", "x").await;
    let mut request = request("GET", &format!("{MAPS}?watch=1"), "");
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    request.headers_mut().insert("accept", accept.parse().expect("header"));
    let body = server.handle(admin(), request).await.into_body();
    let mut stream = Stream { body, text: String::new() };
    create(&server, "b", "x").await;
    let (first, second) =
        (stream.next().await.expect("event"), stream.next().await.expect("event"));
    assert_eq!(first["object"]["kind"], "Table");
    assert!(first["object"]["columnDefinitions"].is_array(), "{first}");
    assert!(second["object"]["columnDefinitions"].is_null());
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
}

#[tokio::test]
async fn compacted_revisions_are_expired() {
    let server = server().await;
    for _ in 0..9000 {
        let body = r#"{"metadata":{"name":"same","namespace":"kube-system"}}"#;
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
        let (code, _) = ask(&server, "POST", path, body).await;
        assert!(code == 201, "{code}");
        ask(&server, "DELETE", &format!("{path}/same"), "").await;
    }
    let mut stream = Stream::open(&server, &format!("{MAPS}?watch=1&resourceVersion=1")).await;
    let event = stream.next().await.expect("event");
    assert_eq!(event["type"], "ERROR");
    assert_eq!(event["object"]["code"], 410);
    assert_eq!(event["object"]["reason"], "Expired");
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn pages_are_consistent() {
    let server = server().await;
    for n in 0..7 {
        create(&server, &format!("m{n}"), if n % 2 == 0 { "x" } else { "y" }).await;
    }
    let mut path = format!("{MAPS}?limit=3");
    let mut names = Vec::new();
    let mut remaining = Vec::new();
    loop {
        let (code, list) = json(server.handle(admin(), request("GET", &path, "")).await).await;
        assert_eq!(code, 200, "{list}");
        let items = list["items"].as_array().expect("items");
        names
            .extend(items.iter().map(|i| i["metadata"]["name"].as_str().expect("name").to_owned()));
        remaining.push(list["metadata"]["remainingItemCount"].as_u64());
        // A later page still shows the first page's state.
        ask(&server, "DELETE", &format!("{MAPS}/m6"), "").await;
        match list["metadata"]["continue"].as_str() {
            Some(token) => path = format!("{MAPS}?limit=3&continue={token}"),
            None => break,
        }
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
    assert_eq!(remaining, [Some(4), Some(1), None]);
    let (_, list) = ask(&server, "GET", &format!("{MAPS}?limit=2&labelSelector=app%3Dx"), "").await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2));
    let (code, _) = ask(&server, "GET", &format!("{MAPS}?limit=2&continue=nonsense"), "").await;
    assert_eq!(code, 400);
}
