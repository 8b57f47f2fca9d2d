//! Turns a verb with its parameters into an HTTP request; no IO.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::{Error, Result};

const JSON: &str = "application/json";
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
                             application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// Where the objects of a kind live in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourcePath {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
}

impl ResourcePath {
    pub fn of<K: k8s_openapi::Resource>() -> Self {
        Self { group: K::GROUP, version: K::VERSION, plural: K::URL_PATH_SEGMENT }
    }

    /// The kind this path belongs to, from the table of served resources.
    pub fn resource(&self) -> Option<&'static api::Resource> {
        api::find(self.group, self.version, self.plural)
    }

    /// The path of a collection (`name` empty), an object, or a subresource of it. An empty namespace means
    /// cluster scope, or all namespaces.
    pub fn path(&self, namespace: &str, name: &str, sub: &str) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if !namespace.is_empty() {
            path.push_str("/namespaces/");
            escape(namespace, &mut path);
        }
        for (index, part) in [self.plural, name, sub].into_iter().enumerate() {
            if !part.is_empty() {
                path.push('/');
                if index == 1 { escape(part, &mut path) } else { path.push_str(part) }
            }
        }
        path
    }
}

impl From<&'static api::Resource> for ResourcePath {
    fn from(resource: &'static api::Resource) -> Self {
        Self { group: resource.group, version: resource.version, plural: resource.plural }
    }
}

impl std::fmt::Display for ResourcePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.plural)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// Which objects a list, watch or cache covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListParams {
    /// Empty for cluster scope and for all namespaces.
    pub namespace: String,
    /// Label selector in query syntax.
    pub labels: String,
    /// Field selector in query syntax.
    pub fields: String,
}

impl ListParams {
    pub fn all() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = selector.into();
        self
    }

    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = selector.into();
        self
    }
}

/// What happens to the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// How to delete an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteParams {
    /// Seconds the object may take to end; `Some(0)` removes it at once.
    pub grace: Option<i64>,
    pub propagation: Option<Propagation>,
    /// Delete only the object with this uid.
    pub uid: Option<String>,
    /// Delete only this revision of the object.
    pub resource_version: Option<String>,
}

impl DeleteParams {
    #[must_use]
    pub fn uid(mut self, uid: impl Into<String>) -> Self {
        self.uid = Some(uid.into());
        self
    }

    #[must_use]
    pub fn grace(mut self, seconds: i64) -> Self {
        self.grace = Some(seconds);
        self
    }

    #[must_use]
    pub fn propagation(mut self, propagation: Propagation) -> Self {
        self.propagation = Some(propagation);
        self
    }

    pub(crate) fn body(&self) -> Value {
        let mut body = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        if let Some(grace) = self.grace {
            body["gracePeriodSeconds"] = json!(grace);
        }
        if let Some(propagation) = self.propagation {
            body["propagationPolicy"] = json!(format!("{propagation:?}"));
        }
        if let Some(uid) = &self.uid {
            body["preconditions"]["uid"] = json!(uid);
        }
        if let Some(revision) = &self.resource_version {
            body["preconditions"]["resourceVersion"] = json!(revision);
        }
        body
    }
}

/// A change to an object, by the three formats the API takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    pub(crate) fn parts(&self) -> (&'static str, &Value) {
        match self {
            Patch::Json(body) => ("application/json-patch+json", body),
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
        }
    }
}

/// A page or a watch of a collection.
pub(crate) struct Query<'a> {
    pub(crate) params: &'a ListParams,
    pub(crate) limit: usize,
    pub(crate) continue_token: &'a str,
    /// Some: watch after this revision.
    pub(crate) watch: Option<(&'a str, u64)>,
    pub(crate) metadata_only: bool,
}

impl Query<'_> {
    pub(crate) fn request(&self, resource: ResourcePath) -> Result<Request<Bytes>> {
        let mut uri = resource.path(&self.params.namespace, "", "");
        let mut separator = '?';
        let mut add = |key: &str, value: &str| {
            uri.push(std::mem::replace(&mut separator, '&'));
            uri.push_str(key);
            uri.push('=');
            escape(value, &mut uri);
        };
        for (key, value) in [
            ("labelSelector", self.params.labels.as_str()),
            ("fieldSelector", self.params.fields.as_str()),
            ("continue", self.continue_token),
        ] {
            if !value.is_empty() {
                add(key, value);
            }
        }
        if self.limit > 0 {
            add("limit", &self.limit.to_string());
        }
        if let Some((revision, seconds)) = self.watch {
            add("watch", "true");
            add("allowWatchBookmarks", "true");
            add("resourceVersion", revision);
            add("timeoutSeconds", &seconds.to_string());
        }
        let accept = if self.metadata_only { METADATA_ONLY } else { JSON };
        finish(
            Request::builder().method(Method::GET).header(http::header::ACCEPT, accept),
            uri,
            Bytes::new(),
        )
    }
}

/// A request with an optional JSON body.
pub(crate) fn request(
    method: Method,
    path: String,
    body: Option<(&str, Bytes)>,
) -> Result<Request<Bytes>> {
    let mut builder = Request::builder().method(method).header(http::header::ACCEPT, JSON);
    let mut bytes = Bytes::new();
    if let Some((kind, content)) = body {
        builder = builder.header(http::header::CONTENT_TYPE, kind);
        bytes = content;
    }
    finish(builder, path, bytes)
}

fn finish(builder: http::request::Builder, path: String, body: Bytes) -> Result<Request<Bytes>> {
    builder.uri(&path).body(body).map_err(|source| Error::Request { path, source })
}

/// Percent-encodes everything that is not unreserved in RFC 3986.
fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte as char)
            }
            // Writing to a String cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
}
