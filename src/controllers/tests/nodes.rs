//! Several nodes against the real API server: daemons, silence, eviction, return, addresses of LoadBalancer Services.

use std::sync::Arc;
use std::time::Duration;

use client::{Client, DeleteParams, Patch};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod, Service};
use serde_json::{Value, json};

use super::live::{Cluster, all_available, eventually, web};
use crate::pods;

fn short(mut config: crate::Config) -> crate::Config {
    config.node_life.monitor_grace = Duration::from_secs(3);
    config.node_life.eviction_pause = Duration::ZERO;
    config.node_life.removal_quarantine = Duration::from_secs(1);
    config.cluster_dns = Some([10, 43, 0, 10].into());
    config
}

/// Renews the lease of a node until the task is dropped.
fn keep_alive(cluster: &Cluster, node: &'static str) -> tokio::task::JoinHandle<()> {
    let client = cluster.admin.clone();
    tokio::spawn(async move {
        loop {
            renew(&client, node).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
}

async fn renew(client: &Client, node: &str) {
    let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(jiff::Timestamp::now());
    let patch = Patch::Merge(json!({"spec": {"renewTime": time}}));
    if client.patch::<Lease>("kube-node-lease", node, &patch).await.is_err() {
        let lease = json!({"metadata": {"name": node, "namespace": "kube-node-lease"}, "spec": {"renewTime": time}});
        let lease: Lease = serde_json::from_value(lease).expect("lease");
        let _there = client.create(&lease).await;
    }
}

fn daemon_set(image: &str) -> Value {
    json!({
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "d"}},
            "template": {
                "metadata": {"labels": {"app": "d"}},
                "spec": {"containers": [{"name": "d", "image": image}]},
            },
        },
    })
}

fn settled(sets: &[Arc<DaemonSet>], count: i32) -> bool {
    let Some(set) = sets.first() else { return false };
    let Some(status) = &set.status else { return false };
    status.observed_generation == set.metadata.generation
        && status.desired_number_scheduled == count
        && status.current_number_scheduled == count
        && status.updated_number_scheduled == Some(count)
        && status.number_available == Some(count)
        && status.number_ready == count
}

#[tokio::test]
async fn daemons_follow_nodes_and_templates() {
    let mut cluster = Cluster::start_with(short).await;
    cluster.run_pods();
    let caches = cluster.caches.clone();
    let _alive =
        (keep_alive(&cluster, "n1"), keep_alive(&cluster, "n2"), keep_alive(&cluster, "n3"));
    cluster.node("n1").await;
    cluster.node("n2").await;
    cluster.apply::<DaemonSet>(daemon_set("d:1")).await;
    eventually(&caches.daemon_sets, "daemons on two nodes", |all| settled(all, 2)).await;
    cluster.node("n3").await;
    eventually(&caches.daemon_sets, "daemon on the joining node", |all| settled(all, 3)).await;
    let mut homes: Vec<String> =
        caches.pods.list_in("default").iter().map(|pod| pods::node_name(pod).to_owned()).collect();
    homes.sort();
    assert_eq!(homes, ["n1", "n2", "n3"]);

    let image =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "d", "image": "d:2"}]}}}});
    let patch = Patch::Strategic(image);
    cluster.admin.patch::<DaemonSet>("default", "d", &patch).await.expect("set image");
    eventually(&caches.daemon_sets, "update", |all| {
        settled(all, 3) && all[0].metadata.generation == Some(2)
    })
    .await;
    let mut revisions: Vec<i64> =
        caches.controller_revisions.list().iter().map(|revision| revision.revision).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, [1, 2]);
    let images = caches.pods.list_in("default");
    assert!(images.iter().all(|pod| {
        pod.spec.as_ref().is_some_and(|spec| spec.containers[0].image.as_deref() == Some("d:2"))
    }));

    cluster.admin.delete::<Node>("", "n3", &DeleteParams::default()).await.expect("delete");
    eventually(&caches.pods, "end of the daemon of a deleted node", |all| {
        all.iter().filter(|pod| pods::node_name(pod) == "n3").count() == 0
    })
    .await;
    eventually(&caches.daemon_sets, "two daemons", |all| settled(all, 2)).await;
    cluster
        .admin
        .delete::<DaemonSet>("default", "d", &DeleteParams::default())
        .await
        .expect("delete");
    eventually(&caches.pods, "end of the daemons", |all| all.is_empty()).await;
}

fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let taints = taints.into_iter().flatten();
    taints.map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
}

/// One that lives on n2 only, and one that leaves a silent node after a second.
fn patient_and_hasty() -> [Value; 2] {
    let mut patient = web(2, "nginx:1");
    patient["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "n2"});
    let mut hasty = web(2, "nginx:1");
    hasty["metadata"]["name"] = json!("hasty");
    hasty["spec"]["selector"]["matchLabels"] = json!({"app": "hasty"});
    hasty["spec"]["template"]["metadata"]["labels"] = json!({"app": "hasty"});
    hasty["spec"]["template"]["spec"]["tolerations"] = json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1},
    ]);
    [patient, hasty]
}

#[tokio::test]
async fn a_silent_node_is_left_and_comes_back() {
    let mut cluster = Cluster::start_with(short).await;
    cluster.run_pods();
    let caches = cluster.caches.clone();
    let _n1 = keep_alive(&cluster, "n1");
    let n2 = keep_alive(&cluster, "n2");
    cluster.node("n1").await;
    cluster.node("n2").await;
    for deployment in patient_and_hasty() {
        cluster.apply::<Deployment>(deployment).await;
    }
    eventually(&caches.deployments, "rollout", |all| {
        all.len() == 2 && all.iter().all(|one| all_available(std::slice::from_ref(one), 2))
    })
    .await;

    n2.abort();
    eventually(&caches.nodes, "taints of the silent node", |all| {
        all.iter().any(|node| {
            node.metadata.name.as_deref() == Some("n2")
                && taints(node).contains(&"node.kubernetes.io/unreachable:NoExecute".to_owned())
        })
    })
    .await;
    eventually(&caches.pods, "eviction of the hasty only", |all| {
        let app = |pod: &Arc<Pod>, name: &str| {
            pod.metadata.labels.as_ref().is_some_and(|labels| labels["app"] == name)
        };
        let hasty: Vec<_> = all.iter().filter(|pod| app(pod, "hasty")).collect();
        hasty.len() == 2 && hasty.iter().all(|pod| pods::node_name(pod) == "n1")
    })
    .await;
    let node = caches.nodes.get("", "n2").expect("node");
    let ready = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = ready.into_iter().find(|condition| condition.type_ == "Ready").expect("condition");
    assert_eq!(ready.status, "Unknown");
    assert_eq!(ready.reason.as_deref(), Some("NodeStatusUnknown"));

    let _n2 = keep_alive(&cluster, "n2");
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": api::time::rfc3339(crate::shell::now())}]}});
    cluster
        .admin
        .patch_sub::<Node>("", "n2", "status", &Patch::Strategic(status))
        .await
        .expect("status");
    eventually(&caches.nodes, "end of the taints", |all| {
        all.iter().all(|node| taints(node).is_empty())
    })
    .await;
    eventually(&caches.deployments, "the patient stayed", |all| {
        all.iter().all(|one| all_available(std::slice::from_ref(one), 2))
    })
    .await;
    let events: Vec<Event> =
        cluster.admin.list("default", &client::ListParams::all()).await.expect("events").items;
    let has = |reason: &str, text: &str| {
        events.iter().any(|event| {
            event.reason.as_deref() == Some(reason) && event.message.as_deref() == Some(text)
        })
    };
    assert!(has("RegisteredNode", "Node n2 event: Registered Node n2 in Controller"));
    assert!(has("NodeNotReady", "Node n2 status is now: NodeNotReady"));
    assert!(has("NodeNotReady", "Node is not ready"));
}

fn ingress(service: &Service) -> Vec<String> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    entries.filter_map(|entry| entry.ip.clone()).collect()
}

#[tokio::test]
async fn services_get_addresses() {
    let cluster = Cluster::start_with(short).await;
    let caches = cluster.caches.clone();
    let _alive = (keep_alive(&cluster, "n1"), keep_alive(&cluster, "n2"));
    for (name, address) in [("n1", "192.0.2.1"), ("n2", "192.0.2.2")] {
        cluster.node(name).await;
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
        cluster
            .admin
            .patch_sub::<Node>("", name, "status", &Patch::Strategic(status))
            .await
            .expect("address");
    }
    let service = |name: &str| {
        json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}]},
        })
    };
    cluster.apply::<Service>(service("first")).await;
    let of = |all: &[Arc<Service>], name: &str| {
        all.iter()
            .find(|service| service.metadata.name.as_deref() == Some(name))
            .map(|service| ingress(service))
    };
    let both = || Some(vec!["192.0.2.1".to_owned(), "192.0.2.2".to_owned()]);
    cluster.apply::<Service>(service("second")).await;
    // Both may be of the same second, so that either can be the older one.
    let one = |all: &[Arc<Service>]| match (of(all, "first"), of(all, "second")) {
        (Some(first), Some(second)) if second.is_empty() && Some(&first) == both().as_ref() => {
            Some(("first", "second"))
        }
        (Some(first), second) if first.is_empty() && second == both() => Some(("second", "first")),
        _ => None,
    };
    eventually(&caches.services, "addresses of one", |all| one(all).is_some()).await;
    let (holder, other) = one(&caches.services.list()).expect("holder");
    let patch = Patch::Merge(json!({"spec": {"type": "ClusterIP"}}));
    cluster.admin.patch::<Service>("default", holder, &patch).await.expect("type");
    eventually(&caches.services, "the port passes on", |all| {
        of(all, holder) == Some(Vec::new()) && of(all, other) == both()
    })
    .await;
    eventually(&caches.services, "the Service of cluster DNS", |all| {
        all.iter().any(|service| {
            service.metadata.name.as_deref() == Some("kube-dns")
                && service
                    .spec
                    .as_ref()
                    .is_some_and(|spec| spec.cluster_ip.as_deref() == Some("10.43.0.10"))
        })
    })
    .await;
}
