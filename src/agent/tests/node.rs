//! A node of fakes: everything an agent needs, in a folder that goes away.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use ring::digest::{SHA256, digest};
use runtime::client::Runtime;
use runtime::image::{ImageStore, PullOptions};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::fake_runtime::FakeRuntime;
use super::fake_server::FakeServer;
use crate::{Agent, Config, PodNetwork, Registration};

pub(super) const NODE: &str = "/api/v1/nodes/n1";
const PATIENCE: Duration = Duration::from_secs(600);
const ADDRESS: [u8; 4] = [10, 42, 3, 9];

/// A pod network that remembers what it was told.
#[derive(Default)]
pub(super) struct FakeNetwork {
    ready: AtomicBool,
    broken: bool,
    pub(super) ranges: Mutex<Vec<String>>,
    /// The pods whose addresses were taken back.
    pub(super) detached: Mutex<Vec<String>>,
}

impl FakeNetwork {
    /// One that attaches nothing.
    pub(super) fn broken() -> FakeNetwork {
        FakeNetwork { broken: true, ..FakeNetwork::default() }
    }
}

impl PodNetwork for FakeNetwork {
    fn attach(&self, _: &str, _: &Path) -> BoxFuture<'_, Result<Vec<IpAddr>, String>> {
        Box::pin(async {
            if self.broken { Err("broken".into()) } else { Ok(vec![ADDRESS.into()]) }
        })
    }

    fn detach(&self, uid: &str) -> BoxFuture<'_, Result<(), String>> {
        self.detached.lock().expect("lock").push(uid.to_owned());
        Box::pin(async { Ok(()) })
    }

    fn set_pod_cidr(&self, cidr: &str) -> BoxFuture<'_, Result<(), String>> {
        self.ranges.lock().expect("lock").push(cidr.to_owned());
        self.ready.store(true, Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

pub(super) struct FakeNode {
    pub(super) folder: tempfile::TempDir,
    pub(super) server: FakeServer,
    pub(super) runtime: FakeRuntime,
    serving: JoinHandle<()>,
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An agent with its network.
pub(super) struct Running {
    pub(super) agent: Agent,
    pub(super) network: Arc<FakeNetwork>,
}

impl FakeNode {
    pub(super) async fn new() -> FakeNode {
        let folder = tempfile::tempdir().expect("a folder");
        let (runtime, serving) = FakeRuntime::serve(&folder.path().join("runtime.sock"));
        let node = FakeNode { folder, server: FakeServer::new(), runtime, serving };
        let archive = node.folder.path().join("app.tar");
        std::fs::write(&archive, image("app:1")).expect("an archive");
        node.images().import(&archive).await.expect("an image");
        node
    }

    fn images(&self) -> ImageStore {
        ImageStore::open(&self.folder.path().join("images")).expect("an image store")
    }

    pub(super) async fn start(&self) -> Running {
        self.start_with(|_| {}).await
    }

    pub(super) async fn start_with(&self, change: impl FnOnce(&mut Config)) -> Running {
        let network = Arc::new(FakeNetwork::default());
        let socket = self.folder.path().join("runtime.sock");
        let mut config = Config {
            node_name: "n1".into(),
            data_dir: self.data(),
            client: self.server.client(),
            runtime: Runtime::connect(&socket).await.expect("a runtime"),
            images: Arc::new(self.images()),
            pull: PullOptions::default(),
            network: Arc::clone(&network) as Arc<dyn PodNetwork>,
            node_ips: vec![[10, 0, 0, 7].into()],
            external_ips: Vec::new(),
            registration: Registration::default(),
            cluster_dns: vec![[10, 43, 0, 10].into()],
            cluster_domain: "cluster.local".into(),
            host_resolv_conf: "/dev/null".into(),
            host_hosts: "/dev/null".into(),
            max_pods: 110,
            kubelet_version: "v1.36.0".into(),
            runtime_version: "0".into(),
            kubelet_port: 10250,
        };
        change(&mut config);
        let agent = Agent::start(config).await.expect("an agent");
        Running { agent, network }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    /// A pod of namespace `shop` bound to the node.
    pub(super) fn pod(&self, name: &str, uid: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        self.server.put(
            &pod_path(name),
            json!({"metadata": {"name": name, "namespace": "shop", "uid": uid}, "spec": spec}),
        );
    }

    /// The node gets its range, as the node controller gives it.
    pub(super) async fn give_range(&self) {
        self.until("the node is registered", || self.server.get(NODE).is_some()).await;
        let mut node = self.server.get(NODE).expect("a node");
        node["spec"]["podCIDR"] = json!("10.42.3.0/24");
        self.server.put(NODE, node);
    }

    pub(super) async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let end = tokio::time::Instant::now() + PATIENCE;
        while !condition() {
            assert!(
                tokio::time::Instant::now() < end,
                "waited for: {what}; running {:?}",
                self.runtime.running()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn until_running(&self, ids: &[&str]) {
        let wanted = || {
            let mut running = self.runtime.running();
            running.sort();
            running == ids
        };
        self.until(&format!("these containers run: {ids:?}"), wanted).await;
    }

    /// Waits until the API server has the pod with these words in its status.
    pub(super) async fn until_status(&self, name: &str, pointer: &str, wanted: Value) {
        let path = pod_path(name);
        let has = || {
            let status = self.server.get(&path).map(|p| p["status"].clone());
            status.and_then(|s| s.pointer(pointer).cloned()) == Some(wanted.clone())
        };
        self.until(&format!("status {pointer} of {name} is {wanted}"), has).await;
    }

    /// Waits until the record has the pod and says so of its phase.
    pub(super) async fn until_recorded(&self, uid: &str, phase: &str) {
        let has = || {
            let store = crate::record::Store::open(&self.data().join("record"));
            let record = store.ok().and_then(|s| s.load().pods.remove(uid));
            record.and_then(|r| r.pod.status.clone()).and_then(|s| s.phase).as_deref()
                == Some(phase)
        };
        self.until(&format!("{uid} is recorded as {phase}"), has).await;
    }
}

pub(super) fn pod_path(name: &str) -> String {
    format!("/api/v1/namespaces/shop/pods/{name}")
}

/// Condition `Ready` of a node or pod.
pub(super) fn ready(object: &Value) -> Option<&str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == "Ready")?["status"].as_str()
}

/// What `docker save` writes of an image with one empty layer.
fn image(tag: &str) -> Vec<u8> {
    let layer = tar::Builder::new(Vec::new()).into_inner().expect("a layer");
    let id = digest(&SHA256, &layer);
    let hex: String = id.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let arch = crate::node_facts::architecture();
    let config = json!({"architecture": arch, "os": "linux", "config": {"Entrypoint": ["/app"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{hex}")]}});
    let manifest = json!([{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    let files = [
        ("manifest.json", manifest.to_string().into_bytes()),
        ("config.json", config.to_string().into_bytes()),
        ("layer.tar", layer),
    ];
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        archive.append_data(&mut header, name, bytes.as_slice()).expect("a file");
    }
    archive.into_inner().expect("an archive")
}
