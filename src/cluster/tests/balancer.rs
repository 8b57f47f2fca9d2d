//! Addresses, and the order in which servers are tried.

use crate::agent::{Address, Choice, due, servers_of};
use std::time::Duration;

fn address(text: &str) -> Address {
    Address::parse(text).expect("address")
}

fn names(choice: &Choice) -> String {
    let hosts: Vec<String> = choice.order().into_iter().map(|a| a.host).collect();
    hosts.join(" ")
}

#[test]
fn server_urls() {
    let read = |url: &str| Address::of_url(url).map(|a| a.to_string()).map_err(|e| e.to_string());
    assert_eq!(read("https://10.0.0.1:7443").as_deref(), Ok("10.0.0.1:7443"));
    assert_eq!(read("https://server.example").as_deref(), Ok("server.example:6443"));
    assert_eq!(read("https://server.example/").as_deref(), Ok("server.example:6443"));
    assert_eq!(read("https://[fd00::1]:6443").as_deref(), Ok("[fd00::1]:6443"));
    assert_eq!(read("https://[fd00::1]").as_deref(), Ok("[fd00::1]:6443"));
    for wrong in [
        "",
        "http://a:1",
        "a:6443",
        "https://",
        "https://a/b",
        "https://u@a",
        "https://a:0",
        "https://a:99999",
        "https://fd00::1",
        "https://[fd00::1",
        "https://a b",
    ] {
        assert_eq!(read(wrong), Err(format!("--server {wrong:?}: expected https://HOST[:PORT]")));
    }
    assert!(Address::parse("10.0.0.1").is_none());
}

#[test]
fn the_current_server_is_kept_until_it_fails() {
    let [a, b, c] = ["a:1", "b:1", "c:1"].map(address);
    let mut choice = Choice::new(address("join:1"), vec![a.clone(), b.clone(), c.clone()]);
    assert_eq!(names(&choice), "a b c join");
    choice.dialed(&b, true);
    assert_eq!(names(&choice), "b a c join");
    // A server with a tunnel is better than an unknown one, but not than the one in use.
    choice.tunnel(&c, true);
    assert_eq!(names(&choice), "b c a join");
    choice.dialed(&b, false);
    assert_eq!(names(&choice), "c a b join");
    choice.dialed(&c, true);
    // Of the failed the one that failed first is tried first.
    choice.dialed(&a, false);
    assert_eq!(names(&choice), "c b a join");
    assert!(choice.tunnel(&c, false), "the server in use is lost with its tunnel");
    assert_eq!(names(&choice), "b a c join");
    assert!(!choice.tunnel(&c, false), "it is lost once");
    choice.tunnel(&c, true);
    assert_eq!(names(&choice), "c b a join");
}

#[test]
fn the_join_server_is_the_last_resort() {
    let mut choice = Choice::new(address("join:1"), Vec::new());
    assert_eq!(names(&choice), "join");
    assert!(choice.set(vec![address("a:1"), address("b:1")]));
    assert!(!choice.set(vec![address("b:1"), address("a:1")]), "the order is no change");
    choice.dialed(&address("join:1"), true);
    assert_eq!(names(&choice), "join a b");
    choice.dialed(&address("join:1"), false);
    assert_eq!(names(&choice), "a b join");
    assert!(choice.set(vec![address("join:1"), address("b:1")]));
    assert_eq!(names(&choice), "b join");
}

#[test]
fn servers_come_from_the_slice() {
    let slice: k8s_openapi::api::discovery::v1::EndpointSlice =
        serde_json::from_value(serde_json::json!({
            "addressType": "IPv4", "metadata": {"name": "kubernetes"},
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "conditions": {}},
            ],
            "ports": [{"name": "metrics", "port": 9}, {"name": "https", "port": 6443}],
        }))
        .expect("slice");
    let texts: Vec<String> = servers_of(&slice).iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.0.0.1:6443", "10.0.0.3:6443"]);
}

#[test]
fn certificates_are_renewed_in_time() {
    const NOW: i64 = 1_795_000_000;
    const LIFE: i64 = 1200;
    let at = |left: i64, spread: f64| due(NOW, NOW + left, LIFE, spread).as_secs();
    assert_eq!((at(LIFE, 0.0), at(LIFE, 1.0)), (900, 800));
    assert_eq!((at(310, 0.0), at(300, 0.0), at(-5000, 0.5)), (10, 0, 0));
    // A certificate that seems to live longer than any does so by a clock that is behind.
    assert_eq!(at(LIFE * 100, 0.0), 900);
    // A clock that was never set says nothing.
    assert_eq!(due(0, NOW + LIFE, LIFE, 0.0), Duration::ZERO);
}
