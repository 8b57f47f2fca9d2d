//! A server over a store in memory, and requests to it.

use crate::answer::full;
use crate::{ApiServer, Body, BoxFuture, Config, Limits, NodeDialer, Stream, User};
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use std::sync::Arc;

/// Connects to a fake kubelet, if there is one.
pub(crate) struct Dialer(pub Option<Arc<dyn Fn(tokio::io::DuplexStream) + Send + Sync>>);

impl NodeDialer for Dialer {
    fn dial(&self, node: &str) -> BoxFuture<'static, std::io::Result<Box<dyn Stream>>> {
        let answer = match &self.0 {
            Some(kubelet) => {
                let (ours, theirs) = tokio::io::duplex(4096);
                kubelet(theirs);
                Ok(Box::new(ours) as Box<dyn Stream>)
            }
            None => Err(std::io::Error::other(format!("node {node} is not connected"))),
        };
        Box::pin(async { answer })
    }
}

pub(crate) fn pki() -> pki::ServerPki {
    let dir = std::env::temp_dir().join(format!(
        "copepod-apiserver-{}-{}",
        std::process::id(),
        crate::object::random_suffix(8).expect("random")
    ));
    let names = pki::ServerNames {
        node_name: "node-a".into(),
        cluster_domain: "cluster.local".into(),
        service_ip: [10, 43, 0, 1].into(),
        ips: Vec::new(),
        extra: Vec::new(),
        leaf_seconds: pki::LEAF_SECONDS,
    };
    let made = pki::ensure(&dir, &names, jiff::Timestamp::now().as_second()).expect("credentials");
    std::fs::remove_dir_all(dir).expect("clean up");
    made
}

pub(crate) fn config(pki: &pki::ServerPki, limits: Limits, dialer: Dialer) -> Config {
    let options = store::Options { durability: crate::durability, ..store::Options::default() };
    Config {
        store: store::Store::open(options).expect("store in memory"),
        service_account_keys: pki.service_account.clone(),
        service_cidr: "10.43.0.0/16".into(),
        node_ports: 30000..=32767,
        cluster_domain: "cluster.local".into(),
        advertise: ([192, 168, 1, 2], 6443).into(),
        cluster_dns: Some([10, 43, 0, 10].into()),
        server_node: Some("server".into()),
        dialer: Arc::new(dialer),
        supervisor: None,
        limits,
    }
}

pub(crate) async fn server() -> Arc<ApiServer> {
    let pki = pki();
    ApiServer::new(config(&pki, Limits::default(), Dialer(None))).await.expect("server")
}

pub(crate) fn admin() -> User {
    User::component("system:admin", &["system:masters"])
}

pub(crate) fn request(method: &str, path: &str, body: &str) -> Request<Body> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let mut request = Request::builder().method(method).uri(path);
    if !body.is_empty() {
        request = request.header("content-type", kind);
    }
    request.body(full(body.to_owned())).expect("request")
}

pub(crate) async fn json(response: Response<Body>) -> (u16, Value) {
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("body").to_bytes();
    let value =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
    (code, value)
}

/// A request by the administrator, and its answer.
pub(crate) async fn ask(
    server: &Arc<ApiServer>,
    method: &str,
    path: &str,
    body: &str,
) -> (u16, Value) {
    json(server.handle(admin(), request(method, path, body)).await).await
}
