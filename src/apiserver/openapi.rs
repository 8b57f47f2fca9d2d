//! OpenAPI documents: made by `schema`, encoded when first asked for, and named by their hash.

use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{LazyLock, Mutex, PoisonError};

/// An encoded document. Cloning shares its bytes.
#[derive(Clone)]
pub(crate) struct Document {
    pub bytes: Bytes,
    pub hash: String,
}

/// The documents; nothing is held for those that nobody asked for.
pub(crate) struct OpenApi {
    pub v2: LazyLock<Document>,
    pub v3_index: LazyLock<Document>,
    groups: Mutex<BTreeMap<(String, String), Document>>,
}

impl OpenApi {
    pub(crate) fn new() -> Self {
        Self {
            v2: LazyLock::new(|| Document::new(&schema::openapi_v2())),
            v3_index: LazyLock::new(|| Document::new(&schema::openapi_v3_index())),
            groups: Mutex::default(),
        }
    }

    pub(crate) fn v3(&self, group: &str, version: &str) -> Option<Document> {
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

impl Document {
    fn new(value: &Value) -> Self {
        let bytes = Bytes::from(value.to_string());
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let hash = digest.as_ref().iter().take(16).fold(String::new(), |mut out, b| {
            let _ = write!(out, "{b:02X}");
            out
        });
        Self { bytes, hash }
    }
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}
