//! Paths below an object that are not the object: scale, binding, eviction, token, and the streams of pods.

mod binding;
mod kubelet;
mod node_proxy;
mod pod_stream;
mod proxy;
mod review;
mod scale;
mod token;

pub(crate) use review::review;

use crate::answer::{Answer, Result};
use crate::registry::{self, Context};
use crate::request::{Query, Target};
use crate::{ApiServer, Body};
use api::Status;
use bytes::Bytes;
use http::HeaderMap;
use http::header::UPGRADE;
use http::request::Parts;
use std::sync::Arc;

/// Whether the answer comes from a kubelet or a pod.
pub(crate) fn is_stream(target: &Target) -> bool {
    target.resource.is_some_and(|res| match res.kind {
        "Pod" => {
            matches!(
                target.subresource.as_str(),
                "log" | "exec" | "attach" | "portforward" | "proxy"
            )
        }
        "Node" | "Service" => target.subresource == "proxy",
        _ => false,
    })
}

/// Whether the request leads into a running container.
pub(crate) fn enters(target: &Target, headers: &HeaderMap) -> bool {
    is_stream(target)
        && match target.subresource.as_str() {
            "log" => false,
            "proxy" => headers.contains_key(UPGRADE),
            _ => true,
        }
}

/// Answers a request that a kubelet or a pod has to answer.
pub(crate) async fn stream(
    server: &Arc<ApiServer>,
    target: &Target,
    query: &Query,
    parts: Parts,
    body: Body,
) -> Result<Answer> {
    match (target.plural.as_str(), target.subresource.as_str()) {
        ("nodes", _) => node_proxy::proxy(server, target, parts).await,
        (_, "proxy") => proxy::proxy(server, target, parts, body).await,
        _ => pod_stream::stream(server, target, query, parts).await,
    }
}

/// Runs the verb of a request on a subresource.
pub(crate) async fn run(cx: &mut Context<'_>, body: Bytes) -> Result<Answer> {
    let (name, verb) = (cx.target.subresource.as_str(), cx.target.verb);
    let allowed = cx.res.subresource(name).is_some_and(|sub| sub.verbs.contains(&verb));
    if !allowed {
        return Err(Status::method_not_allowed_here());
    }
    match name {
        "status" | "finalize" => registry::run(cx, body).await,
        "scale" => scale::run(cx, &body).await,
        "binding" => binding::bind(cx, &body).await,
        "eviction" => binding::evict(cx, &body).await,
        "token" => token::issue(cx, &body).await,
        _ => Err(Status::no_such_resource()),
    }
}
