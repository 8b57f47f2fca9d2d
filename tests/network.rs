//! A server and three agents, one of them behind a router that translates addresses: pods, Services and names across them,
//! with real packets.

use std::io::Write;
use std::process::Stdio;

use testkit::{Lab, Machine, NAMES};

struct Nodes {
    server: Machine,
    one: Machine,
    two: Machine,
    hidden: Machine,
    /// Not of the cluster.
    world: Machine,
}

impl Nodes {
    fn ready() -> Nodes {
        let mut lab = Lab::default();
        let mut server = lab.machine("server");
        let (mut one, mut two) = (lab.machine("one"), lab.machine("two"));
        let mut hidden = lab.machine_behind_nat("hidden");
        server.start(&[]);
        for agent in [&mut one, &mut two, &mut hidden] {
            agent.spawn_agent(&server, &[]);
        }
        for agent in ["one", "two", "hidden"] {
            wait_ready(&server, agent, "True");
        }
        let world = lab.machine("world");
        Nodes { server, one, two, hidden, world }
    }
}

fn wait_ready(server: &Machine, node: &str, status: &str) {
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    server.wait(&format!("Ready of node {node} is {status}"), |m| {
        m.kubectl(&["get", "node", node, "-o", path]).is_ok_and(|s| s == status)
    });
}

fn pod(name: &str, node: &str, more: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {}\n    command: [sh, -c, {script:?}]\n{more}---\n",
        NAMES[0]
    )
}

/// Says its name to whoever asks, over HTTP.
fn web(name: &str, node: &str, more: &str) -> String {
    let script =
        format!("mkdir /www; echo {name} > /www/index.html; exec httpd -f -p 8080 -h /www");
    pod(name, node, &format!("    ports: [{{containerPort: 8080{more}}}]\n"), &script)
}

fn client(name: &str, node: &str) -> String {
    pod(name, node, "", "trap exit TERM; while true; do usleep 200000; done")
}

fn service(name: &str, selector: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{{selector}}}\n  \
         ports: [{{name: http, port: 80, targetPort: 8080}}]\n{spec}---\n"
    )
}

fn running(m: &Machine, pods: &[&str]) {
    for pod in pods {
        m.wait(&format!("pod {pod} is Ready"), |m| {
            let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
            m.kubectl(&["get", "pod", pod, "-o", path]).is_ok_and(|s| s == "True")
        });
    }
}

/// What a pod gets from a URL.
fn get(m: &Machine, pod: &str, url: &str) -> Result<String, String> {
    m.kubectl(&["exec", pod, "--", "busybox", "timeout", "3", "wget", "-qO-", url])
        .map(|s| s.trim().to_owned())
}

fn reaches(m: &Machine, pod: &str, url: &str, answer: &str) {
    let mut last = Ok(String::new());
    m.wait(&format!("{pod} gets {answer:?} from {url}"), |m| {
        last = get(m, pod, url);
        last.as_deref() == Ok(answer)
    });
}

/// What a machine gets from a URL, outside any pod.
fn fetch(m: &Machine, url: &str) -> Result<String, String> {
    m.run("curl", &["-s", "-m", "3", url]).map(|s| s.trim().to_owned())
}

#[test]
fn pods_services_and_names_work_across_nodes() {
    let n = Nodes::ready();
    let m = &n.server;
    let all = [
        web("web-one", "one", ""),
        web("web-two", "two", ", hostPort: 8099"),
        client("on-server", "server"),
        client("on-one", "one"),
        client("on-two", "two"),
        service("first", "app: web-one", ""),
        service("second", "app: web-two", "  type: NodePort\n"),
        service("headless", "app: web-two", "  clusterIP: None\n"),
        service("outside", "app: web-two", "  type: LoadBalancer\n"),
        service("local", "app: web-two", "  type: NodePort\n  externalTrafficPolicy: Local\n"),
        service("nobody", "app: nobody", ""),
    ];
    m.apply(&all.concat()).expect("apply");
    running(m, &["web-one", "web-two", "on-server", "on-one", "on-two"]);

    let address = |pod: &str| m.ok(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]);
    for (from, to) in [
        ("on-server", "web-one"),
        ("on-one", "web-two"),
        ("on-two", "web-one"),
        ("on-two", "web-two"),
    ] {
        reaches(m, from, &format!("http://{}:8080/", address(to)), to);
    }
    for from in ["on-server", "on-one", "on-two"] {
        reaches(m, from, "http://first/", "web-one");
        reaches(m, from, "http://second.default.svc.cluster.local/", "web-two");
        reaches(m, from, "http://headless:8080/", "web-two");
    }
    // A pod reaches itself through its Service.
    reaches(m, "web-one", "http://first/", "web-one");

    answers_from_outside(&n);
    let refused = get(m, "on-one", "http://nobody/").expect_err("a Service without endpoints");
    assert!(refused.contains("refused"), "{refused}");

    // The API server, as every client library in a pod finds it.
    let connect = "nc -w 3 kubernetes.default.svc 443 </dev/null && echo open";
    assert_eq!(m.ok(&["exec", "on-two", "--", "sh", "-c", connect]), "open\n");
    leaves_under_the_nodes_address(&n);
    moved(&n);
    nothing_leaks(&n);
}

/// NodePort, traffic policy, hostPort and load balancer as a machine outside the cluster sees them.
fn answers_from_outside(n: &Nodes) {
    let m = &n.server;
    let field = |service: &str, path: &str| {
        m.ok(&["get", "service", service, "-o", &format!("jsonpath={{{path}}}")])
    };
    let port = field("second", ".spec.ports[0].nodePort");
    for node in [&n.server, &n.one, &n.two] {
        let url = format!("http://{}:{port}/", node.address());
        m.wait(&format!("{url} from outside"), |_| {
            fetch(&n.world, &url).as_deref() == Ok("web-two")
        });
    }
    let local = field("local", ".spec.ports[0].nodePort");
    m.wait("the Local policy's node answers", |_| {
        fetch(&n.world, &format!("http://{}:{local}/", n.two.address())).as_deref() == Ok("web-two")
    });
    assert!(fetch(&n.world, &format!("http://{}:{local}/", n.one.address())).is_err());
    let host_port = format!("http://{}:8099/", n.two.address());
    assert_eq!(fetch(&n.one, &host_port).as_deref(), Ok("web-two"));
    m.wait("the load balancer has addresses", |_| {
        field("outside", ".status.loadBalancer.ingress[*].ip").contains(n.one.address())
    });
    let balanced = format!("http://{}/", n.one.address());
    m.wait(&balanced, |_| fetch(&n.world, &balanced).as_deref() == Ok("web-two"));
}

/// A machine outside the cluster has no way back to a pod's address, so it can answer only a node's.
fn leaves_under_the_nodes_address(n: &Nodes) {
    let folder = n.world.path("www");
    std::fs::create_dir(&folder).expect("folder");
    std::fs::write(folder.join("index.html"), "world\n").expect("page");
    let folder = folder.to_str().expect("path in UTF-8");
    let status = n
        .world
        .enter(&["--net", "--pid", "--mount"])
        .args(["busybox", "httpd", "-p", "8080", "-h", folder])
        .status();
    assert!(status.expect("nsenter").success());
    reaches(&n.server, "on-one", &format!("http://{}:8080/", n.world.address()), "world");
}

/// Endpoints follow the pods.
fn moved(n: &Nodes) {
    let m = &n.server;
    m.ok(&["delete", "pod", "web-two", "--timeout=60s"]);
    m.apply(&web("web-three", "one", "").replace("app: web-three", "app: web-two")).expect("apply");
    running(m, &["web-three"]);
    reaches(m, "on-two", "http://second/", "web-three");
}

/// After the pods are gone, no node keeps links, addresses or rules of them.
fn nothing_leaks(n: &Nodes) {
    let m = &n.server;
    m.ok(&["delete", "pods,services", "--all", "--timeout=60s"]);
    for node in [&n.server, &n.one, &n.two] {
        m.wait(&format!("{} keeps nothing of the pods", node.name()), |_| {
            let links = node.run("ip", &["-o", "link", "show", "type", "veth"]).expect("ip");
            let rules = node.run("nft", &["list", "ruleset"]).expect("nft");
            let pods = std::fs::read_dir(node.path("data/agent/pods")).map_or(0, Iterator::count);
            links.lines().all(|l| l.contains("eth0"))
                && !rules.contains("8080")
                && !rules.contains("8099")
                && pods == 0
        });
    }
}

/// Logs, exec and attach of a node that nobody can connect to go through the tunnel it dials.
#[test]
fn a_node_behind_a_router_serves_logs_and_exec() {
    let n = Nodes::ready();
    let m = &n.server;
    m.apply(&pod(
        "away",
        "hidden",
        "",
        "echo from $(hostname); trap exit TERM; while true; do usleep 200000; done",
    ))
    .expect("apply");
    running(m, &["away"]);
    m.wait("the log comes through", |m| {
        m.kubectl(&["logs", "away"]).is_ok_and(|l| l == "from away\n")
    });
    assert_eq!(m.ok(&["exec", "away", "--", "echo", "through"]), "through\n");
    let reader = "while read line; do echo got $line; done";
    let once = "    stdin: true\n    stdinOnce: true\n  restartPolicy: Never\n";
    m.apply(&pod("reader", "hidden", once, reader)).expect("apply");
    running(m, &["reader"]);
    let attach = m
        .kubectl_command(&["attach", "-i", "-q", "reader"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut attach = attach.expect("kubectl");
    attach.stdin.take().expect("its input").write_all(b"this\n").expect("a line");
    let output = attach.wait_with_output().expect("its output");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "got this\n");
    let inbound = format!("http://{}:10250/", n.hidden.address());
    assert!(fetch(&n.server, &inbound).is_err(), "nobody connects to the node itself");
    let metrics = m.ok(&["get", "--raw", "/api/v1/nodes/hidden/proxy/metrics"]);
    assert!(metrics.contains("# TYPE"), "{metrics}");
}
