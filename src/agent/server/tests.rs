//! The channel protocol, queries, and which log a request means.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use runtime::protocol::Stats;
use serde_json::{Value, json};

use super::channels::{self, Ended, Incoming, Protocol, frame};
use super::log_request;
use super::query::Query;
use super::stats::{Usage, exposition};
use crate::actor::View;
use crate::logs::Wanted;

#[test]
fn the_best_common_protocol_is_chosen() {
    let chosen = |offered: &str| channels::choose(offered).map(|(_, p)| p);
    assert_eq!(chosen("v4.channel.k8s.io, v5.channel.k8s.io"), Some(Protocol::V5));
    assert_eq!(chosen("v4.channel.k8s.io,channel.k8s.io"), Some(Protocol::V4));
    assert_eq!(chosen("channel.k8s.io"), Some(Protocol::V1));
    assert_eq!(chosen("v4.base64.channel.k8s.io"), None);
    assert_eq!(chosen(""), None);
}

#[test]
fn client_messages_are_understood() {
    let parse =
        |bytes: &'static [u8], protocol| channels::parse(&Bytes::from_static(bytes), protocol);
    assert_eq!(parse(b"\0hello", Protocol::V4), Incoming::Stdin(Bytes::from_static(b"hello")));
    assert_eq!(parse(b"\0", Protocol::V4), Incoming::Stdin(Bytes::new()));
    assert_eq!(parse(b"\xff\0", Protocol::V5), Incoming::StdinClosed);
    assert_eq!(parse(b"\xff\0", Protocol::V4), Incoming::Ignored);
    let resize = b"\x04{\"Width\":120,\"Height\":40}";
    assert_eq!(parse(resize, Protocol::V5), Incoming::Resize { columns: 120, rows: 40 });
    for odd in
        [&b"\x04{}"[..], b"\x04nonsense", b"\x04{\"Width\":99999,\"Height\":1}", b"\x01x", b""]
    {
        assert_eq!(parse(odd, Protocol::V5), Incoming::Ignored);
    }
}

#[test]
fn the_end_of_a_command_is_a_status() {
    let status = |ended: &Ended| -> Value {
        let bytes = channels::end_frame(ended, Protocol::V5).expect("a frame");
        assert_eq!(bytes[0], channels::ERROR);
        serde_json::from_slice(&bytes[1..]).expect("JSON")
    };
    assert_eq!(status(&Ended::Success), json!({"metadata": {}, "status": "Success"}));
    let exit = Ended::Exit { code: 3, command: vec!["sh".into(), "-c".into(), "exit 3".into()] };
    let failure = status(&exit);
    assert_eq!(failure["reason"], "NonZeroExitCode");
    assert_eq!(failure["details"]["causes"], json!([{"reason": "ExitCode", "message": "3"}]));
    assert_eq!(
        failure["message"],
        "command terminated with non-zero exit code: error executing command [sh -c exit 3], exit code 3"
    );
    assert_eq!(status(&Ended::Failed("boom".into()))["reason"], "InternalError");
    assert_eq!(channels::end_frame(&Ended::Success, Protocol::V1), None);
    let old = channels::end_frame(&Ended::Failed("boom".into()), Protocol::V1);
    assert_eq!(old, Some(frame(channels::ERROR, b"boom")));
}

#[test]
fn queries_are_decoded() {
    let query = Query::parse(Some("command=sh&command=a%20b%2Bc&tty=1&x=%zz&flag=false&n=5&bad=x"));
    assert_eq!(query.all("command"), ["sh", "a b+c"]);
    assert_eq!(query.get("x"), Some("%zz"));
    assert!(query.flag("tty") && !query.flag("flag") && !query.flag("none"));
    assert_eq!((query.number("n"), query.number("none")), (Ok(Some(5)), Ok(None)));
    assert!(query.number("bad").is_err());
}

#[test]
fn log_options_come_from_the_query() {
    let now: Timestamp = "2026-11-22T10:00:00Z".parse().expect("a time");
    let options = |text: &str| log_request::options(&Query::parse(Some(text)), now);
    let some = options("follow=true&tailLines=5&sinceSeconds=60&limitBytes=10&stream=Stderr")
        .expect("options");
    assert!(some.follow && !some.timestamps);
    assert_eq!((some.tail, some.limit_bytes, some.stream), (Some(5), Some(10), Wanted::Stderr));
    assert_eq!(some.since, "2026-11-22T09:59:00Z".parse().ok());
    assert!(options("tailLines=-1").is_err());
    assert!(options("sinceSeconds=1&sinceTime=2026-11-22T09:59:00Z").is_err());
    assert!(options("sinceTime=yesterday").is_err());
}

#[test]
fn the_right_attempt_or_upstreams_refusal() {
    let attempt = |status: Value, container: &str, previous: bool| {
        let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "a"}]}});
        let view = View {
            pod: Arc::new(serde_json::from_value(pod).expect("a pod")),
            status: serde_json::from_value(json!({"containerStatuses": [status]}))
                .expect("a status"),
        };
        log_request::attempt(&view, container, previous).map_err(|r| (r.0.as_u16(), r.1))
    };
    let status = |state: Value, last: Value, id: &str| {
        json!({"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 2, "state": state,
            "lastState": last, "containerID": id})
    };
    let ended = |id: &str| json!({"terminated": {"exitCode": 1, "containerID": id}});
    let running = status(json!({"running": {}}), ended("copepod://u1-a-1"), "copepod://u1-a-2");
    assert_eq!(attempt(running.clone(), "a", false), Ok(2));
    assert_eq!(attempt(running.clone(), "a", true), Ok(1));
    let refused = (404, "container \"x\" not found in pod \"web\"".to_owned());
    assert_eq!(attempt(running, "x", false), Err(refused));
    let waiting = |reason: &str, last: Value| {
        status(json!({"waiting": {"reason": reason}}), last, "copepod://u1-a-2")
    };
    let cases = [
        ("ContainerCreating", "ContainerCreating"),
        ("ErrImagePull", "image can't be pulled"),
        ("ImagePullBackOff", "trying and failing to pull image"),
    ];
    for (reason, said) in cases {
        let text = format!("container \"a\" in pod \"web\" is waiting to start: {said}");
        assert_eq!(attempt(waiting(reason, json!({})), "a", false), Err((400, text)));
    }
    assert_eq!(attempt(waiting("CrashLoopBackOff", ended("copepod://u1-a-2")), "a", false), Ok(2));
    let text = "previous terminated container \"a\" in pod \"web\" not found".to_owned();
    assert_eq!(attempt(waiting("ContainerCreating", json!({})), "a", true), Err((400, text)));
}

#[test]
fn metrics_are_prometheus_text() {
    let usage = Usage {
        namespace: "shop".into(),
        pod: "web".into(),
        uid: "u1".into(),
        container: "a".into(),
        started: Timestamp::from_second(1_800_000_000).expect("a time"),
        stats: Stats {
            taken_at: 1_800_000_001_500_000_000,
            cpu_ns: 2_050_000_000,
            working_set: 4096,
            ..Stats::default()
        },
    };
    let text = exposition(&[usage]);
    let labels = "{container=\"a\",namespace=\"shop\",pod=\"web\"}";
    assert!(
        text.contains(&format!(
            "container_cpu_usage_seconds_total{labels} 2.050000000 1800000001500\n"
        )),
        "{text}"
    );
    assert!(
        text.contains(&format!("container_memory_working_set_bytes{labels} 4096 1800000001500\n")),
        "{text}"
    );
    assert_eq!(text.matches("# TYPE").count(), 3);
}
