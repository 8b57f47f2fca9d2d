//! What a Service and cluster DNS promise beyond reaching a pod: policies, affinity, addresses from outside, ports that load
//! balancers ask, every kind of name; and that names are answered while the server is away.

use testkit::{Lab, Machine, NAMES};

/// In the command line of the pod that asks for names.
const MARK: &str = "asks-for-names";
const DEAF: &str = "trap exit TERM; while true; do usleep 200000; done";
/// What the world routes to node `one`.
const EXTERNAL: &str = "192.168.78.9";

/// A pod with a server that says the pod's name on port 8080.
fn web(name: &str, node: &str, app: &str, more: &str) -> String {
    let script = format!(
        "mkdir /www; echo {name} > /www/index.html; httpd -p 8080 -h /www; trap 'usleep 8000000; exit' TERM; \
         while true; do usleep 200000; done"
    );
    pod(name, node, app, &script, more)
}

fn pod(name: &str, node: &str, app: &str, script: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 20\n  containers:\n  - name: main\n    image: {}\n    command: [sh, -c, {script:?}]\n{more}---\n",
        NAMES[0]
    )
}

fn service(name: &str, app: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {app}}}\n  \
         ports: [{{name: http, port: 80, targetPort: 8080}}]\n{spec}---\n"
    )
}

/// Nodes `server`, `one` and `two` with all pods and Services of this file; and a machine outside the cluster.
fn ready() -> (Machine, [Machine; 2], Machine) {
    let mut lab = Lab::default();
    let mut server = lab.machine("server");
    let mut agents = [lab.machine("one"), lab.machine("two")];
    let world = lab.machine("world");
    server.start(&[]);
    for agent in &mut agents {
        agent.spawn_agent(&server, &[]);
    }
    for node in ["node/one", "node/two"] {
        wait_ready(&server, node);
    }
    let external = format!("  externalIPs: [{EXTERNAL}]\n");
    let none = "  dnsPolicy: None\n  dnsConfig: {nameservers: [10.43.0.10], searches: [example.org], options: [{name: ndots, value: \"3\"}]}\n";
    let objects = [
        web("a", "one", "both", "  hostname: first\n  subdomain: group\n"),
        web("b", "two", "both", ""),
        web("c", "two", "two", ""),
        pod("client", "one", "client", &format!(": {MARK}; {DEAF}"), ""),
        pod("other", "two", "client", DEAF, ""),
        pod("own", "one", "client", DEAF, none),
        pod("nodes", "one", "client", DEAF, "  dnsPolicy: Default\n"),
        service("plain", "both", ""),
        service("sticky", "both", "  sessionAffinity: ClientIP\n"),
        service("given", "two", &external),
        service("inner", "two", "  internalTrafficPolicy: Local\n"),
        service("asked", "two", "  type: LoadBalancer\n  externalTrafficPolicy: Local\n"),
        service("group", "both", "  clusterIP: None\n"),
        "apiVersion: v1\nkind: Service\nmetadata: {name: alias}\nspec: {type: ExternalName, externalName: plain.default.svc.cluster.local}\n".to_owned(),
    ];
    server.apply(&objects.concat()).expect("apply");
    for name in ["a", "b", "c", "client", "other", "own", "nodes"] {
        wait_ready(&server, &format!("pod/{name}"));
    }
    (server, agents, world)
}

fn wait_ready(server: &Machine, what: &str) {
    server.wait(&format!("{what} is Ready"), |m| {
        m.kubectl(&["wait", "--for=condition=Ready", "--timeout=5s", what]).is_ok()
    });
}

fn field(m: &Machine, object: [&str; 2], path: &str) -> String {
    m.ok(&["get", object[0], object[1], "-o", &format!("jsonpath={{{path}}}")])
}

fn exec(m: &Machine, pod: &str, command: &str) -> Result<String, String> {
    m.kubectl(&["exec", pod, "--", "sh", "-c", command]).map(|answer| answer.trim().to_owned())
}

/// Who answers to 12 requests of a pod, each once, in order of their names.
fn answers(m: &Machine, pod: &str, host: &str) -> Result<String, String> {
    let command = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do timeout 3 wget -qO- http://{host}/ || exit 1; done | sort -u | xargs"
    );
    exec(m, pod, &format!("set -o pipefail; {command}"))
}

/// What a machine outside any pod gets: the status and the body.
fn fetch(m: &Machine, url: &str) -> Result<String, String> {
    m.run("curl", &["-s", "-m", "3", "-w", " %{http_code}", url]).map(|s| s.replace('\n', ""))
}

#[test]
fn services_keep_what_their_fields_say() {
    let (m, [one, two], world) = ready();
    m.wait("both endpoints answer", |m| answers(m, "client", "plain").as_deref() == Ok("a b"));
    let stuck = answers(&m, "client", "sticky").expect("an answer");
    assert!(["a", "b"].contains(&stuck.as_str()), "one client, one endpoint: {stuck}");

    m.wait("the endpoint of its own node", |m| answers(m, "other", "inner").as_deref() == Ok("c"));
    answers(&m, "client", "inner").expect_err("no endpoint on its own node");

    let route = ["route", "add", EXTERNAL, "via", one.address()];
    world.run("ip", &route).expect("a route");
    let url = format!("http://{EXTERNAL}/");
    m.wait("an external address", |_| fetch(&world, &url).as_deref() == Ok("c 200"));

    let port = field(&m, ["service", "asked"], ".spec.healthCheckNodePort");
    for (node, count, status) in [(&one, 0, 503), (&two, 1, 200)] {
        let url = format!("http://{}:{port}/", node.address());
        m.wait(&format!("{} tells of {count} endpoints", node.name()), |_| {
            let a = fetch(&world, &url);
            eprintln!("{url} {a:?}");
            a.is_ok_and(|answer| {
                answer.contains(&format!("\"localEndpoints\":{count}"))
                    && answer.ends_with(&format!(" {status}"))
            })
        });
    }

    // An endpoint that ends still serves when it is the last.
    m.ok(&["delete", "pod", "c", "--wait=false"]);
    let serving = ["endpointslices", "-l", "kubernetes.io/service-name=given", "-o"];
    let state = "jsonpath={.items[0].endpoints[0].conditions}";
    m.wait("the endpoint is terminating", |m| {
        let slices = [&["get"], &serving[..], &[state]].concat();
        m.kubectl(&slices).is_ok_and(|s| s.contains("\"terminating\":true"))
    });
    assert_eq!(fetch(&world, &url).as_deref(), Ok("c 200"), "while it ends");
    m.wait("refused when it has ended", |_| fetch(&world, &url).is_err());
}

#[test]
fn names_are_answered_with_and_without_the_server() {
    let (mut m, [one, _two], _world) = ready();
    let address = |pod: &str| field(&m, ["pod", pod], ".status.podIP");
    let (first, client) = (address("a"), address("client"));
    let plain = field(&m, ["service", "plain"], ".spec.clusterIP");
    let reversed: Vec<&str> = plain.split('.').rev().collect();
    let dashed = client.replace('.', "-");
    let cases = [
        ("plain.default.svc.cluster.local".to_owned(), "a", plain.clone()),
        ("alias.default.svc.cluster.local".to_owned(), "a", plain.clone()),
        ("first.group.default.svc.cluster.local".to_owned(), "a", first.clone()),
        (format!("{dashed}.default.pod.cluster.local"), "a", client.clone()),
        (
            format!("{}.in-addr.arpa", reversed.join(".")),
            "ptr",
            "plain.default.svc.cluster.local".to_owned(),
        ),
        (
            "_http._tcp.plain.default.svc.cluster.local".to_owned(),
            "srv",
            "80 plain.default.svc.cluster.local".to_owned(),
        ),
    ];
    let all = |m: &Machine, when: &str, asker: &dyn Fn(&str) -> Result<String, String>| {
        for (name, kind, answer) in &cases {
            let mut last = Ok(String::new());
            m.wait(&format!("{kind} of {name} {when}"), |_| {
                last = asker(&format!("nslookup -type={kind} {name}"));
                last.as_ref().is_ok_and(|text| text.contains(answer))
            });
        }
    };
    all(&m, "with the server", &|command| exec(&m, "client", command));
    let denied = exec(&m, "client", "nslookup -type=a no.default.svc.cluster.local 2>&1; true");
    assert!(denied.as_ref().is_ok_and(|text| text.contains("NXDOMAIN")), "{denied:?}");

    let resolv = |pod: &str| exec(&m, pod, "cat /etc/resolv.conf").expect("resolv.conf");
    let (clusters, own, nodes) = (resolv("client"), resolv("own"), resolv("nodes"));
    for (text, wanted) in [
        (&clusters, "search default.svc.cluster.local svc.cluster.local cluster.local"),
        (&clusters, "nameserver 10.43.0.10"),
        (&clusters, "options ndots:5"),
        (&own, "search example.org"),
        (&own, "options ndots:3"),
    ] {
        assert!(text.contains(wanted), "{wanted:?} is missing in {text:?}");
    }
    assert!(!nodes.contains("10.43.0.10") && !nodes.contains("cluster.local"), "{nodes}");

    let pid = one.container_process(MARK).expect("the client's process").to_string();
    m.stop("-KILL");
    all(&one, "without the server", &|command| {
        let words = ["-t", &pid, "-n", "-m", "/bin/sh", "-c", command];
        one.run("nsenter", &words)
    });
}

/// As a resolver of the machine's own may have it.
#[test]
fn names_are_answered_once_another_program_leaves_the_port() {
    let mut m = Machine::bare();
    let mut command = m.enter(&["--net"]);
    let mut other = command.args(["busybox", "httpd", "-f", "-p", "53"]).spawn().expect("httpd");
    m.wait("the port is taken", |m| fetch(m, "http://127.0.0.1:53/").is_ok());
    m.start(&[]);
    m.wait("the node says so", |m| m.log().contains("no cluster DNS on this node yet"));
    other.kill().expect("kill");
    other.wait().expect("wait");
    let ask = ["nslookup", "kubernetes.default.svc.cluster.local", "10.43.0.10"];
    m.wait("the name has its address", |m| {
        m.run("busybox", &ask).is_ok_and(|text| text.contains("10.43.0.1\n"))
    });
}
