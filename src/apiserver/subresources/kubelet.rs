//! The way to a kubelet: a connection by its node's name, one request, and the answer byte by byte. The latter two serve
//! requests to pods as well.

use crate::answer::Result;
use crate::{ApiServer, Body, BoxError};
use api::Status;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, HeaderName, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::OwnedSemaphorePermit;

/// How long a kubelet may take to be reached and to begin its answer.
const KUBELET_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the other direction may go on when one has ended.
const LINGER: Duration = Duration::from_secs(10);
const COPY_BUFFER: usize = 16 * 1024;

/// What a kubelet answers.
pub(super) enum Reply {
    /// To be handed on: a stream, or a body that lasts.
    Accepted(Response<Body>),
    Refused(Response<Incoming>, OwnedSemaphorePermit),
}

/// What came of a request on a connection of its own.
pub(super) enum Exchange {
    /// Bytes are copied both ways from now on.
    Upgraded(Response<Body>),
    Answered(Response<Incoming>, OwnedSemaphorePermit),
}

/// Asks the kubelet of a node.
pub(super) async fn ask(
    server: &Arc<ApiServer>,
    node: &str,
    location: &str,
    mut parts: Parts,
    permit: OwnedSemaphorePermit,
) -> Result<Reply> {
    let broken = |why: String| Status::internal(format!("error talking to the kubelet: {why}"));
    let io = dial(server, node).await?;
    let request = kubelet_request(location, &parts)?;
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let exchanged = exchange(server, io, request, upgrade, permit, KUBELET_TIMEOUT).await;
    Ok(match exchanged.map_err(broken)? {
        Exchange::Upgraded(response) => Reply::Accepted(response),
        Exchange::Answered(response, permit) if response.status().is_success() => {
            Reply::Accepted(pass(server, response, permit))
        }
        Exchange::Answered(response, permit) => Reply::Refused(response, permit),
    })
}

/// Sends a request on a connection of its own, and joins it with the client's if the other side agrees to an upgrade. The
/// error is why there is no answer.
pub(super) async fn exchange(
    server: &Arc<ApiServer>,
    io: impl crate::Stream + 'static,
    request: Request<Body>,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    permit: OwnedSemaphorePermit,
    patience: Duration,
) -> std::result::Result<Exchange, String> {
    let handshake = http1::handshake(TokioIo::new(io)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    server.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection of a proxied request failed");
        }
    });
    let answered = tokio::time::timeout(patience, sender.send_request(request)).await;
    let mut response =
        answered.map_err(|_| "it does not answer".to_owned())?.map_err(|e| e.to_string())?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Exchange::Answered(response, permit));
    }
    let upgrade = upgrade.ok_or_else(|| "it changed the protocol unasked".to_owned())?;
    let other = hyper::upgrade::on(&mut response);
    server.spawn(copy(upgrade, other, server.closing(), permit));
    let mut answer = Response::new(Body::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = std::mem::take(response.headers_mut());
    Ok(Exchange::Upgraded(answer))
}

async fn dial(server: &ApiServer, node: &str) -> Result<Box<dyn crate::Stream>> {
    let dial = server.config.dialer.dial(node);
    let connected = tokio::time::timeout(KUBELET_TIMEOUT, dial).await;
    connected
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(|e| Status::internal(format!("error dialing backend: {e}")))
}

/// The request with the headers that an upgrade needs.
fn kubelet_request(location: &str, parts: &Parts) -> Result<Request<Body>> {
    let mut request =
        Request::builder().method(parts.method.clone()).uri(location).header(HOST, "kubelet");
    for (name, value) in &parts.headers {
        let handed_on = [ACCEPT, CONNECTION, UPGRADE].contains(name)
            || name.as_str().starts_with("sec-websocket-")
            || *name == HeaderName::from_static("x-stream-protocol-version");
        if handed_on {
            request = request.header(name, value);
        }
    }
    request
        .body(Body::default())
        .map_err(|e| Status::bad_request(format!("cannot form the request to the kubelet: {e}")))
}

/// Copies both ways until one side ends or the server does. The stream counts as open until then.
async fn copy(
    client: hyper::upgrade::OnUpgrade,
    kubelet: hyper::upgrade::OnUpgrade,
    mut closing: tokio::sync::watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
) {
    let (client, kubelet) = match tokio::try_join!(client, kubelet) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "upgrade failed"),
    };
    let (client_out, client_in) = tokio::io::split(TokioIo::new(client));
    let (kubelet_out, kubelet_in) = tokio::io::split(TokioIo::new(kubelet));
    let (up, down) = (one_way(client_out, kubelet_in), one_way(kubelet_out, client_in));
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    tokio::select! {
        () = &mut up => drop(tokio::time::timeout(LINGER, down).await),
        () = &mut down => drop(tokio::time::timeout(LINGER, up).await),
        () = crate::server::closed(&mut closing) => {}
    }
}

async fn one_way(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut from = BufReader::with_capacity(COPY_BUFFER, from);
    let copied = tokio::io::copy_buf(&mut from, &mut to).await;
    if let Err(error) = copied.and(to.shutdown().await) {
        tracing::debug!(%error, "stream to the kubelet ended");
    }
}

/// The kubelet's answer as ours; it ends with the server.
pub(super) fn pass(
    server: &ApiServer,
    response: Response<Incoming>,
    permit: OwnedSemaphorePermit,
) -> Response<Body> {
    let (head, body) = response.into_parts();
    let state = (body, server.closing(), permit);
    let frames =
        futures_util::stream::unfold(state, |(mut body, mut closing, permit)| async move {
            let frame = tokio::select! {
                frame = body.frame() => frame?,
                () = crate::server::closed(&mut closing) => return None,
            };
            Some((frame.map_err(|e| -> BoxError { e.into() }), (body, closing, permit)))
        });
    let mut answer = Response::new(http_body_util::StreamBody::new(frames).boxed_unsync());
    *answer.status_mut() = head.status;
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        answer.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    answer
}
