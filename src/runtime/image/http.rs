//! HTTP/1.1 requests to registries: origins, TLS, redirects, time limits per step. Knows nothing of images.

use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::select_ok;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::error::Error;
use super::tls::TlsConfigs;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const HEAD_START: Duration = Duration::from_millis(300);
/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 8;
/// From the request's last byte to the answer's head.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two pieces of a body. There is no limit for a whole body: large layers on slow lines are fine.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: u32 = 5;
/// Idle connections kept for the next request of the same pull.
const IDLE_MAX: usize = 4;
const USER_AGENT: &str = concat!("copepod/", env!("CARGO_PKG_VERSION"));

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) https: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Origin {
    /// `host[:port]`; a port that is none counts as the scheme's.
    pub(super) fn parse_authority(authority: &str, https: bool) -> Self {
        let default = if https { 443 } else { 80 };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().unwrap_or(default)),
            _ => (authority, default),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        Self { https, host, port }
    }

    /// Splits an absolute URL into its origin and the rest, which may be empty.
    pub(super) fn parse_url(url: &str) -> Result<(Self, String), String> {
        let (https, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(format!("{url:?} is not an http or https URL")),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.is_empty()
            || authority.contains('@')
            || authority.parse::<http::uri::Authority>().is_err()
        {
            return Err(format!("{url:?} has no valid host"));
        }
        Ok((Self::parse_authority(authority, https), path.to_owned()))
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// `host[:port]` without the scheme's own port.
    pub(super) fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.https { 443 } else { 80 } {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.https { "https" } else { "http" }, self.authority())
    }
}

/// One request. `authorization` goes to `origin` only, never to where it redirects.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) origin: Origin,
    pub(super) path: String,
    pub(super) headers: &'a [(header::HeaderName, HeaderValue)],
    pub(super) authorization: Option<HeaderValue>,
    pub(super) body: Bytes,
}

/// Connections of one pull.
pub(super) struct Http {
    tls: TlsConfigs,
    idle: Mutex<Vec<Connection>>,
}

struct Connection {
    origin: Origin,
    sender: SendRequest<Full<Bytes>>,
    _driver: Driver,
}

/// Ends the task that moves a connection's bytes.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer whose body is being read.
pub(super) struct Answer {
    pub(super) parts: http::response::Parts,
    /// Where it came from after redirects, without the query, which may hold a signature.
    pub(super) url: String,
    body: Incoming,
}

impl Http {
    pub(super) fn new(tls: TlsConfigs) -> Self {
        Self { tls, idle: Mutex::new(Vec::new()) }
    }

    /// Sends a request and follows redirects.
    pub(super) async fn send(&self, mut call: Call<'_>) -> Result<Answer, Error> {
        let method = call.method.clone();
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.send_once(&call).await?;
            if !answer.parts.status.is_redirection() {
                return Ok(answer);
            }
            let Some(location) =
                answer.parts.headers.get(header::LOCATION).and_then(|value| value.to_str().ok())
            else {
                return Ok(answer);
            };
            let fail = |reason: String| request_error(&method, &answer.url, reason);
            let (origin, path) = follow(&call.origin, &call.path, location).map_err(fail)?;
            if call.origin.https && !origin.https {
                return Err(fail("redirected from https to http".to_owned()));
            }
            if origin != call.origin {
                call.authorization = None;
            }
            (call.origin, call.path) = (origin, path);
        }
        Err(request_error(
            &method,
            &call.origin.url(without_query(&call.path)),
            format!("stopped after {REDIRECTS_MAX} redirects"),
        ))
    }

    async fn send_once(&self, call: &Call<'_>) -> Result<Answer, Error> {
        let url = call.origin.url(without_query(&call.path));
        let fail = |reason: String| request_error(&call.method, &url, reason);
        let request = request(call).map_err(|error| fail(error.to_string()))?;
        // A kept connection may have been closed by the server meanwhile; a new one then tries again.
        if let Some(mut kept) = self.take_idle(&call.origin)
            && let Ok(Ok(response)) =
                timeout(ANSWER_TIMEOUT, kept.sender.send_request(request.clone())).await
        {
            return Ok(self.answer(response, kept, url));
        }
        let mut connection = self.connect(&call.origin).await.map_err(&fail)?;
        match timeout(ANSWER_TIMEOUT, connection.sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(self.answer(response, connection, url)),
            Ok(Err(error)) => Err(fail(chain(&error))),
            Err(_) => Err(fail("timeout awaiting response headers".to_owned())),
        }
    }

    fn answer(&self, response: Response<Incoming>, connection: Connection, url: String) -> Answer {
        let (parts, body) = response.into_parts();
        self.keep(connection);
        Answer { parts, url, body }
    }

    /// Connections are kept at once; they become ready when the body has been read, or are closed with it.
    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|kept| !kept.sender.is_closed());
        // Those that are not ready carry a body just now; downloads in flight bound them.
        if idle.len() >= IDLE_MAX
            && let Some(at) = idle.iter().position(|kept| kept.sender.is_ready())
        {
            idle.swap_remove(at);
        }
        idle.push(connection);
    }

    fn take_idle(&self, origin: &Origin) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|kept| !kept.sender.is_closed());
        let at = idle.iter().position(|kept| kept.origin == *origin && kept.sender.is_ready())?;
        Some(idle.swap_remove(at))
    }

    async fn connect(&self, origin: &Origin) -> Result<Connection, String> {
        let place = format!("dial tcp {}:{}", origin.host, origin.port);
        let stream = match timeout(CONNECT_TIMEOUT, dial(origin)).await {
            Ok(stream) => stream?,
            Err(_) => return Err(format!("{place}: i/o timeout")),
        };
        stream.set_nodelay(true).map_err(|error| format!("{place}: {error}"))?;
        if !origin.https {
            return handshake(origin, stream).await;
        }
        let connector = tokio_rustls::TlsConnector::from(self.tls.for_origin(origin)?);
        let name = rustls::pki_types::ServerName::try_from(origin.host.clone())
            .map_err(|error| error.to_string())?;
        match timeout(CONNECT_TIMEOUT, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => handshake(origin, stream).await,
            Ok(Err(error)) => Err(format!("tls: {error}")),
            Err(_) => Err("net/http: TLS handshake timeout".to_owned()),
        }
    }
}

impl Answer {
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    pub(super) fn status(&self) -> u16 {
        self.parts.status.as_u16()
    }

    /// The next piece of the body.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            match timeout(READ_TIMEOUT, self.body.frame()).await {
                Err(_) => return Err(format!("no data for {} seconds", READ_TIMEOUT.as_secs())),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(chain(&error)),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    // Trailers say nothing of interest.
                    Err(_) => continue,
                },
            }
        }
    }

    /// The whole body, which must not be longer than `limit`.
    pub(super) async fn read_all(mut self, limit: u64) -> Result<Bytes, Error> {
        let url = self.url.clone();
        let mut body = BytesMut::new();
        while let Some(data) =
            self.chunk().await.map_err(|reason| request_error(&Method::GET, &url, reason))?
        {
            if (body.len() + data.len()) as u64 > limit {
                return Err(Error::TooLarge { what: format!("the answer of {url}"), limit });
            }
            body.extend_from_slice(&data);
        }
        Ok(body.freeze())
    }
}

fn request(call: &Call<'_>) -> Result<Request<Full<Bytes>>, http::Error> {
    let path = if call.path.is_empty() { "/" } else { &call.path };
    let mut builder = Request::builder()
        .method(call.method.clone())
        .uri(path)
        .header(header::HOST, call.origin.authority())
        .header(header::USER_AGENT, USER_AGENT);
    for (name, value) in call.headers {
        builder = builder.header(name, value);
    }
    if let Some(authorization) = &call.authorization {
        builder = builder.header(header::AUTHORIZATION, authorization);
    }
    builder.body(Full::new(call.body.clone()))
}

/// Connects to the first of a host's addresses that answers. Each gets a head start over the next, so that a network
/// whose IPv6 leads nowhere costs a moment and not the whole time limit.
async fn dial(origin: &Origin) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((origin.host.as_str(), origin.port)).await;
    let addresses = found.map_err(|error| format!("dial tcp: lookup {}: {error}", origin.host))?;
    let attempts: Vec<_> = addresses
        .take(ADDRESSES_MAX)
        .zip(0_u32..)
        .map(|(address, turn)| {
            Box::pin(async move {
                tokio::time::sleep(HEAD_START * turn).await;
                let error = |error| format!("dial tcp {address}: {}", describe(&error));
                TcpStream::connect(address).await.map_err(error)
            })
        })
        .collect();
    if attempts.is_empty() {
        return Err(format!("dial tcp: lookup {}: no such host", origin.host));
    }
    select_ok(attempts).await.map(|(stream, _)| stream)
}

async fn handshake<S>(origin: &Origin, stream: S) -> Result<Connection, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
    // Owned by the connection: dropping it ends the task. Errors reach the sender or the body.
    let driver = Driver(tokio::spawn(async move { drop(connection.await) }).abort_handle());
    Ok(Connection { origin: origin.clone(), sender, _driver: driver })
}

/// Resolves a `Location` against the request that got it.
fn follow(origin: &Origin, path: &str, location: &str) -> Result<(Origin, String), String> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return Origin::parse_url(location);
    }
    if let Some(rest) = location.strip_prefix("//") {
        return Origin::parse_url(&format!(
            "{}://{rest}",
            if origin.https { "https" } else { "http" }
        ));
    }
    if location.starts_with('/') {
        return Ok((origin.clone(), location.to_owned()));
    }
    let base = without_query(path);
    let directory = &base[..base.rfind('/').map_or(0, |at| at + 1)];
    Ok((origin.clone(), format!("{directory}{location}")))
}

pub(super) fn without_query(path: &str) -> &str {
    path.split('?').next().unwrap_or(path)
}

pub(super) fn request_error(method: &Method, url: &str, reason: String) -> Error {
    let method = if method == Method::POST { "Post" } else { "Get" };
    Error::Request { method, url: url.to_owned(), reason }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

/// An error with its causes, which hyper hides.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
