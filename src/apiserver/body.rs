//! Request bodies: read with a bound, refused in foreign formats, decoded and checked against the path.

use crate::answer::Result;
use crate::request::{Query, Target};
use crate::{Body, protobuf};
use api::{Resource, Status};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use serde_json::Value;

const ACCEPTED: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Of a body that is too large, so many times the limit is read and thrown away.
const DRAIN_LIMITS: usize = 8;

/// Reads a body of at most `limit` bytes; an object in protobuf comes out as JSON.
pub(crate) async fn read(body: Body, headers: &HeaderMap, limit: usize) -> Result<Bytes> {
    let bytes = read_bytes(body, limit).await?;
    match media_type(headers) {
        protobuf::MEDIA_TYPE if !bytes.is_empty() => {
            Ok(protobuf::to_json(&bytes)?.to_string().into())
        }
        _ => Ok(bytes),
    }
}

async fn read_bytes(body: Body, limit: usize) -> Result<Bytes> {
    let mut body = std::pin::pin!(body);
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| Status::bad_request(format!("cannot read the request body: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        read += data.len();
        if read > limit {
            // Most clients read the answer only after they have sent everything.
            if read > limit.saturating_mul(DRAIN_LIMITS) {
                break;
            }
            (first, all) = (None, BytesMut::new());
            continue;
        }
        match first.take() {
            None if all.is_empty() => first = Some(data),
            earlier => {
                if let Some(earlier) = earlier {
                    all.extend_from_slice(&earlier);
                }
                all.extend_from_slice(&data);
            }
        }
    }
    if read > limit {
        return Err(Status::too_large(limit));
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

/// The media type without parameters, "" if there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .map(|v| v.split(';').next().unwrap_or_default().trim())
        .unwrap_or_default()
}

/// Objects are taken as JSON, or as protobuf, which [`read`] has turned into JSON.
pub(crate) fn require_json(headers: &HeaderMap) -> Result<()> {
    match media_type(headers) {
        "" | "application/json" | protobuf::MEDIA_TYPE => Ok(()),
        _ => Err(Status::unsupported_media_type(ACCEPTED)),
    }
}

/// What to do with fields the schema does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    pub(crate) fn from_query(query: &Query) -> Result<Self> {
        match query.get("fieldValidation") {
            None | Some("Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(Status::unprocessable(format!(
                "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// `dryRun=All`, the only value there is.
pub(crate) fn dry_run(query: &Query) -> Result<bool> {
    let mut values = query.all("dryRun").peekable();
    if values.peek().is_none() {
        return Ok(false);
    }
    match values.find(|v| *v != "All") {
        None => Ok(true),
        Some(other) => Err(Status::unprocessable(format!(
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: {other:?}: supported values: \"All\""
        ))),
    }
}

/// Decodes an object of `group`/`version`/`kind` and removes what the schema does not know.
pub(crate) fn object(
    kind: (&str, &str, &str),
    bytes: &[u8],
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value> {
    let (mut value, duplicates) = schema::decode(bytes).map_err(|e| {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {e}",
            kind.2
        ))
    })?;
    check_kind(kind, &mut value)?;
    prune(kind, &mut value, duplicates, validation, warnings)?;
    Ok(value)
}

/// Removes unknown fields; a wrong type is an error.
pub(crate) fn prune(
    kind: (&str, &str, &str),
    value: &mut Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<()> {
    prune_as_is(kind, value, duplicates, validation, warnings).map_err(|why| {
        let (group, version, kind) = kind;
        let api_version = api_version(group, version);
        Status::bad_request(format!(
            "{kind} in version {api_version:?} cannot be handled as a {kind}: {why}"
        ))
    })
}

/// As [`prune`], with just the reason of a failure.
pub(crate) fn prune_as_is(
    (group, version, kind): (&str, &str, &str),
    value: &mut Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> std::result::Result<(), String> {
    let mut findings = duplicates;
    if let Some(ty) = schema::builtin(group, version, kind) {
        findings.extend(schema::prune(ty, value).map_err(|e| e.to_string())?);
    }
    match validation {
        FieldValidation::Strict if !findings.is_empty() => {
            Err(format!("strict decoding error: {}", findings.join(", ")))
        }
        FieldValidation::Warn => {
            warnings.extend(findings);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `kind` and `apiVersion` may be missing, but not wrong.
pub(crate) fn check_kind(
    (group, version, kind): (&str, &str, &str),
    value: &mut Value,
) -> Result<()> {
    let expected = api_version(group, version);
    let Some(map) = value.as_object_mut() else {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: json: cannot unmarshal into Go value of type struct {{ APIVersion string; Kind string }}"
        )));
    };
    let given = |field: &str| {
        map.get(field).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned)
    };
    let (given_version, given_kind) = (given("apiVersion"), given("kind"));
    if let Some(version) = given_version.filter(|v| *v != expected) {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        )));
    }
    if let Some(other) = given_kind.filter(|k| k != kind) {
        let short = expected.rsplit('/').next().unwrap_or_default();
        let family =
            if group.is_empty() { "core" } else { group.split('.').next().unwrap_or_default() };
        let why = match api::find_kind(group, version, &other) {
            Some(_) => {
                format!("converting ({short}.{other}) to ({family}.{kind}): unknown conversion")
            }
            None => {
                format!("no kind {other:?} is registered for version {expected:?} in this server")
            }
        };
        return Err(Status::bad_request(format!(
            "{other} in version {expected:?} cannot be handled as a {kind}: {why}"
        )));
    }
    map.insert("kind".to_owned(), kind.into());
    map.insert("apiVersion".to_owned(), expected.into());
    Ok(())
}

/// The names in the body must be those of the path; missing ones are filled in.
pub(crate) fn check_names(
    res: &Resource,
    target: &Target,
    value: &mut Value,
    creating: bool,
) -> Result<()> {
    let namespace = crate::object::namespace(value).to_owned();
    if res.namespaced {
        if namespace.is_empty() {
            crate::object::set(value, &["metadata", "namespace"], target.namespace.clone());
        } else if namespace != target.namespace {
            return Err(Status::bad_request(match creating {
                true => "the namespace of the provided object does not match the namespace sent on the request".to_owned(),
                false => format!(
                    "the namespace of the object ({namespace}) does not match the namespace on the request ({})",
                    target.namespace
                ),
            }));
        }
    } else {
        crate::object::remove(value, &["metadata", "namespace"]);
    }
    if creating {
        return Ok(());
    }
    let name = crate::object::name(value).to_owned();
    if name.is_empty() {
        crate::object::set(value, &["metadata", "name"], target.name.clone());
    } else if name != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    Ok(())
}
