//! From an answer to an HTTP response: plain JSON, a Table, or metadata only, whichever the client accepts.

use crate::request::Query;
use crate::{Body, BoxError, object};
use api::{Resource, Status};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const SERVED: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Warnings beyond this are dropped; each is cut to a length that header limits of clients allow.
const WARNINGS_MAX: usize = 16;
const WARNING_BYTES_MAX: usize = 512;

pub(crate) type Result<T> = std::result::Result<T, Status>;

/// What a verb found.
pub(crate) enum Answer {
    Object {
        code: StatusCode,
        bytes: Bytes,
    },
    List(List),
    Status(Box<Status>),
    /// Already a response: streams, proxies, plain text.
    Response(Response<Body>),
}

/// A page of encoded objects.
#[derive(Default)]
pub(crate) struct List {
    pub items: Vec<Bytes>,
    pub revision: u64,
    pub next: String,
    pub remaining: Option<u64>,
}

/// In which form the client wants objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Table(schema::IncludeObject),
    Metadata,
}

impl Form {
    /// The first form in the Accept header that is served.
    pub(crate) fn negotiate(accept: Option<&HeaderValue>, include: Option<&str>) -> Result<Self> {
        let accept = accept.and_then(|v| v.to_str().ok()).unwrap_or("*/*");
        let mut protobuf = false;
        for media in accept.split(',') {
            let mut parts = media.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let (mut target, mut group, mut version) = ("", "", "");
            for parameter in parts {
                match parameter.split_once('=') {
                    Some(("as", v)) => target = v,
                    Some(("g", v)) => group = v,
                    Some(("v", v)) => version = v,
                    _ => {}
                }
            }
            match (kind, target, group, version) {
                ("application/vnd.kubernetes.protobuf", ..) => protobuf = true,
                ("application/json" | "application/*" | "*/*" | "", "", ..) => {
                    return Ok(Self::Plain);
                }
                ("application/json", "Table", "meta.k8s.io", "v1") => {
                    return Ok(Self::Table(included(include)?));
                }
                (
                    "application/json",
                    "PartialObjectMetadata" | "PartialObjectMetadataList",
                    "meta.k8s.io",
                    "v1",
                ) => return Ok(Self::Metadata),
                _ => {}
            }
        }
        if protobuf { Ok(Self::Plain) } else { Err(Status::not_acceptable(SERVED)) }
    }
}

fn included(include: Option<&str>) -> Result<schema::IncludeObject> {
    match include {
        None | Some("Metadata") => Ok(schema::IncludeObject::Metadata),
        Some("None") => Ok(schema::IncludeObject::None),
        Some("Object") => Ok(schema::IncludeObject::Object),
        Some(other) => {
            Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}")))
        }
    }
}

/// Builds the response. `res` gives the form of tables and lists.
pub(crate) fn render(
    answer: Result<Answer>,
    res: Option<&'static Resource>,
    form: Form,
) -> Response<Body> {
    let rendered = answer.and_then(|answer| match (answer, res) {
        (Answer::Response(response), _) => Ok(response),
        (Answer::Status(status), _) => Ok(status_response(&status)),
        (Answer::Object { code, bytes }, Some(res)) => {
            Ok(json_response(code, one(res, bytes, form)?))
        }
        (Answer::Object { code, bytes }, None) => Ok(json_response(code, bytes)),
        (Answer::List(list), Some(res)) => {
            Ok(json_response(StatusCode::OK, many(res, &list, form)?))
        }
        (Answer::List(_), None) => Err(Status::internal("list of an unknown kind")),
    });
    rendered.unwrap_or_else(|status| status_response(&status))
}

/// An object in the wanted form.
pub(crate) fn one(res: &'static Resource, bytes: Bytes, form: Form) -> Result<Bytes> {
    let bytes = outbound(res, bytes)?;
    Ok(match form {
        Form::Plain => bytes,
        Form::Table(include) => {
            let object = object::decode(&bytes)?;
            let revision = object::text(&object, &["metadata", "resourceVersion"]).to_owned();
            let mut table = schema::table(res, &[&object], include, jiff::Timestamp::now());
            object::set(&mut table, &["metadata", "resourceVersion"], revision);
            table.to_string().into()
        }
        Form::Metadata => metadata_only(&object::decode(&bytes)?).to_string().into(),
    })
}

/// The stored form of an object in the form of the group it is asked from.
pub(crate) fn outbound(res: &'static Resource, bytes: Bytes) -> Result<Bytes> {
    if object::storage_form(res) == res {
        return Ok(bytes);
    }
    let mut object = object::decode(&bytes)?;
    schema::event_from_core(&mut object);
    Ok(object.to_string().into())
}

fn many(res: &'static Resource, list: &List, form: Form) -> Result<Bytes> {
    match form {
        Form::Plain => {
            let items: Vec<Bytes> =
                list.items.iter().map(|b| outbound(res, b.clone())).collect::<Result<_>>()?;
            Ok(concatenate(&res.list_kind(), &res.api_version(), list, &items))
        }
        Form::Metadata => {
            let items: Vec<Bytes> = list
                .items
                .iter()
                .map(|b| Ok(metadata_only(&object::decode(b)?).to_string().into()))
                .collect::<Result<_>>()?;
            Ok(concatenate("PartialObjectMetadataList", "meta.k8s.io/v1", list, &items))
        }
        Form::Table(include) => {
            let objects: Vec<Value> = list
                .items
                .iter()
                .map(|b| outbound(res, b.clone()).and_then(|b| object::decode(&b)))
                .collect::<Result<_>>()?;
            let references: Vec<&Value> = objects.iter().collect();
            let mut table = schema::table(res, &references, include, jiff::Timestamp::now());
            table["metadata"] = list_metadata(list);
            Ok(table.to_string().into())
        }
    }
}

fn list_metadata(list: &List) -> Value {
    let mut metadata = json!({"resourceVersion": list.revision.to_string()});
    if !list.next.is_empty() {
        metadata["continue"] = list.next.clone().into();
    }
    if let Some(remaining) = list.remaining.filter(|n| *n > 0) {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}

/// The text of a list, made by copying the texts of its items.
fn concatenate(kind: &str, api_version: &str, list: &List, items: &[Bytes]) -> Bytes {
    let head = format!(
        r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{},"items":["#,
        list_metadata(list)
    );
    let size = head.len() + items.iter().map(|i| i.len() + 1).sum::<usize>() + 2;
    let mut out = BytesMut::with_capacity(size);
    out.put_slice(head.as_bytes());
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.put_slice(item);
    }
    out.put_slice(b"]}");
    out.freeze()
}

pub(crate) fn metadata_only(object: &Value) -> Value {
    let mut metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    if let Some(map) = metadata.as_object_mut() {
        map.remove("managedFields");
    }
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| -> BoxError { match never {} }).boxed_unsync()
}

pub(crate) fn json_response(code: StatusCode, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub(crate) fn text_response(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = json_response(code, text);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

pub(crate) fn status_response(status: &Status) -> Response<Body> {
    let code = match status.code {
        0 => StatusCode::OK,
        code => StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
    };
    let mut response = json_response(code, status.to_bytes());
    let retry = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    if retry > 0 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry));
    }
    response
}

/// Whether a person reads the answer: they say so, or come with a tool for persons.
pub(crate) fn wants_indentation(query: &Query, headers: &HeaderMap) -> bool {
    const TOOLS: &[&str] = &["curl", "Wget", "Mozilla/5.0"];
    if query.get("pretty").is_some() {
        return query.flag("pretty");
    }
    let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    TOOLS.iter().any(|tool| agent.starts_with(tool))
}

/// The response with its JSON on many lines; streams stay as they are.
pub(crate) async fn indented(response: Response<Body>) -> Response<Body> {
    let whole = http_body::Body::size_hint(response.body()).exact().is_some();
    if !whole || response.headers().get(CONTENT_TYPE) != Some(&JSON) {
        return response;
    }
    let (head, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(collected) => full(indent(&collected.to_bytes())),
        Err(error) => full(error.to_string()),
    };
    Response::from_parts(head, body)
}

/// JSON text with two spaces for every level, as Go writes it.
fn indent(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len().saturating_mul(2));
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth.saturating_mul(2)));
    };
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if quoted {
            out.push(byte);
            quoted = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'{' | b'[' => {
                out.push(byte);
                if let Some(end) = bytes.next_if(|next| matches!(next, b'}' | b']')) {
                    out.push(end);
                } else {
                    depth = depth.saturating_add(1);
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend(b": "),
            b' ' | b'\n' | b'\r' | b'\t' => {}
            _ => {
                quoted = byte == b'"';
                out.push(byte);
            }
        }
    }
    out
}

/// Adds `Warning: 299 - "text"` headers.
pub(crate) fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings.iter().take(WARNINGS_MAX) {
        let mut text = String::from("299 - \"");
        for c in warning.chars().filter(|c| !c.is_control()) {
            if matches!(c, '"' | '\\') {
                text.push('\\');
            }
            text.push(c);
            if text.len() > WARNING_BYTES_MAX {
                break;
            }
        }
        text.push('"');
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indented_json_means_the_same() {
        for (text, wanted) in [
            (r#"{}"#, "{}"),
            (r#"{"a":[],"b":{}}"#, "{\n  \"a\": [],\n  \"b\": {}\n}"),
            (r#"[1, {"a":"x,{\"}:\\"}]"#, "[\n  1,\n  {\n    \"a\": \"x,{\\\"}:\\\\\"\n  }\n]"),
        ] {
            let out = indent(text.as_bytes());
            assert_eq!(String::from_utf8_lossy(&out), wanted);
            let (before, after): (Value, Value) = (
                serde_json::from_str(text).expect("JSON"),
                serde_json::from_slice(&out).expect("JSON"),
            );
            assert_eq!(before, after);
        }
    }

    #[test]
    fn persons_are_known_by_their_tools() {
        for (query, agent, wanted) in [
            ("", "curl/8.5.0", true),
            ("", "kubectl/v1.36.0 (linux/amd64)", false),
            ("pretty=false", "curl/8.5.0", false),
            ("pretty=1", "kubectl/v1.36.0", true),
            ("", "Mozilla/5.0 (X11; Linux x86_64)", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(USER_AGENT, HeaderValue::from_static(agent));
            let query = Query::parse(query).expect("query");
            assert_eq!(wants_indentation(&query, &headers), wanted, "{agent}");
        }
    }
}
