//! What a node may do, tried by its own identity.

use super::support::{ask, json, request, server};
use crate::User;

/// Method, path, body, and the code of the answer to the node `n1`.
type Row = (&'static str, &'static str, &'static str, u16);

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// What is there before the node asks.
const STATE: &[(&str, &str)] = &[
    (NODES, r#"{"metadata":{"name":"n1"}}"#),
    (NODES, r#"{"metadata":{"name":"n2"}}"#),
    ("/api/v1/namespaces/default/serviceaccounts", r#"{"metadata":{"name":"default"}}"#),
    ("/api/v1/namespaces/default/serviceaccounts", r#"{"metadata":{"name":"other"}}"#),
    ("/api/v1/namespaces/default/secrets", r#"{"metadata":{"name":"mine"}}"#),
    ("/api/v1/namespaces/default/secrets", r#"{"metadata":{"name":"theirs"}}"#),
    ("/api/v1/namespaces/kube-system/secrets", r#"{"metadata":{"name":"mine"}}"#),
    ("/api/v1/namespaces/default/configmaps", r#"{"metadata":{"name":"mine"}}"#),
    ("/api/v1/namespaces/default/configmaps", r#"{"metadata":{"name":"theirs"}}"#),
    (
        PODS,
        r#"{"metadata":{"name":"p1"},"spec":{"nodeName":"n1","volumes":[{"name":"s","secret":{"secretName":"mine"}},{"name":"c","configMap":{"name":"mine"}}],"containers":[{"name":"c","image":"i"}]}}"#,
    ),
    (
        PODS,
        r#"{"metadata":{"name":"p2"},"spec":{"nodeName":"n2","serviceAccountName":"other","containers":[{"name":"c","image":"i","env":[{"name":"A","valueFrom":{"secretKeyRef":{"name":"theirs","key":"a"}}}]}]}}"#,
    ),
    (PODS, r#"{"metadata":{"name":"p0"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#),
    (
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
        r#"{"metadata":{"name":"n2"}}"#,
    ),
];

const ROWS: &[Row] = &[
    // Nodes: all are read, one is written, and not its steering labels or taints.
    ("GET", "/api/v1/nodes", "", 200),
    ("GET", "/api/v1/nodes/n2", "", 200),
    ("PATCH", "/api/v1/nodes/n1", r#"{"metadata":{"annotations":{"a":"b"}}}"#, 200),
    ("PATCH", "/api/v1/nodes/n2", r#"{"metadata":{"annotations":{"a":"b"}}}"#, 403),
    ("PATCH", "/api/v1/nodes/n1/status", r#"{"status":{"phase":"Running"}}"#, 200),
    ("PATCH", "/api/v1/nodes/n2/status", r#"{"status":{"phase":"Running"}}"#, 403),
    ("PATCH", "/api/v1/nodes/n1", r#"{"metadata":{"labels":{"disk":"ssd"}}}"#, 200),
    ("PATCH", "/api/v1/nodes/n1", r#"{"metadata":{"labels":{"kubernetes.io/arch":"arm"}}}"#, 200),
    (
        "PATCH",
        "/api/v1/nodes/n1",
        r#"{"metadata":{"labels":{"topology.kubernetes.io/zone":"a"}}}"#,
        200,
    ),
    (
        "PATCH",
        "/api/v1/nodes/n1",
        r#"{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":"true"}}}"#,
        403,
    ),
    (
        "PATCH",
        "/api/v1/nodes/n1",
        r#"{"metadata":{"labels":{"node-restriction.kubernetes.io/x":"y"}}}"#,
        403,
    ),
    (
        "PATCH",
        "/api/v1/nodes/n1/status",
        r#"{"metadata":{"labels":{"x.node-restriction.kubernetes.io/x":"y"}}}"#,
        403,
    ),
    ("PATCH", "/api/v1/nodes/n1", r#"{"metadata":{"labels":{"x.k8s.io/y":"z"}}}"#, 403),
    ("PATCH", "/api/v1/nodes/n1", r#"{"spec":{"taints":null}}"#, 403),
    (
        "PATCH",
        "/api/v1/nodes/n1",
        r#"{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n2","uid":"u"}]}}"#,
        403,
    ),
    ("POST", NODES, r#"{"metadata":{"name":"n3"}}"#, 403),
    ("POST", NODES, r#"{"metadata":{"name":"n1"}}"#, 409),
    ("DELETE", "/api/v1/nodes/n1", "", 403),
    ("DELETE", "/api/v1/nodes/n2", "", 403),
    ("DELETE", "/api/v1/nodes", "", 403),
    // Pods: its own.
    ("GET", "/api/v1/pods", "", 403),
    ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", "", 200),
    ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2", "", 403),
    ("GET", "/api/v1/pods?fieldSelector=spec.nodeName!%3Dn1", "", 403),
    ("GET", "/api/v1/namespaces/default/pods/p1", "", 200),
    ("GET", "/api/v1/namespaces/default/pods/p2", "", 403),
    ("GET", "/api/v1/namespaces/default/pods/p0", "", 403),
    ("GET", "/api/v1/namespaces/default/pods/gone", "", 404),
    ("GET", "/api/v1/namespaces/default/pods/p1/log", "", 403),
    ("POST", "/api/v1/namespaces/default/pods/p1/exec?command=id", "", 403),
    (
        "PATCH",
        "/api/v1/namespaces/default/pods/p1/status",
        r#"{"status":{"phase":"Running"}}"#,
        200,
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/pods/p2/status",
        r#"{"status":{"phase":"Running"}}"#,
        403,
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/pods/p1/status",
        r#"{"metadata":{"labels":{"app":"steal"}}}"#,
        403,
    ),
    ("PATCH", "/api/v1/namespaces/default/pods/p1", r#"{"metadata":{"labels":{"a":"b"}}}"#, 403),
    (
        "POST",
        "/api/v1/namespaces/default/pods/p0/binding",
        r#"{"target":{"kind":"Node","name":"n1"}}"#,
        403,
    ),
    (
        "POST",
        PODS,
        r#"{"metadata":{"name":"x"},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"i"}]}}"#,
        403,
    ),
    ("POST", "/api/v1/namespaces/default/pods/p2/eviction", r#"{"metadata":{"name":"p2"}}"#, 403),
    ("DELETE", "/api/v1/namespaces/default/pods/p2", "", 403),
    ("DELETE", "/api/v1/namespaces/default/pods", "", 403),
    // What its pods name.
    ("GET", "/api/v1/namespaces/default/secrets/mine", "", 200),
    ("GET", "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dmine", "", 200),
    ("GET", "/api/v1/namespaces/default/secrets/theirs", "", 403),
    ("GET", "/api/v1/namespaces/default/secrets", "", 403),
    ("GET", "/api/v1/secrets", "", 403),
    ("GET", "/api/v1/namespaces/kube-system/secrets/mine", "", 403),
    ("PUT", "/api/v1/namespaces/default/secrets/mine", r#"{"metadata":{"name":"mine"}}"#, 403),
    ("POST", "/api/v1/namespaces/default/secrets", r#"{"metadata":{"name":"x"}}"#, 403),
    ("GET", "/api/v1/namespaces/default/configmaps/mine", "", 200),
    ("GET", "/api/v1/namespaces/default/configmaps/theirs", "", 403),
    ("GET", "/api/v1/namespaces/default/serviceaccounts/default", "", 200),
    ("GET", "/api/v1/namespaces/default/serviceaccounts/other", "", 403),
    ("GET", "/api/v1/namespaces/default/serviceaccounts", "", 403),
    ("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", "{}", 403),
    (
        "POST",
        "/api/v1/namespaces/default/serviceaccounts/other/token",
        r#"{"spec":{"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"p2","uid":"x"}}}"#,
        403,
    ),
    (
        "POST",
        "/api/v1/namespaces/default/serviceaccounts/default/token",
        r#"{"spec":{"boundObjectRef":{"kind":"Node","apiVersion":"v1","name":"n1","uid":"x"}}}"#,
        403,
    ),
    // Its lease.
    (
        "POST",
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
        r#"{"metadata":{"name":"n1"}}"#,
        201,
    ),
    ("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", "", 200),
    ("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2", "", 403),
    ("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", "", 403),
    (
        "PATCH",
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2",
        r#"{"spec":{"holderIdentity":"n1"}}"#,
        403,
    ),
    (
        "POST",
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
        r#"{"metadata":{"name":"n4"}}"#,
        403,
    ),
    (
        "POST",
        "/apis/coordination.k8s.io/v1/namespaces/default/leases",
        r#"{"metadata":{"name":"n1"}}"#,
        403,
    ),
    // What every node needs.
    ("GET", "/api/v1/services", "", 200),
    ("GET", "/apis/discovery.k8s.io/v1/endpointslices", "", 200),
    ("GET", "/api/v1/namespaces/default/endpoints/kubernetes", "", 200),
    (
        "POST",
        "/api/v1/namespaces/default/events",
        r#"{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","name":"p1","namespace":"default"}}"#,
        201,
    ),
    ("GET", "/api", "", 200),
    // And nothing else.
    ("GET", "/api/v1/namespaces", "", 403),
    ("GET", "/apis/apps/v1/deployments", "", 403),
    ("POST", "/apis/apps/v1/namespaces/default/daemonsets", r#"{"metadata":{"name":"d"}}"#, 403),
    ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles", "", 403),
    (
        "POST",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        r#"{"metadata":{"name":"x"},"roleRef":{"kind":"ClusterRole","name":"cluster-admin"}}"#,
        403,
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/services/kubernetes",
        r#"{"spec":{"type":"NodePort"}}"#,
        403,
    ),
    ("GET", "/metrics", "", 403),
    ("GET", "/api/v1/nodes/n1/proxy/pods", "", 403),
    // Last, for they change what is there.
    (
        "POST",
        "/api/v1/namespaces/default/pods/p1/eviction",
        r#"{"metadata":{"name":"p1"},"deleteOptions":{"gracePeriodSeconds":0}}"#,
        201,
    ),
    ("GET", "/api/v1/namespaces/default/secrets/mine", "", 403),
    ("DELETE", "/api/v1/namespaces/default/pods/p1", "", 404),
];

#[tokio::test]
async fn a_node_may_do_what_is_its_own_and_nothing_else() {
    let server = server().await;
    for (path, body) in STATE {
        let (code, answer) = ask(&server, "POST", path, body).await;
        assert_eq!(code, 201, "{path}: {answer}");
    }
    let node = User::component("system:node:n1", &["system:nodes"]);
    let mut failures = Vec::new();
    for (method, path, body, wanted) in ROWS {
        let (code, answer) =
            json(server.handle(node.clone(), request(method, path, body)).await).await;
        if code != *wanted {
            failures.push(format!("{method} {path} {body}: {code}, not {wanted}: {answer}"));
        }
    }
    assert!(ROWS.len() >= 40);
    assert!(failures.is_empty(), "{}", failures.join("\n"));

    // The group alone, or the name alone, is no node.
    for user in [
        User::component("n1", &["system:nodes"]),
        User::component("system:node:n1", &[]),
        User::component("system:node:", &["system:nodes"]),
    ] {
        let request = request("GET", "/api/v1/nodes", "");
        assert_eq!(json(server.handle(user, request).await).await.0, 403);
    }
}

#[tokio::test]
async fn only_the_servers_own_node_may_call_itself_a_control_plane() {
    let server = server().await;
    let label = r#""labels":{"node-role.kubernetes.io/control-plane":"true"}"#;
    for (name, wanted) in [("server", 201), ("n1", 403)] {
        let user = User::component(&format!("system:node:{name}"), &["system:nodes"]);
        let body = format!(r#"{{"metadata":{{"name":"{name}",{label}}}}}"#);
        let (code, answer) = json(server.handle(user, request("POST", NODES, &body)).await).await;
        assert_eq!(code, wanted, "{answer}");
    }
}
