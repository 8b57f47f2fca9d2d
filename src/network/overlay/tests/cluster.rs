//! A cluster for tests: nodes that are network namespaces on one wire, and an API server that knows nothing but Nodes.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{Body, BoxError, Client, Transport, full};
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::bridge::BridgeNetwork;
use crate::overlay::{Backend, Config, Uplink, pod_mtu, run};
use crate::tests::namespace::Namespace;

const PATIENCE: Duration = Duration::from_secs(10);
pub(super) const CLUSTER: &str = "10.42.0.0/16";
/// On the wire, but in no cluster.
pub(super) const OUTSIDE: &str = "192.0.2.254";

/// Waits for something to be so.
pub(super) fn eventually(what: &str, check: impl Fn() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[derive(Clone, Default)]
pub(super) struct Api(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    nodes: BTreeMap<String, Value>,
    /// All that ever happened; the revision is their number.
    events: Vec<Value>,
    watchers: Vec<mpsc::Sender<Bytes>>,
    patches: usize,
    away: bool,
}

impl Content {
    fn happened(&mut self, kind: &str, mut node: Value) -> Value {
        node["metadata"]["resourceVersion"] = json!((self.events.len() + 1).to_string());
        let event = json!({"type": kind, "object": node});
        self.watchers.retain(|watcher| watcher.try_send(line(&event)).is_ok());
        self.events.push(event);
        node
    }

    fn put(&mut self, name: &str, change: impl FnOnce(&mut Value)) -> Value {
        let known = self.nodes.get(name);
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        let mut node = known.cloned().unwrap_or_else(|| json!({"metadata": {"name": name}}));
        change(&mut node);
        let node = self.happened(kind, node);
        self.nodes.insert(name.to_owned(), node.clone());
        node
    }
}

fn line(event: &Value) -> Bytes {
    Bytes::from(format!("{event}\n"))
}

impl Api {
    pub(super) fn set_ranges(&self, name: &str, ranges: &[&str]) {
        let change = |node: &mut Value| node["spec"]["podCIDRs"] = json!(ranges);
        self.0.lock().unwrap().put(name, change);
    }

    pub(super) fn annotate(&self, name: &str, annotation: &str, value: &str) {
        let change = |node: &mut Value| node["metadata"]["annotations"][annotation] = json!(value);
        self.0.lock().unwrap().put(name, change);
    }

    pub(super) fn delete(&self, name: &str) {
        let mut content = self.0.lock().unwrap();
        let node = content.nodes.remove(name).unwrap();
        content.happened("DELETED", node);
    }

    pub(super) fn annotation(&self, name: &str, annotation: &str) -> Option<String> {
        let content = self.0.lock().unwrap();
        let value = &content.nodes.get(name)?["metadata"]["annotations"][annotation];
        value.as_str().map(str::to_owned)
    }

    pub(super) fn patches(&self) -> usize {
        self.0.lock().unwrap().patches
    }

    pub(super) fn set_away(&self, away: bool) {
        self.0.lock().unwrap().away = away;
    }

    fn answer(&self, request: &Request<Bytes>) -> Option<Response<Body>> {
        let mut content = self.0.lock().unwrap();
        if content.away {
            return None;
        }
        let uri = request.uri();
        if request.method() == Method::PATCH {
            let name = uri.path().strip_prefix("/api/v1/nodes/").unwrap();
            assert_eq!(request.headers()["content-type"], "application/merge-patch+json");
            let patch: Value = serde_json::from_slice(request.body()).unwrap();
            let annotations = patch["metadata"]["annotations"].as_object().unwrap().clone();
            content.patches += 1;
            let node = content.put(name, |node| {
                for (key, value) in annotations {
                    node["metadata"]["annotations"][key] = value;
                }
            });
            return Some(Response::new(full(node.to_string())));
        }
        assert_eq!((request.method(), uri.path()), (&Method::GET, "/api/v1/nodes"));
        let query = uri.query().unwrap_or_default();
        if !query.contains("watch=") {
            let items: Vec<&Value> = content.nodes.values().collect();
            let revision = content.events.len().to_string();
            let list = json!({"metadata": {"resourceVersion": revision}, "items": items});
            return Some(Response::new(full(list.to_string())));
        }
        let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")).unwrap();
        let (sender, receiver) = mpsc::channel(256);
        for event in &content.events[from.parse().unwrap()..] {
            sender.try_send(line(event)).unwrap();
        }
        content.watchers.push(sender);
        let frames = stream::unfold(receiver, |mut receiver| async {
            let bytes = receiver.recv().await?;
            Some((Ok::<_, BoxError>(Frame::data(bytes)), receiver))
        });
        Some(Response::new(StreamBody::new(frames).boxed_unsync()))
    }
}

impl Transport for Api {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, client::Result<Response<Body>>> {
        Box::pin(async move {
            match self.answer(&request) {
                Some(answer) => Ok(answer),
                None => std::future::pending().await,
            }
        })
    }
}

/// The overlay of one node, running on a thread in the node's namespace.
struct Running {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
    uplink: watch::Receiver<Option<Uplink>>,
    bridge: BridgeNetwork,
}

pub(super) struct Node {
    pub(super) name: String,
    pub(super) range: String,
    pub(super) namespace: Namespace,
    state: tempfile::TempDir,
    running: Option<Running>,
}

pub(super) struct Pod {
    pub(super) namespace: Namespace,
    pub(super) address: std::net::IpAddr,
}

/// Nodes `node1` to `nodeN` with 192.0.2.N and 10.42.N.0/24, and an outside world, on one wire.
pub(super) struct Cluster {
    pub(super) api: Api,
    pub(super) nodes: Vec<Node>,
    pub(super) wire: Namespace,
    runtime: tokio::runtime::Runtime,
}

impl Cluster {
    pub(super) fn start(count: usize, backend: Backend) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let wire = Namespace::new();
        wire.ip("link add wire type bridge");
        wire.ip(&format!("addr add {OUTSIDE}/24 dev wire"));
        wire.ip("link set wire up");
        let mut cluster = Self { api: Api::default(), nodes: Vec::new(), wire, runtime };
        for number in 1..=count {
            let name = format!("node{number}");
            let range = format!("10.42.{number}.0/24");
            let namespace = Namespace::new();
            let path = namespace.path();
            cluster
                .wire
                .ip(&format!("link add {name} type veth peer name eth0 netns {}", path.display()));
            cluster.wire.ip(&format!("link set {name} master wire up"));
            namespace.ip(&format!("addr add 192.0.2.{number}/24 dev eth0"));
            namespace.ip("link set eth0 up");
            namespace.ip("link set lo up");
            namespace.ip(&format!("route add default via {OUTSIDE}"));
            cluster.api.set_ranges(&name, &[&range]);
            let state = tempfile::tempdir().unwrap();
            cluster.nodes.push(Node { name, range, namespace, state, running: None });
        }
        for number in 1..=count {
            cluster.run(number, backend);
        }
        cluster
    }

    pub(super) fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// Starts the node's overlay and bridge.
    pub(super) fn run(&mut self, number: usize, backend: Backend) {
        let client = Client::new(Arc::new(self.api.clone()));
        let node = &mut self.nodes[number - 1];
        let (uplink_sender, uplink) = watch::channel(None);
        let mut config = Config {
            node_name: node.name.clone(),
            node_ip: None,
            interface: None,
            backend,
            cluster_cidr: CLUSTER.to_owned(),
            state_dir: node.state.path().join("overlay"),
            bridge: None,
            uplink: uplink_sender,
        };
        let mtu = node.namespace.run(|| block_on(pod_mtu(&config)).unwrap());
        let bridge_config = crate::Config {
            mtu,
            cluster_cidr: Some(CLUSTER.parse().unwrap()),
            ..crate::Config::new(&node.state.path().join("pods"))
        };
        let bridge = node.namespace.run(|| BridgeNetwork::new(bridge_config)).unwrap();
        self.runtime.block_on(bridge.set_pod_cidr(&node.range)).unwrap();
        config.bridge = Some(bridge.clone());
        let (stop, stopped) = watch::channel(false);
        let namespace = File::open(node.namespace.path()).unwrap();
        let thread = std::thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            block_on(run(client, config, stopped));
        });
        node.running = Some(Running { stop, thread, uplink, bridge });
    }

    /// Ends the node's overlay, as when the process ends; what it set up stays.
    pub(super) fn stop(&mut self, number: usize) {
        let Some(running) = self.nodes[number - 1].running.take() else { return };
        running.stop.send_replace(true);
        running.thread.join().unwrap();
    }

    pub(super) fn pod(&self, number: usize) -> Pod {
        let namespace = Namespace::new();
        let bridge = &self.node(number).running.as_ref().unwrap().bridge;
        let path = namespace.path();
        let uid = format!("pod-{}", path.file_name().unwrap().display());
        let address = self.runtime.block_on(bridge.attach(&uid, &path)).unwrap().ips[0];
        Pod { namespace, address }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for number in 1..=self.nodes.len() {
            let Some(running) = self.nodes[number - 1].running.take() else { continue };
            running.stop.send_replace(true);
            drop(running.thread.join());
        }
        if std::thread::panicking() {
            return;
        }
        let host = std::fs::read_to_string("/proc/net/dev").unwrap();
        assert!(
            !host.contains("flannel.1") && !host.contains("wire:"),
            "nothing leaks into the host"
        );
    }
}

impl Node {
    pub(super) fn uplink(&self) -> Option<Uplink> {
        self.running.as_ref()?.uplink.borrow().clone()
    }

    /// Its routes to other nodes' pods, tunnel neighbours and tunnel ends.
    pub(super) fn entries(&self) -> Vec<String> {
        let routes = self.namespace.ip("-o route show");
        let routes =
            routes.lines().filter(|line| line.starts_with("10.42.") && line.contains("via"));
        let mut all: Vec<String> = routes.map(|line| line.trim().to_owned()).collect();
        // The link may go at any moment, and its entries with it.
        let listed = |program: &str, arguments: &str| {
            let output = self.namespace.run(|| {
                std::process::Command::new(program).args(arguments.split(' ')).output().unwrap()
            });
            String::from_utf8(output.stdout).unwrap()
        };
        for (program, arguments) in
            [("ip", "neigh show dev flannel.1"), ("bridge", "fdb show dev flannel.1")]
        {
            let text = listed(program, arguments);
            let lines = text.lines().filter(|line| line.to_lowercase().contains("permanent"));
            all.extend(lines.map(|line| line.trim().to_owned()));
        }
        all
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
