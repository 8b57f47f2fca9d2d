//! `nodes/NAME/proxy/PATH`: the kubelet's own paths (metrics, statistics, pods), for who may use `nodes/proxy`.

use super::kubelet::{self, Reply};
use crate::ApiServer;
use crate::answer::{Answer, Result};
use crate::request::Target;
use api::Status;
use http::request::Parts;
use std::sync::Arc;

/// The only port a node is reached at, if the request names one.
const KUBELET_PORT: &str = "10250";

/// `/api/v1/nodes/NAME` comes before `/proxy`.
const SEGMENTS_BEFORE: usize = 4;

pub(super) async fn proxy(
    server: &Arc<ApiServer>,
    target: &Target,
    parts: Parts,
) -> Result<Answer> {
    let res = target.resource.ok_or_else(Status::no_such_resource)?;
    let permit = server.stream_permit()?;
    let node = node(&target.name)
        .ok_or_else(|| Status::bad_request(format!("invalid node request {:?}", target.name)))?;
    server.load(res, "", node).await?;
    let (_, location) = split(&parts, SEGMENTS_BEFORE);
    let location = location.unwrap_or_else(|| "/".to_owned());
    let unreachable = |status: Status| {
        let why = format!("error trying to reach service: {}", status.message);
        Status::service_unavailable(why)
    };
    // The kubelet's refusals are answers as good as others.
    let reply = kubelet::ask(server, node, &location, parts, permit).await;
    Ok(Answer::Response(match reply.map_err(unreachable)? {
        Reply::Accepted(response) => response,
        Reply::Refused(response, permit) => kubelet::pass(server, response, permit),
    }))
}

/// The node in `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
fn node(name: &str) -> Option<&str> {
    match name.split(':').collect::<Vec<_>>().as_slice() {
        [node] => Some(node),
        [node, KUBELET_PORT | ""] | ["https", node, KUBELET_PORT | ""] => Some(node),
        _ => None,
    }
}

/// What of the path leads to `/proxy`, that included, and the path and query behind it as the client wrote them; `None` if
/// nothing is behind it, not even a slash. `before` is how many segments come before `/proxy`.
pub(super) fn split(parts: &Parts, before: usize) -> (String, Option<String>) {
    const MARK: &str = "/proxy";
    let path = parts.uri.path();
    let start = path.match_indices('/').nth(before).map_or(path.len(), |(at, _)| at);
    let (prefix, rest) = path.split_at_checked(start + MARK.len()).unwrap_or((path, ""));
    let rest = (!rest.is_empty()).then(|| match parts.uri.query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    });
    (prefix.to_owned(), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_locations() {
        for (name, wanted) in [
            ("n", Some("n")),
            ("n:10250", Some("n")),
            ("https:n:10250", Some("n")),
            ("https:n:", Some("n")),
            ("n:22", None),
            ("http:n:10250", None),
        ] {
            assert_eq!(node(name), wanted, "{name}");
        }
        for (uri, wanted) in [
            ("/api/v1/nodes/proxy/proxy/stats/summary?only=x", Some("/stats/summary?only=x")),
            ("/api/v1/nodes/n/proxy", None),
            ("/api/v1/nodes/n/proxy?a=b", None),
            ("/api/v1/nodes/n/proxy/", Some("/")),
            ("/api/v1/nodes/n/proxy/containerLogs/a%2Fb/c/", Some("/containerLogs/a%2Fb/c/")),
        ] {
            let (parts, ()) = http::Request::get(uri).body(()).expect("request").into_parts();
            let (prefix, location) = split(&parts, SEGMENTS_BEFORE);
            assert_eq!(location.as_deref(), wanted, "{uri}");
            assert!(prefix.ends_with("/proxy"), "{prefix}");
        }
    }
}
