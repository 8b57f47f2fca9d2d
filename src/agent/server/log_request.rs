//! `/containerLogs`: which log a request means, and why there may be none.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ContainerStatus;
use tokio::sync::watch;

use super::query::Query;
use super::{Answer, Body, Refusal, status_of};
use crate::actor::View;
use crate::context::Context;
use crate::logs::{self, Options, Wanted};

pub(super) fn answer(
    ctx: &Context,
    view: watch::Receiver<Arc<View>>,
    container: &str,
    query: &Query,
) -> Answer {
    let now = Timestamp::now();
    let options = options(query, now).map_err(|e| Refusal(StatusCode::UNPROCESSABLE_ENTITY, e))?;
    let (path, attempt) = {
        let view = view.borrow();
        let attempt = attempt(&view, container, query.flag("previous"))?;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let meta = &view.pod.metadata;
        let path = ctx.paths.log(
            &text(&meta.namespace),
            &text(&meta.name),
            &text(&meta.uid),
            container,
            attempt,
        );
        (path, attempt)
    };
    let ended = ended(view, container.to_owned(), attempt);
    let frames = logs::stream(&path, options, ended).map(|chunk| chunk.map(Frame::data));
    let body: Body = StreamBody::new(frames).boxed_unsync();
    let mut response = Response::new(body);
    let plain = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    Ok(response)
}

pub(super) fn options(query: &Query, now: Timestamp) -> Result<Options, String> {
    let natural = |key: &str| -> Result<Option<u64>, String> {
        let value = query.number(key)?;
        value
            .map(|v| {
                u64::try_from(v).map_err(|_| format!("{key} must be greater than or equal to 0"))
            })
            .transpose()
    };
    let since =
        match (query.number("sinceSeconds")?, query.get("sinceTime").filter(|t| !t.is_empty())) {
            (Some(_), Some(_)) => {
                return Err(
                    "at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned()
                );
            }
            (Some(seconds), None) => now.checked_sub(SignedDuration::from_secs(seconds)).ok(),
            (None, Some(text)) => {
                Some(text.parse().map_err(|_| format!("invalid value {text:?} for sinceTime"))?)
            }
            (None, None) => None,
        };
    Ok(Options {
        follow: query.flag("follow"),
        timestamps: query.flag("timestamps"),
        tail: natural("tailLines")?,
        since,
        limit_bytes: natural("limitBytes")?,
        stream: match query.get("stream") {
            Some("Stdout") => Wanted::Stdout,
            Some("Stderr") => Wanted::Stderr,
            _ => Wanted::All,
        },
    })
}

/// The attempt whose log is meant.
pub(super) fn attempt(view: &View, container: &str, previous: bool) -> Result<u32, Refusal> {
    let pod = view.pod.metadata.name.as_deref().unwrap_or_default();
    let bad = |text: String| Refusal(StatusCode::BAD_REQUEST, text);
    let listed =
        view.pod.spec.iter().flat_map(crate::resources::containers).any(|c| c.name == container);
    if !listed {
        let text = format!("container {container:?} not found in pod {pod:?}");
        return Err(Refusal(StatusCode::NOT_FOUND, text));
    }
    let status = status_of(view, container)
        .ok_or_else(|| bad(format!("container {container:?} in pod {pod:?} is not available")))?;
    let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    if previous {
        return last.and_then(|t| attempt_of(t.container_id.as_deref())).ok_or_else(|| {
            bad(format!("previous terminated container {container:?} in pod {pod:?} not found"))
        });
    }
    let waiting = status.state.as_ref().and_then(|s| s.waiting.as_ref());
    match (waiting, last) {
        (None, _) | (Some(_), Some(_)) => {}
        (Some(waiting), None) => {
            let reason = match waiting.reason.as_deref().unwrap_or_default() {
                "ErrImagePull" => "image can't be pulled",
                "ImagePullBackOff" => "trying and failing to pull image",
                other => other,
            };
            return Err(bad(format!(
                "container {container:?} in pod {pod:?} is waiting to start: {reason}"
            )));
        }
    }
    current(status)
        .ok_or_else(|| bad(format!("container {container:?} in pod {pod:?} is terminated")))
}

fn current(status: &ContainerStatus) -> Option<u32> {
    attempt_of(status.container_id.as_deref())
}

/// The attempt is the last part of the container's name in the runtime.
fn attempt_of(id: Option<&str>) -> Option<u32> {
    id?.rsplit('-').next()?.parse().ok()
}

/// Ready once the attempt has no process any more.
fn ended(
    mut view: watch::Receiver<Arc<View>>,
    container: String,
    attempt: u32,
) -> BoxFuture<'static, ()> {
    async move {
        let over = |view: &Arc<View>| {
            let running = status_of(view, &container)
                .filter(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()));
            running.and_then(current) != Some(attempt)
        };
        // An error means that the pod itself is gone.
        drop(view.wait_for(over).await);
    }
    .boxed()
}
