//! Life without the API server: the link is lost, the agent restarts, the machine restarts, and the server comes back.
//!
//! Time is simulated, so that waiting costs nothing.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::fake_server::{FakeServer, Way};
use super::node::{FakeNetwork, FakeNode, NODE, Running, pod_path, ready};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn simple() -> Value {
    json!({"containers": [{"name": "a", "image": "app:1", "imagePullPolicy": "IfNotPresent"}]})
}

/// A pod whose container needs a ConfigMap, a Secret and the Services of its namespace.
fn needy() -> Value {
    json!({"containers": [{"name": "a", "image": "app:1", "env": [
        {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "look", "key": "color"}}},
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "password"}}},
    ], "volumeMounts": [{"name": "look", "mountPath": "/look"}]}],
    "volumes": [{"name": "look", "configMap": {"name": "look"}}]})
}

fn put_objects(server: &FakeServer, color: &str) {
    let meta = |name: &str| json!({"name": name, "namespace": "shop", "uid": name});
    server.put(
        "/api/v1/namespaces/shop/configmaps/look",
        json!({"metadata": meta("look"), "data": {"color": color}}),
    );
    server.put(
        "/api/v1/namespaces/shop/secrets/keys",
        json!({"metadata": meta("keys"), "data": {"password": "aHVudGVyMg=="}}),
    );
    server.put(
        "/api/v1/namespaces/shop/services/db",
        json!({"metadata": meta("db"), "spec": {"clusterIP": "10.43.0.9",
            "ports": [{"port": 5432, "protocol": "TCP"}]}}),
    );
}

fn variables(spec: &runtime::protocol::ContainerSpec) -> Vec<String> {
    let wanted = ["COLOR", "PASSWORD", "DB_SERVICE_HOST"];
    let own = spec.env.iter().filter(|(name, _)| wanted.contains(&name.as_str()));
    let mut all: Vec<String> = own.map(|(name, value)| format!("{name}={value}")).collect();
    all.sort();
    all
}

/// A node on which the pod `web` runs.
async fn with_a_pod() -> (FakeNode, Running) {
    let node = FakeNode::new().await;
    node.pod("web", "u1", simple());
    let running = node.start().await;
    node.give_range().await;
    node.until_running(&["u1-a-0"]).await;
    (node, running)
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_changes_nothing_and_is_made_good() {
    let (node, running) = with_a_pod().await;
    node.until_status("web", "/phase", json!("Running")).await;
    node.until("the node is Ready", || {
        node.server.get(NODE).is_some_and(|n| ready(&n) == Some("True"))
    })
    .await;
    node.server.set(Way::Refused);
    // Meanwhile the node controller gives the node up.
    let mut lost = node.server.get(NODE).expect("a node");
    for condition in lost["status"]["conditions"].as_array_mut().expect("conditions") {
        condition["status"] = json!("Unknown");
    }
    node.server.put(NODE, lost);
    let mut pod = node.server.get(&pod_path("web")).expect("a pod");
    for condition in pod["status"]["conditions"].as_array_mut().expect("conditions") {
        if condition["type"] == "Ready" {
            condition["status"] = json!("False");
        }
    }
    node.server.put(&pod_path("web"), pod);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(node.runtime.running(), ["u1-a-0"]);
    // A container that ends is started again without anybody's leave.
    node.runtime.end("u1-a-0");
    node.until_running(&["u1-a-1"]).await;
    node.server.set(Way::Open);
    let back = tokio::time::Instant::now();
    node.until("the node is Ready again", || {
        node.server.get(NODE).is_some_and(|n| ready(&n) == Some("True"))
    })
    .await;
    node.until_status("web", "/containerStatuses/0/restartCount", json!(1)).await;
    node.until("the pod is ready again", || {
        node.server.get(&pod_path("web")).is_some_and(|p| ready(&p) == Some("True"))
    })
    .await;
    assert!(back.elapsed() < Duration::from_secs(40), "{:?}", back.elapsed());
    let told = || {
        let events = node.server.below("/api/v1/namespaces/default/events/");
        let told = events.iter().filter(|e| e["reason"] == "NodeReady");
        told.filter_map(|e| e["count"].as_u64()).sum::<u64>()
    };
    node.until("everybody is told that the node is back", || told() == 2).await;
    assert_eq!(node.runtime.running(), ["u1-a-1"]);
    running.agent.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_goes_on_with_what_runs() {
    let node = FakeNode::new().await;
    put_objects(&node.server, "blue");
    node.pod("web", "u1", needy());
    let running = node.start().await;
    node.give_range().await;
    node.until_running(&["u1-a-0"]).await;
    node.until_recorded("u1", "Running").await;
    node.server.set(Way::Silent);
    running.agent.shutdown().await;
    let running = node.start().await;
    node.until("the pod is known", || {
        node.server.asked().len() > 1 && running.agent.kubelet().knows("shop", "web")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(node.runtime.made().len(), 1, "nothing was started again");
    node.runtime.end("u1-a-0");
    node.until_running(&["u1-a-1"]).await;
    node.server.set(Way::Open);
    node.until_status("web", "/containerStatuses/0/restartCount", json!(1)).await;
    running.agent.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_network_that_fails_costs_nothing_that_runs() {
    let (node, running) = with_a_pod().await;
    node.until_status("web", "/podIP", json!("10.42.3.9")).await;
    running.agent.shutdown().await;
    let running = node.start_with(|config| config.network = Arc::new(FakeNetwork::broken())).await;
    node.until("the pod is known", || running.agent.kubelet().knows("shop", "web")).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(node.runtime.running(), ["u1-a-0"]);
    assert_eq!(node.runtime.made().len(), 1);
    node.until_status("web", "/podIP", json!("10.42.3.9")).await;
    running.agent.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_machine_runs_its_pods_without_the_server() {
    let node = FakeNode::new().await;
    put_objects(&node.server, "blue");
    node.pod("web", "u1", needy());
    let mut once = simple();
    once["restartPolicy"] = json!("Never");
    node.pod("job", "u2", once);
    let running = node.start().await;
    node.give_range().await;
    node.until_running(&["u1-a-0", "u2-a-0"]).await;
    node.runtime.end("u2-a-0");
    node.until_recorded("u1", "Running").await;
    node.until_recorded("u2", "Succeeded").await;
    let before = node.runtime.made();
    running.agent.shutdown().await;
    node.server.set(Way::Refused);
    node.runtime.reboot();
    std::fs::write(node.data().join("record/pods/broken"), b"rubbish").expect("a damaged file");
    let running = node.start().await;
    node.until_running(&["u1-a-1"]).await;
    let made = node.runtime.made();
    assert_eq!(made.len(), before.len() + 1, "what had ended is not run again");
    assert_eq!(
        variables(made.last().expect("a container")),
        ["COLOR=blue", "DB_SERVICE_HOST=10.43.0.9", "PASSWORD=hunter2"]
    );
    assert_eq!(*running.network.ranges.lock().expect("lock"), ["10.42.3.0/24"]);
    let detached = running.network.detached.lock().expect("lock").clone();
    assert!(!detached.contains(&"u1".to_owned()), "it keeps its addresses: {detached:?}");
    let look = node.data().join("pods/u1/volumes/kubernetes.io~configmap/look/color");
    assert_eq!(std::fs::read_to_string(&look).expect("a file"), "blue");
    put_objects(&node.server, "green");
    node.server.set(Way::Open);
    node.until_status("web", "/containerStatuses/0/restartCount", json!(1)).await;
    node.until_status("job", "/phase", json!("Succeeded")).await;
    node.until("the volume shows what has changed", || {
        std::fs::read_to_string(&look).is_ok_and(|text| text == "green")
    })
    .await;
    assert_eq!(node.runtime.running(), ["u1-a-1"], "adopted without a restart");
    assert_eq!(node.runtime.made().len(), made.len());
    running.agent.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_changed_meanwhile_is_made_good_by_uid() {
    let node = FakeNode::new().await;
    for (name, uid) in [("stays", "u1"), ("leaves", "u2"), ("renewed", "u3"), ("ends", "u4")] {
        node.pod(name, uid, simple());
    }
    let running = node.start().await;
    node.give_range().await;
    node.until_running(&["u1-a-0", "u2-a-0", "u3-a-0", "u4-a-0"]).await;
    for uid in ["u1", "u2", "u3", "u4"] {
        node.until_recorded(uid, "Running").await;
    }
    running.agent.shutdown().await;
    node.server.set(Way::Refused);
    node.runtime.reboot();
    let running = node.start().await;
    node.until_running(&["u1-a-1", "u2-a-1", "u3-a-1", "u4-a-1"]).await;
    node.server.remove(&pod_path("leaves"));
    node.server.remove(&pod_path("renewed"));
    node.pod("renewed", "u5", simple());
    node.pod("new", "u6", simple());
    let mut ending = node.server.get(&pod_path("ends")).expect("a pod");
    ending["metadata"]["deletionTimestamp"] = json!("2026-11-22T10:00:00Z");
    ending["metadata"]["deletionGracePeriodSeconds"] = json!(1);
    node.server.put(&pod_path("ends"), ending);
    node.server.set(Way::Open);
    node.until_running(&["u1-a-1", "u5-a-0", "u6-a-0"]).await;
    node.until("the deleted pod is gone", || node.server.get(&pod_path("ends")).is_none()).await;
    let recorded = || {
        let store = crate::record::Store::open(&node.data().join("record")).expect("a record");
        store.load().pods.into_keys().collect::<Vec<_>>()
    };
    node.until("the record has what runs", || recorded() == ["u1", "u5", "u6"]).await;
    running.agent.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_absence_costs_nothing() {
    let (node, running) = with_a_pod().await;
    node.until_status("web", "/phase", json!("Running")).await;
    node.server.set(Way::Refused);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let (asked, memory) = (node.server.asked().len(), resident());
    tokio::time::sleep(DAY).await;
    let requests = node.server.asked().split_off(asked);
    let of = |what: &str| requests.iter().filter(|r| r.contains(what)).count();
    assert!(requests.len() < 50_000, "{} requests a day", requests.len());
    assert!(of("/leases/") <= 8_700, "{} looks at the lease", of("/leases/"));
    assert_eq!(of("PATCH"), 0, "no status is tried while nobody answers");
    assert_eq!(of("/events"), 0);
    let log = requests.iter().map(|r| r.len() + size_of::<String>() + 16).sum::<usize>();
    let grown = resident().saturating_sub(memory);
    assert!(grown < (2 << 20) + 2 * log, "{grown} bytes more after a day, {log} of them ours");
    node.server.set(Way::Open);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(node.runtime.running(), ["u1-a-0"]);
    running.agent.shutdown().await;
}

/// Resident bytes of this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok()).expect("a number");
    pages * 4096
}

#[tokio::test(start_paused = true)]
async fn a_quiet_node_writes_nothing_but_its_lease() {
    let (node, running) = with_a_pod().await;
    node.until("the node is Ready", || {
        node.server.get(NODE).is_some_and(|n| ready(&n) == Some("True"))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let asked = node.server.asked().len();
    tokio::time::sleep(DAY).await;
    let requests = node.server.asked().split_off(asked);
    let writes = requests.iter().filter(|r| !r.starts_with("GET"));
    let others: Vec<_> = writes.filter(|r| !r.contains("/leases/")).collect();
    assert!(others.is_empty(), "{others:?}");
    running.agent.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_registers_again_and_addresses_follow() {
    let node = FakeNode::new().await;
    let running = node.start().await;
    node.give_range().await;
    let ready_now = || node.server.get(NODE).is_some_and(|n| ready(&n) == Some("True"));
    node.until("the node is Ready", ready_now).await;
    let uid = node.server.get(NODE).expect("a node")["metadata"]["uid"].clone();
    node.server.remove(NODE);
    node.until("the node is back", || {
        node.server.get(NODE).is_some_and(|n| n["metadata"]["uid"] != uid)
    })
    .await;
    node.server.set(Way::Silent);
    tokio::time::sleep(Duration::from_secs(300)).await;
    node.server.remove(NODE);
    node.server.set(Way::Open);
    node.until("the node is back after both", ready_now).await;
    running.agent.shutdown().await;
    let mut running = node.start().await;
    let (told, addresses) = tokio::sync::watch::channel(vec![[10, 0, 0, 9].into()]);
    running.agent.follow_addresses(addresses);
    internal_is(&node, "10.0.0.9").await;
    told.send_replace(vec![[10, 0, 0, 10].into()]);
    internal_is(&node, "10.0.0.10").await;
    running.agent.shutdown().await;
    let moved = |config: &mut crate::Config| config.node_ips = vec![[10, 0, 0, 8].into()];
    let running = node.start_with(moved).await;
    internal_is(&node, "10.0.0.8").await;
    running.agent.shutdown().await;
}

async fn internal_is(node: &FakeNode, wanted: &str) {
    node.until("the address has changed", || {
        let node = node.server.get(NODE).unwrap_or_default();
        let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
        let internal: Vec<_> = addresses.iter().filter(|a| a["type"] == "InternalIP").collect();
        internal.len() == 1 && internal[0]["address"] == wanted
    })
    .await;
}
