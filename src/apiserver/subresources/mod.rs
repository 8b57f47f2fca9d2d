//! Paths below an object that are not the object: scale, binding, eviction, token, and the streams of pods.

mod binding;
mod proxy;
mod review;
mod scale;
mod token;

pub(crate) use proxy::{enters, is_stream, stream};
pub(crate) use review::review;

use crate::answer::{Answer, Result};
use crate::registry::{self, Context};
use api::Status;
use bytes::Bytes;

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
