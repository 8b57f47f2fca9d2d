//! Services with more pods than one slice holds: changes stay small.

use serde_json::{Value, json};

use crate::action::Action;
use crate::endpoints::{Observed, plan};

fn address(index: usize) -> String {
    format!("10.42.{}.{}", index / 200, index % 200 + 2)
}

fn pod(index: usize) -> Value {
    let ip = address(index);
    json!({
        "metadata": {"name": format!("p{index}"), "namespace": "default", "uid": format!("u{index}")},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn slice(name: &str, pods: impl Iterator<Item = usize>) -> Value {
    let endpoint = |index: usize| {
        json!({
            "addresses": [address(index)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": "n1",
            "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("p{index}"), "uid": format!("u{index}")},
        })
    };
    let labels = json!({
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    });
    let owner = json!({"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "s1", "controller": true, "blockOwnerDeletion": true});
    json!({
        "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels, "ownerReferences": [owner]},
        "endpoints": pods.map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
    })
}

/// What happens to slices: their name and how many endpoints they get; `None` when they are deleted.
fn changes(pods: impl Iterator<Item = usize>, slices: &[Value]) -> Vec<(String, Option<usize>)> {
    let observed: Observed = serde_json::from_value(json!({
        "service": {
            "metadata": {"name": "web", "namespace": "default", "uid": "s1"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP"}]},
        },
        "pods": pods.map(pod).collect::<Vec<_>>(),
        "slices": slices,
    }))
    .expect("observed");
    let count = |body: &Value| body["endpoints"].as_array().map_or(0, Vec::len);
    let change = |action: Action| match action {
        Action::Create { resource, object, .. } => {
            (resource.plural == "endpointslices").then(|| ("new".to_owned(), Some(count(&object))))
        }
        Action::Patch { name, body, .. } => Some((name, Some(count(&body)))),
        Action::Delete { target, .. } => Some((target.name, None)),
        _ => None,
    };
    plan(&observed).into_iter().filter_map(change).collect()
}

fn named(changes: &[(&str, Option<usize>)]) -> Vec<(String, Option<usize>)> {
    changes.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn many_pods_fill_several_slices() {
    let all = changes(0..250, &[]);
    assert_eq!(all, named(&[("new", Some(100)), ("new", Some(100)), ("new", Some(50))]));
}

#[test]
fn a_pod_more_or_less_changes_one_slice() {
    let slices = [slice("a", 0..100), slice("b", 100..151)];
    assert_eq!(changes(0..151, &slices), []);
    assert_eq!(changes(0..152, &slices), named(&[("b", Some(52))]));
    let less = (0..151).filter(|index| *index != 7);
    assert_eq!(changes(less, &slices), named(&[("a", Some(99))]));
    // The new one takes the place of the one that went: the other slice is left alone.
    let replaced = (0..152).filter(|index| *index != 7);
    assert_eq!(changes(replaced, &slices), named(&[("a", Some(100))]));
}

#[test]
fn emptied_slices_go_and_spare_ones_are_used_again() {
    let slices = [slice("a", 0..100), slice("b", 100..151)];
    assert_eq!(changes(0..100, &slices), named(&[("b", None)]));
    assert_eq!(changes(0..0, &slices), named(&[("a", Some(0)), ("b", None)]));
    // More than there is room for makes one slice more, filled beside those that are there.
    assert_eq!(changes(0..201, &slices), named(&[("new", Some(50))]));
}
