//! Events expire by age and by number, and they and Leases are kept in memory only.

use crate::expiry::{EVENT_SECONDS, EVENTS_MAX, Expiry, QUEUE_MAX};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

#[test]
fn old_and_surplus_events_go() {
    let expiry = Expiry::default();
    let start = Instant::now();
    let key = |n: usize| Arc::from(format!("/registry/core/events/default/{n}"));
    expiry.written(&key(1), start);
    expiry.written(&key(2), start + Duration::from_secs(10));
    expiry.written(&key(1), start + Duration::from_secs(20));
    let (due, next) = expiry.due(start + EVENT_SECONDS + Duration::from_secs(11));
    assert_eq!(due, [key(2)]);
    assert_eq!(next, Some(start + Duration::from_secs(20) + EVENT_SECONDS));
    for n in 0..EVENTS_MAX + 5 {
        expiry.written(&key(100 + n), start);
    }
    let (due, _) = expiry.due(start);
    assert_eq!(due.len(), 6);
    for _ in 0..3 * QUEUE_MAX {
        expiry.written(&key(7), start);
    }
    assert!(expiry.queue_len() <= QUEUE_MAX + 1);
}

#[test]
fn memory_kinds_stay_off_the_disk() {
    use store::Durability::{Durable, Memory};
    for (key, class) in [
        ("/registry/core/events/default/e", Memory),
        ("/registry/coordination.k8s.io/leases/kube-node-lease/n", Memory),
        ("/registry/core/eventsx/default/e", Durable),
        ("/registry/core/pods/default/events", Durable),
    ] {
        assert_eq!(crate::durability(key), class, "{key}");
    }
}
