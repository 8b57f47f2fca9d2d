//! The life of nodes as a user of kubectl sees it: daemons follow them, silence is noticed and forgiven, and nodes are
//! cordoned, drained, deleted and come back.

use testkit::{Lab, Machine, NAMES};

const DAEMON: &str = "apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: \"docker.io/library/busybox:1.0\", command: [sleep, \"1000000\"]}]
";
/// The lease of a node is renewed every ten seconds.
const GRACE: &str = "node-monitor-grace-period=20s";

fn node_is(server: &Machine, node: &str, ready: &str) -> bool {
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    server.kubectl(&["get", "node", node, "-o", path]).is_ok_and(|status| status == ready)
}

fn wait_node(server: &Machine, node: &str, ready: &str) {
    server.wait(&format!("Ready of node {node} is {ready}"), |m| node_is(m, node, ready));
}

fn taints(server: &Machine, node: &str) -> String {
    let path = "jsonpath={range .spec.taints[*]}{.key}:{.effect} {end}";
    server.ok(&["get", "node", node, "-o", path])
}

/// The nodes that ready pods of an app are on.
fn homes(server: &Machine, app: &str) -> Vec<String> {
    let path = "jsonpath={range .items[?(@.status.phase==\"Running\")]}{.spec.nodeName}/{.metadata.deletionTimestamp}/\
                {.status.conditions[?(@.type==\"Ready\")].status} {end}";
    let selector = format!("app={app}");
    let all = server.kubectl(&["get", "pods", "-l", &selector, "-o", path]).unwrap_or_default();
    let ready = all.split_whitespace().filter_map(|pod| pod.strip_suffix("//True"));
    let mut nodes: Vec<String> = ready.map(str::to_owned).collect();
    nodes.sort();
    nodes
}

fn wait_homes(server: &Machine, app: &str, nodes: &[&str]) {
    server.wait(&format!("ready pods of {app} on {nodes:?}"), |m| homes(m, app) == nodes);
}

const BALANCED: &str = "apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, selector: {app: everywhere}, ports: [{port: 8088}]}
";

/// Waits until the Service has the addresses of these machines.
fn wait_addresses(server: &Machine, machines: &[&Machine]) {
    let mut wanted: Vec<&str> = machines.iter().map(|machine| machine.address()).collect();
    wanted.sort_unstable();
    let path = "jsonpath={.status.loadBalancer.ingress[*].ip}";
    server.wait(&format!("the Service has {wanted:?}"), |m| {
        m.ok(&["get", "service", "balanced", "-o", path]) == wanted.join(" ")
    });
}

/// A deployment that likes one node and stands another being unreachable for so many seconds.
fn deployment(name: &str, node: &str, seconds: u32, replicas: u32) -> String {
    let (image, key) = (NAMES[0], "kubernetes.io/hostname");
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      affinity: {{nodeAffinity: {{preferredDuringSchedulingIgnoredDuringExecution: \
         [{{weight: 100, preference: {{matchExpressions: [{{key: {key}, operator: In, values: [{node}]}}]}}}}]}}}}\n      \
         tolerations: [{{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: {seconds}}}]\n      \
         containers: [{{name: main, image: \"{image}\", command: [sleep, \"1000000\"]}}]\n"
    )
}

fn restarts(server: &Machine, app: &str) -> String {
    let path = "jsonpath={.items[*].status.containerStatuses[0].restartCount}";
    server.ok(&["get", "pods", "-l", &format!("app={app}"), "-o", path])
}

#[test]
fn a_node_that_falls_silent_is_left_and_forgiven() {
    let mut lab = Lab::default();
    let (mut server, mut agent) = (lab.machine("server"), lab.machine("agent"));
    server.start(&["--kube-controller-manager-arg", GRACE]);
    server.wait_node_ready();
    server.apply(DAEMON).expect("daemons");
    wait_homes(&server, "everywhere", &["server"]);
    agent.spawn_agent(&server, &[]);
    wait_node(&server, "agent", "True");
    wait_homes(&server, "everywhere", &["agent", "server"]);
    server.ok(&["rollout", "status", "daemonset/everywhere", "--timeout=60s"]);
    server.apply(BALANCED).expect("service");
    wait_addresses(&server, &[&server, &agent]);
    server.apply(&deployment("patient", "agent", 300, 1)).expect("patient");
    server.apply(&deployment("hasty", "agent", 2, 1)).expect("hasty");
    wait_homes(&server, "patient", &["agent"]);
    wait_homes(&server, "hasty", &["agent"]);

    agent.stop("-KILL");
    wait_node(&server, "agent", "Unknown");
    server.wait("taints of the silent node", |m| {
        taints(m, "agent").contains("node.kubernetes.io/unreachable:NoExecute")
    });
    wait_homes(&server, "hasty", &["server"]);
    wait_homes(&server, "patient", &[]);
    wait_addresses(&server, &[&server]);
    let about = server.ok(&["describe", "node", "agent"]);
    for text in ["NodeStatusUnknown", "Kubelet stopped posting node status.", "NodeNotReady"] {
        assert!(about.contains(text), "{text} is missing: {about}");
    }

    agent.run_node("agent", &["--server", &format!("https://{}:6443", server.address())]);
    wait_node(&server, "agent", "True");
    server.wait("end of the taints", |m| taints(m, "agent").is_empty());
    wait_addresses(&server, &[&server, &agent]);
    wait_homes(&server, "patient", &["agent"]);
    wait_homes(&server, "everywhere", &["agent", "server"]);
    assert_eq!(restarts(&server, "patient"), "0");
    assert_eq!(restarts(&server, "everywhere"), "0 0");
    server.wait("end of the evicted pod", |m| {
        m.ok(&["get", "pods", "-l", "app=hasty", "-o", "name"]).lines().count() == 1
    });
}

#[test]
fn a_node_is_cordoned_drained_deleted_and_comes_back() {
    let mut lab = Lab::default();
    let (mut server, mut agent) = (lab.machine("server"), lab.machine("agent"));
    server.start(&[]);
    agent.spawn_agent(&server, &[]);
    wait_node(&server, "agent", "True");
    server.wait_node_ready();
    server.apply(DAEMON).expect("daemons");
    wait_homes(&server, "everywhere", &["agent", "server"]);
    server.apply(&deployment("web", "agent", 300, 2)).expect("web");
    wait_homes(&server, "web", &["agent", "server"]);

    server.ok(&["cordon", "agent"]);
    assert!(server.ok(&["get", "node", "agent"]).contains("Ready,SchedulingDisabled"));
    server.wait("taint of the cordon", |m| {
        taints(m, "agent").contains("node.kubernetes.io/unschedulable:NoSchedule")
    });
    assert!(server.refused(&["drain", "agent", "--timeout=5s"]).contains("DaemonSet-managed"));
    server.ok(&["drain", "agent", "--ignore-daemonsets", "--timeout=120s"]);
    wait_homes(&server, "web", &["server", "server"]);
    wait_homes(&server, "everywhere", &["agent", "server"]);
    server.ok(&["uncordon", "agent"]);
    server.wait("end of the cordon", |m| taints(m, "agent").is_empty());

    let range = ["get", "node", "agent", "-o", "jsonpath={.spec.podCIDR}"];
    let uid = ["get", "node", "agent", "-o", "jsonpath={.metadata.uid}"];
    let (range_before, uid_before) = (server.ok(&range), server.ok(&uid));
    let names = ["get", "pods", "-l", "app=everywhere", "-o", "name"];
    let pods_before = server.ok(&names);
    server.ok(&["delete", "node", "agent"]);
    server
        .wait("the agent registers again", |m| m.kubectl(&uid).is_ok_and(|uid| uid != uid_before));
    wait_node(&server, "agent", "True");
    server.wait("the pod range as before", |m| m.ok(&range) == range_before);
    wait_homes(&server, "everywhere", &["agent", "server"]);
    assert_eq!(server.ok(&names), pods_before);
    assert_eq!(restarts(&server, "everywhere"), "0 0");
    let events = server.ok(&["get", "events", "--field-selector", "involvedObject.kind=Node"]);
    assert!(events.contains("Node agent event: Removing Node agent from Controller"), "{events}");
    let dns =
        ["get", "service", "-n", "kube-system", "kube-dns", "-o", "jsonpath={.spec.clusterIP}"];
    assert_eq!(server.ok(&dns), "10.43.0.10");
}

/// A new template comes to all nodes, one after the other, and an older one comes back.
#[test]
fn daemons_are_updated_restarted_and_rolled_back() {
    let m = Machine::ready();
    m.apply(DAEMON).expect("daemons");
    m.ok(&["rollout", "status", "daemonset/everywhere", "--timeout=60s"]);
    m.ok(&["set", "image", "daemonset/everywhere", &format!("main={}", NAMES[1])]);
    m.ok(&["rollout", "status", "daemonset/everywhere", "--timeout=60s"]);
    let image = [
        "get",
        "pods",
        "-l",
        "app=everywhere",
        "-o",
        "jsonpath={.items[*].spec.containers[0].image}",
    ];
    m.wait("the new image", |m| m.ok(&image) == NAMES[1]);
    m.ok(&["rollout", "undo", "daemonset/everywhere"]);
    m.ok(&["rollout", "status", "daemonset/everywhere", "--timeout=60s"]);
    m.wait("the old image", |m| m.ok(&image) == NAMES[0]);
    let name = ["get", "pods", "-l", "app=everywhere", "-o", "name"];
    let before = m.ok(&name);
    m.ok(&["rollout", "restart", "daemonset/everywhere"]);
    m.ok(&["rollout", "status", "daemonset/everywhere", "--timeout=60s"]);
    m.wait("another pod", |m| m.ok(&name) != before);
    let history = m.ok(&["rollout", "history", "daemonset/everywhere"]);
    assert!(history.contains("\n3 ") || history.contains("\n4 "), "{history}");
    let table = m.ok(&["get", "daemonset", "everywhere"]);
    let row: Vec<&str> = table.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(&row[..6], &["everywhere", "1", "1", "1", "1", "1"], "{table}");
    m.ok(&["delete", "daemonset", "everywhere", "--timeout=60s"]);
    m.wait("nothing is left", |m| {
        m.ok(&["get", "pods,controllerrevisions", "-l", "app=everywhere", "-o", "name"]).is_empty()
    });
}
