//! The transport over the network: HTTP/2 where the server offers it, HTTP/1.1 otherwise, on TLS with a pinned CA. Where
//! connections go is the business of a [`Dial`]; certificates can be replaced while it runs.
//!
//! One HTTP/2 connection carries everything; HTTP/1.1 connections go back to a small pool when their answer was
//! read to the end.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{Body, Error, Result, Tasks, Transport};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that says nothing this long is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/1.1 connections kept for the next request.
const IDLE_MAX: usize = 8;

/// How the client proves who it is.
#[derive(Clone)]
pub enum Identity {
    Anonymous,
    /// A bearer token.
    Token(String),
    /// A client certificate chain and its key, both PEM.
    Certificate {
        chain_pem: Vec<u8>,
        key_pem: Vec<u8>,
    },
}

/// Opens the TCP connections of a [`TlsTransport`].
pub trait Dial: Send + Sync + 'static {
    fn dial(&self) -> BoxFuture<'_, std::io::Result<Dialed>>;
}

/// An open connection and whom it should reach.
pub struct Dialed {
    pub stream: TcpStream,
    /// Name or address the server's certificate must carry, without brackets.
    pub host: String,
    pub port: u16,
}

/// Reaches an API server over TLS.
pub struct TlsTransport {
    inner: Arc<Inner>,
}

struct Inner {
    dial: Arc<dyn Dial>,
    tls: Mutex<Arc<rustls::ClientConfig>>,
    authorization: Option<HeaderValue>,
    connections: Mutex<Connections>,
    /// One connection is made at a time, so that a burst shares it.
    connecting: tokio::sync::Mutex<()>,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Connections {
    /// Host and port of the last connection, as requests name them.
    authority: String,
    h2: Option<http2::SendRequest<Full<Bytes>>>,
    h1: Vec<http1::SendRequest<Full<Bytes>>>,
}

enum Sender {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

/// One server by its name or address.
struct Fixed {
    host: String,
    port: u16,
}

impl Dial for Fixed {
    fn dial(&self) -> BoxFuture<'_, std::io::Result<Dialed>> {
        Box::pin(async move {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            Ok(Dialed { stream, host: self.host.clone(), port: self.port })
        })
    }
}

impl TlsTransport {
    /// `url` such as `https://10.0.0.1:6443`; `ca_pem` holds the only CAs that are trusted.
    pub fn new(url: &str, ca_pem: &[u8], identity: Identity) -> Result<Self> {
        let bad =
            |what: &str, error: &dyn std::fmt::Display| Error::Config(format!("{what}: {error}"));
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| bad(url, &error))?;
        let host = uri.host().ok_or_else(|| Error::Config(format!("{url}: no host")))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        ServerName::try_from(host.clone()).map_err(|error| bad(url, &error))?;
        let authorization = match &identity {
            Identity::Token(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|error| bad("token", &error))?;
                value.set_sensitive(true);
                Some(value)
            }
            _ => None,
        };
        let dial = Arc::new(Fixed { host, port: uri.port_u16().unwrap_or(443) });
        Ok(Self::made(dial, tls_config(ca_pem, &identity)?, authorization))
    }

    /// A transport whose connections another opens; `tls` says whom to trust and who the client is.
    pub fn over(dial: Arc<dyn Dial>, tls: rustls::ClientConfig) -> Self {
        Self::made(dial, tls, None)
    }

    fn made(
        dial: Arc<dyn Dial>,
        mut tls: rustls::ClientConfig,
        authorization: Option<HeaderValue>,
    ) -> Self {
        tls.alpn_protocols = protocols();
        Self {
            inner: Arc::new(Inner {
                dial,
                tls: Mutex::new(Arc::new(tls)),
                authorization,
                connections: Mutex::default(),
                connecting: tokio::sync::Mutex::new(()),
                tasks: Mutex::default(),
            }),
        }
    }

    /// New connections use this configuration; requests under way end on the old ones.
    pub fn replace_tls(&self, mut tls: rustls::ClientConfig) {
        tls.alpn_protocols = protocols();
        *self.inner.tls.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(tls);
        self.inner.forget();
    }

    /// Ends all connections with what goes on in them: the server is known to be out of reach.
    pub fn cut(&self) {
        self.inner.forget();
        let old = std::mem::take(&mut *self.inner.tasks());
        drop(old);
    }
}

fn protocols() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

impl Transport for TlsTransport {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Body>>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
            inner.send(request).await.map_err(|source| Error::Transport { method, path, source })
        })
    }
}

type BoxResult<T> = std::result::Result<T, crate::BoxError>;

impl Inner {
    /// Sends a request; once more when it turns out that the connection ended before the request was on its way.
    async fn send(self: &Arc<Self>, request: Request<Bytes>) -> BoxResult<Response<Body>> {
        let (mut head, body) = request.into_parts();
        if let Some(value) = &self.authorization {
            head.headers.insert(http::header::AUTHORIZATION, value.clone());
        }
        let again = Request::from_parts(head.clone(), body.clone());
        match self.send_once(Request::from_parts(head, body)).await {
            Err(error) if error.downcast_ref().is_some_and(hyper::Error::is_canceled) => {
                self.send_once(again).await
            }
            result => result,
        }
    }

    async fn send_once(self: &Arc<Self>, request: Request<Bytes>) -> BoxResult<Response<Body>> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        match self.sender().await? {
            Sender::H2(mut sender) => {
                let authority = self.lock().authority.clone();
                head.uri = Uri::builder()
                    .scheme("https")
                    .authority(authority)
                    .path_and_query(path)
                    .build()?;
                let answer =
                    sender.send_request(Request::from_parts(head, Full::new(body))).await?;
                Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()))
            }
            Sender::H1(mut sender) => {
                head.uri = path.parse()?;
                head.headers.insert(
                    http::header::HOST,
                    HeaderValue::try_from(self.lock().authority.clone())?,
                );
                let answer =
                    sender.send_request(Request::from_parts(head, Full::new(body))).await?;
                let pool = Some((sender, self.clone()));
                Ok(answer.map(|body| Pooled { body, pool }.map_err(Into::into).boxed_unsync()))
            }
        }
    }

    /// A connection that can take a request.
    async fn sender(&self) -> BoxResult<Sender> {
        if let Some(sender) = self.idle() {
            return Ok(sender);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(sender) = self.idle() {
            return Ok(sender);
        }
        tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await?
    }

    fn idle(&self) -> Option<Sender> {
        let mut connections = self.lock();
        match &connections.h2 {
            Some(sender) if !sender.is_closed() => return Some(Sender::H2(sender.clone())),
            _ => connections.h2 = None,
        }
        connections.h1.retain(|sender| !sender.is_closed());
        let ready = connections.h1.iter().position(http1::SendRequest::is_ready)?;
        Some(Sender::H1(connections.h1.swap_remove(ready)))
    }

    async fn connect(&self) -> BoxResult<Sender> {
        let Dialed { stream: tcp, host, port } = self.dial.dial().await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(host.clone())?;
        let tls = self.tls.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let stream = TlsConnector::from(tls).connect(name, tcp).await?;
        self.lock().authority = authority(&host, port);
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.connect_h2(stream).await
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            self.tasks().spawn(async move {
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!(%error, "connection to the API server ended");
                }
            });
            Ok(Sender::H1(sender))
        }
    }

    async fn connect_h2(&self, stream: TlsStream<TcpStream>) -> BoxResult<Sender> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await?;
        self.tasks().spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the API server ended");
            }
        });
        self.lock().h2 = Some(sender.clone());
        Ok(Sender::H2(sender))
    }

    /// Leaves the connections to the requests that are on them.
    fn forget(&self) {
        let mut connections = self.lock();
        connections.h2 = None;
        connections.h1.clear();
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An HTTP/1.1 body that gives its connection back when it was read to the end.
struct Pooled {
    body: Incoming,
    pool: Option<(http1::SendRequest<Full<Bytes>>, Arc<Inner>)>,
}

impl http_body::Body for Pooled {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let ended = matches!(polled, Poll::Ready(None)) || self.body.is_end_stream();
        if ended && let Some((sender, inner)) = self.pool.take() {
            let mut connections = inner.lock();
            if connections.h1.len() < IDLE_MAX {
                connections.h1.push(sender);
            }
        }
        polled
    }
}

fn tls_config(ca_pem: &[u8], identity: &Identity) -> Result<rustls::ClientConfig> {
    let bad = |what: &str, error: &dyn std::fmt::Display| Error::Config(format!("{what}: {error}"));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        let certificate = certificate.map_err(|error| bad("CA certificate", &error))?;
        roots.add(certificate).map_err(|error| bad("CA certificate", &error))?;
    }
    if roots.is_empty() {
        return Err(Error::Config("CA certificate: none given".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad("TLS versions", &error))?
        .with_root_certificates(roots);
    let config = match identity {
        Identity::Certificate { chain_pem, key_pem } => {
            let chain: std::result::Result<Vec<_>, _> =
                CertificateDer::pem_slice_iter(chain_pem).collect();
            let chain = chain.map_err(|error| bad("client certificate", &error))?;
            let key = PrivateKeyDer::from_pem_slice(key_pem)
                .map_err(|error| bad("client key", &error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| bad("client certificate", &error))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(config)
}
