//! `/portForward`: connections of a client to ports of a pod. kubectl tunnels SPDY/3.1 frames through a WebSocket, or
//! upgrades to SPDY itself when it is older or is told to.

mod connection;
mod dial;
mod pairs;
mod spdy;
#[cfg(test)]
mod tests;
mod transport;

use std::sync::PoisonError;

use futures_util::FutureExt;
use http::header::{CONNECTION, HeaderMap, HeaderName, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::{After, Answer, KubeletApi, Refusal, internal, upgrade};
use dial::Target;

const PROTOCOL: &str = "portforward.k8s.io";
/// SPDY's frames in WebSocket messages.
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Agrees to the upgrade; the session follows it.
pub(super) async fn answer(
    api: &KubeletApi,
    mut request: Request<Incoming>,
    (namespace, pod): (&str, &str),
    after: &After,
) -> Answer {
    let uid = {
        let view = api.pod(namespace, pod)?;
        let view = view.borrow();
        view.pod.metadata.uid.clone().unwrap_or_default()
    };
    let tunnelled = !asks_for_spdy(request.headers());
    let response = if tunnelled {
        let key = upgrade::check(request.headers())?;
        offers(&upgrade::offered(request.headers()), TUNNELLED)?;
        upgrade::accept(&key, TUNNELLED)?
    } else {
        let values = request.headers().get_all(&STREAM_PROTOCOL).into_iter();
        let offered: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
        offers(&offered.join(","), PROTOCOL)?;
        spdy_response()?
    };
    let target = target(api, &uid).await?;
    let upgraded = hyper::upgrade::on(&mut request);
    let work = async move {
        if tunnelled {
            if let Some(socket) = upgrade::socket(upgraded).await {
                connection::run(transport::messages(socket), target).await;
            }
        } else if let Ok(upgraded) = upgraded.await {
            connection::run(transport::plain(Box::new(TokioIo::new(upgraded))), target).await;
        }
    };
    *after.lock().unwrap_or_else(PoisonError::into_inner) = Some(work.boxed());
    Ok(response)
}

fn asks_for_spdy(headers: &HeaderMap) -> bool {
    let values = headers.get_all(UPGRADE).into_iter();
    values.filter_map(|v| v.to_str().ok()).any(|v| v.eq_ignore_ascii_case(SPDY))
}

fn offers(offered: &str, wanted: &str) -> Result<(), Refusal> {
    if offered.split(',').any(|offer| offer.trim() == wanted) {
        return Ok(());
    }
    let text = format!(
        "unable to upgrade: unable to negotiate protocol: client supports {:?}, server accepts {:?}",
        offered.split(',').map(str::trim).collect::<Vec<_>>(),
        [wanted]
    );
    Err(Refusal(StatusCode::FORBIDDEN, text))
}

fn spdy_response() -> Answer {
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, SPDY)
        .header(STREAM_PROTOCOL, HeaderValue::from_static(PROTOCOL))
        .body(Empty::new().map_err(|never| match never {}).boxed_unsync())
        .map_err(internal)
}

/// The pod's network, as the runtime knows it.
async fn target(api: &KubeletApi, uid: &str) -> Result<Target, Refusal> {
    let known = api.ctx.config.runtime.list().await.map_err(internal)?;
    let sandbox = known.sandboxes.into_iter().find(|sandbox| sandbox.id == uid && sandbox.ready);
    let sandbox = sandbox.ok_or_else(|| {
        let text = format!("not able to port-forward: pod {uid:?} has no running sandbox");
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
    })?;
    let netns = sandbox.netns.filter(|_| !sandbox.spec.host_network);
    Ok(Target { pod: sandbox.id, netns })
}
