//! Golden cases: what Services and slices become, and what a change of them does.
//!
//! A case is a JSON file with the objects before and after, and a text file with the transactions. With `UPDATE_CASES` in
//! the environment the text files are written anew.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;

use super::world::config;
use crate::inputs::Node as NodeObject;
use crate::nft::{Expression, Rule};
use crate::proxy::Node;
use crate::proxy::engine::Engine;
use crate::proxy::transaction::Step;
use crate::proxy::values::{Front, Key, Value};

fn load(engine: &mut Engine, objects: &Json) {
    let list = |name: &str| objects[name].as_array().cloned().unwrap_or_default();
    let read = |object: &Json| serde_json::from_value(object.clone()).unwrap();
    engine.reset_services(list("services").iter().map(|it| Arc::new(read(it))).collect());
    let slices = list("slices");
    engine.reset_slices(
        slices.iter().map(|it| Arc::new(serde_json::from_value(it.clone()).unwrap())).collect(),
    );
    let pods = list("pods");
    engine.reset_pods(
        pods.iter().map(|it| Arc::new(serde_json::from_value(it.clone()).unwrap())).collect(),
    );
    let node: Option<NodeObject> = serde_json::from_value(objects["node"].clone()).ok();
    engine.set_node(Node::with(&config(), node.as_ref()));
}

fn front(front: &Front) -> String {
    let address = front.address.map_or("node".to_owned(), |address| address.to_string());
    format!("{address} {:?} {}", front.protocol, front.port)
}

fn key(key: &Key) -> String {
    match key {
        Key::Service(it) => format!("service {}", front(it)),
        Key::HostPort(it) => format!("host port {}", front(it)),
        Key::Firewall(it) => format!("firewall {}", front(it)),
        Key::Led(it) => format!("led {}", front(it)),
        Key::Refused(it) => format!("refused {}", front(it)),
        Key::Endpoint { front: it, slot } => match slot.checked_sub(1 << 31) {
            Some(slot) => format!("endpoint {} local {slot}", front(it)),
            None => format!("endpoint {} any {slot}", front(it)),
        },
        Key::NodeIp(it) => format!("node ip {it}"),
        Key::ClusterIp(it) => format!("cluster ip {it}"),
        Key::Hairpin(it) => format!("hairpin {it}"),
    }
}

fn value(value: &Value) -> String {
    match value {
        Value::Nothing => String::new(),
        Value::Kind(kind) => format!(" = {}", kind.chain()),
        Value::Refused { elsewhere } => format!(" = elsewhere {elsewhere}"),
        Value::Backend((address, port)) => format!(" = {address} {port}"),
        Value::Verdict(verdict) => format!(" = {verdict:?}"),
    }
}

/// The steps of a rule that say what it is about.
fn rule(rule: &Rule) -> String {
    let words = rule.iter().filter_map(|expression| match expression {
        Expression::Compare { equal, value, .. } => {
            Some(format!("{}{value:?}", if *equal { "== " } else { "!= " }))
        }
        Expression::Lookup { set, .. } => Some(format!("in {set}")),
        Expression::Update { set, .. } => Some(format!("update {set}")),
        Expression::Random { modulus, offset, .. } => {
            Some(format!("random {modulus} + {offset:#x}"))
        }
        Expression::Verdict(verdict) => Some(format!("{verdict:?}")),
        Expression::SetMark { .. } => Some("set mark".to_owned()),
        Expression::DestinationNat { .. } => Some("dnat".to_owned()),
        Expression::AddressType { of, .. } => Some(format!("type of {of:?}")),
        _ => None,
    });
    words.collect::<Vec<_>>().join(", ")
}

fn text(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Replace(_) => text.push_str("replace table\n"),
            Step::AddSet(name, set) => writeln!(text, "add set {name} {:?}", set.dynamic).unwrap(),
            Step::AddChain(name) => writeln!(text, "add chain {name}").unwrap(),
            Step::FlushChain(name) => writeln!(text, "flush chain {name}").unwrap(),
            Step::DeleteChain(name) => writeln!(text, "delete chain {name}").unwrap(),
            Step::DeleteSet(name) => writeln!(text, "delete set {name}").unwrap(),
            Step::AddRules(name, rules) => {
                for it in rules.iter() {
                    writeln!(text, "add rule {name}: {}", rule(it)).unwrap();
                }
            }
            Step::AddElement(it, to) => writeln!(text, "add {}{}", key(it), value(to)).unwrap(),
            Step::DeleteElement(it, _) => writeln!(text, "delete {}", key(it)).unwrap(),
        }
    }
    text
}

#[test]
fn cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy/cases");
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let case: Json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut engine = Engine::new(Node::new(&config()));
        load(&mut engine, &case["before"]);
        drop(engine.plan());
        let mut found = format!("# from nothing\n{}", text(&engine.everything()));
        if !case["after"].is_null() {
            load(&mut engine, &case["after"]);
            let change = engine.plan();
            let fronts: Vec<String> = change.datagrams.keys().map(front).collect();
            write!(found, "# change\n{}", text(&change.steps())).unwrap();
            if !fronts.is_empty() {
                writeln!(found, "# stale flows\n{}", fronts.join("\n")).unwrap();
            }
            // Whoever begins anew has the same state as who followed the change, but for numbers.
            load(&mut engine, &case["after"]);
            assert_eq!(engine.plan().steps(), []);
        }
        let expected = path.with_extension("txt");
        if std::env::var_os("UPDATE_CASES").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap();
        assert_eq!(found, expected, "{}", path.display());
        count += 1;
    }
    assert!(count > 0);
}
