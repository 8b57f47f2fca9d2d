//! Agents join a server: tokens, identity, the tunnel, and what happens when either side is away.

use testkit::{Fault, Lab, Machine};

/// Waits until this node is Ready.
fn wait_ready(server: &Machine, node: &str) {
    server.wait(&format!("node {node} is Ready"), |m| {
        m.kubectl(&["wait", "--for=condition=Ready", "--timeout=5s", &format!("node/{node}")])
            .is_ok()
    });
}

/// A pod on this node that says hello and stays.
fn start_pod(server: &Machine, name: &str, node: &str) {
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - name: main\n    image: busybox:1.0\n    imagePullPolicy: IfNotPresent\n    command: [sh, -c, 'echo hello from {name}; exec sleep 1000000']\n"
    );
    server.apply(&manifest).expect("pod");
    server.wait(&format!("pod {name} is Ready"), |m| {
        m.kubectl(&["wait", "--for=condition=Ready", "--timeout=5s", &format!("pod/{name}")])
            .is_ok()
    });
}

/// Logs and a command of the pod come through.
fn answers(server: &Machine, pod: &str) -> bool {
    server.kubectl(&["logs", pod]).is_ok_and(|log| log.contains(&format!("hello from {pod}")))
        && server.kubectl(&["exec", pod, "--", "echo", "run"]).is_ok_and(|out| out.trim() == "run")
}

#[test]
fn agents_join_and_are_reached_through_the_tunnel() {
    let mut lab = Lab::default();
    let (mut server, mut near) = (lab.machine("server"), lab.machine("near"));
    let mut hidden = lab.machine_behind_nat("hidden");
    server.start(&[]);
    near.spawn_agent(&server, &["--node-label", "place=shop"]);
    hidden.spawn_agent(&server, &[]);
    for node in ["server", "near", "hidden"] {
        wait_ready(&server, node);
        start_pod(&server, node, node);
        server.wait(&format!("pod {node} answers"), |m| answers(m, node));
    }
    let labelled = server.ok(&["get", "nodes", "-l", "place=shop", "-o", "name"]);
    assert_eq!(labelled.trim(), "node/near");

    // A member comes back without token and without server.
    assert!(hidden.stop("-TERM").success());
    server.stop("-KILL");
    let url = format!("https://{}:6443", server.address());
    hidden.run_node("agent", &["--server", &url]);
    hidden.wait("the agent is up without its server", |m| {
        m.log().matches("copepod is up").count() == 2
    });
    server.start(&[]);
    for node in ["server", "near", "hidden"] {
        server.wait(&format!("pod {node} answers again"), |m| answers(m, node));
        let restarts = server.ok(&[
            "get",
            "pod",
            node,
            "-o",
            "jsonpath={.status.containerStatuses[0].restartCount}",
        ]);
        assert_eq!(restarts, "0", "pod {node}");
    }
}

#[test]
fn refusals_say_what_to_do() {
    let mut lab = Lab::default();
    let (mut server, mut agent) = (lab.machine("server"), lab.machine("agent"));
    server.start(&["--agent-token", "for-agents"]);
    let url = format!("https://{}:6443", server.address());
    let full = server.token();
    let (hash, _) = full.split_once("::").expect("full token");
    let mut refused = |flags: &[&str]| {
        let before = agent.log().len();
        agent.run_node("agent", &[&["--server", &url], flags].concat());
        assert!(!agent.wait_end().success());
        agent.log().split_off(before)
    };
    let wrong = format!("{hash}::node:guessed");
    let foreign = format!("K10{}::node:for-agents", "0".repeat(64));
    for (flags, advice) in [
        (
            vec!["--token", &wrong],
            "refused the token: the token is wrong, has expired or was deleted",
        ),
        (vec!["--token", &foreign], "shows another cluster CA"),
        (vec![], "give --token, --token-file or COPEPOD_TOKEN"),
        (
            vec!["--token", &full, "--node-name", "server"],
            "is a name or address of the server itself",
        ),
        (vec!["--token", "for-agents", "--node-name", "A_B"], "cannot name a node"),
    ] {
        let log = refused(&flags);
        assert!(log.contains(advice), "{flags:?}: {log}");
    }
    // Nobody listens there: tried again and again, told what to look at.
    agent.run_node("agent", &["--server", "https://192.168.77.1:6443", "--token", "x"]);
    agent.wait("the agent says what to look at", |m| {
        m.log().contains("check that the server runs, that its address is right")
    });
    agent.stop("-TERM");

    // Agents have a token of their own; a name belongs to the node that took it first.
    agent.run_node("agent", &["--server", &url, "--token", "for-agents", "--node-name", "shop"]);
    wait_ready(&server, "shop");
    agent.stop("-KILL");
    let mut other = lab.machine("other");
    let flags = ["--server", &url, "--token", "for-agents", "--node-name", "shop"];
    other.run_node("agent", &flags);
    assert!(!other.wait_end().success());
    let log = other.log();
    assert!(log.contains("the name \"shop\" belongs to another node"), "{log}");
    assert!(log.contains("kubectl delete node shop"), "{log}");
    // What the refusal advises helps.
    server.ok(&["delete", "node", "shop"]);
    server.wait("the password is forgotten", |m| {
        m.kubectl(&["-n", "kube-system", "get", "secret", "shop.node-password.copepod"]).is_err()
    });
    other.run_node("agent", &flags);
    wait_ready(&server, "shop");
    other.stop("-TERM");
    other.run_node(
        "agent",
        &["--server", &url, "--node-name", "shop", "--with-node-id", "--token", "for-agents"],
    );
    server.wait("a node with a number", |m| {
        m.ok(&["get", "nodes", "-o", "name"]).contains("node/shop-")
    });
}

/// Runs `copepod token` on the server.
fn token(server: &Machine, args: &[&str]) -> Result<String, String> {
    let (binary, kubeconfig) = (testkit::binary(), server.path("kubeconfig"));
    let access = ["--kubeconfig", kubeconfig.to_str().expect("path")];
    let access: &[&str] = if args == ["generate"] { &[] } else { &access };
    server.run(binary.to_str().expect("path"), &[&["token"], args, access].concat())
}

#[test]
fn tokens_are_made_listed_deleted_and_replaced() {
    let mut lab = Lab::default();
    let (mut server, mut agent) = (lab.machine("server"), lab.machine("agent"));
    server.start(&["--disable-agent"]);
    let url = format!("https://{}:6443", server.address());
    let made =
        token(&server, &["create", "--description", "shop", "--ttl", "90m"]).expect("create");
    let made = made.trim();
    assert!(made.starts_with("K10") && made.contains("::"), "{made}");
    let (id, _) =
        made.rsplit("::").next().and_then(|t| t.split_once('.')).expect("bootstrap token");
    let list = token(&server, &["list"]).expect("list");
    assert!(list.starts_with("TOKEN     TTL       EXPIRES "), "{list}");
    assert!(list.contains(id) && list.contains("1h") && list.contains("shop"), "{list}");
    let json = token(&server, &["list", "-o", "json"]).expect("list");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json[0]["description"], "shop");

    agent.run_node("agent", &["--server", &url, "--token", made]);
    wait_ready(&server, "agent");
    let deleted = token(&server, &["delete", id]).expect("delete");
    assert_eq!(deleted.trim(), format!("bootstrap token {id:?} deleted"));
    assert!(!token(&server, &["list"]).expect("list").contains(id));

    // A token ends by itself.
    token(&server, &["create", "abcdef.0123456789abcdef", "--ttl", "1s"]).expect("create");
    server.wait("the token is gone", |m| !token(m, &["list"]).expect("list").contains("abcdef"));
    let twice = token(&server, &["create", "aaaaaa.0123456789abcdef"])
        .and_then(|_| token(&server, &["create", "aaaaaa.0123456789abcdef"]));
    assert!(twice.expect_err("exists").contains("a token with id \"aaaaaa\" already exists"));

    // Who joined is not concerned by another token; who joins now needs it.
    let old = server.token();
    let new = token(&server, &["rotate", "--new-token", "fresh"]).expect("rotate");
    assert!(new.trim().ends_with("::server:fresh") && server.token() == new.trim());
    assert_eq!(agent.stop("-TERM").code(), Some(0));
    agent.run_node("agent", &["--server", &url]);
    agent.wait("the member is back", |m| m.log().matches("tunnel is up").count() >= 2);
    let mut late = lab.machine("late");
    late.run_node("agent", &["--server", &url, "--token", &old]);
    assert!(!late.wait_end().success());
    assert!(late.log().contains("refused the token"), "{}", late.log());
    late.run_node("agent", &["--server", &url, "--token", new.trim()]);
    wait_ready(&server, "late");
    assert!(token(&server, &["generate"]).expect("generate").trim().len() == 23);
}

#[test]
fn the_tunnel_returns_after_whatever_ends_it() {
    let mut lab = Lab::default();
    let (mut server, mut agent) = (lab.machine("server"), lab.machine("agent"));
    let certificates = ["--certificate-seconds", "40"];
    server.start(&certificates);
    agent.spawn_agent(&server, &[]);
    wait_ready(&server, "agent");
    start_pod(&server, "work", "agent");
    server.wait("the pod answers", |m| answers(m, "work"));
    for fault in [Fault::Reject, Fault::Drop, Fault::Stall] {
        let (up, down) = (
            agent.log().matches("tunnel is up").count(),
            agent.log().matches("tunnel is down").count(),
        );
        agent.fault(Some(fault));
        if fault != Fault::Reject {
            agent.wait("the agent notices", |m| m.log().matches("tunnel is down").count() > down);
        }
        agent.fault(None);
        if fault != Fault::Reject {
            agent.wait("the tunnel is up", |m| m.log().matches("tunnel is up").count() > up);
        }
        server.wait("the pod answers again", |m| answers(m, "work"));
    }
    // The agent moves to another address of its network.
    agent.change_address("192.168.77.99");
    server.wait("the pod answers at the new address", |m| answers(m, "work"));
    server.wait("the node tells its new address", |m| {
        m.ok(&["get", "node", "agent", "-o", "jsonpath={.status.addresses}"])
            .contains("192.168.77.99")
    });
    // Meanwhile certificates of forty seconds ended more than once, on both sides.
    assert!(agent.log().contains("certificates of this node renewed"));
    server.stop("-TERM");
    server.start(&certificates);
    server.wait("the pod answers after a restart of the server", |m| answers(m, "work"));
    assert_eq!(
        server.ok(&[
            "get",
            "pod",
            "work",
            "-o",
            "jsonpath={.status.containerStatuses[0].restartCount}"
        ]),
        "0"
    );
}

#[test]
fn a_server_that_moves_is_published_at_its_new_address() {
    let mut lab = Lab::default();
    let mut server = lab.machine("server");
    server.start(&[]);
    wait_ready(&server, "server");
    start_pod(&server, "work", "server");
    server.change_address("192.168.77.98");
    for (kind, path) in [
        ("endpointslice", "jsonpath={.endpoints[*].addresses[*]}"),
        ("endpoints", "jsonpath={.subsets[*].addresses[*].ip}"),
    ] {
        server.wait("the new address is published", |m| {
            m.ok(&["get", kind, "kubernetes", "-o", path]) == "192.168.77.98"
        });
    }
    let reach = ["exec", "work", "--", "sh", "-c", "timeout 3 nc 10.43.0.1 443 </dev/null"];
    server.wait("pods reach the API server there", |m| m.kubectl(&reach).is_ok());
}

#[test]
fn an_agent_goes_on_through_another_address_of_its_list() {
    const OTHER: &str = "192.168.77.97";
    let mut lab = Lab::default();
    let (mut server, mut agent) = (lab.machine("server"), lab.machine("agent"));
    server.run("ip", &["addr", "add", &format!("{OTHER}/24"), "dev", "eth0"]).expect("ip");
    // The list has the advertised address and the one of --server.
    server.start(&["--advertise-address", OTHER]);
    agent.spawn_agent(&server, &[]);
    wait_ready(&server, "agent");
    start_pod(&server, "work", "agent");
    let only_without = |agent: &Machine, address: &str| {
        let rules = format!(
            "table inet block; delete table inet block; table inet block {{ chain output {{ \
             type filter hook output priority 0; ip daddr {address} meta l4proto tcp reject with tcp reset; }}; }}"
        );
        agent.run("nft", &[&rules]).expect("nft");
    };
    for unreachable in [OTHER, server.address()] {
        only_without(&agent, unreachable);
        server.wait("the pod answers through the other address", |m| answers(m, "work"));
    }
    // The list outlives the agent: the address it is started with is still unreachable.
    agent.stop("-TERM");
    agent.spawn_agent(&server, &[]);
    server.wait("the pod answers after a restart", |m| answers(m, "work"));
    start_pod(&server, "more", "agent");
}
