//! The Service by which cluster DNS is found: `kube-system/kube-dns`.
//!
//! It has no selector and needs no endpoints: every node answers at its address itself.

use std::net::IpAddr;
use std::sync::Arc;

use client::{Controller, Error, Key, Outcome, key_of};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;
use tokio::sync::watch;

use crate::action::{Action, Deletion};
use crate::shell::{self, Shell};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const PORT: i32 = 53;
/// As users of K3s know them.
const LABELS: [(&str, &str); 3] = [
    ("k8s-app", "kube-dns"),
    ("kubernetes.io/cluster-service", "true"),
    ("kubernetes.io/name", "CoreDNS"),
];

pub(crate) async fn run(shell: Arc<Shell>, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<Key>::new("cluster-dns");
    let ours = |key: Key| (key.0 == NAMESPACE && key.1 == NAME).then_some(key);
    controller.feed(&shell.caches.services, move |old, new| {
        new.or(old).map(key_of).and_then(ours).into_iter().collect()
    });
    // The namespace may come later than we do.
    controller.feed(&shell.caches.namespaces, |_, new| {
        let name = new.and_then(|namespace| namespace.metadata.name.as_deref());
        name.filter(|name| *name == NAMESPACE).map(|_| key()).into_iter().collect()
    });
    shell::run(controller, 1, shell, shutdown, |shell, _| reconcile(shell)).await;
}

fn key() -> Key {
    (NAMESPACE.to_owned(), NAME.to_owned())
}

async fn reconcile(shell: Arc<Shell>) -> Result<Outcome, Error> {
    let Some(address) = shell.config.cluster_dns else { return Ok(Outcome::Done) };
    if shell.caches.namespaces.get("", NAMESPACE).is_none() {
        return Ok(Outcome::Done);
    }
    let service = shell.caches.services.get(NAMESPACE, NAME).map(|service| (*service).clone());
    shell::unless_exists(shell.perform(plan(&Observed { address, service })).await)
}

/// What a plan is made from.
#[derive(Deserialize)]
pub(crate) struct Observed {
    pub(crate) address: IpAddr,
    #[serde(default)]
    pub(crate) service: Option<Service>,
}

pub(crate) fn plan(observed: &Observed) -> Vec<Action> {
    let Some(old) = &observed.service else {
        return vec![Action::create(&wanted(observed.address), None)];
    };
    if old.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let address = old.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    if address.and_then(|address| address.parse().ok()) != Some(observed.address) {
        // The address of a Service cannot be changed; its end brings us back.
        return vec![Action::delete(old, Deletion::default(), None)];
    }
    let wanted = wanted(observed.address);
    let mut new = old.clone();
    new.metadata.labels.get_or_insert_default().extend(wanted.metadata.labels.unwrap_or_default());
    if let (Some(spec), Some(wanted)) = (&mut new.spec, wanted.spec) {
        spec.selector = None;
        spec.type_ = wanted.type_;
        if !same_ports(spec.ports.as_deref(), wanted.ports.as_deref()) {
            spec.ports = wanted.ports;
        }
    }
    Action::update(old, &new).into_iter().collect()
}

/// Whether the ports are the same but for what the server fills in.
fn same_ports(ours: Option<&[ServicePort]>, wanted: Option<&[ServicePort]>) -> bool {
    let facts = |ports: Option<&[ServicePort]>| -> Vec<_> {
        let fact = |port: &ServicePort| {
            let target = port.target_port.clone().unwrap_or(IntOrString::Int(port.port));
            (port.name.clone(), port.port, port.protocol.clone(), target, port.node_port)
        };
        ports.unwrap_or_default().iter().map(fact).collect()
    };
    facts(ours) == facts(wanted)
}

fn wanted(address: IpAddr) -> Service {
    let port = |name: &str, protocol: &str| ServicePort {
        name: Some(name.to_owned()),
        port: PORT,
        protocol: Some(protocol.to_owned()),
        target_port: Some(IntOrString::Int(PORT)),
        ..ServicePort::default()
    };
    let labels = LABELS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Service {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(labels.collect()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some(address.to_string()),
            cluster_ips: Some(vec![address.to_string()]),
            ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
