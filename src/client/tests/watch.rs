//! How the body of a watch is cut into events.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use super::script::{Script, event, status};
use crate::{Error, ListParams, WatchEvent};

#[tokio::test]
async fn events_may_come_in_any_pieces() {
    let script = Script::default();
    let sender = script.watch();
    let mut watcher =
        script.client().watch::<ConfigMap>(&ListParams::all(), "1").await.expect("watch");
    let text = format!("{}\n  \n{}", event("ADDED", "a", 2), event("DELETED", "b", 3));
    tokio::spawn(async move {
        for byte in text.chars() {
            sender.send(byte.to_string()).await.expect("send");
        }
        sender
            .send(format!("{}{}", event("UNKNOWN", "x", 4), event("MODIFIED", "c", 4)))
            .await
            .expect("send");
    });
    let mut seen = Vec::new();
    while let Some(event) = watcher.next().await.expect("event") {
        seen.push(match event {
            WatchEvent::Added(map) => format!("+{:?}", map.metadata.name),
            WatchEvent::Modified(map) => format!("~{:?}", map.metadata.name),
            WatchEvent::Deleted(map) => format!("-{:?}", map.metadata.name),
            WatchEvent::Bookmark(revision) => revision,
        });
    }
    assert_eq!(seen, [r#"+Some("a")"#, r#"-Some("b")"#, r#"~Some("c")"#]);
}

#[tokio::test]
async fn errors_in_the_stream_are_errors() {
    let script = Script::default();
    for text in [
        json!({"type": "ERROR", "object": status(410, "Expired")}).to_string(),
        "nonsense".to_owned(),
    ] {
        script.watch().try_send(text + "\n").expect("send");
    }
    let client = script.client();
    let mut watcher = client.watch::<ConfigMap>(&ListParams::all(), "1").await.expect("watch");
    assert!(watcher.next().await.expect_err("expired").is_gone());
    let mut watcher = client.watch::<ConfigMap>(&ListParams::all(), "1").await.expect("watch");
    assert!(matches!(watcher.next().await, Err(Error::Decode { .. })));
}
