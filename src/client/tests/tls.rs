//! The TLS transport against a real server on loopback.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::{Body, Cache, Client, Error, Identity, ListParams, TlsTransport, full};

/// A server that answers with who asked and how, as the labels of a ConfigMap.
struct Server {
    address: SocketAddr,
    ca_pem: String,
    client_ca: pki::Authority,
    connections: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

const NOW: i64 = 1_800_000_000;

fn issue(authority: &pki::Authority, name: &str, server: bool) -> pki::Identity {
    let subject = pki::Subject {
        common_name: name.to_owned(),
        ips: if server { vec![[127, 0, 0, 1].into()] } else { Vec::new() },
        ..pki::Subject::default()
    };
    let request = pki::Request { subject, server, client: !server, seconds: 3650 * 24 * 3600 };
    authority.issue(&request, jiff::Timestamp::now().as_second()).expect("certificate")
}

impl Server {
    async fn start(alpn: &[&str]) -> Self {
        let now = jiff::Timestamp::now().as_second().min(NOW);
        let authority = pki::Authority::create("server-ca", now).expect("authority");
        let client_ca = pki::Authority::create("client-ca", now).expect("authority");
        let identity = issue(&authority, "server", true);
        let mut config =
            (*pki::server_config(&identity, client_ca.certificate_pem()).expect("config")).clone();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address");
        let connections = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let counter = connections.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                counter.fetch_add(1, Ordering::SeqCst);
                connections.spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let peer = tls
                        .get_ref()
                        .1
                        .peer_certificates()
                        .and_then(|chain| pki::peer_identity(&chain[0]));
                    let peer = peer.map(|peer| peer.common_name).unwrap_or_default();
                    let service = service_fn(move |request| answer(request, peer.clone()));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ended = builder.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        Self {
            address,
            ca_pem: authority.certificate_pem().to_owned(),
            client_ca,
            connections,
            tasks,
        }
    }

    fn client(&self, identity: Identity) -> Client {
        let url = format!("https://{}", self.address);
        Client::new(Arc::new(
            TlsTransport::new(&url, self.ca_pem.as_bytes(), identity).expect("transport"),
        ))
    }
}

async fn answer(request: Request<Incoming>, peer: String) -> Result<Response<Body>, Infallible> {
    let token = request
        .headers()
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let query = request.uri().query().unwrap_or_default();
    if query.contains("watch=true") {
        // A watch that stays open until the client goes.
        let body = http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<_, crate::BoxError>,
        >());
        return Ok(Response::new(http_body_util::BodyExt::boxed_unsync(body)));
    }
    if query.contains("limit") {
        return Ok(Response::new(full(
            json!({"metadata": {"resourceVersion": "1"}, "items": []}).to_string(),
        )));
    }
    let labels =
        json!({"peer": peer, "token": token, "version": format!("{:?}", request.version())});
    Ok(Response::new(full(json!({"metadata": {"name": "a", "labels": labels}}).to_string())))
}

async fn who(client: &Client) -> Result<Vec<String>, Error> {
    let map: ConfigMap = client.get("team", "a").await?;
    let labels = map.metadata.labels.unwrap_or_default();
    Ok(["peer", "token", "version"].iter().map(|key| labels[*key].clone()).collect())
}

#[tokio::test]
async fn http2_shares_one_connection() {
    let server = Server::start(&["h2", "http/1.1"]).await;
    let client = server.client(Identity::Token("secret".to_owned()));
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        calls.spawn(async move { who(&client).await.expect("answer") });
    }
    while let Some(labels) = calls.join_next().await {
        assert_eq!(labels.expect("call"), ["", "Bearer secret", "HTTP/2.0"]);
    }
    let cache = Cache::<ConfigMap>::start(client.clone(), ListParams::all());
    cache.synced().await;
    who(&client).await.expect("a watch does not keep others waiting");
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn http1_connections_are_used_again() {
    let server = Server::start(&["http/1.1"]).await;
    let identity = issue(&server.client_ca, "system:node:n1", false);
    let (chain_pem, key_pem) = (identity.certificate.into_bytes(), identity.key.into_bytes());
    let client = server.client(Identity::Certificate { chain_pem, key_pem });
    for _ in 0..10 {
        assert_eq!(who(&client).await.expect("answer"), ["system:node:n1", "", "HTTP/1.1"]);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let cache = Cache::<ConfigMap>::start(client.clone(), ListParams::all());
    cache.synced().await;
    who(&client).await.expect("answer beside a watch");
    assert!(server.connections.load(Ordering::SeqCst) <= 2);
}

#[tokio::test]
async fn a_server_that_went_away_is_found_again() {
    let mut server = Server::start(&["h2"]).await;
    let client = server.client(Identity::Anonymous);
    who(&client).await.expect("answer");
    server.tasks.shutdown().await;
    let error = who(&client).await.expect_err("nobody is there");
    assert!(error.to_string().starts_with("GET /api/v1/namespaces/team/configmaps/a: "), "{error}");
}

#[tokio::test]
async fn another_authority_is_not_trusted() {
    let server = Server::start(&["h2"]).await;
    let other = Server::start(&["h2"]).await;
    let url = format!("https://{}", server.address);
    let transport =
        TlsTransport::new(&url, other.ca_pem.as_bytes(), Identity::Token("secret".to_owned()));
    let client = Client::new(Arc::new(transport.expect("transport")));
    let error = tokio::time::timeout(Duration::from_secs(10), who(&client)).await.expect("no wait");
    let error = error.expect_err("untrusted").to_string();
    assert!(error.contains("certificate") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn unusable_settings_are_refused() {
    for (url, ca, expected) in [
        ("not a url", "", "configure connection: not a url"),
        ("https://127.0.0.1", "", "configure connection: CA certificate: none given"),
        ("/path", "", "configure connection: /path: no host"),
    ] {
        let error = TlsTransport::new(url, ca.as_bytes(), Identity::Anonymous)
            .err()
            .expect("refused")
            .to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
