//! Log, exec, attach and port-forward: found, checked, and handed to the kubelet of the pod's node byte by byte.

use crate::answer::{self, Answer, Result};
use crate::request::{Query, Target, encode};
use crate::{ApiServer, Body, BoxError, object};
use api::{Resource, Status};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::OwnedSemaphorePermit;

/// How long a kubelet may take to be reached and to begin its answer.
const KUBELET_TIMEOUT: Duration = Duration::from_secs(30);
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// How long the other direction may go on when one has ended.
const LINGER: Duration = Duration::from_secs(10);
const COPY_BUFFER: usize = 16 * 1024;
const LOG_PARAMETERS: &[&str] = &[
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "timestamps",
    "tailLines",
    "limitBytes",
    "stream",
];

/// Whether the path is a stream of a pod.
pub(crate) fn is_stream(target: &Target) -> bool {
    target.resource.is_some_and(|r| r.kind == "Pod")
        && matches!(target.subresource.as_str(), "log" | "exec" | "attach" | "portforward")
}

/// Whether the path leads into a running container.
pub(crate) fn enters(target: &Target) -> bool {
    is_stream(target) && target.subresource != "log"
}

/// Answers a stream request.
pub(crate) async fn stream(
    server: &Arc<ApiServer>,
    target: &Target,
    query: &Query,
    parts: Parts,
) -> Result<Answer> {
    let res = target.resource.ok_or_else(Status::no_such_resource)?;
    if !(parts.method == Method::GET
        || (parts.method == Method::POST && target.subresource != "log"))
    {
        return Err(Status::method_not_allowed_here());
    }
    let permit = server.stream_permit()?;
    let pod = object::decode(&server.load(res, &target.namespace, &target.name).await?.value)?;
    let node = object::text(&pod, &["spec", "nodeName"]);
    if node.is_empty() {
        return match target.subresource.as_str() {
            // Nothing was logged yet.
            "log" => Ok(Answer::Response(answer::text_response(StatusCode::OK, Bytes::new()))),
            _ => Err(Status::bad_request(format!(
                "pod {} does not have a host assigned",
                target.name
            ))),
        };
    }
    let location = location(target, query, &pod)?;
    let dial = server.config.dialer.dial(node);
    let connected = tokio::time::timeout(KUBELET_TIMEOUT, dial).await;
    let io = connected
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(|e| Status::internal(format!("error dialing backend: {e}")))?;
    forward(server, io, &location, res, target, parts, permit).await
}

/// Path and query at the kubelet.
fn location(target: &Target, query: &Query, pod: &Value) -> Result<String> {
    let subresource = target.subresource.as_str();
    let (prefix, parameters): (&str, &[&str]) = match subresource {
        "log" => ("containerLogs", LOG_PARAMETERS),
        "portforward" => ("portForward", &["ports"]),
        other => (other, &["command"]),
    };
    let mut out = format!("/{prefix}/");
    encode(&target.namespace, &mut out);
    out.push('/');
    encode(&target.name, &mut out);
    if subresource != "portforward" {
        out.push('/');
        encode(&container(pod, query.get("container"))?, &mut out);
    }
    let mut separator = '?';
    let mut add = |key: &str, value: &str| {
        out.push(separator);
        separator = '&';
        out.push_str(key);
        out.push('=');
        encode(value, &mut out);
    };
    for parameter in parameters {
        for value in query.all(parameter) {
            add(parameter, value);
        }
    }
    if matches!(subresource, "exec" | "attach") {
        for (ours, kubelets) in
            [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
        {
            if query.flag(ours) {
                add(kubelets, "1");
            }
        }
    }
    Ok(out)
}

/// The container a request means; without a name there must be just one.
fn container(pod: &Value, wanted: Option<&str>) -> Result<String> {
    let names = |kind: &str| -> Vec<String> {
        let containers = object::at(pod, &["spec", kind]).and_then(Value::as_array);
        containers.into_iter().flatten().map(|c| object::text(c, &["name"]).to_owned()).collect()
    };
    let (containers, init) = (names("containers"), names("initContainers"));
    let name = object::name(pod);
    match (wanted, containers.as_slice()) {
        (Some(wanted), _) if containers.iter().chain(&init).any(|c| c == wanted) => {
            Ok(wanted.to_owned())
        }
        (Some(wanted), _) => {
            Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")))
        }
        (None, [only]) => Ok(only.clone()),
        (None, _) => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                containers.join(" ")
            );
            if !init.is_empty() {
                message += &format!(" or one of the init containers: [{}]", init.join(" "));
            }
            Err(Status::bad_request(message))
        }
    }
}

async fn forward(
    server: &Arc<ApiServer>,
    io: Box<dyn crate::Stream>,
    location: &str,
    res: &'static Resource,
    target: &Target,
    mut parts: Parts,
    permit: OwnedSemaphorePermit,
) -> Result<Answer> {
    let broken =
        |e: &dyn std::fmt::Display| Status::internal(format!("error talking to the kubelet: {e}"));
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
            Ok(Answer::Response(answer))
        }
        code if code.is_success() => Ok(Answer::Response(pass(response, server.closing(), permit))),
        code => Err(refusal(code, response, res, target).await),
    }
}

/// The request with the headers that an upgrade needs.
fn kubelet_request(location: &str, parts: &Parts) -> Result<Request<Empty<Bytes>>> {
    let mut request =
        Request::builder().method(parts.method.clone()).uri(location).header(HOST, "kubelet");
    for (name, value) in &parts.headers {
        let handed_on = [CONNECTION, UPGRADE].contains(name)
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
fn pass(
    response: Response<Incoming>,
    closing: tokio::sync::watch::Receiver<bool>,
    permit: OwnedSemaphorePermit,
) -> Response<Body> {
    let (head, body) = response.into_parts();
    let state = (body, closing, permit);
    let frames =
        futures_util::stream::unfold(state, |(mut body, mut closing, permit)| async move {
            let frame = tokio::select! {
                frame = body.frame() => frame?,
                () = crate::server::closed(&mut closing) => return None,
            };
            Some((frame.map_err(|e| -> BoxError { e.into() }), (body, closing, permit)))
        });
    let mut answer = Response::new(http_body_util::StreamBody::new(frames).boxed_unsync());
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        answer.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    answer
}

/// The kubelet's refusal as a Status.
async fn refusal(
    code: StatusCode,
    response: Response<Incoming>,
    res: &Resource,
    target: &Target,
) -> Status {
    let text = match Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    if let Ok(status) = serde_json::from_str::<Status>(&text)
        && status.kind == "Status"
        && !status.status.is_empty()
    {
        return status;
    }
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => {
            let mut status = Status::not_found(res, &target.name);
            status.message = format!(
                "the server could not find the requested resource ( pods/{} {}): {text}",
                target.subresource, target.name
            );
            status
        }
        StatusCode::INTERNAL_SERVER_ERROR => Status::internal(text),
        code => Status::failure(
            code.as_u16(),
            "InternalError",
            format!("the kubelet answered {code}: {text}"),
        ),
    }
}
