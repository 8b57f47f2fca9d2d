//! Log, exec, attach and port-forward: found, checked, and handed to the kubelet of the pod's node byte by byte.

use super::kubelet::{self, Reply};
use crate::answer::{self, Answer, Result};
use crate::request::{Query, Target, encode};
use crate::{ApiServer, object};
use api::{FieldError, Resource, Status};
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use std::sync::Arc;

const ERROR_BYTES_MAX: usize = 64 * 1024;
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

/// Answers a stream request on a pod.
pub(super) async fn stream(
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
    if target.subresource == "log" {
        check_log(target, query)?;
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
    match kubelet::ask(server, node, &location, parts, permit).await? {
        Reply::Accepted(response) => Ok(Answer::Response(response)),
        Reply::Refused(response, _) => Err(refusal(response, res, target).await),
    }
}

/// The numbers that a log request may name; what is no number at all the kubelet refuses.
fn check_log(target: &Target, query: &Query) -> Result<()> {
    let number = |key: &str| query.get(key).and_then(|v| v.parse::<i64>().ok());
    let bounds = [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ];
    let mut errors = Vec::new();
    for (key, least, why) in bounds {
        if key == "sinceSeconds" && number(key).is_some() && query.get("sinceTime").is_some() {
            let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.push(FieldError::forbidden("", why));
        } else if let Some(value) = number(key).filter(|value| *value < least) {
            errors.push(FieldError::invalid(key, value, why));
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid_in("", "PodLogOptions", &target.name, &errors)),
    }
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

/// The kubelet's refusal as a Status.
async fn refusal(response: Response<Incoming>, res: &Resource, target: &Target) -> Status {
    let code = response.status();
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
