//! Roles and bindings with the stock kubectl: what a bound account may do, and what nobody else may.

use testkit::Machine;

const ROBOT: &str = "system:serviceaccount:default:robot";

fn can(m: &Machine, user: &str, asked: &[&str]) -> bool {
    let user = format!("--as={user}");
    let answer = m.kubectl(&[&["auth", "can-i", &user], asked].concat());
    // kubectl ends with 1 when the answer is no.
    let answer = answer.unwrap_or_else(|refused| refused);
    assert!(answer.contains("yes") != answer.contains("no"), "{answer}");
    answer.contains("yes")
}

#[test]
fn accounts_do_what_their_roles_say() {
    let m = Machine::ready();
    m.ok(&["create", "serviceaccount", "robot"]);
    assert!(!can(&m, ROBOT, &["list", "pods"]));
    m.ok(&[
        "create",
        "role",
        "reader",
        "--verb=get,list",
        "--resource=pods,pods/log,deployments.apps",
    ]);
    m.ok(&["create", "rolebinding", "robot", "--role=reader", "--serviceaccount=default:robot"]);
    for (asked, wanted) in [
        (&["list", "pods"][..], true),
        (&["get", "pods/log"], true),
        (&["list", "deployments.apps"], true),
        (&["watch", "pods"], false),
        (&["delete", "pods"], false),
        (&["list", "pods", "-n", "kube-system"], false),
        (&["list", "secrets"], false),
    ] {
        assert_eq!(can(&m, ROBOT, asked), wanted, "{asked:?}");
    }
    let list = m.ok(&["auth", "can-i", "--list", &format!("--as={ROBOT}")]);
    assert!(list.contains("deployments.apps") && list.contains("[get list]"), "{list}");

    // The account itself, by its token.
    let token = format!("--token={}", m.ok(&["create", "token", "robot"]).trim());
    let as_robot = |args: &[&str]| {
        let outside = [
            "--kubeconfig=/dev/null",
            "--server=https://127.0.0.1:6443",
            "--insecure-skip-tls-verify",
            &token,
        ];
        m.kubectl(&[&outside, args].concat())
    };
    as_robot(&["get", "pods"]).expect("its role lets it");
    let refused = as_robot(&["get", "secrets"]).expect_err("its role does not let it");
    let wanted = format!(
        "secrets is forbidden: User {ROBOT:?} cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""
    );
    assert!(refused.contains(&wanted), "{refused}");

    let wide = m.ok(&["get", "rolebindings", "-o", "wide"]);
    assert!(wide.contains("Role/reader") && wide.contains("default/robot"), "{wide}");

    m.ok(&["delete", "rolebinding", "robot"]);
    assert!(!can(&m, ROBOT, &["list", "pods"]));
}

#[test]
fn cluster_roles_bind_users_and_groups_and_nobody_hands_out_more_than_held() {
    let m = Machine::ready();
    m.ok(&["create", "clusterrole", "looker", "--verb=get", "--non-resource-url=/metrics"]);
    m.ok(&["create", "clusterrolebinding", "lookers", "--clusterrole=looker", "--group=lookers"]);
    m.ok(&["create", "clusterrolebinding", "views", "--clusterrole=view", "--user=jane"]);
    assert!(can(&m, "jane", &["list", "pods", "-A"]));
    assert!(!can(&m, "jane", &["list", "secrets", "-A"]));
    assert!(can(&m, "joe", &["get", "/metrics", "--as-group=lookers"]));
    assert!(!can(&m, "joe", &["get", "/metrics"]));

    let refused = m.refused(&[
        "create",
        "rolebinding",
        "more",
        "--clusterrole=cluster-admin",
        "--user=jane",
        "--as=jane",
    ]);
    assert!(refused.contains("rolebindings.rbac.authorization.k8s.io is forbidden"), "{refused}");
    m.ok(&["create", "rolebinding", "boss", "--clusterrole=admin", "--user=boss"]);
    let refused = m.refused(&[
        "create",
        "rolebinding",
        "more",
        "--clusterrole=cluster-admin",
        "--user=boss",
        "--as=boss",
    ]);
    assert!(
        refused.contains("attempting to grant RBAC permissions not currently held"),
        "{refused}"
    );

    let roles = m.ok(&["get", "clusterroles"]);
    for role in ["cluster-admin", "admin", "edit", "view", "system:node", "system:discovery"] {
        assert!(roles.lines().any(|line| line.starts_with(role)), "{roles}");
    }
    let node = m.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let stats = m.ok(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")]);
    assert!(stats.contains("nodeName"), "{stats}");
    m.refused(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary"), "--as=jane"]);
}
