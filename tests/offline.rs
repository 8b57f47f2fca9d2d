//! A node without its server: a lost link, a restarted agent, a restarted machine, and what happens when the server is back.

use std::fs;
use std::path::PathBuf;

use testkit::{Fault, Lab, Machine};

const WORK: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: look}
data: {color: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {ports: [{port: 5432}]}
---
apiVersion: v1
kind: Pod
metadata: {name: job}
spec:
  nodeName: edge
  restartPolicy: Never
  containers:
  - name: main
    image: busybox:1.0
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'echo job-marker']
"#;

/// The Service of a pod.
const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{port: 80, targetPort: 8080}]}
"#;

/// A pod on the agent's node that runs a script, with what else its container and its spec have.
fn scripted(name: &str, script: &str, more: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: edge
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.0
    imagePullPolicy: IfNotPresent
    command: [sh, -c, '{script}']
{more}"#
    )
}

/// A pod that says what it was given and stays. It tolerates nothing for long.
fn pod(name: &str) -> String {
    let script = format!(
        r#": {name}-marker; echo "$PASSWORD $(cat /look/color) $DB_SERVICE_PORT"; while true; do usleep 300000; done"#
    );
    let more = r#"    env:
    - name: PASSWORD
      valueFrom: {secretKeyRef: {name: keys, key: password}}
    volumeMounts:
    - {name: look, mountPath: /look}
  volumes:
  - name: look
    configMap: {name: look}
"#;
    scripted(name, &script, more)
}

/// A pod behind the Service, and one that asks for it by name.
fn shoppers() -> [String; 2] {
    let page = "mkdir -p /www; echo shop-page > /www/index.html; exec httpd -f -p 8080 -h /www";
    let ask = "while true; do timeout 2 wget -qO- http://shop/; usleep 300000; done";
    [
        scripted("shop", page, "    ports: [{containerPort: 8080, hostPort: 8081}]\n"),
        scripted("asker", ask, ""),
    ]
}

fn wait_ready(server: &Machine, what: &str) {
    server.wait(&format!("{what} is Ready"), |m| {
        m.kubectl(&["wait", "--for=condition=Ready", "--timeout=5s", what]).is_ok()
    });
}

/// A server and the node `edge`, with work on it.
fn start(pods: &[&str]) -> (Lab, Machine, Machine) {
    let mut lab = Lab::default();
    let (mut server, mut edge) = (lab.machine("server"), lab.machine("edge"));
    let grace = "node-monitor-grace-period=10s";
    server.start(&["--kube-controller-manager-arg", grace]);
    edge.spawn_agent(&server, &[]);
    wait_ready(&server, "node/edge");
    server.apply(WORK).expect("objects");
    for name in pods {
        server.apply(&pod(name)).expect("a pod");
        wait_ready(&server, &format!("pod/{name}"));
    }
    server.ok(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/job", "--timeout=60s"]);
    (lab, server, edge)
}

/// What identifies the pod and its container, and how often it was restarted.
fn identity(server: &Machine, pod: &str) -> [String; 3] {
    let fields = [
        "{.metadata.uid}",
        "{.status.containerStatuses[0].containerID}",
        "{.status.containerStatuses[0].restartCount}",
    ];
    fields.map(|f| server.ok(&["get", "pod", pod, "-o", &format!("jsonpath={f}")]))
}

/// The files of the record of the node.
fn record(edge: &Machine) -> Vec<PathBuf> {
    let entries = fs::read_dir(edge.path("data/agent/record/pods")).into_iter().flatten().flatten();
    entries.map(|e| e.path()).collect()
}

fn log_of(edge: &Machine, pod: &str, attempt: u32) -> String {
    let folders = fs::read_dir(edge.path("data/agent/logs/pods")).into_iter().flatten().flatten();
    let prefix = format!("default_{pod}_");
    let folder = folders
        .map(|e| e.path())
        .find(|p| p.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
    folder
        .and_then(|f| fs::read_to_string(f.join(format!("main/{attempt}.log"))).ok())
        .unwrap_or_default()
}

#[test]
fn a_machine_restarted_without_its_server_runs_its_pods() {
    let (_lab, mut server, mut edge) = start(&["web"]);
    let [uid, _, _] = identity(&server, "web");
    edge.wait("both pods are recorded", |m| record(m).len() == 2);
    for file in record(&edge) {
        let text = String::from_utf8_lossy(&fs::read(&file).expect("a record")).into_owned();
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "a Secret is readable");
    }
    server.stop("-KILL");
    edge.cut_power();
    fs::write(edge.path("data/agent/record/pods/damaged"), b"rubbish").expect("a damaged file");
    edge.power_on();
    let url = format!("https://{}:6443", server.address());
    edge.run_node("agent", &["--server", &url]);
    edge.wait("the pod runs without the server", |m| m.containers_running("web-marker") == 1);
    edge.wait("it was given everything", |m| log_of(m, "web", 1).contains("hunter2 blue 5432"));
    assert!(edge.log().contains("record/pods/damaged"), "a damaged file is named");
    assert_eq!(log_of(&edge, "job", 1), "", "what had ended is not run again");

    server.start(&[]);
    wait_ready(&server, "node/edge");
    wait_ready(&server, "pod/web");
    let running = identity(&server, "web");
    assert_eq!((&running[0], running[2].as_str()), (&uid, "1"), "adopted by its uid");
    let token = "test -s /var/run/secrets/kubernetes.io/serviceaccount/token";
    server.wait("the token is there again", |m| {
        m.kubectl(&["exec", "web", "--", "sh", "-c", token]).is_ok()
    });
    assert_eq!(identity(&server, "web"), running);
    assert_eq!(edge.containers_running("web-marker"), 1);
    let phase = server.ok(&["get", "pod", "job", "-o", "jsonpath={.status.phase}"]);
    assert_eq!(phase, "Succeeded");
    server.wait("the damaged file is gone", |_| record(&edge).len() == 2);
}

/// How often the pod that asks was answered, in this run of its container.
fn pages(edge: &Machine, attempt: u32) -> usize {
    log_of(edge, "asker", attempt).matches("shop-page").count()
}

/// The port of the node that leads to the shop answers somebody outside.
fn port_answers(outside: &Machine, edge: &Machine) -> bool {
    let url = format!("http://{}:8081/", edge.address());
    outside.run("curl", &["-s", "-m", "3", &url]).is_ok_and(|page| page.contains("shop-page"))
}

#[test]
fn services_and_names_outlive_a_restart_without_the_server() {
    let (_lab, mut server, mut edge) = start(&[]);
    for text in [SHOP.to_owned()].into_iter().chain(shoppers()) {
        server.apply(&text).expect("a Service and its pods");
    }
    wait_ready(&server, "pod/shop");
    wait_ready(&server, "pod/asker");
    let addresses = ["get", "pods", "shop", "asker", "-o", "jsonpath={.items[*].status.podIP}"];
    let before = server.ok(&addresses);
    let address = before.split(' ').next().expect("an address");
    edge.wait("Service, endpoint and port are recorded", |m| {
        let recorded = fs::read_to_string(m.path("data/agent/services")).unwrap_or_default();
        recorded.contains(&format!("\"addresses\":[\"{address}\"]"))
            && recorded.contains("\"hostPort\":8081")
    });
    edge.wait("the Service answers", |m| pages(m, 0) > 0);
    server.wait("the node's port answers", |m| port_answers(m, &edge));

    let url = format!("https://{}:6443", server.address());
    server.stop("-KILL");
    edge.stop("-KILL");
    assert!(port_answers(&server, &edge), "rules stay without the agent");
    let asked = pages(&edge, 0);
    edge.run_node("agent", &["--server", &url]);
    edge.wait("a new agent answers names", |m| pages(m, 0) > asked + 2);

    edge.cut_power();
    edge.power_on();
    edge.run_node("agent", &["--server", &url]);
    edge.wait("the Service answers after a reboot", |m| pages(m, 1) > 0);
    server.wait("the node's port answers after a reboot", |m| port_answers(m, &edge));

    server.start(&[]);
    wait_ready(&server, "pod/shop");
    assert_eq!(server.ok(&addresses), before, "recorded pods keep their addresses");
    let asked = pages(&edge, 1);
    edge.wait("the Service goes on answering", |m| pages(m, 1) > asked + 2);
}

#[test]
fn an_agent_restarted_without_its_server_goes_on_with_what_runs() {
    let (_lab, mut server, mut edge) = start(&["web"]);
    let before = identity(&server, "web");
    edge.wait("the pod is recorded", |m| record(m).len() == 2);
    server.stop("-KILL");
    edge.stop("-KILL");
    let url = format!("https://{}:6443", server.address());
    edge.run_node("agent", &["--server", &url]);
    edge.wait("the agent goes on with its record", |m| {
        m.log().contains("going on with the recorded pods")
    });
    assert_eq!(edge.containers_running("web-marker"), 1);
    server.start(&[]);
    wait_ready(&server, "node/edge");
    wait_ready(&server, "pod/web");
    assert_eq!(identity(&server, "web"), before);
    assert_eq!(edge.containers_running("web-marker"), 1);
}

#[test]
fn what_changed_while_the_link_was_lost_is_made_good() {
    let (_lab, server, edge) = start(&["stays", "leaves", "renewed"]);
    let before = identity(&server, "stays");
    let renewed = identity(&server, "renewed");
    edge.fault(Some(Fault::Drop));
    server.wait("the node is given up", |m| {
        m.kubectl(&["wait", "--for=condition=Ready=Unknown", "node/edge", "--timeout=5s"]).is_ok()
    });
    for name in ["leaves", "renewed"] {
        server.ok(&["delete", "pod", name, "--force", "--grace-period=0"]);
    }
    server.apply(&pod("renewed")).expect("a pod of the same name");
    server.apply(&WORK.replace("blue", "green")).expect("a changed ConfigMap");
    for name in ["stays", "leaves", "renewed"] {
        assert_eq!(edge.containers_running(&format!("{name}-marker")), 1, "{name} runs on");
    }
    edge.fault(None);
    wait_ready(&server, "node/edge");
    wait_ready(&server, "pod/renewed");
    wait_ready(&server, "pod/stays");
    server.wait("the deleted pod has ended", |_| edge.containers_running("leaves-marker") == 0);
    assert_eq!(identity(&server, "stays"), before, "not restarted");
    assert_ne!(identity(&server, "renewed")[0], renewed[0]);
    server.wait("one container of the renewed pod", |_| {
        edge.containers_running("renewed-marker") == 1
    });
    server.wait("the volume shows what has changed", |m| {
        m.kubectl(&["exec", "stays", "--", "cat", "/look/color"]).is_ok_and(|t| t.trim() == "green")
    });
    let metrics = server.ok(&["get", "--raw", "/api/v1/nodes/edge/proxy/metrics"]);
    assert!(metrics.contains("kubelet_running_pods 2"), "{metrics}");
    let settings = server.ok(&["get", "--raw", "/api/v1/nodes/edge/proxy/configz"]);
    assert!(settings.contains("\"clusterDomain\""), "{settings}");
}

/// Restarts the node and lets it do some work; the revision of its Node object then.
fn restarted(m: &mut Machine, probe: &str) -> String {
    assert!(m.stop("-TERM").success());
    m.start(&[]);
    m.ok(&["run", probe, "--image", testkit::NAMES[0], "--restart=Never", "--", "true"]);
    let done = "--for=jsonpath={.status.phase}=Succeeded";
    m.ok(&["wait", done, &format!("pod/{probe}"), "--timeout=60s"]);
    m.wait("the agent has looked at its node", |m| {
        let reasons = "jsonpath={.items[*].reason}";
        m.ok(&["get", "events", "-A", "-o", reasons]).contains("Starting")
    });
    m.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.resourceVersion}"])
}

#[test]
fn a_restarted_agent_says_nothing_that_is_known() {
    let mut m = Machine::ready();
    // The first agent may have reported before all of the node was up.
    restarted(&mut m, "first");
    let before = restarted(&mut m, "second");
    let after = restarted(&mut m, "third");
    assert_eq!(after, before, "a write of the node is a write to the disk");
}
