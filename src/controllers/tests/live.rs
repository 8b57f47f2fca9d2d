//! The controllers and the scheduler against the real API server, in one process, with a stand-in for the nodes.

use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Limits, NodeDialer, Stream, User};
use bytes::Bytes;
use client::{Cache, Caches, Change, Client, DeleteParams, Object, Patch, Propagation, Transport};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Long enough for a busy test machine.
const LIMIT: Duration = Duration::from_secs(20);

struct InProcess {
    server: Arc<ApiServer>,
    user: User,
}

impl Transport for InProcess {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> std::pin::Pin<
        Box<dyn Future<Output = client::Result<http::Response<client::Body>>> + Send + '_>,
    > {
        Box::pin(async move {
            Ok(self.server.handle(self.user.clone(), request.map(client::full)).await)
        })
    }
}

struct NoNodes;

impl NodeDialer for NoNodes {
    fn dial(&self, _node: &str) -> apiserver::BoxFuture<'static, std::io::Result<Box<dyn Stream>>> {
        Box::pin(async { Err(std::io::Error::other("no nodes here")) })
    }
}

/// A cluster without kubelets.
pub(super) struct Cluster {
    pub(super) admin: Client,
    pub(super) caches: Caches,
    _end: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Cluster {
    async fn start() -> Self {
        Self::start_with(|config| config).await
    }

    pub(super) async fn start_with(adjust: impl Fn(crate::Config) -> crate::Config) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let names = pki::ServerNames {
            node_name: "n1".into(),
            cluster_domain: "cluster.local".into(),
            service_ip: [10, 43, 0, 1].into(),
            ips: Vec::new(),
            extra: Vec::new(),
            leaf_seconds: pki::LEAF_SECONDS,
        };
        let made = pki::ensure(folder.path(), &names, jiff::Timestamp::now().as_second())
            .expect("credentials");
        let options =
            store::Options { durability: apiserver::durability, ..store::Options::default() };
        let config = apiserver::Config {
            store: store::Store::open(options).expect("store"),
            service_account_keys: made.service_account.clone(),
            service_cidr: "10.43.0.0/16".into(),
            node_ports: 30000..=32767,
            cluster_domain: "cluster.local".into(),
            advertise: ([127, 0, 0, 1], 6443).into(),
            cluster_dns: None,
            server_node: None,
            dialer: Arc::new(NoNodes),
            supervisor: None,
            limits: Limits::default(),
        };
        let server = ApiServer::new(config).await.expect("server");
        let client = |name: &str, groups: &[&str]| {
            let user = User::component(name, groups);
            Client::new(Arc::new(InProcess { server: server.clone(), user }))
        };
        let (end, shutdown) = watch::channel(false);
        let manager = client("system:kube-controller-manager", &[]);
        let caches = Caches::start(&manager);
        let range = "10.42.0.0/16".parse().expect("range");
        let config = adjust(crate::Config::new(range, 24, "PEM".to_owned()));
        let mut tasks = JoinSet::new();
        tasks.spawn(crate::run_with(manager, caches.clone(), config, shutdown.clone()));
        tasks.spawn(scheduler::run(client("system:kube-scheduler", &[]), shutdown));
        Self { admin: client("system:admin", &["system:masters"]), caches, _end: end, tasks }
    }

    /// Plays the kubelets: pods with a node become ready, pods that are deleted end at once.
    pub(super) fn run_pods(&mut self) {
        let (client, pods) = (self.admin.clone(), self.caches.pods.clone());
        self.tasks.spawn(async move {
            let mut changes = pods.subscribe();
            loop {
                match changes.next().await {
                    Change::Object { new: Some(pod), .. } => kubelet(&client, &pod).await,
                    Change::Object { .. } => {}
                    Change::Resync => {
                        for pod in pods.list() {
                            kubelet(&client, &pod).await;
                        }
                    }
                }
            }
        });
    }

    pub(super) async fn apply<K: Object + Serialize>(&self, object: Value) -> K {
        self.admin.create(&typed::<K>(object)).await.expect("create")
    }

    pub(super) async fn node(&self, name: &str) -> Node {
        let allocatable = json!({"cpu": "2", "memory": "4Gi", "pods": "110"});
        self.apply(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {
                "allocatable": allocatable, "capacity": allocatable,
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }))
        .await
    }
}

async fn kubelet(client: &Client, pod: &Pod) {
    let (namespace, name) = client::key_of(pod);
    if pod.metadata.deletion_timestamp.is_some() {
        let now = DeleteParams::default().grace(0);
        let _gone = client.delete::<Pod>(&namespace, &name, &now).await;
    } else if !crate::pods::node_name(pod).is_empty() && !crate::pods::is_ready(pod) {
        let octet =
            pod.metadata.uid.as_deref().map_or(9, |uid| uid.bytes().fold(2u8, u8::wrapping_add));
        let status = json!({"status": {
            "phase": "Running", "podIP": format!("10.42.0.{octet}"), "podIPs": [{"ip": format!("10.42.0.{octet}")}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": api::time::rfc3339(crate::shell::now())}],
        }});
        let _told =
            client.patch_sub::<Pod>(&namespace, &name, "status", &Patch::Strategic(status)).await;
    }
}

fn typed<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("object")
}

pub(super) fn web(replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image}]},
            },
        },
    })
}

/// Waits until `done` holds of the cache.
pub(super) async fn eventually<K: Object>(
    cache: &Cache<K>,
    what: &str,
    done: impl Fn(&[Arc<K>]) -> bool,
) {
    if !cache.until(LIMIT, |cache, _| done(&cache.list())).await {
        let left: Vec<String> =
            cache.list().iter().map(|object| format!("{:?}", client::key_of(&**object))).collect();
        panic!("{what} did not happen; there are {left:#?}");
    }
}

pub(super) fn all_available(deployments: &[Arc<Deployment>], replicas: i32) -> bool {
    let Some(status) = deployments.first().and_then(|deployment| deployment.status.as_ref()) else {
        return false;
    };
    let generation = deployments[0].metadata.generation;
    status.observed_generation == generation
        && status.updated_replicas == Some(replicas)
        && status.available_replicas == Some(replicas)
        && status.replicas == Some(replicas)
}

#[tokio::test]
async fn a_deployment_lives_its_life() {
    let mut cluster = Cluster::start().await;
    cluster.run_pods();
    let node = cluster.node("n1").await;
    assert!(node.metadata.uid.is_some());
    let caches = cluster.caches.clone();
    eventually(&caches.nodes, "pod range", |nodes| {
        nodes.iter().any(|node| {
            node.spec.as_ref().is_some_and(|spec| spec.pod_cidr.as_deref() == Some("10.42.0.0/24"))
        })
    })
    .await;
    cluster.apply::<Deployment>(web(3, "nginx:1")).await;
    eventually(&caches.deployments, "first rollout", |all| all_available(all, 3)).await;
    assert_eq!(caches.replica_sets.len(), 1);

    let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
    cluster.admin.patch::<Deployment>("default", "web", &scale).await.expect("scale");
    eventually(&caches.deployments, "scaling up", |all| all_available(all, 5)).await;

    let image = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}});
    for (tag, revision) in [("nginx:2", "2"), ("nginx:3", "3"), ("nginx:1", "4")] {
        let patch = Patch::Strategic(image(tag));
        cluster.admin.patch::<Deployment>("default", "web", &patch).await.expect("set image");
        eventually(&caches.deployments, tag, |all| {
            let annotations = all[0].metadata.annotations.as_ref();
            let current = annotations.and_then(|all| all.get("deployment.kubernetes.io/revision"));
            all_available(all, 5) && current.map(String::as_str) == Some(revision)
        })
        .await;
    }
    assert_eq!(caches.replica_sets.len(), 3, "going back uses the first set again");
    let events: Vec<Event> =
        cluster.admin.list("default", &client::ListParams::all()).await.expect("events").items;
    let messages: Vec<&str> = events.iter().filter_map(|event| event.message.as_deref()).collect();
    assert!(
        messages
            .iter()
            .any(|text| text.starts_with("Scaled up replica set web-")
                && text.ends_with("from 0 to 3")),
        "{messages:#?}"
    );
    assert!(
        messages.iter().any(|text| text.starts_with("Successfully assigned default/web-")),
        "{messages:#?}"
    );
    assert!(messages.iter().any(|text| text.starts_with("Created pod: web-")), "{messages:#?}");

    let params = DeleteParams::default().propagation(Propagation::Foreground);
    cluster.admin.delete::<Deployment>("default", "web", &params).await.expect("delete");
    eventually(&caches.deployments, "end of the deployment", |all| all.is_empty()).await;
    eventually(&caches.replica_sets, "end of the sets", |all| all.is_empty()).await;
    eventually(&caches.pods, "end of the pods", |all| all.is_empty()).await;
}

#[tokio::test]
async fn background_deletion_and_orphans() {
    let mut cluster = Cluster::start().await;
    cluster.run_pods();
    cluster.node("n1").await;
    let caches = cluster.caches.clone();
    cluster.apply::<Deployment>(web(2, "nginx:1")).await;
    eventually(&caches.deployments, "rollout", |all| all_available(all, 2)).await;
    let orphan = DeleteParams::default().propagation(Propagation::Orphan);
    cluster.admin.delete::<Deployment>("default", "web", &orphan).await.expect("orphan");
    eventually(&caches.deployments, "end of the deployment", |all| all.is_empty()).await;
    eventually(&caches.replica_sets, "freed set", |all| {
        all.len() == 1 && all[0].metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
    })
    .await;
    cluster.apply::<Deployment>(web(2, "nginx:1")).await;
    eventually(&caches.replica_sets, "adoption", |all| {
        all.len() == 1 && client::controller_of(&all[0].metadata).is_some()
    })
    .await;
    eventually(&caches.deployments, "rollout with the adopted set", |all| all_available(all, 2))
        .await;
    cluster
        .admin
        .delete::<Deployment>("default", "web", &DeleteParams::default())
        .await
        .expect("delete");
    eventually(&caches.replica_sets, "end of the set", |all| all.is_empty()).await;
    eventually(&caches.pods, "end of the pods", |all| all.is_empty()).await;
}

#[tokio::test]
async fn namespaces_get_what_they_need_and_end() {
    let mut cluster = Cluster::start().await;
    cluster.run_pods();
    cluster.node("n1").await;
    let caches = cluster.caches.clone();
    cluster.apply::<Namespace>(json!({"metadata": {"name": "team"}})).await;
    let in_team = |namespace: &Option<String>| namespace.as_deref() == Some("team");
    eventually(&caches.service_accounts, "default account", |all| {
        all.iter().any(|account: &Arc<ServiceAccount>| in_team(&account.metadata.namespace))
    })
    .await;
    eventually(&caches.root_cas, "root CA", |all| {
        all.iter().any(|map: &Arc<ConfigMap>| in_team(&map.metadata.namespace))
    })
    .await;
    let mut web = web(2, "nginx:1");
    web["metadata"]["namespace"] = json!("team");
    cluster.apply::<Deployment>(web).await;
    cluster.apply::<ConfigMap>(json!({"metadata": {"name": "a", "namespace": "team"}})).await;
    eventually(&caches.deployments, "rollout", |all| all_available(all, 2)).await;
    cluster.admin.delete::<Namespace>("", "team", &DeleteParams::default()).await.expect("delete");
    eventually(&caches.namespaces, "end of the namespace", |all| {
        !all.iter().any(|namespace| namespace.metadata.name.as_deref() == Some("team"))
    })
    .await;
    assert!(caches.pods.list_in("team").is_empty());
    let left =
        cluster.admin.list::<ReplicaSet>("team", &client::ListParams::all()).await.expect("list");
    assert!(left.items.is_empty());
}

#[tokio::test]
async fn services_know_their_ready_pods() {
    let mut cluster = Cluster::start().await;
    let caches = cluster.caches.clone();
    cluster.node("n1").await;
    cluster
        .apply::<Service>(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
        }))
        .await;
    let of_web = |slice: &&Arc<EndpointSlice>| {
        slice.metadata.name.as_deref().is_some_and(|name| name.starts_with("web-"))
    };
    eventually(&caches.endpoint_slices, "empty slice", |all| {
        all.iter().filter(of_web).count() == 1
    })
    .await;
    cluster.apply::<Deployment>(web(2, "nginx:1")).await;
    cluster.run_pods();
    eventually(&caches.endpoint_slices, "ready addresses", |all| {
        let endpoints =
            all.iter().filter(of_web).flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints
            .filter(|endpoint| endpoint.conditions.as_ref().is_some_and(|c| c.ready == Some(true)))
            .count()
            == 2
    })
    .await;
    eventually(&caches.endpoints, "endpoints", |all| {
        let web = all
            .iter()
            .find(|endpoints: &&Arc<Endpoints>| endpoints.metadata.name.as_deref() == Some("web"));
        web.is_some_and(|web| {
            web.subsets
                .iter()
                .flatten()
                .flat_map(|subset| subset.addresses.iter().flatten())
                .count()
                == 2
        })
    })
    .await;
    cluster
        .admin
        .delete::<Service>("default", "web", &DeleteParams::default())
        .await
        .expect("delete");
    eventually(&caches.endpoint_slices, "end of the slice", |all| {
        all.iter().filter(of_web).count() == 0
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_is_explained_and_wakes() {
    let cluster = Cluster::start().await;
    let caches = cluster.caches.clone();
    cluster.node("n1").await;
    let pod = |name: &str, cpu: &str| {
        json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": cpu}}}]},
        })
    };
    eventually(&caches.service_accounts, "default account", |all| {
        all.iter().any(|account| account.metadata.namespace.as_deref() == Some("default"))
    })
    .await;
    cluster.apply::<Pod>(pod("first", "1500m")).await;
    eventually(&caches.pods, "binding", |all| {
        all.iter().all(|pod| !crate::pods::node_name(pod).is_empty())
    })
    .await;
    cluster.apply::<Pod>(pod("second", "1500m")).await;
    let text = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: \
                1 No preemption victims found for incoming pod.";
    eventually(&caches.pods, "explanation", |all| {
        let second = all.iter().find(|pod| pod.metadata.name.as_deref() == Some("second"));
        let condition = second.and_then(|pod| crate::pods::condition(pod, "PodScheduled"));
        condition.is_some_and(|condition| condition.message.as_deref() == Some(text))
    })
    .await;
    cluster
        .admin
        .delete::<Pod>("default", "first", &DeleteParams::default().grace(0))
        .await
        .expect("delete");
    eventually(&caches.pods, "binding of the second", |all| {
        all.len() == 1 && crate::pods::node_name(&all[0]) == "n1"
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_wants_company_waits_for_it() {
    let cluster = Cluster::start().await;
    let caches = cluster.caches.clone();
    cluster.node("n1").await;
    eventually(&caches.service_accounts, "default account", |all| {
        all.iter().any(|account| account.metadata.namespace.as_deref() == Some("default"))
    })
    .await;
    let pod = |name: &str, affinity: Value| {
        json!({
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"affinity": affinity, "containers": [{"name": "c", "image": "x"}]},
        })
    };
    let near = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "host"}}, "topologyKey": "kubernetes.io/hostname"},
    ]}});
    cluster.apply::<Pod>(pod("guest", near)).await;
    eventually(&caches.pods, "refusal", |all| {
        all.iter().any(|pod| crate::pods::condition(pod, "PodScheduled").is_some())
    })
    .await;
    cluster.apply::<Pod>(pod("host", json!({}))).await;
    eventually(&caches.pods, "both placed", |all| {
        all.len() == 2 && all.iter().all(|pod| crate::pods::node_name(pod) == "n1")
    })
    .await;
}

#[tokio::test]
async fn a_taint_that_is_not_tolerated_moves_pods() {
    let mut cluster = Cluster::start().await;
    cluster.run_pods();
    cluster.node("n1").await;
    let caches = cluster.caches.clone();
    cluster.apply::<Deployment>(web(2, "nginx:1")).await;
    eventually(&caches.deployments, "rollout", |all| all_available(all, 2)).await;
    let taint = json!({"spec": {"taints": [{"key": "out", "effect": "NoExecute"}]}});
    cluster.admin.patch::<Node>("", "n1", &Patch::Merge(taint)).await.expect("taint");
    eventually(&caches.pods, "eviction", |all| {
        all.len() == 2 && all.iter().all(|pod| crate::pods::node_name(pod).is_empty())
    })
    .await;
    cluster.node("n2").await;
    eventually(&caches.pods, "new home", |all| {
        let at_home =
            |pod: &Arc<Pod>| crate::pods::node_name(pod) == "n2" && crate::pods::is_ready(pod);
        all.len() == 2 && all.iter().all(at_home)
    })
    .await;
}

/// What users may write in more than one way is understood whichever way they chose.
#[tokio::test]
async fn loose_notations_are_read() {
    let mut cluster = Cluster::start().await;
    cluster.run_pods();
    cluster.node("n1").await;
    let mut web = web(2, "nginx:1");
    web["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "50%"}});
    web["spec"]["template"]["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": 0.1, "memory": 1048576}});
    web["spec"]["template"]["spec"]["containers"][0]["livenessProbe"] =
        json!({"httpGet": {"port": "main"}});
    let request = http::Request::post("/apis/apps/v1/namespaces/default/deployments")
        .header("content-type", "application/json")
        .body(Bytes::from(web.to_string()));
    let answer = cluster.admin.raw(request.expect("request")).await.expect("answer");
    assert_eq!(answer.status(), 201);
    eventually(&cluster.caches.deployments, "rollout", |all| all_available(all, 2)).await;
}

#[tokio::test]
async fn from_deployment_to_bound_pod_in_milliseconds() {
    let cluster = Cluster::start().await;
    let caches = cluster.caches.clone();
    cluster.node("n1").await;
    let mut times = Vec::new();
    for round in 0..20 {
        let mut deployment = web(1, "nginx:1");
        deployment["metadata"]["name"] = json!(format!("web{round}"));
        deployment["spec"]["selector"]["matchLabels"]["app"] = json!(format!("web{round}"));
        deployment["spec"]["template"]["metadata"]["labels"]["app"] = json!(format!("web{round}"));
        let start = std::time::Instant::now();
        cluster.apply::<Deployment>(deployment).await;
        eventually(&caches.pods, "binding", |all| {
            all.len() > round && all.iter().all(|pod| !crate::pods::node_name(pod).is_empty())
        })
        .await;
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "deployment created to pod bound: median {:?}, worst {:?}",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    assert!(times[times.len() / 2] < Duration::from_millis(500), "{times:?}");
}
