//! Nothing acknowledged is lost, and containers outlive the agent.

use testkit::Machine;
use testkit::NAMES;

fn start_talker(m: &Machine) -> String {
    m.ok(&[
        "create",
        "deployment",
        "talker",
        "--image",
        NAMES[0],
        "--",
        "sh",
        "-c",
        "trap exit TERM; i=0; while true; do i=$((i+1)); echo line $i; usleep 50000; done",
    ]);
    m.ok(&["rollout", "status", "deployment/talker", "--timeout=60s"]);
    m.ok(&[
        "get",
        "pods",
        "-l",
        "app=talker",
        "-o",
        "jsonpath={.items[0].status.containerStatuses[0].containerID}",
    ])
}

fn container_id_and_restarts(m: &Machine) -> String {
    m.ok(&["get", "pods", "-l", "app=talker", "-o",
        "jsonpath={.items[*].status.containerStatuses[0].containerID}/{.items[*].status.containerStatuses[0].restartCount}"])
}

#[test]
fn killed_server_comes_back_with_its_state_and_containers_run_on() {
    let mut m = Machine::ready();
    let container = start_talker(&m);
    m.ok(&["create", "configmap", "kept", "--from-literal=a=b"]);
    let revision =
        m.ok(&["get", "configmap", "kept", "-o", "jsonpath={.metadata.resourceVersion}"]);
    m.stop("-KILL");
    assert!(
        m.container_processes().iter().any(|line| line.contains("line $i")),
        "the container runs on without the agent"
    );
    m.start(&[]);
    m.wait_node_ready();
    assert_eq!(
        m.ok(&["get", "configmap", "kept", "-o", "jsonpath={.metadata.resourceVersion}"]),
        revision
    );
    assert_eq!(container_id_and_restarts(&m), format!("{container}/0"));
    let pod = m.ok(&["get", "pods", "-l", "app=talker", "-o", "name"]);
    let log = m.ok(&["logs", pod.trim()]);
    assert!(log.lines().count() > 1);
    for (i, line) in log.lines().enumerate() {
        assert_eq!(line, format!("line {}", i + 1), "the log is complete");
    }
    m.ok(&["create", "configmap", "after", "--from-literal=a=b"]);
    let after = m.ok(&["get", "configmap", "after", "-o", "jsonpath={.metadata.resourceVersion}"]);
    assert!(after.parse::<u64>().expect("number") > revision.parse::<u64>().expect("number"));
    assert_eq!(m.ok(&["exec", pod.trim(), "--", "echo", "still"]), "still\n");
    m.ok(&["delete", "deployment", "talker", "--timeout=60s"]);
    m.wait("the adopted container is gone", |m| {
        !m.container_processes().iter().any(|line| line.contains("line $i"))
    });
}

#[test]
fn sigterm_is_a_clean_stop() {
    let mut m = Machine::ready();
    let container = start_talker(&m);
    let status = m.stop("-TERM");
    assert!(status.success(), "{status}");
    m.start(&[]);
    m.wait_node_ready();
    assert_eq!(container_id_and_restarts(&m), format!("{container}/0"));
}

#[test]
fn pods_end_in_order_when_the_machine_goes_down() {
    let mut m = Machine::ready();
    let flag = m.path("machine-ends");
    let flags = ["--machine-ends-file", flag.to_str().expect("path")];
    assert!(m.stop("-TERM").success());
    m.start(&flags);
    m.wait_node_ready();
    let ends = m.path("ends");
    let pod = |name: &str, priority: &str, hook: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n{priority}  \
             volumes: [{{name: ends, hostPath: {{path: {}, type: DirectoryOrCreate}}}}]\n  containers:\n  - name: main\n    \
             image: {}\n    command: [sh, -c, \"trap 'echo {name} >>/ends/log; exit' TERM; sleep 1000000 & wait\"]\n\
             {hook}    volumeMounts: [{{name: ends, mountPath: /ends}}]\n---\n",
            ends.display(),
            NAMES[0]
        )
    };
    let hook =
        "    lifecycle: {preStop: {exec: {command: [sh, -c, 'echo hook >>/ends/log; sleep 1']}}}\n";
    let critical = pod("critical", "  priorityClassName: system-node-critical\n", "");
    m.apply(&(critical + &pod("ordinary", "", hook))).expect("pods");
    m.ok(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    std::fs::write(&flag, "").expect("flag");
    assert!(m.stop("-TERM").success());
    let log = std::fs::read_to_string(ends.join("log")).expect("log");
    assert_eq!(log, "hook\nordinary\ncritical\n");
    assert_eq!(m.containers_running("/ends/log"), 0);
    std::fs::remove_file(&flag).expect("flag");
    m.start(&flags);
    m.wait_node_ready();
    m.wait("both run again", |m| {
        let state = "jsonpath={.items[*].status.containerStatuses[0].restartCount}/{.items[*].status.containerStatuses[0].ready}";
        m.ok(&["get", "pods", "-o", state]) == "1 1/true true"
    });
}

#[test]
fn files_are_private_and_the_kubeconfig_is_the_administrators() {
    use std::os::unix::fs::PermissionsExt;
    let m = Machine::ready();
    let mode = |path: std::path::PathBuf| {
        std::fs::metadata(&path)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(m.path("kubeconfig")), 0o600);
    assert_eq!(mode(m.path("data/server/token")), 0o600);
    let keys: Vec<_> = std::fs::read_dir(m.path("data/server/tls"))
        .expect("tls")
        .flatten()
        .map(|e| e.path())
        .collect();
    assert!(keys.len() > 4);
    for key in keys.into_iter().filter(|k| k.extension().is_some_and(|e| e == "key")) {
        assert_eq!(mode(key.clone()), 0o600, "{}", key.display());
    }
    assert!(
        m.ok(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.groups}"])
            .contains("system:masters")
    );
}

const PODS: usize = 24;
const KILLS: usize = 6;

/// One container for each pod: what a server that dies while it creates them must not get wrong.
fn started_once(m: &Machine) -> Result<(), String> {
    let status = "jsonpath={range .items[*]}{.status.phase} {.status.containerStatuses[0].restartCount} \
                  {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].lastState}{\"\\n\"}{end}";
    let rows = m.kubectl(&["get", "pods", "-l", "app=many", "-o", status])?;
    let good = rows.lines().filter(|row| row.starts_with("Running 0 copepod://")).count();
    let running = m.containers_running("many-marker");
    match (good, running) {
        (PODS, PODS) => Ok(()),
        _ => Err(format!("{good} good pods and {running} containers of {PODS}:\n{rows}")),
    }
}

#[test]
fn killed_again_and_again_while_pods_are_created() {
    let mut m = Machine::ready();
    let script = "trap exit TERM; : many-marker; while true; do usleep 200000; done";
    m.ok(&[
        "create",
        "deployment",
        "many",
        "--image",
        NAMES[0],
        "--replicas",
        &PODS.to_string(),
        "--",
        "sh",
        "-c",
        script,
    ]);
    for kill in 1..=KILLS {
        let wanted = kill * PODS / (KILLS + 2);
        m.wait("some more containers", |m| m.containers_running("many-marker") >= wanted);
        m.stop("-KILL");
        m.start(&[]);
    }
    let mut last = Ok(());
    let end = std::time::Instant::now() + testkit::PATIENCE / 2;
    m.wait("each pod runs once, never restarted", |m| {
        last = started_once(m);
        last.is_ok() || std::time::Instant::now() > end
    });
    assert_eq!(last, Ok(()), "\n{}", m.log());
    m.ok(&["delete", "deployment", "many", "--timeout=60s"]);
    m.wait("no pod is left", |m| m.ok(&["get", "pods", "-o", "name"]).is_empty());
    m.wait("no container and no pod folder is left", |m| {
        let folders = std::fs::read_dir(m.path("data/agent/pods")).expect("pods").count();
        folders == 0 && m.containers_running("many-marker") == 0
    });
    let links = m.run("ip", &["-o", "link", "show", "type", "veth"]).expect("ip");
    assert_eq!(
        links.lines().filter(|l| !l.contains("eth0") && !l.contains("wire")).count(),
        0,
        "{links}"
    );
}
