//! The work queue and the reconcile loop.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use tokio::sync::watch;
use tokio::time::Instant;

use super::script::{Script, event};
use crate::queue::State;
use crate::{Cache, Controller, ListParams, Outcome};

#[test]
fn a_key_waits_once_and_is_worked_on_once_at_a_time() {
    let (mut queue, now) = (State::new(), Instant::now());
    queue.add("a");
    queue.add("b");
    queue.add("a");
    assert_eq!(queue.take(now), Ok("a"));
    queue.add("a");
    assert_eq!(queue.take(now), Ok("b"));
    assert_eq!(queue.take(now), Err(None), "a is being worked on");
    queue.done(&"a", false, now);
    assert_eq!(queue.take(now), Ok("a"), "it changed in the meantime");
    queue.done(&"a", false, now);
    assert_eq!(queue.take(now), Err(None));
}

#[test]
fn failures_back_off_per_key() {
    let (mut queue, mut now) = (State::new(), Instant::now());
    queue.add("a");
    let mut delays = Vec::new();
    for _ in 0..16 {
        let key = queue.take(now).expect("due");
        queue.done(&key, true, now);
        let due = queue.take(now).expect_err("backing off").expect("a time");
        delays.push((due - now).as_millis());
        now = due;
    }
    assert_eq!(delays[..4], [5, 10, 20, 40]);
    assert_eq!(delays[15], 60_000, "the limit");
    let key = queue.take(now).expect("due");
    queue.done(&key, false, now);
    queue.add("a");
    let key = queue.take(now).expect("at once");
    queue.done(&key, true, now);
    assert_eq!(
        queue.take(now),
        Err(Some(now + Duration::from_millis(5))),
        "success forgets the failures"
    );
}

#[test]
fn the_earliest_time_counts() {
    let (mut queue, now) = (State::new(), Instant::now());
    let seconds = Duration::from_secs;
    queue.add_at("a", now + seconds(10));
    queue.add_at("a", now + seconds(3));
    queue.add_at("a", now + seconds(20));
    assert_eq!(queue.take(now), Err(Some(now + seconds(3))));
    assert_eq!(queue.take(now + seconds(3)), Ok("a"));
    queue.done(&"a", false, now + seconds(3));
    assert_eq!(queue.take(now + seconds(30)), Err(None));
}

async fn until(done: impl Fn() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("did not happen");
}

#[tokio::test]
async fn the_loop_retries_repeats_and_stays_within_its_workers() {
    let script = Script::default();
    let names: Vec<String> = (0..20).map(|index| format!("m{index:02}")).collect();
    let items: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    script.list(5, &items);
    let changes = script.watch();
    let cache = Cache::<ConfigMap>::start(script.client(), ListParams::all());
    let mut controller = Controller::<String>::new("test");
    controller.feed(&cache, |old, new| {
        new.or(old).and_then(|map| map.metadata.name.clone()).into_iter().collect()
    });
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let (end, shutdown) = watch::channel(false);
    let work = {
        let (most, seen) = (most.clone(), seen.clone());
        move |name: String| {
            let (running, most, seen) = (running.clone(), most.clone(), seen.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                let mut seen = seen.lock().expect("lock");
                seen.push(name.clone());
                let times = seen.iter().filter(|other| **other == name).count();
                match (name.as_str(), times) {
                    ("m00", 1 | 2) => Err("not yet"),
                    ("m01", 1) => Ok(Outcome::After(Duration::from_millis(50))),
                    _ => Ok(Outcome::Done),
                }
            }
        }
    };
    let running_loop = tokio::spawn(controller.run(3, shutdown, work));
    let times =
        |name: &str| seen.lock().expect("lock").iter().filter(|other| *other == name).count();
    until(|| times("m00") == 3 && times("m01") == 2 && times("m19") == 1).await;
    changes.send(event("DELETED", "m02", 7)).await.expect("send");
    until(|| times("m02") == 2).await;
    end.send(true).expect("end");
    running_loop.await.expect("loop");
    let seen = seen.lock().expect("lock");
    let count = |name: &str| seen.iter().filter(|other| *other == name).count();
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 20);
    assert_eq!((count("m00"), count("m01"), count("m02"), count("m03")), (3, 2, 2, 1));
    assert_eq!(most.load(Ordering::SeqCst), 3);
}
