//! OpenAPI documents: made by `schema`, encoded when asked for, and named by their hash.
//!
//! Documents of version 3 are small, asked for all the time, and kept once encoded. The one of version 2 is large and seldom
//! asked for; it is kept only while an answer with it is on its way.

use api::Status;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Response, StatusCode};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};

use crate::Body;
use crate::answer::{json_response, status_response};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What clients ask for instead, though its name is no valid media type.
const PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// Clauses of an Accept header that are looked at.
const CLAUSES_MAX: usize = 32;

/// An encoded document. Cloning shares its bytes.
#[derive(Clone)]
struct Document {
    bytes: Bytes,
    hash: String,
}

/// The documents; nothing is held for those that nobody asked for.
pub(crate) struct OpenApi {
    v2: V2,
    v3_index: LazyLock<Document>,
    groups: Mutex<BTreeMap<(String, String), Document>>,
}

/// The document of version 2 in its two forms.
#[derive(Default)]
struct V2 {
    hash: OnceLock<String>,
    json: Mutex<Weak<Vec<u8>>>,
    protobuf: Mutex<Weak<Vec<u8>>>,
}

impl OpenApi {
    pub(crate) fn new() -> Self {
        Self {
            v2: V2::default(),
            v3_index: LazyLock::new(|| Document::new(&schema::openapi_v3_index())),
            groups: Mutex::default(),
        }
    }

    /// Answers `/openapi/v2`.
    pub(crate) fn v2(&self, headers: &HeaderMap) -> Response<Body> {
        let offered = [(JSON, JSON), (PROTOBUF_OLD, PROTOBUF), (PROTOBUF, PROTOBUF)];
        let Some(media_type) = negotiate(headers, &offered) else {
            return status_response(&Status::not_acceptable(&[JSON, PROTOBUF]));
        };
        let known = self.v2.hash.get();
        if let Some(hash) = known.filter(|hash| is_known(headers, hash)) {
            return tagged(not_modified(), hash);
        }
        let bytes = self.v2.bytes(media_type == PROTOBUF);
        let mut response = json_response(StatusCode::OK, bytes);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        response.headers_mut().remove(CACHE_CONTROL);
        tagged(response, self.v2.hash.get().map_or("", String::as_str))
    }

    /// Answers `/openapi/v3`.
    pub(crate) fn v3_index(&self, headers: &HeaderMap) -> Response<Body> {
        respond(Some(&self.v3_index), headers)
    }

    /// Answers `/openapi/v3/apis/GROUP/VERSION`.
    pub(crate) fn v3(&self, group: &str, version: &str, headers: &HeaderMap) -> Response<Body> {
        respond(self.document(group, version).as_ref(), headers)
    }

    fn document(&self, group: &str, version: &str) -> Option<Document> {
        // The table bounds how many there are.
        let key = (group.to_owned(), version.to_owned());
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = groups.get(&key) {
            return Some(document.clone());
        }
        let document = Document::new(&schema::openapi_v3(&group_version(group, version))?);
        groups.insert(key, document.clone());
        Some(document)
    }
}

impl V2 {
    /// Made at most once at a time, and shared by all that are waiting for it.
    fn bytes(&self, protobuf: bool) -> Bytes {
        let kept = if protobuf { &self.protobuf } else { &self.json };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = kept.upgrade().unwrap_or_else(|| {
            let document = schema::openapi_v2();
            let json = (!protobuf || self.hash.get().is_none()).then(|| document.to_string());
            if let Some(json) = &json {
                self.hash.get_or_init(|| hash(json.as_bytes()));
            }
            Arc::new(match json {
                Some(json) if !protobuf => json.into_bytes(),
                _ => schema::openapi_v2_protobuf(&document),
            })
        });
        *kept = Arc::downgrade(&shared);
        Bytes::from_owner(Shared(shared))
    }
}

struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Document {
    fn new(value: &Value) -> Self {
        let bytes = Bytes::from(value.to_string());
        Self { hash: hash(&bytes), bytes }
    }
}

fn hash(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().take(16).fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02X}");
        out
    })
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn respond(document: Option<&Document>, headers: &HeaderMap) -> Response<Body> {
    let Some(document) = document else { return status_response(&Status::no_such_resource()) };
    if negotiate(headers, &[(JSON, JSON)]).is_none() {
        return status_response(&Status::not_acceptable(&[JSON]));
    }
    if is_known(headers, &document.hash) {
        return tagged(not_modified(), &document.hash);
    }
    let mut response = json_response(StatusCode::OK, document.bytes.clone());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    tagged(response, &document.hash)
}

fn not_modified() -> Response<Body> {
    let mut response = json_response(StatusCode::NOT_MODIFIED, Bytes::new());
    response.headers_mut().remove(CONTENT_TYPE);
    response.headers_mut().remove(CACHE_CONTROL);
    response
}

fn tagged(mut response: Response<Body>, hash: &str) -> Response<Body> {
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{hash}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// Whether the client has the document with this hash.
fn is_known(headers: &HeaderMap, hash: &str) -> bool {
    let tags = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or("");
    let same = |tag: &str| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"') == hash
    };
    tags.split(',').any(same)
}

/// Of the forms offered (as asked for, as answered) the one the client likes best; the first of equals.
fn negotiate(headers: &HeaderMap, offered: &[(&str, &'static str)]) -> Option<&'static str> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let accept = if accept.is_empty() { "*/*" } else { accept };
    let mut clauses: Vec<(f32, &str)> = accept.split(',').take(CLAUSES_MAX).map(clause).collect();
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    let matches = |wanted: &str, form: &str| match wanted.strip_suffix("/*") {
        Some("*") => true,
        Some(kind) => form.split('/').next() == Some(kind),
        None => wanted == form,
    };
    clauses.iter().filter(|(quality, _)| *quality > 0.0).find_map(|(_, wanted)| {
        offered.iter().find(|(form, _)| matches(wanted, form)).map(|(_, answered)| *answered)
    })
}

/// The quality of a clause, and its media type.
fn clause(text: &str) -> (f32, &str) {
    let mut parts = text.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default();
    let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
    (quality, media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(accept: &str) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        negotiate(&headers, &[(JSON, JSON), (PROTOBUF_OLD, PROTOBUF), (PROTOBUF, PROTOBUF)])
    }

    #[test]
    fn the_form_the_client_likes_best() {
        assert_eq!(chosen(""), Some(JSON));
        assert_eq!(chosen("*/*"), Some(JSON));
        assert_eq!(chosen("application/*"), Some(JSON));
        assert_eq!(chosen(PROTOBUF_OLD), Some(PROTOBUF));
        assert_eq!(chosen(&format!("application/json;q=0.5, {PROTOBUF}")), Some(PROTOBUF));
        assert_eq!(chosen("application/json, */*"), Some(JSON));
        assert_eq!(chosen("text/plain"), None);
        assert_eq!(chosen("application/json;q=0"), None);
    }

    #[test]
    fn a_document_is_sent_once_and_not_kept() {
        let documents = OpenApi::new();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(PROTOBUF_OLD));
        let first = documents.v2(&headers);
        assert_eq!(first.headers()[CONTENT_TYPE], PROTOBUF);
        assert_eq!(first.headers()[VARY], "Accept");
        let tag = first.headers()[ETAG].clone();
        assert!(documents.v2.protobuf.lock().unwrap().upgrade().is_some());
        drop(first);
        assert!(documents.v2.protobuf.lock().unwrap().upgrade().is_none());
        assert_eq!(documents.v2(&HeaderMap::new()).headers()[ETAG], tag, "the same for both forms");
        headers.insert(IF_NONE_MATCH, tag);
        assert_eq!(documents.v2(&headers).status(), StatusCode::NOT_MODIFIED);
        let index = documents.v3_index(&headers);
        assert_eq!(index.status(), StatusCode::NOT_ACCEPTABLE);
    }
}
