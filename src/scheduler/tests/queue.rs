//! The order and the waiting of pods.

use std::time::Duration;

use client::Key;
use tokio::time::Instant;

use crate::queue::{Queue, Traits};

fn key(name: &str) -> Key {
    ("default".to_owned(), name.to_owned())
}

fn alone(priority: i32) -> Traits {
    Traits { priority, social: false }
}

#[test]
fn only_those_that_look_for_company_wake_when_another_is_placed() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(&key("alone"), alone(0), now);
    queue.add(&key("social"), Traits { priority: 0, social: true }, now);
    while let Some(key) = queue.pop(now) {
        queue.failed(&key, false, now);
    }
    let later = now + Duration::from_secs(1);
    queue.wake_social(later);
    assert_eq!((queue.pop(later), queue.pop(later)), (Some(key("social")), None));
}

#[test]
fn priority_first_then_first_come() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(&key("low"), alone(0), now);
    queue.add(&key("later"), alone(5), now);
    queue.add(&key("high"), alone(10), now);
    queue.add(&key("last"), alone(5), now);
    let order: Vec<Option<Key>> = (0..5).map(|_| queue.pop(now)).collect();
    let expected =
        [Some(key("high")), Some(key("later")), Some(key("last")), Some(key("low")), None];
    assert_eq!(order, expected);
}

#[test]
fn a_refused_pod_waits_for_a_change_and_for_its_back_off() {
    let (mut queue, start) = (Queue::default(), Instant::now());
    queue.add(&key("a"), alone(0), start);
    assert_eq!(queue.pop(start), Some(key("a")));
    queue.failed(&key("a"), false, start);
    assert_eq!(queue.pop(start + Duration::from_secs(60)), None, "nothing changed");
    queue.wake_all(start);
    assert_eq!(queue.pop(start), None, "still backing off");
    let ends = queue.deadline().expect("a timer");
    assert!(ends <= start + Duration::from_millis(100));
    assert_eq!(queue.pop(ends), Some(key("a")));
    queue.failed(&key("a"), false, ends);
    let later = ends + Duration::from_secs(11);
    queue.wake_all(later);
    assert_eq!(queue.pop(later), Some(key("a")), "woken at once when the back-off is over");
}

#[test]
fn a_change_during_the_attempt_is_not_lost() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(&key("a"), alone(0), now);
    queue.pop(now);
    queue.wake_all(now);
    queue.failed(&key("a"), false, now);
    assert_eq!(queue.pop(now + Duration::from_secs(1)), Some(key("a")));
}

#[test]
fn nobody_is_forgotten() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(&key("a"), alone(0), now);
    queue.pop(now);
    queue.failed(&key("a"), false, now);
    assert_eq!(
        queue.pop(now + Duration::from_secs(301)),
        Some(key("a")),
        "tried again after five minutes"
    );
    queue.remove(&key("a"));
    assert!(queue.keys().is_empty());
    assert_eq!(queue.deadline(), None);
}
