//! Caches and their subscriptions.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use super::script::{Script, event, status};
use crate::{Cache, Change, ListParams};

const LIMIT: Duration = Duration::from_secs(10);

fn names(cache: &Cache<ConfigMap>) -> Vec<String> {
    cache.list().iter().map(|map| map.metadata.name.clone().unwrap_or_default()).collect()
}

/// A change as text: `+a`, `-a`, `~a`, `resync`.
fn text(change: &Change<ConfigMap>) -> String {
    match change {
        Change::Resync => "resync".to_owned(),
        Change::Object { key, old: None, .. } => format!("+{}", key.1),
        Change::Object { key, new: None, .. } => format!("-{}", key.1),
        Change::Object { key, .. } => format!("~{}", key.1),
    }
}

#[tokio::test]
async fn follows_a_collection() {
    let script = Script::default();
    script.list(5, &[("b", 3), ("a", 4)]);
    let watch = script.watch();
    let cache = Cache::<ConfigMap>::start(script.client(), ListParams::all().labels("x=y"));
    let mut changes = cache.subscribe();
    cache.synced().await;
    assert_eq!(names(&cache), ["a", "b"]);
    assert!(
        cache.get("default", "a").expect("a").metadata.managed_fields.is_none(),
        "managed fields are not kept"
    );
    assert_eq!(text(&changes.next().await), "resync");
    for line in [event("ADDED", "c", 6), event("MODIFIED", "a", 7), event("DELETED", "b", 8)] {
        watch.send(line).await.expect("send");
    }
    watch
        .send(
            json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "20"}}})
                .to_string()
                + "\n",
        )
        .await
        .expect("send");
    assert!(cache.caught_up(20, LIMIT).await);
    assert_eq!(names(&cache), ["a", "c"]);
    for expected in ["+c", "~a", "-b"] {
        assert_eq!(text(&changes.next().await), expected);
    }
    let asked = script.asked();
    assert_eq!(asked[0], "GET /api/v1/configmaps?labelSelector=x%3Dy&limit=500");
    assert!(
        asked[1].contains("watch=true&allowWatchBookmarks=true&resourceVersion=5"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn an_ended_watch_is_continued_without_a_list() {
    let script = Script::default();
    script.list(5, &[("a", 4)]);
    let first = script.watch();
    let second = script.watch();
    let cache = Cache::<ConfigMap>::start(script.client(), ListParams::all());
    first.send(event("ADDED", "b", 9)).await.expect("send");
    assert!(cache.caught_up(9, LIMIT).await);
    drop(first);
    second.send(event("ADDED", "c", 10)).await.expect("send");
    assert!(cache.caught_up(10, LIMIT).await);
    let asked = script.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked[2].contains("resourceVersion=9"), "{asked:?}");
}

#[tokio::test]
async fn a_compacted_revision_leads_to_a_list_and_only_differences_are_told() {
    let script = Script::default();
    script.list(5, &[("a", 4), ("b", 4), ("c", 4)]);
    let watch = script.watch();
    let cache = Cache::<ConfigMap>::start(script.client(), ListParams::all());
    let mut changes = cache.subscribe();
    cache.synced().await;
    assert_eq!(text(&changes.next().await), "resync");
    script.list(30, &[("a", 4), ("b", 29), ("d", 30)]);
    let _second = script.watch();
    watch
        .send(json!({"type": "ERROR", "object": status(410, "Expired")}).to_string() + "\n")
        .await
        .expect("send");
    assert!(cache.caught_up(30, LIMIT).await);
    for expected in ["~b", "+d", "-c"] {
        assert_eq!(text(&changes.next().await), expected);
    }
}

#[tokio::test]
async fn failures_are_retried() {
    let script = Script::default();
    script.answer(500, status(500, "InternalError"));
    script.answer(429, status(429, "TooManyRequests"));
    script.list(5, &[("a", 4)]);
    script.answer(410, status(410, "Expired"));
    script.list(7, &[("a", 4), ("b", 6)]);
    let _watch = script.watch();
    let cache = Cache::<ConfigMap>::start(script.client(), ListParams::all());
    assert!(cache.caught_up(7, Duration::from_secs(100)).await);
    assert_eq!(names(&cache), ["a", "b"]);
}

#[tokio::test]
async fn a_slow_subscriber_is_told_to_look_at_everything() {
    let script = Script::default();
    script.list(1, &[]);
    let watch = script.watch();
    let cache = Cache::<ConfigMap>::start(script.client(), ListParams::all());
    cache.synced().await;
    let mut changes = cache.subscribe();
    assert_eq!(text(&changes.next().await), "resync");
    for revision in 2..2000 {
        watch.send(event("MODIFIED", "a", revision)).await.expect("send");
    }
    assert!(cache.caught_up(1999, LIMIT).await);
    assert_eq!(text(&changes.next().await), "resync");
    watch.send(event("DELETED", "a", 2000)).await.expect("send");
    assert_eq!(text(&changes.next().await), "-a");
}

#[tokio::test]
async fn a_list_is_read_page_by_page() {
    let script = Script::default();
    let page = |token: &str, name: &str| {
        let item = super::script::config_map(name, 1);
        json!({"metadata": {"resourceVersion": "9", "continue": token}, "items": [item]})
    };
    script.answer(200, page("t/1", "a"));
    script.answer(410, status(410, "Expired"));
    script.answer(200, page("t2", "a"));
    script.answer(200, page("", "b"));
    let list = script.client().list::<ConfigMap>("team", &ListParams::all()).await.expect("list");
    assert_eq!((list.items.len(), list.revision.as_str()), (2, "9"));
    assert_eq!(
        script.asked()[1],
        "GET /api/v1/namespaces/team/configmaps?continue=t%2F1&limit=500"
    );
}

#[tokio::test]
async fn the_last_clone_ends_the_task() {
    let script = Script::default();
    script.list(5, &[]);
    let watch = script.watch();
    let cache = Cache::<ConfigMap>::start(script.client(), ListParams::all());
    let changes = cache.subscribe();
    cache.synced().await;
    drop(cache);
    assert!(!watch.is_closed(), "a subscription keeps the cache alive");
    drop(changes);
    watch.closed().await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_does_not_hide_the_others() {
    let script = Script::default();
    let broken = json!({"metadata": {"name": "broken", "namespace": "default"}, "data": 5});
    let good = super::script::config_map("a", 1);
    script.answer(200, json!({"metadata": {"resourceVersion": "3"}, "items": [broken, good]}));
    let watch = script.watch();
    let cache = Cache::<ConfigMap>::start(script.client(), ListParams::all());
    watch.send(json!({"type": "ADDED", "object": broken}).to_string() + "\n").await.expect("send");
    watch.send(event("ADDED", "b", 4)).await.expect("send");
    assert!(cache.caught_up(4, LIMIT).await);
    assert_eq!(names(&cache), ["a", "b"]);
}
