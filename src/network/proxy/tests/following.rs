//! The loop over caches, with an API server of this test.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{Body, BoxError, Client, Transport, full};
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::world::{From, GATEWAY, Over, config, here, on_node, pod_ip};
use crate::Inputs;
use crate::proxy::health::{Report, response};
use crate::proxy::run;
use crate::tests::namespace::{PATIENCE, ip};

/// Collections by the last part of their path.
#[derive(Clone, Default)]
struct Api {
    objects: BTreeMap<&'static str, Value>,
    watches: Arc<Mutex<BTreeMap<String, mpsc::Sender<String>>>>,
}

impl Transport for Api {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, client::Result<Response<Body>>> {
        let uri = request.uri().clone();
        Box::pin(async move {
            let plural = uri.path().rsplit('/').next().unwrap().to_owned();
            let query = uri.query().unwrap_or_default();
            match plural.as_str() {
                "pods" => assert!(query.contains("spec.nodeName%3Dhere"), "{query}"),
                "nodes" => assert!(query.contains("metadata.name%3Dhere"), "{query}"),
                _ => {}
            }
            if !query.contains("watch=") {
                let Some(items) = self.objects.get(plural.as_str()) else { return pending().await };
                let list = json!({"metadata": {"resourceVersion": "100"}, "items": items});
                return Ok(Response::new(full(list.to_string())));
            }
            let (sender, receiver) = mpsc::channel::<String>(8);
            self.watches.lock().unwrap().insert(plural, sender);
            let frames = stream::unfold(receiver, |mut receiver| async {
                let text = receiver.recv().await?;
                Some((Ok::<_, BoxError>(Frame::data(Bytes::from(text))), receiver))
            });
            Ok(Response::new(StreamBody::new(frames).boxed_unsync()))
        })
    }
}

impl Api {
    async fn change(&self, plural: &str, object: Value) {
        let watch = || self.watches.lock().unwrap().get(plural).cloned();
        eventually(|| watch().is_some()).await;
        let event = json!({"type": "MODIFIED", "object": object});
        watch().unwrap().send(format!("{event}\n")).await.unwrap();
    }
}

async fn eventually(check: impl Fn() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn web(version: &str) -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop", "resourceVersion": version},
           "spec": {"type": "LoadBalancer", "clusterIP": "10.43.7.7", "healthCheckNodePort": 30099,
                    "clusterIPs": ["10.43.7.7", "fd00:43::7"], "externalTrafficPolicy": "Local",
                    "ports": [{"name": "tcp", "port": 80, "nodePort": 30080}]}})
}

fn web_slice(version: &str, endpoint: Value) -> Value {
    json!({"metadata": {"name": "web-1", "namespace": "shop", "resourceVersion": version,
                        "labels": {"kubernetes.io/service-name": "web"}},
           "addressType": "IPv4", "endpoints": [endpoint], "ports": [{"name": "tcp", "port": 8080}]})
}

fn node(version: &str, address: &str) -> Value {
    json!({"metadata": {"name": "here", "resourceVersion": version},
           "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
}

#[test]
fn changes_of_the_api_reach_the_kernel() {
    on_node(2, |world| {
        let objects = BTreeMap::from([
            ("services", json!([web("1")])),
            ("endpointslices", json!([web_slice("1", here(&pod_ip(0)))])),
            ("pods", json!([])),
            ("nodes", json!([node("1", "192.0.2.1")])),
        ]);
        let api = Api { objects, ..Api::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let inputs = Inputs::start(&Client::new(Arc::new(api.clone())), "here");
            let (end, stopped) = watch::channel(false);
            let task = tokio::spawn(run(inputs, config(), stopped));
            let answers = |target: &str, name: &str| world.outside().is_answered(target, name);
            eventually(|| answers("10.43.7.7:80", "pod0")).await;
            eventually(|| answers("192.0.2.1:30080", "pod0")).await;
            api.change("endpointslices", web_slice("2", here(&pod_ip(1)))).await;
            eventually(|| answers("10.43.7.7:80", "pod1")).await;

            ip("addr add 192.0.2.77/24 dev up0");
            api.change("nodes", node("3", "192.0.2.77")).await;
            eventually(|| answers("192.0.2.77:30080", "pod1")).await;
            assert!(!answers("192.0.2.1:30080", "pod1"), "the node has moved");

            let health = || std::net::TcpStream::connect("127.0.0.1:30099").is_ok();
            eventually(health).await;
            end.send(true).unwrap();
            task.await.unwrap();
            assert!(answers("192.0.2.77:30080", "pod1"), "rules outlive the process");
            assert!(!health(), "listeners do not");
        });
    });
}

#[test]
fn a_node_without_a_default_route_reaches_services() {
    on_node(1, |world| {
        ip("route del default");
        let objects = BTreeMap::from([
            ("services", json!([web("1")])),
            ("endpointslices", json!([web_slice("1", here(&pod_ip(0)))])),
            ("pods", json!([])),
            ("nodes", json!([])),
        ]);
        let api = Api { objects, ..Api::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            crate::dns::ensure_address("10.43.0.10".parse().unwrap()).await.unwrap();
            let inputs = Inputs::start(&Client::new(Arc::new(api.clone())), "here");
            let (_end, stopped) = watch::channel(false);
            let task = tokio::spawn(run(inputs, config(), stopped));
            eventually(|| From::Node.is_answered("10.43.7.7:80", "pod0")).await;
            task.abort();
        });
        assert_eq!(From::Node.ask(Over::Tcp, "10.43.7.7:80").unwrap().peer, GATEWAY);
        assert!(world.pod(0).is_answered("10.43.7.7:80", "pod0"));
        From::Node.is_dropped("10.43.7.8:80");
    });
}

#[test]
fn rules_stay_until_services_are_known() {
    on_node(2, |mut world| {
        world.service("web", json!({"clusterIP": "10.43.7.7"}), &[]);
        world.endpoints("web", &[here(&pod_ip(0))]);
        world.apply();
        let api = Api { objects: BTreeMap::from([("services", json!([]))]), ..Api::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let inputs = Inputs::start(&Client::new(Arc::new(api.clone())), "here");
            let services = inputs.services.clone();
            let (end, stopped) = watch::channel(false);
            let task = tokio::spawn(run(inputs, config(), stopped));
            services.synced().await;
            world.pod(1).gets("10.43.7.7:80", "pod0", &pod_ip(1));
            drop(end);
            task.await.unwrap();
        });
        world.pod(1).gets("10.43.7.7:80", "pod0", &pod_ip(1));
    });
}

#[test]
fn load_balancers_are_told_of_endpoints() {
    let report = |local_endpoints| Report {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        local_endpoints,
    };
    let some = response(&report(2));
    assert!(some.starts_with("HTTP/1.1 200 OK\r\n"), "{some}");
    let body: Value = serde_json::from_str(some.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let service = json!({"namespace": "shop", "name": "web"});
    assert_eq!(body, json!({"service": service, "localEndpoints": 2, "serviceProxyHealthy": true}));
    assert!(response(&report(0)).starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
}
