//! Agents join a server: tokens, identity, the tunnel, and what happens when either side is away.

use testkit::{Lab, Machine};

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
