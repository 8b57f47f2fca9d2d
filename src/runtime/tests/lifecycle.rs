//! Create, start, exit, signals, removal.

use std::time::Instant;

use crate::node::Node;
use runtime::protocol::State;

#[tokio::test]
async fn a_container_runs_logs_and_exits_with_its_code() {
    let node = Node::start().await;
    node.sandbox("a").await;
    let spec = node.spec("a", "one", "echo out; echo err >&2; hostname; pwd; printf tail; exit 7");
    let before = Instant::now();
    let created = node.runtime.create_container(&spec).await.unwrap();
    let create = before.elapsed();
    assert_eq!(created.state, State::Created);
    assert!(created.pid.is_some());
    let mut events = node.runtime.events();
    let before = Instant::now();
    node.runtime.start_container("one").await.unwrap();
    eprintln!("create {create:?}, start {:?}", before.elapsed());
    let ended = node.wait(&mut events, "one").await;
    assert_eq!((ended.exit_code, ended.signal, ended.oom_killed), (Some(7), None, false));
    assert!(ended.created_at <= ended.started_at.unwrap() && ended.started_at <= ended.finished_at);
    let mut out: Vec<String> =
        node.log("one").into_iter().map(|(stream, tag, text)| format!("{stream} {tag} {text}")).collect();
    out.sort();
    assert_eq!(out, ["stderr F err", "stdout F /", "stdout F host-a", "stdout F out", "stdout F tail"]);
    node.finish().await;
}
