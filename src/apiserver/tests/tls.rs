//! Over the network: certificates, tokens, neither; limits; streams to a kubelet; the end.

use super::support::{Dialer, ask, config, json};
use crate::{ApiServer, Body, BoxError, Limits};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

struct Cluster {
    server: Arc<ApiServer>,
    pki: pki::ServerPki,
    address: SocketAddr,
    shutdown: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Cluster {
    async fn start(limits: Limits, dialer: Dialer) -> Self {
        let pki = super::support::pki();
        let config = config(&pki, limits, dialer);
        Self::start_with(pki, config).await
    }

    async fn start_with(pki: pki::ServerPki, config: crate::Config) -> Self {
        let server = ApiServer::new(config).await.expect("server");
        let tls =
            pki::server_config(&pki.server, pki.client_authority.certificate_pem()).expect("tls");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = listener.local_addr().expect("address");
        let (shutdown, stop) = watch::channel(false);
        let serving = tokio::spawn(server.clone().serve(listener, tls, stop));
        Self { server, pki, address, shutdown, serving }
    }

    async fn tls(&self, identity: Option<&pki::Identity>) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        let authority = self.pki.server_authority.certificate_pem();
        roots
            .add(CertificateDer::from_pem_slice(authority.as_bytes()).expect("authority"))
            .expect("root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match identity {
            Some(identity) => {
                let chain = CertificateDer::from_pem_slice(identity.certificate.as_bytes())
                    .expect("certificate");
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("key");
                builder.with_client_auth_cert(vec![chain], key).expect("client certificate")
            }
            None => builder.with_no_client_auth(),
        };
        let tcp = tokio::net::TcpStream::connect(self.address).await.expect("connection");
        let name = ServerName::try_from("localhost").expect("name");
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("tls")
    }

    async fn connect(&self, identity: Option<&pki::Identity>) -> SendRequest<Full<Bytes>> {
        let stream = self.tls(identity).await;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("http");
        tokio::spawn(connection.with_upgrades());
        sender
    }

    async fn get(
        &self,
        identity: Option<&pki::Identity>,
        token: &str,
        path: &str,
    ) -> Response<Body> {
        let mut sender = self.connect(identity).await;
        let mut request = Request::builder().uri(path).header("host", "localhost");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::default()).expect("request");
        let response = sender.send_request(request).await.expect("answer");
        response.map(|body| body.map_err(|e| -> BoxError { e.into() }).boxed_unsync())
    }

    async fn ask(&self, identity: Option<&pki::Identity>, token: &str, path: &str) -> (u16, Value) {
        json(self.get(identity, token, path).await).await
    }

    async fn end(self) {
        self.shutdown.send(true).expect("still serving");
        tokio::time::timeout(Duration::from_secs(4), self.serving)
            .await
            .expect("ended in time")
            .expect("no panic");
    }
}

#[tokio::test]
async fn certificates_tokens_and_neither() {
    let cluster = Cluster::start(Limits::default(), Dialer(None)).await;
    let admin = cluster.pki.admin.clone();
    let (code, list) = cluster.ask(Some(&admin), "", "/api/v1/namespaces").await;
    assert_eq!((code, list["kind"].as_str()), (200, Some("NamespaceList")));
    let scheduler = cluster.pki.scheduler.clone();
    assert_eq!(cluster.ask(Some(&scheduler), "", "/api/v1/secrets").await.0, 403);

    let mut sender = cluster.connect(Some(&admin)).await;
    let oversized = Full::new(Bytes::from(vec![b'x'; 4 << 20]));
    let path = "/api/v1/namespaces/default/configmaps";
    let request = Request::post(path).header("host", "localhost").body(oversized).expect("request");
    assert_eq!(sender.send_request(request).await.expect("answer").status(), 413);

    let (code, status) = cluster.ask(None, "", "/api/v1/namespaces").await;
    assert_eq!(code, 401);
    assert_eq!(
        (status["reason"].as_str(), status["message"].as_str()),
        (Some("Unauthorized"), Some("Unauthorized"))
    );
    for (path, wanted) in
        [("/healthz", 200), ("/version", 200), ("/readyz?verbose", 200), ("/api", 401), ("/x", 401)]
    {
        assert_eq!(cluster.ask(None, "", path).await.0, wanted, "{path}");
    }

    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    ask(&cluster.server, "POST", accounts, r#"{"metadata":{"name":"robot"}}"#).await;
    let (_, issued) = ask(&cluster.server, "POST", &format!("{accounts}/robot/token"), "{}").await;
    let token = issued["status"]["token"].as_str().expect("token").to_owned();
    assert_eq!(cluster.ask(None, &token, "/api").await.0, 200);
    let (code, status) = cluster.ask(None, &token, "/api/v1/pods").await;
    assert_eq!(code, 403);
    let message = status["message"].as_str().expect("message");
    assert!(
        message
            .contains(r#"User "system:serviceaccount:default:robot" cannot list resource "pods""#),
        "{message}"
    );
    assert_eq!(cluster.ask(None, &format!("{token}x"), "/healthz").await.0, 401);
    ask(&cluster.server, "DELETE", &format!("{accounts}/robot"), "").await;
    assert_eq!(cluster.ask(None, &token, "/api").await.0, 401);
    ask(&cluster.server, "POST", accounts, r#"{"metadata":{"name":"robot"}}"#).await;
    assert_eq!(cluster.ask(None, &token, "/api").await.0, 401, "another account of that name");
    cluster.end().await;
}

#[tokio::test]
async fn head_over_http2() {
    let cluster = Cluster::start(Limits::default(), Dialer(None)).await;
    let admin = cluster.pki.admin.clone();
    let stream = TokioIo::new(cluster.tls(Some(&admin)).await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.expect("http");
    let connection = tokio::spawn(connection);
    for (path, wanted) in [("/readyz", 200), ("/api/v1/pods", 405), ("/nowhere", 404)] {
        let request = Request::head(format!("https://localhost{path}"));
        let request = request.body(Full::<Bytes>::default()).expect("request");
        let response = sender.send_request(request).await.expect("answer");
        assert_eq!(response.status(), wanted, "{path}");
        let body = response.into_body().collect().await.expect("an orderly end").to_bytes();
        assert!(body.is_empty(), "{path}");
    }
    drop(sender);
    connection.await.expect("no panic").expect("an orderly end");
    cluster.end().await;
}

#[tokio::test]
async fn too_much_at_once_is_refused() {
    let limits = Limits { requests: 0, watches: 1, ..Limits::default() };
    let cluster = Cluster::start(limits, Dialer(None)).await;
    let admin = cluster.pki.admin.clone();
    let refused = cluster.get(Some(&admin), "", "/api/v1/pods").await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    let first = cluster.get(Some(&admin), "", "/api/v1/pods?watch=1").await;
    assert_eq!(first.status(), 200);
    let (code, status) = cluster.ask(Some(&admin), "", "/api/v1/pods?watch=1").await;
    assert_eq!((code, status["reason"].as_str()), (429, Some("TooManyRequests")));
    drop(first);
    let code = cluster.get(None, &"a".repeat(80_000), "/healthz").await.status();
    assert_eq!(code, 431);
    cluster.end().await;
}

#[tokio::test]
async fn large_answers_nobody_takes_are_counted() {
    let limits = Limits { answer_bytes: 300 * 1024, ..Limits::default() };
    let cluster = Cluster::start(limits, Dialer(None)).await;
    let admin = cluster.pki.admin.clone();
    let maps = "/api/v1/namespaces/default/configmaps";
    // More than the buffers of both sockets take.
    for n in 0..14 {
        let body = format!(
            r#"{{"metadata":{{"name":"big{n}"}},"data":{{"k":"{}"}}}}"#,
            "x".repeat(1_000_000)
        );
        assert_eq!(ask(&cluster.server, "POST", maps, &body).await.0, 201);
    }
    let waiting = cluster.get(Some(&admin), "", maps).await;
    assert_eq!(waiting.status(), 200);
    assert_eq!(cluster.ask(Some(&admin), "", maps).await.0, 429);
    assert_eq!(cluster.ask(Some(&admin), "", "/api/v1/namespaces/default").await.0, 200);
    let (_, list) = json(waiting).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(14));
    cluster.end().await;
}

#[tokio::test]
async fn watches_end_with_the_server() {
    let cluster = Cluster::start(Limits::default(), Dialer(None)).await;
    let admin = cluster.pki.admin.clone();
    let mut watching = cluster.get(Some(&admin), "", "/api/v1/namespaces?watch=1").await;
    let first = watching.frame().await.expect("frame").expect("data").into_data().expect("data");
    assert!(first.starts_with(br#"{"type":"ADDED","object":{"kind":"Namespace""#));
    cluster.end().await;
    assert!(watching.frame().await.is_none());
}

/// Answers one request as a kubelet would: a log, an upgrade that echoes, or a refusal.
async fn kubelet(mut stream: tokio::io::DuplexStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("request"));
    }
    let head = String::from_utf8(head).expect("text");
    let answer = match head.lines().next().unwrap_or_default() {
        line if line.starts_with("GET /containerLogs/default/p/c?tailLines=5 ") => {
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 6\r\n\r\nhello\n"
                .to_owned()
        }
        line if line.starts_with("GET /stats/summary?only=cpu ") => {
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
                .to_owned()
        }
        line if line
            .starts_with("GET /exec/default/p/c?command=echo&command=a%20b&input=1&output=1 ") =>
        {
            assert!(
                head.to_ascii_lowercase().contains("sec-websocket-protocol: v5.channel.k8s.io"),
                "{head}"
            );
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\r\n".to_owned()
        }
        line => {
            let text = format!("container is waiting: {line}");
            format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\n\r\n{text}", text.len())
        }
    };
    stream.write_all(answer.as_bytes()).await.expect("answer");
    let mut buffer = [0u8; 64];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        stream.write_all(&buffer[..count]).await.expect("echo");
    }
}

#[tokio::test]
async fn streams_reach_the_kubelet() {
    let dial: Arc<dyn Fn(tokio::io::DuplexStream) + Send + Sync> = Arc::new(|stream| {
        tokio::spawn(kubelet(stream));
    });
    let cluster =
        Cluster::start(Limits { streams: 3, ..Limits::default() }, Dialer(Some(dial))).await;
    let admin = cluster.pki.admin.clone();
    let base = "/api/v1/namespaces/default";
    ask(
        &cluster.server,
        "POST",
        &format!("{base}/serviceaccounts"),
        r#"{"metadata":{"name":"default"}}"#,
    )
    .await;
    let pod = r#"{"metadata":{"name":"p"},"spec":{"nodeName":"n","containers":[{"name":"c","image":"i"}]}}"#;
    assert_eq!(ask(&cluster.server, "POST", &format!("{base}/pods"), pod).await.0, 201);

    let (code, log) =
        cluster.ask(Some(&admin), "", &format!("{base}/pods/p/log?tailLines=5")).await;
    assert_eq!((code, log.as_str()), (200, Some("hello\n")));
    let (code, status) =
        cluster.ask(Some(&admin), "", &format!("{base}/pods/p/log?previous=true")).await;
    assert_eq!(code, 400);
    assert!(status["message"].as_str().is_some_and(|m| {
        m.starts_with("container is waiting: GET /containerLogs/default/p/c?previous=true")
    }));

    ask(&cluster.server, "POST", "/api/v1/nodes", r#"{"metadata":{"name":"n"}}"#).await;
    let proxy = |path: &str| format!("/api/v1/nodes/n:10250/proxy{path}");
    let stats = cluster.get(Some(&admin), "", &proxy("/stats/summary?only=cpu")).await;
    assert_eq!(
        (stats.status().as_u16(), &stats.headers()["content-type"]),
        (200, &"application/json".parse().expect("value"))
    );
    let (code, text) = cluster.ask(Some(&admin), "", &proxy("/nowhere")).await;
    assert_eq!(code, 400);
    assert!(text.as_str().is_some_and(|t| t.contains("GET /nowhere ")), "{text}");
    let (code, _) = cluster.ask(Some(&admin), "", "/api/v1/nodes/gone/proxy/metrics").await;
    assert_eq!(code, 404);
    let node = cluster.pki.kubelet.clone();
    assert_eq!(cluster.ask(Some(&node), "", &proxy("/metrics")).await.0, 403);

    let mut sender = cluster.connect(Some(&admin)).await;
    let request = Request::builder()
        .uri(format!("{base}/pods/p/exec?command=echo&command=a%20b&stdin=true&stdout=true"))
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(Full::default())
        .expect("request");
    let mut response = sender.send_request(request).await.expect("answer");
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.expect("upgrade"));
    stream.write_all(b"through and back").await.expect("write");
    let mut back = [0u8; 16];
    stream.read_exact(&mut back).await.expect("read");
    assert_eq!(&back, b"through and back");
    cluster.end().await;
}

/// Tells who asks, and echoes on upgraded connections.
struct Echo;

impl crate::Supervisor for Echo {
    fn handle(
        &self,
        peer: Option<pki::PeerIdentity>,
        mut request: Request<Body>,
    ) -> crate::BoxFuture<'static, Response<Body>> {
        let who = peer.map_or("nobody".to_owned(), |peer| peer.common_name);
        if !request.headers().contains_key("upgrade") {
            return Box::pin(async { Response::new(crate::answer::full(who)) });
        }
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.expect("upgrade"));
            let mut buffer = [0u8; 64];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                stream.write_all(&buffer[..count]).await.expect("echo");
            }
        });
        let answer = Response::builder()
            .status(101)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .body(Body::default());
        Box::pin(async { answer.expect("response") })
    }
}

#[tokio::test]
async fn a_supervisor_is_asked_before_authentication() {
    let pki = super::support::pki();
    let mut config = config(&pki, Limits::default(), Dialer(None));
    config.supervisor = Some(Arc::new(Echo));
    let cluster = Cluster::start_with(pki, config).await;
    let admin = cluster.pki.admin.clone();
    for path in ["/cacerts", "/ping", "/v1-copepod/config?x=1"] {
        assert_eq!(cluster.ask(None, "", path).await, (200, "nobody".into()), "{path}");
        let (code, who) = cluster.ask(Some(&admin), "", path).await;
        assert_eq!((code, who.as_str()), (200, Some("system:admin")), "{path}");
        assert_eq!(cluster.ask(None, "not a token", path).await.0, 200, "{path}");
    }
    for path in ["/v1-copepod", "/pings", "/cacerts/x"] {
        assert_eq!(cluster.ask(None, "", path).await.0, 401, "{path}");
    }
    let mut sender = cluster.connect(Some(&admin)).await;
    let request = Request::builder()
        .uri("/v1-copepod/connect")
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .body(Full::default())
        .expect("request");
    let mut response = sender.send_request(request).await.expect("answer");
    assert_eq!(response.status(), 101);
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.expect("upgrade"));
    stream.write_all(b"through and back").await.expect("write");
    let mut back = [0u8; 16];
    stream.read_exact(&mut back).await.expect("read");
    assert_eq!(&back, b"through and back");
    drop(stream);
    cluster.end().await;
}
