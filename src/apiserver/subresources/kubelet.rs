//! The way to a kubelet: a connection by its node's name, one request, and the answer byte by byte.

use crate::answer::Result;
use crate::{ApiServer, Body, BoxError};
use api::Status;
use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, HeaderName, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
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

/// Asks the kubelet of a node.
pub(super) async fn ask(
    server: &Arc<ApiServer>,
    node: &str,
    location: &str,
    mut parts: Parts,
    permit: OwnedSemaphorePermit,
) -> Result<Reply> {
    let broken =
        |e: &dyn std::fmt::Display| Status::internal(format!("error talking to the kubelet: {e}"));
    let io = dial(server, node).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(io)).await.map_err(|e| broken(&e))?;
    server.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to the kubelet failed");
        }
    });
    let request = kubelet_request(location, &parts)?;
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let answered = tokio::time::timeout(KUBELET_TIMEOUT, sender.send_request(request)).await;
    let mut response =
        answered.map_err(|_| broken(&"it does not answer"))?.map_err(|e| broken(&e))?;
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => {
            let Some(upgrade) = upgrade else {
                return Err(Status::bad_request("Upgrade request required"));
            };
            let kubelet = hyper::upgrade::on(&mut response);
            server.spawn(copy(upgrade, kubelet, server.closing(), permit));
            let mut answer = Response::new(Body::default());
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *answer.headers_mut() = std::mem::take(response.headers_mut());
            Ok(Reply::Accepted(answer))
        }
        code if code.is_success() => Ok(Reply::Accepted(pass(server, response, permit))),
        _ => Ok(Reply::Refused(response, permit)),
    }
}

async fn dial(server: &ApiServer, node: &str) -> Result<Box<dyn crate::Stream>> {
    let dial = server.config.dialer.dial(node);
    let connected = tokio::time::timeout(KUBELET_TIMEOUT, dial).await;
    connected
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(|e| Status::internal(format!("error dialing backend: {e}")))
}

/// The request with the headers that an upgrade needs.
fn kubelet_request(location: &str, parts: &Parts) -> Result<Request<Empty<Bytes>>> {
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
        .body(Empty::new())
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
