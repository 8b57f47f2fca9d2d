//! The life of workloads as a user of kubectl sees it.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use testkit::Machine;
use testkit::NAMES;

fn pod(name: &str, extra: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  terminationGracePeriodSeconds: 1\n{extra}  \
         containers:\n  - name: main\n    image: {}\n    command: [sh, -c, {command:?}]\n",
        NAMES[0]
    )
}

/// Waits until it is told to end.
const WAIT: &str = "trap exit TERM; while true; do usleep 50000; done";

fn wait_phase(machine: &Machine, name: &str, phase: &str) {
    machine.wait(&format!("pod {name} is {phase}"), |m| {
        m.kubectl(&["get", "pod", name, "-o", "jsonpath={.status.phase}"]).is_ok_and(|p| p == phase)
    });
}

/// create, scale, set image, rollout undo, delete: what the issue's users type first.
#[test]
fn deployment_from_creation_to_deletion() {
    let m = Machine::ready();
    m.ok(&["create", "deployment", "web", "--image", NAMES[0], "--", "sh", "-c", WAIT]);
    m.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    m.ok(&["scale", "deployment/web", "--replicas=3"]);
    m.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let table = m.ok(&["get", "deployment", "web"]);
    let row: Vec<&str> = table.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(&row[..4], &["web", "3/3", "3", "3"], "{table}");

    m.ok(&["set", "image", "deployment/web", &format!("busybox={}", NAMES[1])]);
    m.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let image =
        ["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.containers[0].image}"];
    m.wait("only pods of the new image", |m| m.ok(&image).split(' ').all(|i| i == NAMES[1]));
    m.ok(&["rollout", "undo", "deployment/web"]);
    m.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    m.wait("only pods of the old image", |m| m.ok(&image).split(' ').all(|i| i == NAMES[0]));
    let history = m.ok(&["rollout", "history", "deployment/web"]);
    assert!(
        history.contains("2") && history.contains("3") && !history.contains("\n1 "),
        "{history}"
    );

    m.ok(&["delete", "deployment", "web", "--timeout=60s"]);
    m.wait("nothing is left of the deployment", |m| {
        m.ok(&["get", "replicasets,pods", "-l", "app=web", "-o", "name"]).is_empty()
    });
}

#[test]
fn logs_follow_tail_previous() {
    let m = Machine::ready();
    m.apply(&pod(
        "talker",
        "",
        "i=0; while true; do i=$((i+1)); echo line $i; usleep 100000; done",
    ))
    .expect("apply");
    wait_phase(&m, "talker", "Running");
    let mut follow = m
        .kubectl_command(&["logs", "-f", "talker"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let lines = BufReader::new(follow.stdout.take().expect("piped")).lines();
    let seen: Vec<String> = lines.take(15).map(|l| l.expect("a line")).collect();
    follow.kill().expect("kill");
    follow.wait().expect("wait");
    let expected: Vec<String> = (1..=15).map(|i| format!("line {i}")).collect();
    assert_eq!(seen, expected);
    m.ok(&["run", "ten", "--image", NAMES[0], "--restart=Never", "--", "seq", "10"]);
    wait_phase(&m, "ten", "Succeeded");
    assert_eq!(m.ok(&["logs", "ten", "--tail=3"]), "8\n9\n10\n");
    let stamped = m.ok(&["logs", "talker", "--tail=1", "--timestamps"]);
    assert!(
        stamped.split(' ').next().is_some_and(|t| t.ends_with('Z') && t.contains('T')),
        "{stamped}"
    );
    assert!(m.ok(&["logs", "talker", "--since=1s"]).lines().count() < 25);

    m.apply(&pod("once", "", "echo attempt; exit 3")).expect("apply");
    m.wait("a second attempt", |m| {
        let count = "jsonpath={.status.containerStatuses[0].restartCount}";
        m.ok(&["get", "pod", "once", "-o", count]).parse().is_ok_and(|count: u32| count > 0)
    });
    assert_eq!(m.ok(&["logs", "once", "--previous"]), "attempt\n");
    let last = m.ok(&[
        "get",
        "pod",
        "once",
        "-o",
        "jsonpath={.status.containerStatuses[0].lastState.terminated}",
    ]);
    assert!(last.contains("\"exitCode\":3") && last.contains("\"reason\":\"Error\""), "{last}");
    let missing = m.refused(&["logs", "once", "-c", "nobody"]);
    assert!(missing.contains("container nobody is not valid for pod once"), "{missing}");
}

#[test]
fn exec_with_and_without_a_terminal() {
    let m = Machine::ready();
    m.apply(&pod("box", "", "sleep 3600")).expect("apply");
    wait_phase(&m, "box", "Running");
    assert_eq!(m.ok(&["exec", "box", "--", "echo", "hello"]), "hello\n");
    let failed = m.refused(&["exec", "box", "--", "sh", "-c", "echo oops >&2; exit 7"]);
    assert!(failed.contains("oops") && failed.contains("exit code 7"), "{failed}");

    let mut cat = m.kubectl_command(&["exec", "-i", "box", "--", "wc", "-c"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("kubectl");
    cat.stdin.take().expect("piped").write_all(&vec![b'x'; 300_000]).expect("write");
    let out = cat.wait_with_output().expect("kubectl");
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "300000");

    let kubectl =
        m.kubectl_command(&["exec", "-it", "box", "--", "sh", "-c", "tty; stty size; exit 5"]);
    let line: Vec<String> = std::iter::once(kubectl.get_program())
        .chain(kubectl.get_args())
        .map(|a| format!("'{}'", a.to_string_lossy()))
        .collect();
    let script = format!("stty rows 33 cols 101; {}; echo status $?", line.join(" "));
    let out = std::process::Command::new("script")
        .args(["-qec", &script, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .expect("script, from bsdutils");
    let out = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.contains("/dev/pts/") && out.contains("33 101") && out.contains("status 5"),
        "{out}"
    );
}

#[test]
fn configuration_reaches_the_container() {
    let m = Machine::ready();
    m.ok(&["create", "configmap", "settings", "--from-literal=colour=green"]);
    m.ok(&["create", "secret", "generic", "key", "--from-literal=pin=1234"]);
    m.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: all, labels: {{a: b}}}}
spec:
  restartPolicy: Never
  securityContext: {{runAsUser: 65534, fsGroup: 2000}}
  initContainers:
  - {{name: first, image: "{image}", command: [sh, -c, "echo from init > /shared/init"], volumeMounts: [{{name: shared, mountPath: /shared}}]}}
  containers:
  - name: main
    image: "{image}"
    workingDir: /tmp
    command: [sh, -c]
    args:
    - |
      echo colour=$COLOUR pin=$PIN name=$NAME node=$NODE limit=$LIMIT greeting=$GREETING
      pwd; id -u; cat /shared/init /etc/settings/colour /etc/key/pin /etc/pod/labels; echo
      test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token
      grep -c BEGIN /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
      touch /etc/settings/x 2>/dev/null || echo readonly
      touch /shared/mine && echo writable
    env:
    - {{name: COLOUR, valueFrom: {{configMapKeyRef: {{name: settings, key: colour}}}}}}
    - {{name: PIN, valueFrom: {{secretKeyRef: {{name: key, key: pin}}}}}}
    - {{name: NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
    - {{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
    - {{name: LIMIT, valueFrom: {{resourceFieldRef: {{resource: limits.memory}}}}}}
    - {{name: GREETING, value: "hello $(NAME)"}}
    resources: {{limits: {{memory: 32Mi, cpu: 500m}}}}
    volumeMounts:
    - {{name: shared, mountPath: /shared}}
    - {{name: settings, mountPath: /etc/settings}}
    - {{name: key, mountPath: /etc/key}}
    - {{name: info, mountPath: /etc/pod}}
  volumes:
  - {{name: shared, emptyDir: {{}}}}
  - {{name: settings, configMap: {{name: settings}}}}
  - {{name: key, secret: {{secretName: key}}}}
  - {{name: info, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}
"#,
        image = NAMES[0]
    ))
    .expect("apply");
    wait_phase(&m, "all", "Succeeded");
    let log = m.ok(&["logs", "all"]);
    let expected = "colour=green pin=1234 name=all node=board-1 limit=33554432 greeting=hello all\n/tmp\n65534\nfrom init\n\
                    green1234a=\"b\"\ntoken\n1\nreadonly\nwritable\n";
    assert_eq!(log, expected);
}

#[test]
fn failures_are_reported_as_upstream_reports_them() {
    let m = Machine::ready();
    m.apply(
        &pod("eater", "  restartPolicy: Never\n", "tail /dev/zero")
            .replace("    command:", "    resources: {limits: {memory: 16Mi}}\n    command:"),
    )
    .expect("apply");
    m.apply(&pod("absent", "", "true").replace(NAMES[0], "localhost:9/none:1")).expect("apply");
    m.apply(
        &pod("never", "", "true")
            .replace("    command:", "    imagePullPolicy: Never\n    command:")
            .replace(NAMES[0], "none:1"),
    )
    .expect("apply");
    m.apply(
        &pod("wrong", "  restartPolicy: Never\n", "true").replace("[sh, -c,", "[/no/such/file,"),
    )
    .expect("apply");
    m.apply(
        &pod("huge", "", "true")
            .replace("    command:", "    resources: {requests: {cpu: \"500\"}}\n    command:"),
    )
    .expect("apply");
    m.apply(&pod("elsewhere", "  nodeSelector: {disk: ssd}\n", "true")).expect("apply");
    let reason = |pod: &str, path: &str, expected: &str| {
        m.wait(&format!("pod {pod}: {expected}"), |m| {
            m.ok(&["get", "pod", pod, "-o", &format!("jsonpath={{.status.{path}}}")])
                .contains(expected)
        });
    };
    reason("eater", "containerStatuses[0].state.terminated.reason", "OOMKilled");
    reason("absent", "containerStatuses[0].state.waiting.reason", "ImagePullBackOff");
    reason("never", "containerStatuses[0].state.waiting.reason", "ErrImageNeverPull");
    reason("wrong", "containerStatuses[0].state.terminated.reason", "StartError");
    reason("wrong", "containerStatuses[0].state.terminated.exitCode", "128");
    reason(
        "huge",
        "conditions[?(@.type==\"PodScheduled\")].message",
        "0/1 nodes are available: 1 Insufficient cpu.",
    );
    reason(
        "elsewhere",
        "conditions[?(@.type==\"PodScheduled\")].message",
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
    );
    m.ok(&["label", "node", "board-1", "disk=ssd"]);
    m.wait("the pod is scheduled once a node fits", |m| {
        m.ok(&["get", "pod", "elsewhere", "-o", "jsonpath={.spec.nodeName}"]) == "board-1"
    });
    let table = m.ok(&["get", "pods"]);
    assert!(
        table.starts_with("NAME ") && table.contains("OOMKilled") && table.contains("Pending"),
        "{table}"
    );
}

#[test]
fn pods_have_addresses_and_reach_each_other() {
    let m = Machine::ready();
    m.apply(&pod("one", "", "mkdir /www; echo page > /www/index.html; httpd -f -p 8080 -h /www"))
        .expect("apply");
    wait_phase(&m, "one", "Running");
    let address = m.ok(&["get", "pod", "one", "-o", "jsonpath={.status.podIP}"]);
    assert!(address.starts_with("10.42."), "{address}");
    m.apply(&pod(
        "two",
        "  restartPolicy: Never\n",
        &format!("until wget -qO- http://{address}:8080/; do usleep 100000; done"),
    ))
    .expect("apply");
    wait_phase(&m, "two", "Succeeded");
    assert_eq!(m.ok(&["logs", "two"]), "page\n");
    m.apply(&pod("three", "  restartPolicy: Never\n  hostNetwork: true\n", "ip -4 addr show eth0"))
        .expect("apply");
    wait_phase(&m, "three", "Succeeded");
    assert!(m.ok(&["logs", "three"]).contains("192.168.77.2"));
}

#[test]
fn deletion_waits_for_the_grace_period_and_namespaces_empty_themselves() {
    let m = Machine::ready();
    m.ok(&["create", "namespace", "shop"]);
    let polite =
        pod("polite", "", "trap 'echo bye; exit 0' TERM; while true; do usleep 50000; done")
            .replace("Seconds: 1", "Seconds: 60");
    let manifest = polite.replace("name: polite", "name: polite\n  namespace: shop");
    m.apply(&manifest).expect("apply");
    m.ok(&["-n", "shop", "wait", "--for=condition=Ready", "pod/polite", "--timeout=60s"]);
    m.ok(&["-n", "shop", "create", "configmap", "stays", "--from-literal=a=b"]);
    m.ok(&["-n", "shop", "delete", "pod", "polite", "--timeout=30s"]);
    m.ok(&["delete", "namespace", "shop", "--timeout=60s"]);
    assert!(m.refused(&["get", "namespace", "shop"]).contains("NotFound"));
    m.ok(&["create", "namespace", "shop"]);
    m.wait("the new namespace has its defaults and nothing else", |m| {
        let left = m.ok(&["-n", "shop", "get", "pods,configmaps,serviceaccounts", "-o", "name"]);
        left.lines().eq(["configmap/kube-root-ca.crt", "serviceaccount/default"])
    });
}

#[test]
fn the_lease_belongs_to_the_node() {
    let m = Machine::ready();
    let node = m.ok(&["get", "node", "board-1", "-o", "jsonpath={.metadata.uid}"]);
    m.wait("the lease names its node", |m| {
        let owner = "jsonpath={.metadata.ownerReferences[0].uid}";
        m.ok(&["-n", "kube-node-lease", "get", "lease", "board-1", "-o", owner]) == node
    });
}
