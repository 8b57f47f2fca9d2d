//! A server half on loopback: real TLS, and an API that knows Secrets and nothing else.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use client::{Client, Transport, full};
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::{JoinConfig, Shared, Supervisor, SupervisorConfig, Tokens};

/// Secrets by path.
#[derive(Clone, Default)]
pub(super) struct Api {
    pub(super) objects: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl Transport for Api {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'_, client::Result<Response<client::Body>>> {
        let (code, body) = self.answer(&request);
        let response = Response::builder().status(code).body(full(body.to_string()));
        Box::pin(async move { Ok(response.expect("response")) })
    }
}

impl Api {
    fn answer(&self, request: &Request<Bytes>) -> (u16, Value) {
        let mut objects = self.objects.lock().expect("objects");
        let path = request.uri().path().to_owned();
        let status = |code: u16, reason: &str| {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code}),
            )
        };
        match *request.method() {
            Method::POST => {
                let object: Value = serde_json::from_slice(request.body()).expect("object");
                let path = format!("{path}/{}", object["metadata"]["name"].as_str().expect("name"));
                if objects.contains_key(&path) {
                    return status(409, "AlreadyExists");
                }
                objects.insert(path, object.clone());
                (201, object)
            }
            Method::DELETE => match objects.remove(&path) {
                Some(object) => (200, object),
                None => status(404, "NotFound"),
            },
            _ => match objects.get(&path) {
                Some(object) => (200, object.clone()),
                None => status(404, "NotFound"),
            },
        }
    }
}

/// What outlives a server: its files, its port, its objects.
type Away = (tempfile::TempDir, u16, Api);

/// A server half that listens.
pub(super) struct Stage {
    pub(super) port: u16,
    pub(super) supervisor: Arc<Supervisor>,
    pub(super) pki: Arc<pki::ServerPki>,
    pub(super) api: Api,
    pub(super) folder: tempfile::TempDir,
    tasks: JoinSet<()>,
}

pub(super) const TOKEN: &str = "for-servers";
pub(super) const AGENT_TOKEN: &str = "for-agents";

pub(super) fn shared() -> Shared {
    Shared {
        cluster_cidr: "10.42.0.0/16".into(),
        service_cidr: "10.43.0.0/16".into(),
        cluster_dns: [10, 43, 0, 10].into(),
        cluster_domain: "cluster.local".into(),
        flannel_backend: "vxlan".into(),
        service_node_port_range: "30000-32767".into(),
        disable_kube_proxy: false,
    }
}

impl Stage {
    pub(super) async fn start(leaf_seconds: i64) -> Stage {
        let folder = tempfile::tempdir().expect("folder");
        Self::start_in(folder, leaf_seconds, 0, Api::default()).await
    }

    async fn start_in(folder: tempfile::TempDir, leaf_seconds: i64, port: u16, api: Api) -> Stage {
        let names = pki::ServerNames {
            node_name: "server".into(),
            cluster_domain: "cluster.local".into(),
            service_ip: [10, 43, 0, 1].into(),
            ips: Vec::new(),
            extra: Vec::new(),
            leaf_seconds: pki::LEAF_SECONDS,
        };
        let now = crate::clock::now();
        let pki = Arc::new(pki::ensure(&folder.path().join("tls"), &names, now).expect("pki"));
        let authority = pki.server_authority.certificate_pem();
        let tokens = Tokens::ensure(folder.path(), authority, Some(TOKEN), Some(AGENT_TOKEN));
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("listen");
        let port = listener.local_addr().expect("address").port();
        let config = SupervisorConfig {
            pki: pki.clone(),
            tokens: tokens.expect("tokens"),
            shared: shared(),
            advertise: format!("127.0.0.1:{port}"),
            leaf_seconds,
        };
        let supervisor = Supervisor::new(config).expect("supervisor");
        supervisor.set_client(Client::new(Arc::new(api.clone())));
        let tls = pki::server_config(&pki.server, pki.client_authority.certificate_pem());
        let acceptor = tokio_rustls::TlsAcceptor::from(tls.expect("tls"));
        let mut tasks = JoinSet::new();
        let serving = supervisor.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                connections.spawn(connection(acceptor.clone(), tcp, serving.clone()));
            }
        });
        Stage { port, supervisor, pki, api, folder, tasks }
    }

    /// The server goes away with all its connections; its files and port can be taken again.
    pub(super) async fn stop(mut self) -> Away {
        self.supervisor.close();
        self.tasks.shutdown().await;
        (self.folder, self.port, self.api)
    }

    /// The server is back, with certificates of the usual life.
    pub(super) async fn again((folder, port, api): Away) -> Stage {
        Self::start_in(folder, pki::LEAF_SECONDS, port, api).await
    }

    /// A full token for the agents' password.
    pub(super) fn token(&self) -> String {
        pki::JoinToken::new(self.pki.server_authority.certificate_pem(), "node", AGENT_TOKEN)
            .to_string()
    }

    pub(super) fn join_config(&self, folder: &tempfile::TempDir, name: &str) -> JoinConfig {
        JoinConfig {
            server: format!("https://127.0.0.1:{}", self.port),
            token: Some(self.token()),
            folder: PathBuf::from(folder.path()),
            node_name: name.to_owned(),
            node_ips: vec![[10, 9, 8, 7].into()],
        }
    }
}

async fn connection(
    acceptor: tokio_rustls::TlsAcceptor,
    tcp: tokio::net::TcpStream,
    supervisor: Arc<Supervisor>,
) {
    let Ok(tls) = acceptor.accept(tcp).await else { return };
    let peer = tls.get_ref().1.peer_certificates().and_then(|chain| pki::peer_identity(&chain[0]));
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (supervisor, peer) = (supervisor.clone(), peer.clone());
        async move {
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            Ok::<_, Infallible>(supervisor.handle(peer, request).await)
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let _ended = builder.serve_connection_with_upgrades(TokioIo::new(tls), service).await;
}

/// A kubelet that says back what it hears.
pub(super) fn echo() -> tunnel::Accept {
    crate::accept_kubelet(|mut stream| {
        Box::pin(async move {
            let mut buffer = [0u8; 64];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        })
    })
}

/// Waits for a condition, not for a time.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .unwrap_or_else(|_| panic!("waited for: {what}"));
}

/// Whether the kubelet of a node answers through its tunnel.
pub(super) async fn reached(supervisor: &Supervisor, node: &str) -> bool {
    let Ok(mut stream) = supervisor.dial(node).await else { return false };
    let mut answer = [0u8; 4];
    stream.write_all(b"ping").await.is_ok()
        && tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut answer))
            .await
            .is_ok_and(|read| read.is_ok())
        && &answer == b"ping"
}
