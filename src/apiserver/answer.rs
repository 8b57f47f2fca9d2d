//! From an answer to an HTTP response: plain JSON, a Table, or metadata only, whichever the client accepts.

use crate::{Body, BoxError, object};
use api::{Resource, Status};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
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
