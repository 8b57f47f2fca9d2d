//! `kubectl port-forward` against a real node: connections side by side, big bodies, refused ports, Services and
//! Deployments, by WebSocket and by SPDY; and the proxies of pods and Services.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use testkit::{Lab, Machine, NAMES, PATIENCE};

/// The size of the big page.
const BIG: usize = 24 << 20;
const PARALLEL: usize = 12;

const SERVE: &str = "mkdir /www; echo page > /www/index.html; yes 0123456789abcde | head -c 25165824 > /www/big; \
                     touch /tmp/written; trap 'exit' TERM; httpd -p 8080 -h /www; while true; do usleep 50000; done";

fn manifest() -> String {
    let image = NAMES[0];
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  selector:\n    matchLabels: {{app: web}}\n  \
         template:\n    metadata:\n      labels: {{app: web}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
         containers:\n      - name: main\n        image: {image}\n        command: [sh, -c, {SERVE:?}]\n        ports:\n        \
         - {{name: http, containerPort: 8080}}\n        readinessProbe:\n          httpGet: {{path: /, port: 8080}}\n          \
         periodSeconds: 1\n---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  selector: {{app: web}}\n  \
         ports:\n  - {{port: 80, targetPort: http}}\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: host\nspec:\n  \
         hostNetwork: true\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {image}\n    \
         command: [sh, -c, \"trap exit TERM; mkdir /www; echo host > /www/index.html; httpd -p 18181 -h /www; \
         while true; do usleep 50000; done\"]\n"
    )
}

/// A running `kubectl port-forward`.
struct Forward {
    child: Child,
    ports: Vec<u16>,
    said: Arc<Mutex<String>>,
}

impl Forward {
    /// Starts it, with a port here for each port there.
    fn start(m: &Machine, target: &str, ports: &[&str], spdy: bool) -> Forward {
        let mut command = m.kubectl_command(&[&["port-forward", target], ports].concat());
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", if spdy { "false" } else { "true" });
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl");
        let said = Arc::new(Mutex::new(String::new()));
        let errors = BufReader::new(child.stderr.take().expect("piped")).lines();
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in errors.map_while(Result::ok) {
                let mut said = heard.lock().unwrap_or_else(PoisonError::into_inner);
                said.push_str(&line);
                said.push('\n');
            }
        });
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (found, local) = std::sync::mpsc::channel();
        // Read to the end: kubectl goes on to write, and ends when it cannot.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // Forwarding from 127.0.0.1:41234 -> 8080
                let rest = line.strip_prefix("Forwarding from 127.0.0.1:");
                let port = rest.and_then(|rest| rest.split(' ').next()?.parse().ok());
                port.map(|port| found.send(port));
            }
        });
        let mut forward = Forward { child, ports: Vec::new(), said };
        for _ in ports {
            let port = local.recv_timeout(PATIENCE);
            forward.ports.push(port.unwrap_or_else(|_| panic!("{target}: {}", forward.said())));
        }
        forward
    }

    fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn page(m: &Machine, port: u16, path: &str) -> Result<Vec<u8>, String> {
    let url = format!("http://127.0.0.1:{port}/{path}");
    let mut command = m.enter(&["--net"]);
    command.args(["curl", "-sS", "--fail", "--max-time", "60", &url]);
    let output = command.output().expect("curl");
    let error = || String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(output.stdout.clone()) } else { Err(error()) }
}

fn machine() -> (Machine, String) {
    let m = Machine::ready();
    m.apply(&manifest()).expect("apply");
    m.ok(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    m.ok(&["wait", "--for=condition=Ready", "pod/host", "--timeout=90s"]);
    let pod = m.ok(&["get", "pods", "-l", "app=web", "-o", "name"]).trim().to_owned();
    (m, pod)
}

fn serves_side_by_side(m: &Machine, pod: &str, spdy: bool) {
    let forward = Forward::start(m, pod, &[":8080"], spdy);
    let port = forward.ports[0];
    let path = |i: usize| if i.is_multiple_of(4) { "big" } else { "index.html" };
    // Each is read at once: kubectl hands on no bytes of others while one of its clients takes none.
    let bodies: Vec<Result<Vec<u8>, String>> = std::thread::scope(|scope| {
        let fetch = |i| scope.spawn(move || page(m, port, path(i)));
        let running: Vec<_> = (0..PARALLEL).map(fetch).collect();
        running.into_iter().map(|thread| thread.join().expect("fetch")).collect()
    });
    for (i, body) in bodies.into_iter().enumerate() {
        let body = body.unwrap_or_else(|e| panic!("request {i}: {e}\n{}", forward.said()));
        if path(i) == "big" {
            assert_eq!(body.len(), BIG, "request {i}");
            assert!(body.chunks(16).all(|line| line == b"0123456789abcde\n"), "request {i}");
        } else {
            assert_eq!(body, b"page\n", "request {i}");
        }
    }
    assert!(!forward.said().contains("error"), "{}", forward.said());
}

#[test]
fn port_forward_serves_many_connections_and_tells_refusals() {
    let (m, pod) = machine();
    for spdy in [false, true] {
        serves_side_by_side(&m, &pod, spdy);
    }

    let forward = Forward::start(&m, &pod, &[":8080", ":81"], false);
    page(&m, forward.ports[1], "").expect_err("nothing listens on port 81");
    m.wait("kubectl tells the refusal", |_| forward.said().contains("connection refused"));
    let said = forward.said();
    let uid = m.ok(&["get", &pod, "-o", "jsonpath={.metadata.uid}"]);
    assert!(
        said.contains(&format!(
            "error forwarding port 81 to pod {uid}, uid : failed to execute portforward"
        )),
        "{said}"
    );
    // Since 1.23 kubectl itself gives up when it is told an error; the node has not ended anything.
    m.wait("kubectl ends", |_| forward.said().contains("error: lost connection to pod"));
    drop(forward);

    for (target, port) in
        [("svc/web", ":80"), ("deployment/web", ":8080"), ("deployment/web", ":http")]
    {
        let forward = Forward::start(&m, target, &[port], false);
        assert_eq!(page(&m, forward.ports[0], "").expect(target), b"page\n");
    }
    let forward = Forward::start(&m, "pod/host", &[":18181"], false);
    assert_eq!(page(&m, forward.ports[0], "").expect("host network"), b"host\n");
    drop(forward);

    let missing = m.refused(&["port-forward", "pod/none", ":80"]);
    assert!(missing.contains("pods \"none\" not found"), "{missing}");
}

/// A node that nobody can connect to: all goes through the tunnel that it dialled.
#[test]
fn port_forward_reaches_a_pod_behind_nat() {
    let mut lab = Lab::default();
    let (mut server, mut hidden) = (lab.machine("server"), lab.machine_behind_nat("hidden"));
    server.start(&["--disable-agent"]);
    hidden.spawn_agent(&server, &[]);
    server.wait("the node behind NAT is Ready", |m| {
        m.kubectl(&["wait", "--for=condition=Ready", "--timeout=5s", "node/hidden"]).is_ok()
    });
    server.apply(&manifest()).expect("apply");
    server.ok(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    let pod = server.ok(&["get", "pods", "-l", "app=web", "-o", "name"]).trim().to_owned();
    for spdy in [false, true] {
        serves_side_by_side(&server, &pod, spdy);
    }
    let stalled = Forward::start(&server, &pod, &[":8080"], false);
    let url = format!("http://127.0.0.1:{}/big", stalled.ports[0]);
    let mut slow = server.enter(&["--net"]);
    slow.args(["curl", "-sS", "--fail", "--limit-rate", "256k", "-o", "/dev/null", &url]);
    let mut slow = slow.spawn().expect("curl");
    serves_side_by_side(&server, &pod, false);
    assert!(slow.try_wait().expect("curl").is_none(), "the slow reader still reads");
    drop(slow.kill());
    drop(slow.wait());
    assert_eq!(page(&server, stalled.ports[0], "").expect("its forward goes on"), b"page\n");
}

/// What `kubectl get --raw` and `kubectl proxy` lead to.
#[test]
fn pods_and_services_answer_through_the_api_server() {
    let (m, pod) = machine();
    let pod = pod.trim_start_matches("pod/");
    let raw = |path: &str| {
        let path = format!("/api/v1/namespaces/default/{}", path.replace("POD", pod));
        m.kubectl(&["get", "--raw", &path])
    };
    for path in [
        "pods/POD/proxy/",
        "pods/http:POD:8080/proxy/index.html",
        "pods/host:18181/proxy/",
        "services/web/proxy/",
        "services/web:80/proxy/index.html?a=b",
    ] {
        let page = raw(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(matches!(page.as_str(), "page\n" | "host\n"), "{path}: {page}");
    }
    assert_eq!(raw("services/web/proxy/big").map(|big| big.len()), Ok(BIG));
    for (path, why) in [
        ("pods/POD:9/proxy/", "error trying to reach service: dial tcp 10.42."),
        ("pods/POD:9/proxy/", ":9: connect: connection refused"),
        ("services/web:81/proxy/", "no service port 81 found for service \"web\""),
        ("services/web/proxy/none", "the server could not find the requested resource"),
    ] {
        let refused = raw(path).expect_err(path);
        assert!(refused.contains(why), "{path}: {refused}");
    }
}
