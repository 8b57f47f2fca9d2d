//! The small HTTP client of probes and hooks: one request, certificates not checked, as the kubelet does it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{ContainerPort, HTTPGetAction};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::hooks;

/// Bytes of an answer that are read at all.
const ANSWER_MAX: usize = 10 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Target {
    pub(crate) fn from_action(
        action: &HTTPGetAction,
        ports: &[ContainerPort],
        ip: &str,
    ) -> Result<Target, String> {
        let path = action.path.as_deref().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let headers = action
            .http_headers
            .iter()
            .flatten()
            .map(|h| (h.name.clone(), h.value.clone()))
            .collect();
        Ok(Target {
            tls: action.scheme.as_deref() == Some("HTTPS"),
            host: action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ip.to_owned()),
            port: hooks::port(&action.port, ports)?,
            path,
            headers,
        })
    }

    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", authority(&self.host, self.port), self.path)
    }
}

/// `host:port`, with brackets where the host needs them.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A failed connect in the words of Go's net package.
pub(crate) fn dial_error(host: &str, port: u16, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {}: {why}", authority(host, port))
}

/// Sends one GET; answers below 400 are a success and give their body's beginning.
pub(crate) async fn get(target: &Target, limit: Duration) -> Result<Bytes, String> {
    let late = || {
        let url = target.url();
        format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )
    };
    timeout(limit, get_unlimited(target)).await.map_err(|_| late())?
}

async fn get_unlimited(target: &Target) -> Result<Bytes, String> {
    let failed = |what: String| format!("Get {:?}: {what}", target.url());
    let stream = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(|e| failed(dial_error(&target.host, target.port, &e)))?;
    let stream: Box<dyn Stream> = if target.tls {
        secured(stream, &target.host).await.map_err(failed)?
    } else {
        Box::new(stream)
    };
    let mut request = Request::get(target.path.as_str());
    let mut named = (false, false);
    for (name, value) in &target.headers {
        named.0 |= name.eq_ignore_ascii_case("host");
        named.1 |= name.eq_ignore_ascii_case("user-agent");
        request = request.header(name, value);
    }
    if !named.0 {
        request = request.header(http::header::HOST, authority(&target.host, target.port));
    }
    if !named.1 {
        request = request.header(http::header::USER_AGENT, "kube-probe/1.36");
    }
    let request = request
        .header(http::header::ACCEPT, "*/*")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed(e.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(e.to_string()))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let answer = sender.send_request(request).await.map_err(|e| failed(e.to_string()))?;
    let status = answer.status().as_u16();
    let body = beginning(answer).await;
    if (200..400).contains(&status) {
        Ok(body)
    } else {
        Err(format!("HTTP probe failed with statuscode: {status}"))
    }
}

async fn beginning(answer: Response<Incoming>) -> Bytes {
    Limited::new(answer.into_body(), ANSWER_MAX)
        .collect()
        .await
        .map(|b| b.to_bytes())
        .unwrap_or_default()
}

async fn secured(stream: TcpStream, host: &str) -> Result<Box<dyn Stream>, String> {
    // Probes ask whether a server answers, not who it is.
    let config = pki::unverified_client_config().map_err(|e| e.to_string())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    Ok(Box::new(connector.connect(name, stream).await.map_err(|e| e.to_string())?))
}

/// Asks `grpc.health.v1.Health/Check` over plain HTTP/2; success is the status SERVING.
pub(crate) async fn grpc_health(
    ip: &str,
    port: u16,
    service: &str,
    limit: Duration,
) -> Result<(), String> {
    let address = authority(ip, port);
    let late = format!(
        "timeout: failed to connect service {address:?} within {}",
        crate::go_duration::text(limit)
    );
    timeout(limit, grpc_unlimited(ip, port, service)).await.map_err(|_| late)?
}

async fn grpc_unlimited(ip: &str, port: u16, service: &str) -> Result<(), String> {
    let stream = TcpStream::connect((ip, port)).await.map_err(|e| dial_error(ip, port, &e))?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let request =
        Request::post(format!("http://{}/grpc.health.v1.Health/Check", authority(ip, port)))
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers")
            .header(http::header::USER_AGENT, "kube-probe/1.36")
            .body(Full::new(health_request(service)))
            .map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let body =
        Limited::new(answer.into_body(), ANSWER_MAX).collect().await.map_err(|e| e.to_string())?;
    let code = body
        .trailers()
        .and_then(|t| t.get("grpc-status"))
        .and_then(|v| v.to_str().ok())
        .unwrap_or("0");
    if code != "0" {
        return Err(format!("service unhealthy (grpc-status {code})"));
    }
    match health_status(&body.to_bytes()) {
        Some(1) => Ok(()),
        Some(2) => Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
        Some(3) => Err("service unhealthy (responded with \"SERVICE_UNKNOWN\")".to_owned()),
        _ => Err("service unhealthy (responded with \"UNKNOWN\")".to_owned()),
    }
}

/// A gRPC frame with `HealthCheckRequest{service: 1}`; service names are far below 128 bytes.
fn health_request(service: &str) -> Bytes {
    let name = &service.as_bytes()[..service.len().min(127)];
    let mut message = BytesMut::new();
    if !name.is_empty() {
        message.extend_from_slice(&[0x0a, u8::try_from(name.len()).unwrap_or(0)]);
        message.extend_from_slice(name);
    }
    let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
    let mut frame = BytesMut::from(&[0u8][..]);
    frame.extend_from_slice(&length);
    frame.extend_from_slice(&message);
    frame.freeze()
}

/// The status of a `HealthCheckResponse{status: 1}` inside a gRPC frame.
fn health_status(frame: &[u8]) -> Option<u8> {
    let message = frame.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, status, ..] => Some(*status),
        _ => None,
    }
}
