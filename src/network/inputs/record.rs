//! What a node keeps of Services, and of the ports that its pods have on it, on its disk, so that they lead to pods after a
//! restart without the server.
//!
//! One file: a line with the SHA-256 of the rest, and the objects as the API has them, as far as they are read here. It says
//! nothing that is secret. One that is damaged, of another form or too large counts as none.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::node::HostPort;
use super::objects::{Endpoint, Port, SERVICE_NAME};
use super::{Inputs, Pod, Service, Slice};

/// What belongs to one change comes within this time.
const DELAY: Duration = Duration::from_secs(1);
/// Changes of this time are written together: pods that come and go must not wear the card out.
const INTERVAL: Duration = Duration::from_secs(20);
const FILE_BYTES_MAX: u64 = 8 << 20;
const FOREIGN: &str = "service.kubernetes.io/service-proxy-name";

/// What the file says.
#[derive(Deserialize)]
pub(super) struct Recorded {
    pub(super) services: Vec<Service>,
    pub(super) slices: Vec<Slice>,
    /// Those with ports of the node.
    pub(super) pods: Vec<Pod>,
}

/// What is recorded, if that can be used.
pub(super) fn load(path: &Path) -> Option<Recorded> {
    match read(path) {
        Ok((_, recorded)) => Some(recorded),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "record of Services left out");
            None
        }
    }
}

/// The file's checksum, and what it says.
fn read(path: &Path) -> io::Result<(String, Recorded)> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    let Some((checksum, content)) = text.split_once('\n') else {
        return Err(io::Error::other("it has no checksum"));
    };
    if checksum != hash(content) {
        return Err(io::Error::other("it is damaged"));
    }
    Ok((checksum.to_owned(), serde_json::from_str(content)?))
}

fn hash(content: &str) -> String {
    let digest = digest(&SHA256, content.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Keeps the file as the caches say, until `stopped` becomes true or its sender is gone.
pub async fn keep(inputs: Inputs, path: PathBuf, mut stopped: watch::Receiver<bool>) {
    let (mut services, mut slices) = (inputs.services.subscribe(), inputs.slices.subscribe());
    let mut pods = inputs.pods.subscribe();
    let mut file = Keeper { written: written(&path), path, earliest: Instant::now() };
    let mut due = None;
    loop {
        tokio::select! {
            _ = services.next() => due = due.or(Some(file.next())),
            _ = slices.next() => due = due.or(Some(file.next())),
            _ = pods.next() => due = due.or(Some(file.next())),
            () = at(due) => {
                due = None;
                file.write(&inputs);
            }
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
    }
    if due.is_some() {
        file.write(&inputs);
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The checksum of what the file says; empty if it cannot be used.
fn written(path: &Path) -> String {
    read(path).map(|(checksum, _)| checksum).unwrap_or_default()
}

struct Keeper {
    path: PathBuf,
    /// The checksum of what the file says.
    written: String,
    /// Before this it is not written again.
    earliest: Instant,
}

impl Keeper {
    /// When a change of now is to be written.
    fn next(&self) -> Instant {
        self.earliest.max(Instant::now() + DELAY)
    }

    /// Writes what is known, if all is and it is not what the file says.
    fn write(&mut self, inputs: &Inputs) {
        let Inputs { services, slices, pods, .. } = inputs;
        if !services.is_synced() || !slices.is_synced() || !pods.is_synced() {
            return;
        }
        let with_ports = |pod: &&Arc<Pod>| !pod.host_ports.is_empty() && !pod.addresses.is_empty();
        let content = json!({
            "services": services.list().iter().map(|it| service(it)).collect::<Vec<_>>(),
            "slices": slices.list().iter().map(|it| slice(it)).collect::<Vec<_>>(),
            "pods": pods.list().iter().filter(with_ports).map(|it| pod(it)).collect::<Vec<_>>(),
        })
        .to_string();
        let checksum = hash(&content);
        if checksum == self.written {
            return;
        }
        let text = format!("{checksum}\n{content}");
        let done = match text.len() as u64 > FILE_BYTES_MAX {
            true => Err(io::ErrorKind::FileTooLarge.into()),
            false => sys::atomic_write(&self.path, text.as_bytes(), 0o600),
        };
        self.earliest = Instant::now() + INTERVAL;
        match done {
            Ok(()) => self.written = checksum,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "Services are not recorded");
            }
        }
    }
}

/// Without the revision: what the server says later replaces it, whatever revisions it counts.
fn metadata<K: Metadata<Ty = ObjectMeta>>(object: &K) -> Value {
    let meta = object.metadata();
    json!({ "name": meta.name, "namespace": meta.namespace })
}

/// As [`Service`] reads it.
fn service(service: &Service) -> Value {
    let routing = &service.routing;
    let policy = |is_local| if is_local { "Local" } else { "Cluster" };
    let mut metadata = metadata(service);
    if routing.foreign {
        metadata["labels"] = json!({ FOREIGN: "" });
    }
    let kind = match (&service.external, routing.ingress.is_empty()) {
        (Some(_), _) => "ExternalName",
        (None, false) => "LoadBalancer",
        (None, true) => "ClusterIP",
    };
    let addresses: Vec<String> = match service.headless {
        true => vec!["None".to_owned()],
        false => service.addresses.iter().map(ToString::to_string).collect(),
    };
    let ranges: Vec<String> = routing.source_ranges.iter().map(ToString::to_string).collect();
    let ingress: Vec<Value> = routing.ingress.iter().map(|ip| json!({ "ip": ip })).collect();
    let seconds = routing.affinity.map(|it| json!({ "clientIP": { "timeoutSeconds": it } }));
    json!({
        "metadata": metadata,
        "spec": {
            "type": kind,
            "clusterIPs": addresses,
            "externalName": service.external,
            "publishNotReadyAddresses": service.publish_not_ready,
            "ports": ports(&service.ports),
            "externalIPs": routing.external_ips,
            "loadBalancerSourceRanges": ranges,
            "sessionAffinity": seconds.as_ref().map(|_| "ClientIP"),
            "sessionAffinityConfig": seconds,
            "externalTrafficPolicy": policy(routing.external_local),
            "internalTrafficPolicy": policy(routing.internal_local),
            "healthCheckNodePort": routing.health_port,
        },
        "status": { "loadBalancer": { "ingress": ingress } },
    })
}

/// As [`Slice`] reads it.
fn slice(slice: &Slice) -> Value {
    let mut metadata = metadata(slice);
    metadata["labels"] = json!({ SERVICE_NAME: slice.service });
    let endpoints: Vec<Value> = slice.endpoints.iter().map(endpoint).collect();
    json!({ "metadata": metadata, "endpoints": endpoints, "ports": ports(&slice.ports) })
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let named =
        |names: &[Box<str>]| names.iter().map(|it| json!({ "name": it })).collect::<Vec<_>>();
    json!({
        "addresses": endpoint.addresses,
        "hostname": endpoint.hostname,
        "conditions": {
            "ready": endpoint.ready,
            "serving": endpoint.serving,
            "terminating": endpoint.terminating,
        },
        "nodeName": endpoint.node,
        "hints": { "forZones": named(&endpoint.zones), "forNodes": named(&endpoint.nodes) },
    })
}

/// As [`Pod`] reads it.
fn pod(pod: &Pod) -> Value {
    let port = |port: &HostPort| {
        json!({
            "protocol": protocol(port.protocol),
            "containerPort": port.container_port,
            "hostPort": port.number,
            "hostIP": port.address,
        })
    };
    let ports: Vec<Value> = pod.host_ports.iter().map(port).collect();
    let addresses: Vec<Value> = pod.addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "metadata": metadata(pod),
        "spec": { "containers": [{ "ports": ports }] },
        "status": { "podIPs": addresses },
    })
}

/// From the label of a name, as in `_tcp`.
fn protocol(label: &str) -> String {
    label.trim_start_matches('_').to_ascii_uppercase()
}

fn ports(ports: &[Port]) -> Vec<Value> {
    let port = |port: &Port| {
        json!({
            "name": port.name,
            "protocol": protocol(port.protocol),
            "port": port.number,
            "nodePort": port.node_port,
        })
    };
    ports.iter().map(port).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn round_trip<K: for<'a> Deserialize<'a>>(object: &K, write: fn(&K) -> Value) -> K {
        serde_json::from_value(write(object)).unwrap()
    }

    #[test]
    fn what_is_read_again_is_what_was_known() {
        for text in [
            r#"{"metadata": {"name": "web", "namespace": "shop", "resourceVersion": "7"},
                "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.7", "externalIPs": ["192.0.2.9"],
                    "loadBalancerSourceRanges": ["198.51.100.0/24", "2001:db8::/32"],
                    "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}},
                    "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
                    "ports": [{"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30080}]},
                "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}"#,
            r#"{"metadata": {"name": "a", "labels": {"service.kubernetes.io/headless": ""}},
                "spec": {"clusterIP": "None", "publishNotReadyAddresses": true}}"#,
            r#"{"metadata": {"name": "b"}, "spec": {"type": "ExternalName", "externalName": "x.org"}}"#,
            r#"{"metadata": {"name": "c"}, "spec": {"clusterIPs": ["10.43.0.8", "fd00::8"], "internalTrafficPolicy": "Local"}}"#,
        ] {
            let one: Service = serde_json::from_str(text).unwrap();
            let mut two = round_trip(&one, service);
            assert_eq!(two.metadata.resource_version, None);
            two.metadata = one.metadata.clone();
            assert_eq!(format!("{one:?}"), format!("{two:?}"));
        }
        let text = r#"{"metadata": {"name": "a", "labels": {"kubernetes.io/service-name": "web"}},
            "endpoints": [{"addresses": ["10.42.0.2"], "hostname": "h"},
                {"addresses": ["10.42.1.2"], "nodeName": "n",
                 "conditions": {"ready": false, "serving": true, "terminating": true},
                 "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "n"}]}}],
            "ports": [{"port": 8080}]}"#;
        let one: Slice = serde_json::from_str(text).unwrap();
        let mut two = round_trip(&one, slice);
        two.metadata = one.metadata.clone();
        assert_eq!(format!("{one:?}"), format!("{two:?}"));
        let text = r#"{"metadata": {"name": "web", "namespace": "shop"},
            "spec": {"containers": [{"ports": [{"containerPort": 8080, "hostPort": 80, "hostIP": "192.0.2.1"}, {"containerPort": 1}]},
                {"ports": [{"protocol": "UDP", "containerPort": 53, "hostPort": 53}]}]},
            "status": {"podIP": "10.42.0.2", "podIPs": [{"ip": "10.42.0.2"}, {"ip": "fd00::2"}]}}"#;
        let one: Pod = serde_json::from_str(text).unwrap();
        let two = round_trip(&one, pod);
        assert_eq!(format!("{one:?}"), format!("{two:?}"));
    }

    #[test]
    fn only_a_whole_file_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("services");
        assert!(load(&path).is_none());
        let content = r#"{"services":[{"metadata":{"name":"a"}}],"slices":[],"pods":[]}"#;
        fs::write(&path, format!("{}\n{content}", hash(content))).unwrap();
        assert_eq!(load(&path).unwrap().services.len(), 1);
        for text in [
            String::new(),
            content.to_owned(),
            format!("{}\n{}", hash(content), content.replace('a', "b")),
            format!("{}\nno JSON", hash("no JSON")),
        ] {
            fs::write(&path, text).unwrap();
            assert!(load(&path).is_none());
        }
    }
}
