//! The index after any changes is the index made of what is left.

use std::sync::Arc;

use hickory_proto::rr::RecordType;
use serde_json::json;

use super::{Cluster, cluster, empty_index, query};
use crate::dns::answer::answer;
use crate::dns::index::{Index, key};
use crate::inputs::{Service, Slice};

/// A small generator of numbers, the same on every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

fn service(number: usize, variant: usize) -> Arc<Service> {
    let address = if variant == 0 { "None".to_owned() } else { format!("10.43.0.{variant}") };
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": format!("s{number}"), "namespace": format!("n{}", number % 2)},
            "spec": {"clusterIP": address, "ports": [{"name": "p", "port": 80}]},
        }))
        .unwrap(),
    )
}

fn slice(number: usize, of: usize, variant: usize) -> Arc<Slice> {
    let hostname = variant.is_multiple_of(2).then(|| format!("h{variant}"));
    let namespace = format!("n{}", of % 2);
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": format!("e{number}"), "namespace": namespace,
                "labels": {"kubernetes.io/service-name": format!("s{of}")}},
            "endpoints": [{"addresses": [format!("10.42.0.{variant}")], "hostname": hostname}],
            "ports": [{"name": "p", "port": 80}],
        }))
        .unwrap(),
    )
}

/// What all questions of this test yield, in an order that does not depend on that of the changes.
fn everything(index: &Index) -> Vec<String> {
    let mut names = Vec::new();
    for number in 0..4 {
        let service = format!("s{number}.n{}.svc.cluster.local.", number % 2);
        names.extend((0..8).map(|variant| (format!("h{variant}.{service}"), RecordType::A)));
        names.push((service.clone(), RecordType::SRV));
        names.push((service, RecordType::A));
    }
    for address in 0..8 {
        names.push((format!("{address}.0.42.10.in-addr.arpa."), RecordType::PTR));
        names.push((format!("{address}.0.43.10.in-addr.arpa."), RecordType::PTR));
    }
    names.extend(["n0", "n1"].map(|it| (format!("{it}.svc.cluster.local."), RecordType::A)));
    let mut lines = Vec::new();
    for (name, kind) in names {
        let Some(found) = answer(index, &query(&name, kind)) else { continue };
        lines.push(format!("{name} {:?}", found.code));
        lines.extend(found.answers.iter().map(|record| format!("{name} {record}")));
    }
    lines.sort();
    lines
}

#[test]
fn changes_lead_where_a_fresh_start_does() {
    let mut numbers = Numbers(7);
    for _ in 0..40 {
        let mut index = empty_index();
        index.reset_services(Vec::new());
        index.reset_slices(Vec::new());
        let mut left = Cluster { services: Vec::new(), slices: Vec::new() };
        for _ in 0..60 {
            step(&mut numbers, &mut index, &mut left);
        }
        let mut fresh = empty_index();
        fresh.reset_slices(left.slices);
        fresh.reset_services(left.services);
        assert_eq!(everything(&index), everything(&fresh));
    }
}

/// Changes one object in the index and in what is left.
fn step(numbers: &mut Numbers, index: &mut Index, left: &mut Cluster) {
    let remove = numbers.below(3) == 0;
    if numbers.below(2) == 0 {
        // Addresses are unique, as the API server sees to.
        let number = numbers.below(4);
        let variant = if numbers.below(2) == 0 { 0 } else { number + 4 * numbers.below(2) };
        let new = (!remove).then(|| service(number, variant));
        let (namespace, name) = (format!("n{}", number % 2), format!("s{number}"));
        left.services.retain(|it| it.metadata.name.as_deref() != Some(&name));
        left.services.extend(new.clone());
        index.change_service((&namespace, &name), new);
    } else {
        let (number, of) = (numbers.below(6), 2 * numbers.below(2));
        let name = format!("e{number}");
        let position = left.slices.iter().position(|it| it.metadata.name.as_deref() == Some(&name));
        let old = position.map(|position| left.slices.swap_remove(position));
        let new = (!remove).then(|| slice(number, of, numbers.below(8)));
        left.slices.extend(new.clone());
        index.change_slice(old.as_deref(), new);
    }
}

#[test]
fn lists_and_changes_may_overlap() {
    let mut index = empty_index();
    let cluster = cluster();
    index.reset_services(cluster.services.clone());
    index.reset_slices(cluster.slices.clone());
    let before = answer(&index, &query("db.shop.svc.cluster.local.", RecordType::A)).unwrap();
    // The changes that led to the list come after it.
    for service in cluster.services {
        let (namespace, name) = key(&service.metadata.namespace, &service.metadata.name);
        index.change_service((namespace, name), Some(service.clone()));
    }
    for slice in cluster.slices {
        index.change_slice(None, Some(slice));
    }
    let after = answer(&index, &query("db.shop.svc.cluster.local.", RecordType::A)).unwrap();
    let sorted = |found: &crate::dns::answer::Answer| {
        let mut lines: Vec<_> = found.answers.iter().map(ToString::to_string).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&before), sorted(&after));
    assert!(answer(&index, &query("20.0.42.10.in-addr.arpa.", RecordType::PTR)).is_some());
}

#[test]
fn odd_objects_are_read() {
    for spec in [json!(null), json!({}), json!({"ports": [{"port": 70_000}], "clusterIPs": ["x"]})]
    {
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap();
        assert!(service.addresses.is_empty() && service.ports.is_empty() && !service.headless);
    }
    let odd = json!({
        "metadata": {"labels": null},
        "endpoints": [{"addresses": null, "conditions": null, "hostname": null, "nodeName": "n"}],
        "ports": [{"name": "all", "port": null}, {"protocol": "OTHER", "port": 1}],
    });
    let slice: Slice = serde_json::from_value(odd).unwrap();
    assert!(slice.service.is_empty() && slice.ports.is_empty() && slice.endpoints[0].ready);
    let bookmark = json!({"kind": "Service", "metadata": {"resourceVersion": "7"}});
    assert!(serde_json::from_value::<Service>(bookmark).is_ok());
}
