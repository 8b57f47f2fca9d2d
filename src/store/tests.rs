//! Tests of the store through its public face.

mod contract;
mod file;
mod full;
mod model;
mod verdict;

use bytes::Bytes;

use crate::{Durability, Entry, Event, EventKind, NewValue, Watch};

/// Keys below "/memory/" are memory-only.
fn by_prefix(key: &str) -> Durability {
    if key.starts_with("/memory/") { Durability::Memory } else { Durability::Durable }
}

fn value(text: &str) -> NewValue {
    Bytes::copy_from_slice(text.as_bytes()).into()
}

fn text(entry: &Entry) -> &str {
    std::str::from_utf8(&entry.value).unwrap()
}

/// "key=value@revision", or "-key@revision" for a deletion, and "<previous value" where there was one.
fn shown(event: &Event) -> String {
    let entry = &event.entry;
    let before = event.previous.as_ref().map(|old| format!("<{}", text(old))).unwrap_or_default();
    match event.kind {
        EventKind::Put => format!("{}={}@{}{before}", entry.key, text(entry), entry.modified),
        EventKind::Delete => format!("-{}@{}{before}", entry.key, entry.modified),
    }
}

async fn take(watch: &mut Watch, count: usize) -> Vec<String> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(watch.next().await.unwrap().iter().map(shown));
    }
    assert_eq!(events.len(), count, "{events:?}");
    events
}

/// That nothing is there to be read.
async fn assert_quiet(watch: &mut Watch) {
    tokio::select! {
        biased;
        events = watch.next() => panic!("unexpected: {events:?}"),
        () = std::future::ready(()) => {}
    }
}
