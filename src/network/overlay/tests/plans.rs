//! From Node objects to changes of the kernel's state, case by case.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::overlay::addressing::{Family, Mac, Prefix};
use crate::overlay::annotations;
use crate::overlay::objects::Node;
use crate::overlay::plan::{State, difference, wanted};
use crate::overlay::topology::{Frame, Topology};
use crate::overlay::{Backend, Uplink};

#[derive(Deserialize)]
struct Case {
    backend: String,
    #[serde(default = "cluster")]
    cluster: Prefix,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    what: String,
    /// Another backend from here on.
    backend: Option<String>,
    #[serde(default = "address")]
    address: String,
    /// Something deleted the link.
    #[serde(default)]
    link_lost: bool,
    nodes: Vec<Value>,
}

fn cluster() -> Prefix {
    "10.42.0.0/16".parse().unwrap()
}

fn address() -> String {
    "192.0.2.1".to_owned()
}

/// A Node from the short form of the cases: everything not `name`, `cidrs` and `internal` is one of flannel's annotations.
fn node(short: &Value) -> Node {
    let annotations: serde_json::Map<String, Value> = short
        .as_object()
        .unwrap()
        .iter()
        .filter(|(key, _)| !["name", "cidrs", "internal"].contains(&key.as_str()))
        .map(|(key, value)| (format!("{}{key}", annotations::DOMAIN), value.clone()))
        .collect();
    let addresses: Vec<Value> = short["internal"]
        .as_str()
        .map(|ip| json!({"type": "InternalIP", "address": ip}))
        .into_iter()
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": short["name"], "annotations": annotations},
        "spec": {"podCIDRs": short["cidrs"]},
        "status": {"addresses": addresses},
    }))
    .unwrap()
}

/// What changes from step to step, and what the node says of itself.
fn play(case: &Case) -> String {
    let mut text = String::new();
    let mut state = State::default();
    let mut backend = Backend::parse(&case.backend).unwrap();
    for step in &case.steps {
        if let Some(other) = &step.backend {
            backend = Backend::parse(other).unwrap();
        }
        if step.link_lost {
            state.tunnel = None;
            state.neighbours.clear();
            state.forwarding.clear();
            state.routes.clear();
        }
        let (address, prefix) = (step.address.parse().unwrap(), 24);
        let interface = "eth0".to_owned();
        let uplink = Uplink { interface, index: 2, address, prefix, mtu: 1500 };
        let nodes: Vec<Node> = step.nodes.iter().map(node).collect();
        let frame = Frame { node_name: "me", backend, cluster: case.cluster };
        let mut topology = Topology::of(nodes.iter(), frame);
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let next = wanted(&mut topology, &uplink, backend, mac);
        writeln!(text, "# {}", step.what).unwrap();
        for (name, why) in &topology.ignored {
            writeln!(text, "not {name}: {why}").unwrap();
        }
        for operation in difference(&state, &next) {
            writeln!(text, "{operation:?}").unwrap();
        }
        if let Some(me) = nodes.iter().find(|node| node.name() == "me") {
            let own = annotations::own(me, address, backend, mac);
            for (name, value) in annotations::missing(me, own) {
                writeln!(text, "announce {name}={value}").unwrap();
            }
        }
        assert_eq!(difference(&next, &next), [], "nothing more to do");
        state = next;
    }
    text
}

#[test]
fn cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("overlay/tests/cases");
    let mut seen = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        seen += 1;
        let case: Case = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let (found, golden) = (play(&case), path.with_extension("txt"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(found, expected, "{}", path.display());
    }
    assert!(seen >= 4);
}

#[test]
fn a_tunnel_for_ipv6_is_planned_as_one_for_ipv4() {
    let short = json!({
        "name": "two", "cidrs": ["10.42.2.0/24", "fd00:42:0:2::/64"], "backend-type": "vxlan",
        "public-ip": "192.0.2.2", "backend-data": r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}"#,
        "public-ipv6": "fd00::2", "backend-v6-data": r#"{"VNI":1,"VtepMAC":"02:00:00:00:06:02"}"#,
    });
    let cluster: Prefix = "fd00:42::/56".parse().unwrap();
    let frame = Frame { node_name: "me", backend: Backend::VXLAN, cluster };
    let two = node(&short);
    let topology = Topology::of([&two].into_iter(), frame);
    let peer = &topology.peers["two"];
    assert_eq!(cluster.family(), Family::V6);
    assert_eq!((peer.ranges.len(), peer.address.to_string()), (1, "fd00::2".to_owned()));
    assert_eq!(peer.mac.unwrap().to_string(), "02:00:00:00:06:02");
}
